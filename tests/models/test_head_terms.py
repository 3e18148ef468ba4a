from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import losses
from longtail_tf.config import Config
from longtail_tf.datasets import load_index
from longtail_tf.losses.partial import sample_classes
from longtail_tf.models.head_terms import MEASURED_IMAGES, SampledCrossEntropy, head_terms
from longtail_tf.runs.resolve import resolve_for
from longtail_tf.runs.trained_run import build_model
from longtail_tf.training.loop import compile_for
from tests import fakes, rounding
from tests.models.test_two_stream_model import batch, compile_model, make_model

CLASSES, SLOTS, WIDTH = 40, 20, 6


@pytest.fixture
def head(rng):
    layer = tf.keras.layers.Dense(CLASSES, use_bias=False)
    layer(tf.zeros([1, WIDTH]))
    layer.kernel.assign(rng.normal(size=(WIDTH, CLASSES)))
    return layer


def test_a_plain_loss_gets_every_logit(head, rng):
    points = tf.constant(rng.normal(size=(SLOTS, WIDTH)), tf.float32)
    labels = tf.range(SLOTS)
    plain = losses.classification_loss("cross_entropy", class_counts=[1] * CLASSES)
    terms = head_terms(plain, head, points, 0)
    np.testing.assert_array_equal(terms.logits, head(points))
    assert float(terms.loss_of(labels)) == float(plain(labels, head(points)))


def test_a_sample_takes_the_classes_of_the_batch_and_those_drawn_at_the_step(head, rng):
    """Against softmaxes written out; the accuracy is over all classes and has no gradient."""
    points = tf.constant(rng.normal(size=(SLOTS, WIDTH)), tf.float32)
    labels = np.arange(SLOTS) % 7
    for step in (0, 5):
        with tf.GradientTape() as tape:
            tape.watch(points)
            terms = head_terms(SampledCrossEntropy(9, seed=3), head, points, tf.constant(step))
        kept = sorted({*labels, *sample_classes(CLASSES, num_sampled=9, seed=3, step=step).numpy()})
        logits = points.numpy().astype(np.float64) @ head.kernel.numpy()[:, kept]
        own = logits[np.arange(SLOTS), [kept.index(label) for label in labels]]
        expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - own)
        sizes = np.abs(points.numpy()) @ np.abs(head.kernel.numpy())  # of the terms of a logit
        apart = rounding.sums_apart(WIDTH + SLOTS, sizes.max())
        assert float(terms.loss_of(tf.constant(labels))) == pytest.approx(expected, abs=apart)
        assert terms.logits.shape == (MEASURED_IMAGES, CLASSES)
        np.testing.assert_allclose(terms.logits, head(points)[:MEASURED_IMAGES], atol=apart)
        assert tape.gradient(terms.logits, points) is None


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_head_update_moves_only_the_classes_compared(rng, jit_compile):
    model = make_model(num_head=30)
    compile_model(model, metric_loss=None, whole_optimizer=None,
                  classification_loss=SampledCrossEntropy(5, seed=1))  # fmt: skip
    before = model.head.kernel.numpy()
    labels = [0, 3, 3, 9, 11]
    drawn = sample_classes(30, num_sampled=5, seed=1, step=0).numpy()
    logs = tf.function(model.train_step, jit_compile=jit_compile)({"head": batch(rng, labels)})
    moved = np.flatnonzero((model.head.kernel.numpy() != before).any(axis=0))
    assert set(moved) == {*labels, *drawn}
    assert 0 <= float(logs["head_accuracy"]) <= 1


@pytest.mark.parametrize(("sampled", "is_sampled"), [(0, False), (4, True), (5, False)])
def test_a_head_is_sampled_only_if_it_has_more_classes(tmp_path, sampled, is_sampled):
    data = fakes.write_npz(tmp_path / "bars.npz")
    index = load_index(data)
    config = resolve_for(
        Config(data=data, run_dir="x", head_num_classes=5, backbone="resnet8", width=4,
               head_sampled_classes=sampled),
        index,
    )  # fmt: skip
    model = build_model(config, channels=index.channels, num_head=5)
    compile_for(model, config, index, num_head=5)
    assert isinstance(model.classification_loss, SampledCrossEntropy) == is_sampled
