"""SupCon, multi-similarity, tensorflow-addons' further losses, and the choice among all of them."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import losses
from longtail_tf.compat import quiet_imports
from longtail_tf.errors import UserError
from longtail_tf.losses import contrastive
from longtail_tf.settings.choices import METRIC_LOSSES
from tests import loss_oracles, stacks

RAGGED = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4]  # one class of one slot
SOURCES = [0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 8]  # class 4 has one image only
# The triplet losses' own tests go into the same depth.
STATELESS = [name for name in METRIC_LOSSES if name != "prototype"]  # test_losses_large_heads.py
PAIR_LOSSES = [name for name in STATELESS if not name.startswith("triplet")]
TOLERANCE = {tf.float32: 2e-5, tf.float16: 4e-3, tf.bfloat16: 3e-2}


def batch(seed, size=12, width=5):
    return np.random.default_rng(seed).normal(size=(size, width))


def value_and_gradient(function, points, dtype=tf.float32):
    points = tf.constant(points, dtype)
    with tf.GradientTape() as tape:
        tape.watch(points)
        value = function(points)
    return value, tape.gradient(value, points)


def check_against(oracle, function, points, dtype=tf.float32, seed=9):
    """Value, and the gradient along random directions, against a float64 function."""
    value, gradient = value_and_gradient(function, points, dtype)
    assert value.dtype == tf.float32 and value.shape == ()
    assert gradient.dtype == dtype
    seen = tf.cast(tf.constant(points, dtype), tf.float64).numpy()  # after rounding
    tolerance = TOLERANCE[dtype]
    assert float(value) == pytest.approx(oracle(seen), rel=tolerance, abs=tolerance)
    gradient = tf.cast(gradient, tf.float64).numpy()
    for direction in np.random.default_rng(seed).normal(size=(4, *points.shape)):
        expected = loss_oracles.slope_along(oracle, seen, direction)
        found = np.sum(gradient * direction)
        assert found == pytest.approx(expected, rel=20 * tolerance, abs=20 * tolerance)


def multi_similarity_oracle(labels, points, sources=None):
    """Written from the paper; loss_oracles' has no source rows."""
    unit = [p / np.linalg.norm(p) for p in points]
    rows = range(len(unit)) if sources is None else sources
    total = 0.0
    for i, (u, row) in enumerate(zip(unit, rows)):
        others = [j for j, other in enumerate(rows) if j != i and other != row]
        pos = [u @ unit[j] for j in others if labels[j] == labels[i]]
        neg = [u @ unit[j] for j in others if labels[j] != labels[i]]
        kept_pos = [s for s in pos if neg and s < max(neg) + 0.1]
        kept_neg = [s for s in neg if pos and s > min(pos) - 0.1]
        total += np.log(1 + sum(np.exp(-2.0 * (s - 0.5)) for s in kept_pos)) / 2.0
        total += np.log(1 + sum(np.exp(50.0 * (s - 0.5)) for s in kept_neg)) / 50.0
    return total / len(unit)


# --- supervised contrastive ----------------------------------------------------------------------


@pytest.mark.parametrize("sources", [None, SOURCES])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_supcon_is_equation_2_of_the_paper(sources, temperature):
    oracle = functools.partial(
        loss_oracles.supervised_contrastive, RAGGED, temperature=temperature, sources=sources
    )
    loss = functools.partial(
        losses.supcon_loss, RAGGED, temperature=temperature, source_rows=sources
    )
    check_against(oracle, loss, batch(0))


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_supcon_of_half_precision_is_computed_in_float32(dtype):
    oracle = functools.partial(loss_oracles.supervised_contrastive, RAGGED, temperature=0.5)
    check_against(oracle, functools.partial(losses.supcon_loss, RAGGED, temperature=0.5), batch(1),
                  dtype)  # fmt: skip
    # exp(1 / 0.02) is beyond float16.
    cold = losses.supcon_loss(RAGGED, tf.constant(batch(1), dtype), temperature=0.02)
    seen = tf.cast(tf.constant(batch(1), dtype), tf.float64).numpy()
    expected = loss_oracles.supervised_contrastive(RAGGED, seen, temperature=0.02)
    assert float(cold) == pytest.approx(expected, rel=1e-4)


