"""Classification metrics against scikit-learn and plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf import metrics
from longtail_tf.errors import UserError
from longtail_tf.metrics.shot_bands import band_names


def random_case(seed, num_classes=12, images=300):
    """Ragged test counts, some classes never tested, some never predicted."""
    rng = np.random.default_rng(seed)
    tested = rng.permutation(num_classes)[: num_classes - 3]
    labels = rng.choice(tested, images, p=rng.dirichlet(np.ones(len(tested)) * 0.7))
    guess = rng.integers(0, num_classes - 1, images)
    predictions = np.where(rng.random(images) < 0.6, labels, guess)
    counts = rng.choice([1, 5, 19, 20, 21, 99, 100, 101, 500], num_classes)
    return labels, predictions, counts


@pytest.mark.parametrize("seed", range(8))
def test_scikit_learn_agrees(seed):
    from sklearn import metrics as oracle

    labels, predictions, _ = random_case(seed)
    tested = np.unique(labels)
    assert metrics.balanced_accuracy(labels, predictions) == pytest.approx(
        oracle.recall_score(labels, predictions, labels=tested, average="macro"), abs=1e-12
    )
    f1 = oracle.f1_score(labels, predictions, labels=tested, average="macro", zero_division=0)
    assert metrics.macro_f1(labels, predictions) == pytest.approx(f1, abs=1e-12)
    recall = oracle.recall_score(labels, predictions, labels=tested, average=None)
    np.testing.assert_allclose(metrics.per_class_accuracy(labels, predictions)[tested], recall)
    assert metrics.worst_class_recall(labels, predictions) == pytest.approx(recall.min())
    predicted = np.unique(predictions)
    np.testing.assert_allclose(
        metrics.per_class_precision(labels, predictions)[predicted],
        oracle.precision_score(labels, predictions, labels=predicted, average=None),
    )


def test_balanced_accuracy_is_scikit_learns_own():
    from sklearn.metrics import balanced_accuracy_score

    labels = np.array([0, 0, 0, 4, 4, 2])
    predictions = np.array([0, 0, 2, 4, 0, 2])
    expected = balanced_accuracy_score(labels, predictions)
    assert metrics.balanced_accuracy(labels, predictions) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(8))
def test_shot_accuracy_against_a_loop(seed):
    labels, predictions, counts = random_case(seed)
    of_band = {"many": [], "medium": [], "few": []}
    for class_id, count in enumerate(counts):
        mine = [p == t for t, p in zip(labels, predictions) if t == class_id]
        if mine:
            band = "many" if count > 100 else "few" if count < 20 else "medium"
            of_band[band].append(sum(mine) / len(mine))
    expected = {name: sum(v) / len(v) if v else None for name, v in of_band.items()}
    expected["all"] = sum(t == p for t, p in zip(labels, predictions)) / len(labels)
    got = metrics.shot_accuracy(labels, predictions, counts)
    assert list(got) == ["all", "many", "medium", "few"]
    assert got == pytest.approx(expected)


def test_band_edges():
    assert band_names([101, 100, 20, 19, 1]) == ["many", "medium", "medium", "few", "few"]


def test_an_empty_band_is_none_not_zero():
    """Both kinds of empty: no class in the band, and a class in it without test images."""
    labels, predictions = np.array([0, 0, 1]), np.array([0, 1, 1])
    got = metrics.shot_accuracy(labels, predictions, np.array([500, 101, 3]))
    assert got == {"all": pytest.approx(2 / 3), "many": 0.75, "medium": None, "few": None}


def test_rejected_images_are_wrong_but_harm_no_other_class():
    labels, predictions = np.array([0, 0, 1, 1]), np.array([0, -1, 1, 1])
    np.testing.assert_allclose(metrics.per_class_accuracy(labels, predictions), [0.5, 1.0])
    np.testing.assert_allclose(metrics.per_class_precision(labels, predictions), [1.0, 1.0])
    assert metrics.macro_f1(labels, predictions) == pytest.approx((2 / 3 + 1) / 2)


def test_absent_classes_are_nan_and_take_no_part():
    recall = metrics.per_class_accuracy(np.array([0, 2]), np.array([0, 3]), num_classes=5)
    np.testing.assert_array_equal(np.isnan(recall), [False, True, False, True, True])
    assert metrics.balanced_accuracy(np.array([0, 2]), np.array([0, 3])) == 0.5


def test_small_label_types_do_not_wrap():
    labels, predictions = np.array([200, 3], np.uint8), np.array([3, 3], np.int32)
    assert metrics.balanced_accuracy(labels, predictions) == 0.5


def test_top_k_against_scikit_learn(rng):
    from sklearn.metrics import top_k_accuracy_score

    scores = rng.random((200, 9))
    labels = rng.integers(0, 9, 200)
    ranked = np.argsort(-scores, axis=1)
    for k in (1, 3, 5):
        expected = top_k_accuracy_score(labels, scores, k=k, labels=np.arange(9))
        assert metrics.top_k_accuracy(labels, ranked[:, :k]) == pytest.approx(expected)


def test_confusion_rates_against_a_loop():
    labels, predictions, _ = random_case(3)
    head = [p >= 5 for t, p in zip(labels, predictions) if t < 5]
    tail = [p < 5 for t, p in zip(labels, predictions) if t >= 5]
    got = metrics.confusion_rates(labels, predictions, 5)
    assert got["head_to_tail"] == pytest.approx(np.mean(head))
    assert got["tail_to_head"] == pytest.approx(np.mean(tail))
    only_head = metrics.confusion_rates(np.array([0, 1]), np.array([1, -1]), 5)
    assert only_head == {"head_to_tail": 0.0, "tail_to_head": None}


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0], r"labels have shape \(2,\) and predictions \(1,\)"),
        ([[0]], [[0]], "expected one class id for each image"),
        ([], [], "no test image came"),
        ([0.0], [0], "labels are float64; expected integer class ids"),
        ([0], [7], r"predictions over 7..7; expected class ids within 0..1"),
        ([-1], [0], r"labels run over -1..-1"),
        ([0], [-2], r"predictions over -2..-2"),
    ],
)
def test_bad_input(labels, predictions, message):
    dtype = None if labels else np.int64
    with pytest.raises(UserError, match=message):
        metrics.shot_accuracy(
            np.array(labels, dtype), np.array(predictions, dtype), np.array([3, 2])
        )


def test_more_bad_input():
    with pytest.raises(UserError, match=r"train_counts has shape \(0,\)"):
        metrics.shot_accuracy(np.array([0]), np.array([0]), np.array([]))
    with pytest.raises(UserError, match=r"ranked has shape \(3,\) for 3 labels"):
        metrics.top_k_accuracy(np.zeros(3, int), np.zeros(3, int))
