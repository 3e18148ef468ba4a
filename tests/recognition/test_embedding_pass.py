from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.datasets import load_index
from longtail_tf.errors import UserError
from longtail_tf.images.inputs import PixelInputs
from longtail_tf.models import networks
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.recognition.embedding_pass import embed_split, prototype_rows, refresh_batch_norm
from tests import fakes, rounding

PIXELS = dict(image_size=8, channels=1)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return load_index(fakes.write_npz(tmp_path_factory.mktemp("data") / "bars.npz"))


@pytest.fixture
def model():
    tf.keras.utils.set_random_seed(0)
    embedder = networks.build_embedder(backbone="resnet8", embedding_dim=6, width=4, **PIXELS)
    return TwoStreamModel(embedder, num_head_classes=3)


def test_every_image_is_embedded_once_in_order(model, index, monkeypatch):
    monkeypatch.setattr("longtail_tf.recognition.embedding_pass.EMBED_BATCH_SIZE", 7)
    embedded = embed_split(model, index.test, **PIXELS)
    np.testing.assert_array_equal(embedded.labels, index.test.labels)
    images = index.test.read(np.arange(len(index.test)))
    expected, logits = model.embed_with_logits(images)
    np.testing.assert_allclose(embedded.embeddings, expected, atol=rounding.NETWORK)
    size = max(1, np.abs(logits).max())
    np.testing.assert_allclose(embedded.head_logits, logits, atol=rounding.NETWORK * size)


def test_chosen_rows_only(model, index):
    rows = np.array([5, 2, 9])
    embedded = embed_split(model, index.test, rows=rows, **PIXELS)
    np.testing.assert_array_equal(embedded.labels, index.test.labels[rows])


def test_a_bad_file_is_named(model, tmp_path):
    spec = fakes.write_folder(tmp_path / "bars")
    bad = next((tmp_path / "bars" / "test" / "bar 0").iterdir())
    bad.write_bytes(bad.read_bytes()[:50])
    split = load_index(spec).test
    with pytest.raises(UserError, match=bad.name):
        embed_split(
            TwoStreamModel(
                networks.build_embedder(
                    backbone="resnet8", embedding_dim=6, width=4, image_size=8, channels=3
                ),
                num_head_classes=0,
            ),
            split,
            image_size=8,
            channels=3,
        )


def refresh(model, index):
    inputs = PixelInputs(
        index, image_size=8, head_augment="none", whole_augment="crop", seed=0, cache_bytes=0,
        max_bad_share=0.0,
    )  # fmt: skip
    return refresh_batch_norm(
        model, lambda sampler: inputs.plain_streams(sampler, seed=0), index.train.labels, seed=0
    )


@pytest.mark.parametrize(
    ("num_classes", "each", "batches"),
    [(8, 2, 1), (8, 2000, 20), (640, 1, 10), (640, 4, 10), (7000, 1, 100)],
)
def test_refresh_looks_at_every_class_and_at_most_at_about_every_image(
    model, num_classes, each, batches
):
    def draw(sampler):
        return tf.data.Dataset.from_tensors((tf.zeros([2, 8, 8, 1], tf.uint8),)).repeat()

    labels = np.repeat(np.arange(num_classes), each)
    assert refresh_batch_norm(model, draw, labels, seed=0)["batches"] == batches


def test_refresh_leaves_what_is_frozen(model, index):
    networks.backbone_of(model.embedder).trainable = False
    norm = networks.backbone_of(model.embedder).get_layer("stem_norm")
    before = norm.moving_mean.numpy()
    assert refresh(model, index)["batches"] == 1  # of the neck
    np.testing.assert_array_equal(norm.moving_mean, before)
    model.neck.trainable = False
    assert refresh(model, index) == {"batches": 0, "images": 0}


def test_refresh_leaves_the_mean_of_the_batch_statistics(model, index, monkeypatch):
    """The stem's statistics, against the same batches averaged by hand."""
    record = refresh(model, index)
    norm = networks.backbone_of(model.embedder).get_layer("stem_norm")
    once = norm.moving_mean.numpy()
    assert record == {"batches": 1, "images": 8 * 32}  # one batch holds more than the whole set
    # Nothing of what was there before is left: garbage in, the same statistics out.
    norm.moving_mean.assign(np.full_like(once, 1e3))
    norm.moving_variance.assign(np.full_like(once, 1e3))
    refresh(model, index)
    np.testing.assert_allclose(norm.moving_mean, once, rtol=1e-5, atol=1e-6)
    assert norm.momentum == 0.9
    # Class-balanced: every class weighs the same, whatever its count.
    images, labels = index.train.read(np.arange(len(index.train))), index.train.labels
    backbone = networks.backbone_of(model.embedder)
    stem = tf.keras.Model(backbone.input, backbone.get_layer("stem_conv").output)
    activations = stem(images.astype(np.float32) / 127.5 - 1).numpy().mean(axis=(1, 2))
    by_class = np.mean([activations[labels == c].mean(0) for c in range(8)], axis=0)
    np.testing.assert_allclose(once, by_class, atol=0.02)


def test_refresh_moves_no_weight(model, index):
    before = [v.numpy() for v in model.trainable_variables]
    refresh(model, index)
    for ours, theirs in zip(before, model.trainable_variables):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("per_class", [1, 3, 100])
def test_prototype_rows_takes_at_most_so_many_of_each_class(per_class):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [50, 7, 3, 1]))
    rows = prototype_rows(labels, per_class=per_class, seed=0)
    assert (np.diff(rows) > 0).all()
    expected = np.minimum([50, 7, 3, 1], per_class)
    np.testing.assert_array_equal(np.bincount(labels[rows], minlength=4), expected)