def test_a_slot_of_the_anchors_own_image_is_neither_positive_nor_negative():
    """Hand-derived: anchor 0 has positive 2 and negative 3; slot 1 is its own image."""
    points = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    found = losses.supcon_loss([0, 0, 0, 1], points, temperature=1.0, source_rows=[5, 5, 6, 7])
    anchor_0 = np.log(np.exp(0.6) + np.exp(0.0)) - 0.6
    anchor_1 = np.log(np.exp(0.96) + np.exp(0.6)) - 0.96
    anchor_2 = np.log(np.exp(0.6) + np.exp(0.96) + np.exp(0.8)) - (0.6 + 0.96) / 2
    assert float(found) == pytest.approx((anchor_0 + anchor_1 + anchor_2) / 3, rel=1e-5)


def test_supcon_with_a_memory_of_earlier_batches():
    points, stored = batch(2), batch(3, size=4)
    memory = losses.enqueue(losses.empty_memory(6, 5), [1, 3, 0, 9], stored)
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    oracle = functools.partial(
        loss_oracles.supervised_contrastive, RAGGED, temperature=0.5, sources=SOURCES,
        memory=list(zip(unit, [1, 3, 0, 9])),
    )  # fmt: skip
    loss = functools.partial(
        losses.supcon_loss, RAGGED, temperature=0.5, source_rows=SOURCES, memory=memory
    )
    check_against(oracle, loss, points)
    empty = losses.supcon_loss(RAGGED, points, memory=losses.empty_memory(6, 5))
    assert float(empty) == pytest.approx(float(losses.supcon_loss(RAGGED, points)), rel=1e-6)


def test_memory_keeps_the_newest_in_front_and_drops_the_oldest():
    memory = losses.empty_memory(3, 2)
    memory = losses.enqueue(memory, [1, 2], [[3.0, 4.0], [0.0, 2.0]])
    assert memory.filled.numpy().tolist() == [True, True, False]
    memory = losses.enqueue(memory, [7, 8], [[1.0, 0.0], [0.0, -1.0]])
    assert memory.labels.numpy().tolist() == [7, 8, 1]
    assert np.allclose(memory.embeddings, [[1, 0], [0, -1], [0.6, 0.8]])
    with pytest.raises(UserError, match="a memory of 0 places was asked for: give at least 1"):
        losses.empty_memory(0, 2)


# --- multi-similarity ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sources", [None, SOURCES])
def test_multi_similarity_and_its_mining_are_the_papers(sources, seed):
    oracle = functools.partial(multi_similarity_oracle, RAGGED, sources=sources)
    loss = functools.partial(losses.multi_similarity_loss, RAGGED, source_rows=sources)
    check_against(oracle, loss, batch(seed))


def test_multi_similarity_agrees_with_the_other_oracle():
    settings = {
        "alpha": contrastive.POSITIVE_SCALE,
        "beta": contrastive.NEGATIVE_SCALE,
        "base": contrastive.THRESHOLD,
        "epsilon": contrastive.MINING_SLACK,
    }
    expected = loss_oracles.multi_similarity(RAGGED, batch(4), **settings)
    found = losses.multi_similarity_loss(RAGGED, batch(4).astype(np.float32))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_mining_leaves_out_easy_pairs():
    """An easy positive, in cosine more than the slack above every negative, weighs nothing."""
    angles = np.radians([0.0, 10.0, 50.0, 80.0])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = [0, 0, 0, 1]
    value, gradient = value_and_gradient(
        functools.partial(losses.multi_similarity_loss, labels), points
    )
    assert float(value) == pytest.approx(multi_similarity_oracle(labels, points), rel=1e-5)
    # Slots 0 and 1 (10 degrees apart) are mined as a pair by neither; slot 3 repels both.
    without = multi_similarity_oracle([0, 9, 0, 1], points)
    assert float(value) != pytest.approx(without, rel=1e-3)
    assert np.all(np.isfinite(gradient))


# --- tensorflow-addons ---------------------------------------------------------------------------


@stacks.needs_addons
def test_npairs_is_cross_entropy_over_the_cosines_of_the_batch():
    def oracle(points):
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        total = 0.0
        for i, y in enumerate(RAGGED):
            shares = loss_oracles.softmax([unit[i] @ u / 0.5 for u in unit])
            alike = [j for j, other in enumerate(RAGGED) if other == y]
            total -= np.mean([np.log(shares[j]) for j in alike])
        return total / len(RAGGED)

    loss = losses.metric_loss("tfa_npairs", margin=1.0, distance_metric="L2", temperature=0.5)
    check_against(oracle, functools.partial(loss, RAGGED), batch(5))


