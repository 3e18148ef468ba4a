"""Metric losses with a cross-batch memory: against float64 loops over batch and memory."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import losses
from longtail_tf.errors import UserError
from longtail_tf.losses.memory import RememberingLoss
from longtail_tf.settings.choices import MEMORY_LOSSES, METRIC_LOSSES
from tests import loss_oracles, stacks
from tests.losses.test_contrastive import RAGGED, SOURCES, batch, check_against

STORED_LABELS, STORED_ROWS = [1, 3, 0, 9, 0], [40, SOURCES[0], 41, 42, SOURCES[-1]]
PLACES = 8  # three of them never filled
MARGIN, TEMPERATURE = 0.3, 0.5


def unit(points):
    return np.asarray(points) / np.linalg.norm(points, axis=1, keepdims=True)


def memory():
    return losses.enqueue(
        losses.empty_memory(PLACES, 5), STORED_LABELS, batch(3, size=5), STORED_ROWS
    )


def partners(points, metric):
    """Of each anchor: distances to its positives, and to its negatives."""
    keys = list(zip(points, RAGGED, SOURCES))
    keys += list(zip(unit(batch(3, size=5)), STORED_LABELS, STORED_ROWS))
    for i, (anchor, label, row) in enumerate(zip(points, RAGGED, SOURCES)):
        others = [
            (loss_oracles.distance(anchor, key, metric), other)
            for j, (key, other, source) in enumerate(keys)
            if j != i and source != row
        ]
        yield (
            [far for far, other in others if other == label],
            [far for far, other in others if other != label],
        )


def semihard_oracle(points, metric):
    terms = []
    for positives, negatives in partners(points, metric):
        for far in positives:
            beyond = [near for near in negatives if near > far]
            to_negative = min(beyond) if beyond else max(negatives, default=0.0)
            terms.append(max(MARGIN + far - to_negative, 0.0))
    return sum(terms) / len(terms)


def hard_oracle(points, metric, soft=False):
    terms = []
    for positives, negatives in partners(points, metric):
        gap = max(positives, default=0.0) - min(negatives)
        terms.append(np.log1p(np.exp(gap)) if soft else max(gap + MARGIN, 0.0))
    return sum(terms) / len(terms)


def cosines(points):
    for positives, negatives in partners(unit(points), "angular"):
        yield [1 - far for far in positives], [1 - far for far in negatives]


def supcon_oracle(points, metric):
    terms = []
    for positives, negatives in cosines(points):
        if positives:
            total = sum(np.exp(c / TEMPERATURE) for c in positives + negatives)
            terms.append(np.mean([np.log(total) - c / TEMPERATURE for c in positives]))
    return np.mean(terms)


def multi_similarity_oracle(points, metric):
    total = 0.0
    for positives, negatives in cosines(points):
        near = [c for c in positives if negatives and c < max(negatives) + 0.1]
        far = [c for c in negatives if positives and c > min(positives) - 0.1]
        total += np.log(1 + sum(np.exp(-2.0 * (c - 0.5)) for c in near)) / 2.0
        total += np.log(1 + sum(np.exp(50.0 * (c - 0.5)) for c in far)) / 50.0
    return total / len(points)


ORACLES = {
    "triplet_semihard": semihard_oracle,
    "triplet_hard": hard_oracle,
    "triplet_hard_soft": functools.partial(hard_oracle, soft=True),
    "supcon": supcon_oracle,
    "multi_similarity": multi_similarity_oracle,
}


def loss_of(name, metric="L2"):
    return losses.metric_loss(
        name,
        margin=MARGIN,
        distance_metric=metric,
        temperature=TEMPERATURE,
        num_classes=9,
        embedding_dim=9,
    )


@pytest.mark.parametrize("metric", ["L2", "squared-L2", "angular"])
@pytest.mark.parametrize("name", MEMORY_LOSSES)
def test_pairs_come_from_the_batch_and_the_memory(name, metric):
    loss = functools.partial(loss_of(name, metric), RAGGED, source_rows=SOURCES, memory=memory())
    check_against(functools.partial(ORACLES[name], metric=metric), loss, unit(batch(2)))
    without = loss_of(name, metric)(RAGGED, unit(batch(2)), SOURCES)
    assert float(without) != pytest.approx(float(loss(unit(batch(2)))), rel=1e-3)


@pytest.mark.parametrize("metric", ["L2", "squared-L2", "angular"])
@pytest.mark.parametrize("name", MEMORY_LOSSES)
def test_an_empty_memory_changes_nothing(name, metric):
    """The losses without a memory are other code."""
    points = tf.constant(unit(batch(4)), tf.float32)
    found = []
    for settings in ({}, {"memory": losses.empty_memory(PLACES, 5)}):
        with tf.GradientTape() as tape:
            tape.watch(points)
            value = loss_of(name, metric)(RAGGED, points, SOURCES, **settings)
        found.append((value, tape.gradient(value, points)))
    assert float(found[1][0]) == pytest.approx(float(found[0][0]), rel=1e-5)
    np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-6)


@pytest.mark.parametrize("name", MEMORY_LOSSES)
def test_with_a_memory_graphs_and_xla_give_the_same(name):
    points, stored = tf.constant(unit(batch(5)), tf.float32), memory()

    def step(points, stored):
        with tf.GradientTape() as tape:
            tape.watch(points)
            value = loss_of(name)(
                tf.constant(RAGGED), points, tf.constant(SOURCES), losses.Memory(*stored)
            )
        return value, tape.gradient(value, points)

    value, gradient = step(points, stored)
    for compiled in (False, True):
        other, other_gradient = tf.function(step, jit_compile=compiled)(points, tuple(stored))
        assert float(other) == pytest.approx(float(value), rel=1e-5)
        np.testing.assert_allclose(other_gradient, gradient, atol=1e-6)


@pytest.mark.parametrize("points", [np.ones((12, 5)), np.zeros((12, 5))])
@pytest.mark.parametrize("name", MEMORY_LOSSES)
def test_collapsed_features_have_finite_gradients(name, points):
    points = tf.constant(points / 5**0.5, tf.float32)
    stored = losses.enqueue(losses.empty_memory(PLACES, 5), RAGGED, points)
    with tf.GradientTape() as tape:
        tape.watch(points)
        value = loss_of(name)(RAGGED, points, SOURCES, stored)
    assert np.isfinite(value) and np.all(np.isfinite(tape.gradient(value, points)))


@pytest.mark.parametrize("name", stacks.available(sorted(set(METRIC_LOSSES) - set(MEMORY_LOSSES))))
def test_losses_without_a_memory_say_so(name):
    with pytest.raises(UserError, match=f"metric_loss='{name}' takes no pairs from a memory"):
        loss_of(name)(RAGGED, unit(batch(2)), SOURCES, memory())


def test_a_remembering_loss_compares_with_what_came_before():
    """Three batches: the third meets the two before it, newest first, and not itself."""
    base = loss_of("supcon")
    remembering = RememberingLoss(base, size=20, dimension=5)
    step = tf.function(remembering)
    batches = [tf.constant(unit(batch(seed)), tf.float32) for seed in (6, 7, 8)]
    rows = [np.arange(12) + 100 * i for i in range(3)]
    found = [
        float(step(tf.constant(RAGGED), points, tf.constant(source)))
        for points, source in zip(batches, rows)
    ]
    stored = losses.empty_memory(20, 5)
    for value, points, source in zip(found, batches, rows):
        assert value == pytest.approx(float(base(RAGGED, points, source, stored)), rel=1e-6)
        stored = losses.enqueue(stored, RAGGED, points, source)
    for ours, theirs in zip(remembering.memory, stored):
        np.testing.assert_array_equal(ours, theirs)
    assert stored.rows.numpy().tolist() == [*rows[2], *rows[1][:8]]
