"""Adding, replacing and removing classes of a recognizer, against a fit from scratch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from longtail_tf.datasets import DatasetIndex, Split, StringTable
from longtail_tf.recognition import enrollment
from longtail_tf.recognition.discriminant import CORRECTED, fit_discriminant
from longtail_tf.recognition.fit import Recognizer
from longtail_tf.recognition.prototypes import class_prototypes
from tests import rounding

CLASSES, DIM = 6, 8


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(CLASSES, DIM)))
    labels = np.repeat(np.arange(CLASSES), [9, 7, 6, 5, 4, 3])
    return unit(centres[labels] + rng.normal(0, 0.1, (len(labels), DIM))), labels


def fit(embeddings, labels, num_classes):
    lda = fit_discriminant(embeddings, labels, num_classes)
    return Recognizer(
        num_classes=num_classes, num_head=2, class_counts=np.bincount(labels),
        prototypes=class_prototypes(embeddings, labels, num_classes),
        temperatures={"ncm": 0.1}, gate_weight=0.2,
        linear_kernel=np.ones((DIM, num_classes), np.float32),
        linear_bias=np.arange(num_classes, dtype=np.float32),
        **{f"lda_{name}": part for name, part in lda._asdict().items()},
        gallery=embeddings, gallery_labels=labels.astype(np.int32), threshold=0.5,
    )  # fmt: skip


def test_an_added_class_is_the_class_a_full_fit_gives(data):
    embeddings, labels = data
    before = fit(*[part[labels < 5] for part in data], 5)
    after = enrollment.add_class(before, embeddings[labels == 5])
    whole = fit(embeddings, labels, 6)
    np.testing.assert_allclose(after.prototypes, whole.prototypes, atol=1e-6)
    assert after.lda_precision is before.lda_precision  # the classes there are taught it
    means = [embeddings[labels == c].astype(np.float64).mean(axis=0) for c in range(6)]
    for row, scores in zip(embeddings, after.scores("lda", embeddings)):
        apart = [(row - mean) @ before.lda_precision @ (row - mean) for mean in means]
        expected = -0.5 * (np.array(apart) - CORRECTED * before.lda_scatter / np.bincount(labels))
        np.testing.assert_allclose(
            scores - scores.mean(), expected - expected.mean(), rtol=1e-3, atol=1e-3
        )
    for rule in ("ncm", "knn"):
        np.testing.assert_allclose(
            after.scores(rule, embeddings), whole.scores(rule, embeddings), atol=1e-5
        )
    assert after.class_counts.tolist() == whole.class_counts.tolist()
    assert after.linear_kernel is None
    assert "linear" not in after.available_rules()
    assert after.threshold == before.threshold


@pytest.mark.parametrize("class_id", [0, 3, 5])
def test_a_replaced_class_keeps_its_id_and_moves_nobody(data, class_id):
    embeddings, labels = data
    before = fit(embeddings, labels, CLASSES)
    fresh = unit(np.random.default_rng(1).normal(size=(4, DIM)))
    after = enrollment.replace_class(before, class_id, fresh)
    others = np.arange(CLASSES) != class_id
    np.testing.assert_array_equal(after.prototypes[others], before.prototypes[others])
    np.testing.assert_allclose(after.prototypes[class_id], unit(fresh.mean(axis=0)), atol=1e-6)
    assert after.class_counts[class_id] == 4
    assert after.num_classes == CLASSES
    assert np.sum(after.gallery_labels == class_id) == 4


def test_no_rule_asks_a_head_classifier_that_does_not_know_a_replaced_class(data):
    embeddings, labels = data
    before = fit(embeddings, labels, CLASSES)
    assert "gated_lda" in before.available_rules()
    tail = enrollment.replace_class(before, 3, embeddings[:4])
    assert "gated_lda" in tail.available_rules() and tail.gate_weight == before.gate_weight
    # Class 0 from pictures of a far corner; the old head classifier would call them class 1.
    fresh = unit(-embeddings.mean(axis=0) + np.random.default_rng(3).normal(0, 0.02, (20, DIM)))
    head = enrollment.replace_class(before, 0, fresh)
    assert not {"gated_lda", "head_only"} & set(head.available_rules())
    old_opinion = np.tile(np.float32([-9, 9]), (20, 1))
    for rule in ("ncm", "lda", "gated"):
        assert (head.predict(rule, fresh, old_opinion).class_ids[:, 0] == 0).all(), rule


def test_without_a_head_class_left_the_gate_is_shut(data):
    embeddings, labels = data
    after = fit(embeddings, labels, CLASSES)
    for _ in range(2):
        after = enrollment.remove_class(after, 0)
    assert after.num_head == 0 and after.gate_weight == 0
    assert {"ncm", "gated", "lda"} <= set(after.available_rules())
    assert after.scores("gated", embeddings, np.zeros((len(embeddings), 0))).shape[1] == 4


@pytest.mark.parametrize("class_id", [0, 3, 5])
def test_a_removed_class_leaves_the_others_scores_alone(data, class_id):
    embeddings, labels = data
    before = fit(embeddings, labels, CLASSES)
    after = enrollment.remove_class(before, class_id)
    assert after.num_head == (1 if class_id < 2 else 2)
    for rule in ("ncm", "linear", "lda"):
        expected = np.delete(before.scores(rule, embeddings), class_id, axis=1)
        # Products with one column less; the kernel of lda has larger terms than their sums.
        kernel = {"ncm": before.prototypes.T, "linear": before.linear_kernel}
        size = np.abs(embeddings) @ np.abs(kernel.get(rule, before.lda_kernel))
        size = (size.max() + np.abs(before.linear_bias).max()) / before.temperatures.get(rule, 1)
        np.testing.assert_allclose(
            after.scores(rule, embeddings), expected, atol=rounding.sums_apart(DIM + 2, size)
        )
    assert len(after.class_counts) == CLASSES - 1
    assert after.gallery_labels.max() == CLASSES - 2
    ids = enrollment.moved_ids(CLASSES, class_id)
    assert ids[class_id] == -1
    assert sorted(ids[ids >= 0]) == list(range(CLASSES - 1))


@pytest.mark.parametrize("threshold", [0.8, None])
def test_images_of_a_class_that_is_there_are_recognised_as_such(data, threshold):
    embeddings, labels = data
    recognizer = dataclasses.replace(fit(embeddings, labels, CLASSES), threshold=threshold)
    rng = np.random.default_rng(2)
    copies = unit(recognizer.prototypes[3] + rng.normal(0, 0.1, (6, DIM)))
    found = enrollment.resemblance(recognizer, copies)
    assert found.class_id == 3
    assert found.nearer >= 4
    assert found.images == 6
    new = unit(-recognizer.prototypes.sum(axis=0) + rng.normal(0, 0.1, (6, DIM)))
    assert enrollment.resemblance(recognizer, new).nearer == 0
    skipped = enrollment.resemblance(recognizer, copies, skip=3)
    assert skipped.class_id != 3
    assert skipped.nearer == 0


def test_one_image_is_judged_by_the_rejection_threshold(data):
    embeddings, labels = data
    recognizer = fit(embeddings, labels, CLASSES)
    assert enrollment.resemblance(recognizer, recognizer.prototypes[[2]]).nearer == 1
    far = unit(-recognizer.prototypes.sum(axis=0, keepdims=True))
    assert enrollment.resemblance(recognizer, far).nearer == 0
    bare = dataclasses.replace(recognizer, threshold=None)
    assert enrollment.resemblance(bare, recognizer.prototypes[[2]]).nearer == 0


def test_the_data_set_follows_the_classes():
    class Store:
        encoded = False

        def read(self, rows):
            return np.asarray(rows)

    split = Split(np.array([0, 1, 2, 1, 0], np.int32), Store(), np.array([10, 11, 12, 13, 14]))
    plain = Split(np.array([2, 1], np.int32), Store())
    index = DatasetIndex(
        name="d", digest="", class_names=StringTable.from_strings(["a", "b", "c"]),
        class_counts=np.array([2, 2, 1]), train=split, val=None, test=plain,
        image_shape=None, channels=3, flip_is_valid=True,
    )  # fmt: skip
    moved = enrollment.enrolled_index(
        index, class_map=[0, -1, 1], class_names=StringTable.from_strings(["a", "c", "new"]),
        class_counts=np.array([2, 1, 3]),
    )  # fmt: skip
    assert moved.train.labels.tolist() == [0, 1, 0]
    assert moved.train.read(np.array([0, 1, 2])).tolist() == [10, 12, 14]
    assert moved.test.labels.tolist() == [1]
    assert moved.test.read(np.array([0])).tolist() == [0]
    assert moved.val is None
    assert moved.num_classes == 3