@stacks.needs_addons
def test_lifted_struct_against_loops():
    def oracle(points, margin=0.7):
        size = len(points)
        table = [[np.linalg.norm(a - b) for b in points] for a in points]
        total, pairs = 0.0, 0
        for i in range(size):
            for j in range(i + 1, size):
                if RAGGED[i] != RAGGED[j]:
                    continue
                pairs += 1
                ends = [
                    np.exp(margin - table[e][k])
                    for e in (i, j)
                    for k in range(size)
                    if RAGGED[k] != RAGGED[e]
                ]
                total += max(0.0, np.log(sum(ends)) + table[i][j]) ** 2
        return total / (2 * pairs)

    loss = losses.metric_loss("tfa_lifted_struct", margin=0.7, distance_metric="L2")
    check_against(oracle, functools.partial(loss, RAGGED), batch(6))


@stacks.needs_addons
@pytest.mark.parametrize("metric", ["L2", "squared-L2", "angular"])
@pytest.mark.parametrize("sources", [None, SOURCES])
def test_contrastive_is_the_mean_over_pairs(metric, sources):
    def oracle(points, margin=0.9):
        terms = []
        for i in range(len(points)):
            for j in range(i):
                if sources is not None and sources[i] == sources[j]:
                    continue
                apart = loss_oracles.distance(points[i], points[j], metric)
                same = RAGGED[i] == RAGGED[j]
                terms.append(apart**2 if same else max(0.0, margin - apart) ** 2)
        return np.mean(terms)

    loss = losses.metric_loss("tfa_contrastive", margin=0.9, distance_metric=metric)
    check_against(oracle, lambda points: loss(RAGGED, points, sources), 0.4 * batch(7))


@pytest.mark.parametrize("name", stacks.available(STATELESS))
def test_source_rows_change_only_the_losses_that_say_so(name):
    points = batch(8).astype(np.float32)
    loss = losses.metric_loss(name, margin=0.2, distance_metric="L2")
    differs = float(loss(RAGGED, points, SOURCES)) != float(loss(RAGGED, points, None))
    assert differs == (name not in ("tfa_npairs", "tfa_lifted_struct"))


# --- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", stacks.available(PAIR_LOSSES))
def test_every_loss_is_the_same_in_a_graph_and_compiled(name):
    loss = losses.metric_loss(name, margin=0.3, distance_metric="L2")
    points = batch(10).astype(np.float32)

    def step(points):
        with tf.GradientTape() as tape:
            tape.watch(points)
            value = loss(tf.constant(RAGGED), points, tf.constant(SOURCES))
        return value, tape.gradient(value, points)

    value, gradient = step(tf.constant(points))
    assert value.dtype == tf.float32 and float(value) > 0.0
    for way in (tf.function(step), tf.function(step, jit_compile=True)):
        graph_value, graph_gradient = way(tf.constant(points))
        assert float(graph_value) == pytest.approx(float(value), rel=1e-5)
        np.testing.assert_allclose(graph_gradient, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", stacks.available(["triplet_semihard", *PAIR_LOSSES]))
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_every_metric_loss_takes_half_precision_and_gives_float32(name, dtype):
    loss = losses.metric_loss(name, margin=0.3, distance_metric="L2")
    points = tf.constant(batch(11), dtype)
    value, gradient = value_and_gradient(functools.partial(loss, RAGGED), points, dtype)
    same = loss(RAGGED, tf.cast(points, tf.float32))
    assert value.dtype == tf.float32 and gradient.dtype == dtype
    assert float(value) == float(same)


# No valid pair: what each loss needs and does not have there.
NOTHING = {
    "empty": ([], np.zeros((0, 3))),
    "one slot": ([4], np.ones((1, 3))),
    "one image": ([2, 2, 2], np.eye(3)),
    "no positives": ([0, 1, 2], np.eye(3)),
    "one class": ([2, 2, 2], np.eye(3) + 0.1),
}
ZERO = {
    "supcon": ("empty", "one slot", "one image", "no positives"),
    "multi_similarity": tuple(NOTHING),
    "tfa_npairs": ("empty", "one slot"),
    "tfa_lifted_struct": tuple(NOTHING),
    "tfa_contrastive": ("empty", "one slot", "one image"),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", stacks.available(PAIR_LOSSES))
def test_batches_without_a_valid_pair_give_zero_and_no_gradient(name, compiled):
    loss = losses.metric_loss(name, margin=0.3, distance_metric="L2")

    def step(points, labels, rows):
        with tf.GradientTape() as tape:
            tape.watch(points)
            value = loss(labels, points, rows)
        return value, tape.gradient(value, points)

    step = tf.function(step, jit_compile=compiled)
    for kind, (labels, points) in NOTHING.items():
        rows = np.zeros(len(labels), int) if kind == "one image" else np.arange(len(labels))
        value, gradient = step(
            tf.constant(points, tf.float32), tf.constant(labels, tf.int32), tf.constant(rows)
        )
        assert np.isfinite(value) and np.all(np.isfinite(gradient)), kind
        if kind in ZERO[name]:
            assert float(value) == 0.0 and not np.any(gradient), kind


@pytest.mark.parametrize("name", stacks.available(PAIR_LOSSES))
def test_collapsed_and_zero_embeddings_give_finite_gradients(name):
    loss = losses.metric_loss(name, margin=0.3, distance_metric="L2")
    for points in (np.ones((len(RAGGED), 3)), np.zeros((len(RAGGED), 3))):
        value, gradient = value_and_gradient(functools.partial(loss, RAGGED), points)
        assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_names_stand_for_the_losses_they_say():
    points = batch(12).astype(np.float32)
    settings = {"margin": 0.4, "distance_metric": "angular"}
    expected = {
        "triplet_semihard": losses.triplet_semihard_loss(
            RAGGED, points, source_rows=SOURCES, **settings
        ),
        "triplet_hard": losses.triplet_hard_loss(RAGGED, points, source_rows=SOURCES, **settings),
        "triplet_hard_soft": losses.triplet_hard_loss(
            RAGGED, points, soft=True, source_rows=SOURCES, **settings
        ),
        "supcon": losses.supcon_loss(RAGGED, points, temperature=0.3, source_rows=SOURCES),
        "multi_similarity": losses.multi_similarity_loss(RAGGED, points, source_rows=SOURCES),
    }
    for name, value in expected.items():
        loss = losses.metric_loss(name, temperature=0.3, **settings)
        assert float(loss(RAGGED, points, SOURCES)) == float(value), name


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "arcface"}, "metric_loss='arcface' is unknown: choose one of triplet_semihard,"),
        ({"name": "supcon", "temperature": 0.0}, "temperature=0.0 was given: .* above 0"),
        ({"name": "supcon", "margin": -1.0}, "margin=-1.0 was given"),
        ({"name": "supcon", "distance_metric": "cosine"}, "distance_metric='cosine' is unknown"),
        ({"name": "prototype"}, "metric_loss='prototype' keeps one prototype a class: give num_cl"),
        pytest.param(
            {"name": "tfa_lifted_struct", "distance_metric": "angular"},
            "distance_metric='angular' was given with .* measures L2 only: choose L2, or another",
            marks=stacks.needs_addons,
        ),
    ],
)
def test_bad_settings_are_refused_in_words(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        losses.metric_loss(**{"margin": 0.2, "distance_metric": "L2", **settings})


def test_bad_temperatures_of_supcon_itself_are_refused():
    with pytest.raises(UserError, match="temperature=-1 was given"):
        losses.supcon_loss([0, 0], np.eye(2, dtype=np.float32), temperature=-1)


@pytest.mark.parametrize("name", stacks.available(STATELESS))
def test_bad_batches_are_refused_in_words(name):
    loss = losses.metric_loss(name, margin=0.2, distance_metric="L2")
    with pytest.raises(UserError, match="3 labels came with 2 embeddings"):
        loss([0, 0, 1], np.ones((2, 2), np.float32))
    with pytest.raises(UserError, match=r"embeddings of shape \(3,\)"):
        loss([0, 0, 1], np.ones(3, np.float32))
    with pytest.raises(UserError, match="type int.* needs floating point"):
        loss([0, 0, 1], np.ones((3, 2), np.int32))


def test_without_tensorflow_addons_its_losses_say_what_they_need(monkeypatch):
    def missing():
        raise UserError("tensorflow-addons cannot be imported here")

    monkeypatch.setattr(quiet_imports, "tensorflow_addons", missing)
    losses.metric_loss("supcon", margin=0.2, distance_metric="L2")
    with pytest.raises(UserError, match="cannot be imported here"):
        losses.metric_loss("tfa_npairs", margin=0.2, distance_metric="L2")


@pytest.mark.skipif(stacks.HAS_ADDONS, reason="tensorflow-addons is here")
@pytest.mark.parametrize("name", ["tfa_npairs", "tfa_lifted_struct", "tfa_contrastive"])
def test_losses_of_tensorflow_addons_are_refused_in_words_under_keras_3(name):
    with pytest.raises(UserError, match="--metric_loss=tfa_.* need TensorFlow 2.15 and Python 3.9"):
        losses.metric_loss(name, margin=0.2, distance_metric="L2")
