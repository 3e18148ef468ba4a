"""The triplet losses against tensorflow-addons and against float64 loops."""

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.losses import (
    semihard,
    triplet_hard_loss,
    triplet_semihard_loss,
)
from tests import loss_oracles

METRICS = ("L2", "squared-L2", "angular")
SIZE, WIDTH = 24, 16  # one shape for most batches: each new one is compiled


@pytest.fixture(params=["matrix", "list"])
def way(request, monkeypatch):
    """Both ways through the semi-hard loss; small batches take the first one otherwise."""
    if request.param == "list":
        monkeypatch.setattr(semihard, "_SMALL_BATCH", 0)
    yield request.param


def value_and_gradient(function, points):
    points = tf.constant(points)
    with tf.GradientTape() as tape:
        tape.watch(points)
        value = function(points)
    gradient = tape.gradient(value, points)
    return float(value), tf.cast(gradient, tf.float32).numpy()


def assert_same(ours, theirs, relative=1e-6):
    assert ours[0] == pytest.approx(theirs[0], rel=relative, abs=relative)
    scale = np.max(np.abs(theirs[1])) + 1e-12
    assert np.max(np.abs(ours[1] - theirs[1])) <= relative * scale + 1e-9


def ours(labels, points, **settings):
    return value_and_gradient(lambda e: triplet_semihard_loss(labels, e, **settings), points)


def ours_hard(labels, points, **settings):
    return value_and_gradient(lambda e: triplet_hard_loss(labels, e, **settings), points)


def theirs(addons, labels, points, margin, metric="L2"):
    margin = tf.constant(margin, tf.float32)  # a plain number would be traced anew
    return value_and_gradient(
        lambda e: addons.triplet_semihard_loss(labels, e, margin, metric), points
    )


def theirs_hard(addons, labels, points, margin, soft=False, metric="L2"):
    margin = tf.constant(margin, tf.float32)
    return value_and_gradient(
        lambda e: addons.triplet_hard_loss(labels, e, margin, soft, metric), points
    )


def with_duplicates(rng, points, copies=8):
    for _ in range(copies):
        points[rng.integers(len(points))] = points[rng.integers(len(points))]
    return points


def grid(rng):
    """Small integer coordinates: arithmetic is exact and most distances tie."""
    points = np.zeros((SIZE, WIDTH), np.float32)
    points[:, :3] = rng.integers(0, 3, size=(SIZE, 3))
    return points


def tied_batches():
    for seed in range(8):
        rng = np.random.default_rng(300 + seed)
        labels, points = random_batch(rng)
        yield labels, grid(rng)
        yield labels, with_duplicates(rng, np.round(8 * points) / 8)


def random_batch(rng, size=SIZE, width=WIDTH, spread=0.7, classes=None):
    """Ragged labels with singletons, embeddings around class centres."""
    classes = classes or int(rng.integers(2, size // 2 + 1))
    labels = rng.integers(0, classes, size)
    centres = rng.normal(size=(classes, width))
    points = centres[labels] + spread * rng.normal(size=(size, width))
    return labels, points.astype(np.float32)


# --- semi-hard -----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_semihard_equals_addons_on_ragged_batches(metric, way, addons):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        labels, points = random_batch(rng)
        margin = float(rng.uniform(0.0, 3.0))
        found = ours(labels, points, margin=margin, distance_metric=metric)
        assert_same(found, theirs(addons, labels, points, margin, metric))


@pytest.mark.parametrize("metric", METRICS)
def test_semihard_equals_loops_on_ragged_batches(metric, way):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        labels, points = random_batch(rng)
        margin = float(rng.uniform(0.0, 3.0))
        found = ours(labels, points, margin=margin, distance_metric=metric)
        loops = loss_oracles.triplet_semihard(labels, points, margin=margin, metric=metric)
        assert_same(found, loops, relative=2e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_semihard_shares_ties_between_duplicates_as_addons_do(metric, way, addons):
    for seed in range(8):
        rng = np.random.default_rng(100 + seed)
        labels, points = random_batch(rng, classes=5)
        points = with_duplicates(rng, points)
        found = ours(labels, points, margin=1.0, distance_metric=metric)
        assert_same(found, theirs(addons, labels, points, 1.0, metric))


@pytest.mark.parametrize("metric", ["L2", "squared-L2"])
def test_semihard_shares_ties_on_a_grid_as_addons_do(metric, way, addons):
    for seed in range(8):
        rng = np.random.default_rng(200 + seed)
        labels, _ = random_batch(rng)
        points = grid(rng)
        found = ours(labels, points, margin=0.45, distance_metric=metric)
        assert_same(found, theirs(addons, labels, points, 0.45, metric))


@pytest.mark.parametrize("metric", ["L2", "squared-L2"])
def test_semihard_shares_ties_on_a_grid(metric, way):
    for seed in range(8):
        rng = np.random.default_rng(200 + seed)
        labels, _ = random_batch(rng)
        points = grid(rng)
        found = ours(labels, points, margin=0.45, distance_metric=metric)
        loops = loss_oracles.triplet_semihard(labels, points, margin=0.45, metric=metric)
        assert_same(found, loops)


def special_batches():
    rng = np.random.default_rng(5)
    points = rng.normal(size=(SIZE, WIDTH)).astype(np.float32)
    labels = np.arange(SIZE) // 4
    one = np.repeat(points[:1], SIZE, axis=0)
    yield "one class, no negatives", np.zeros(SIZE, int), points
    yield "all embeddings the same", labels, one
    yield "one class, all the same", np.zeros(SIZE, int), one
    yield "all zero", labels, np.zeros_like(points)
    yield "one pair, many singletons", np.r_[0, 0, np.arange(1, SIZE - 1)], points
    yield (
        "two classes far apart",
        labels // 3,
        (points + 100.0 * (labels // 3)[:, None]).astype(np.float32),
    )
    yield "class ids of 40 bits and negative", labels * 2**40 - 7, points
    yield "classes in no order", np.arange(SIZE) % 6, points


@pytest.mark.parametrize("metric", METRICS)
def test_semihard_on_special_batches(metric, way, addons):
    for name, labels, points in special_batches():
        found = ours(labels, points, margin=0.4, distance_metric=metric)
        expected = theirs(addons, labels, points, 0.4, metric)
        assert np.isfinite(expected[0]), name
        assert np.all(np.isfinite(found[1])), name
        assert found[0] == pytest.approx(expected[0], rel=2e-6, abs=1e-6), name
        tolerance = 1e-6 * np.max(np.abs(expected[1])) + 1e-7
        if metric == "angular" and np.all(points == points[0]):
            tolerance = 1e-5  # rounding of gradients that cancel
        assert np.max(np.abs(found[1] - expected[1])) <= tolerance, name


def test_semihard_is_zero_without_a_positive_pair(way):
    labels = np.arange(SIZE)
    points = np.random.default_rng(0).normal(size=(SIZE, WIDTH)).astype(np.float32)
    value, gradient = ours(labels, points)
    assert value == 0.0
    assert np.all(gradient == 0.0)


@pytest.mark.parametrize("size", [0, 1])
def test_semihard_on_no_and_one_slot(size):
    value, gradient = ours(np.zeros(size, int), np.ones((size, 4), np.float32))
    assert value == 0.0
    assert np.all(gradient == 0.0)


def test_a_lost_number_is_not_hidden(way):
    labels, points = random_batch(np.random.default_rng(1), classes=3)
    points[3, 2] = np.nan
    assert np.isnan(float(triplet_semihard_loss(labels, points)))


def test_semihard_drops_pairs_of_one_source_image(way):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        labels, points = random_batch(rng, classes=4)
        sources = labels * 100 + rng.integers(0, 3, SIZE)
        found = ours(labels, points, margin=1.0, source_rows=sources)
        loops = loss_oracles.triplet_semihard(labels, points, margin=1.0, sources=sources)
        plain = loss_oracles.triplet_semihard(labels, points, margin=1.0)
        assert_same(found, loops, relative=2e-5)
        assert abs(loops[0] - plain[0]) > 1e-4  # the mask matters in this batch


@pytest.mark.parametrize("images_per_class", [2, 4, 8, 16, 64])
def test_stated_images_per_class_gives_the_same_answer(images_per_class, addons):
    size = 384  # whole blocks: each height is compiled
    rng = np.random.default_rng(images_per_class)
    labels = np.arange(size) // images_per_class
    points = rng.normal(size=(size, WIDTH)).astype(np.float32)
    points[7] = points[150]
    expected = theirs(addons, labels, points, 0.5)
    stated = ours(labels, points, margin=0.5, images_per_class=images_per_class)
    assert_same(stated, expected)
    if images_per_class in (4, 64):
        assert_same(ours(labels, points, margin=0.5), expected)


def test_wrongly_stated_images_per_class_still_gives_the_right_answer(addons):
    labels, points = random_batch(np.random.default_rng(0), size=384, classes=20)
    found = ours(labels, points, margin=0.5, images_per_class=2)
    assert_same(found, theirs(addons, labels, points, 0.5))


@pytest.mark.parametrize(("dtype", "digits"), [(tf.float16, 1e-3), (tf.bfloat16, 8e-3)])
def test_half_precision_is_computed_in_float32_and_cast_back(dtype, digits, addons):
    labels, points = random_batch(np.random.default_rng(2))
    half = tf.cast(points, dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(half)
        found = triplet_semihard_loss(labels, half, margin=1.0)
        expected = addons.triplet_semihard_loss(labels, half, 1.0)
    assert found.dtype == dtype
    # The same float32 result cast once: not within a tolerance, equal.
    assert float(found) == float(expected)
    gradients = [tf.cast(tape.gradient(x, half), tf.float32) for x in (found, expected)]
    assert tape.gradient(found, half).dtype == dtype
    np.testing.assert_allclose(*gradients, atol=digits * np.max(np.abs(gradients[1])))


def test_semihard_gives_the_same_in_graph_and_when_compiled():
    labels, points = random_batch(np.random.default_rng(3))

    def step(points):
        with tf.GradientTape() as tape:
            tape.watch(points)
            loss = 3.0 * triplet_semihard_loss(labels, points, margin=1.0)
        return loss, tape.gradient(loss, points)

    eager = step(tf.constant(points))
    for function in (tf.function(step), tf.function(step, jit_compile=True)):
        loss, gradient = function(tf.constant(points))
        assert_same((float(loss), gradient.numpy()), (float(eager[0]), eager[1].numpy()), 2e-6)
    value, gradient = loss_oracles.triplet_semihard(labels, points, margin=1.0)
    expected = (3.0 * value, 3.0 * gradient)
    assert_same((float(eager[0]), eager[1].numpy()), expected, relative=2e-5)


@pytest.mark.parametrize("size", [SIZE, 384])
def test_steps_do_not_retrace(size):
    traces = []

    @tf.function
    def step(labels, points, margin):
        traces.append(1)
        return triplet_semihard_loss(labels, points, margin=margin)

    inner = semihard.loss_function("L2", None, size)
    for seed in range(4):
        labels, points = random_batch(np.random.default_rng(seed), size=size)
        step(tf.constant(labels), tf.constant(points), tf.constant(0.1 * seed))
        triplet_semihard_loss(labels, points, margin=0.1 * seed)
        if seed == 0:
            before = inner.experimental_get_tracing_count()
    assert len(traces) == 1
    assert inner.experimental_get_tracing_count() == before


def test_unknown_batch_size_in_a_graph():
    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, WIDTH], tf.float32)]
    )
    def loss(labels, points):
        return triplet_semihard_loss(labels, points, margin=1.0)

    for size in (SIZE, 9):
        labels, points = random_batch(np.random.default_rng(size), size=size, classes=3)
        expected, _ = loss_oracles.triplet_semihard(labels, points, margin=1.0)
        assert float(loss(labels, points)) == pytest.approx(expected, rel=1e-5)


# --- hard ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("soft", [False, True])
def test_hard_equals_addons(metric, soft, addons):
    for seed in range(8):
        labels, points = random_batch(np.random.default_rng(seed))
        found = ours_hard(labels, points, margin=0.7, soft=soft, distance_metric=metric)
        assert_same(found, theirs_hard(addons, labels, points, 0.7, soft, metric), relative=2e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("soft", [False, True])
def test_hard_equals_loops(metric, soft):
    for seed in range(8):
        labels, points = random_batch(np.random.default_rng(seed))
        found = ours_hard(labels, points, margin=0.7, soft=soft, distance_metric=metric)
        loops = loss_oracles.triplet_hard(labels, points, margin=0.7, metric=metric, soft=soft)
        assert_same(found, loops, relative=2e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_hard_shares_ties_as_addons_do(soft, addons):
    for labels, exact in tied_batches():
        found = ours_hard(labels, exact, margin=0.45, soft=soft)
        assert_same(found, theirs_hard(addons, labels, exact, 0.45, soft), relative=2e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_hard_shares_ties(soft):
    for labels, exact in tied_batches():
        found = ours_hard(labels, exact, margin=0.45, soft=soft)
        loops = loss_oracles.triplet_hard(labels, exact, margin=0.45, soft=soft)
        assert_same(found, loops, relative=2e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_hard_on_special_batches(soft, addons):
    for name, labels, points in special_batches():
        found = ours_hard(labels, points, margin=0.4, soft=soft)
        expected = theirs_hard(addons, labels, points, 0.4, soft)
        assert np.all(np.isfinite(found[1])), name
        if np.isfinite(expected[0]) and np.all(np.isfinite(expected[1])):
            assert found[0] == pytest.approx(expected[0], rel=2e-6, abs=1e-6), name
            tolerance = 2e-6 * np.max(np.abs(expected[1])) + 1e-7
            assert np.max(np.abs(found[1] - expected[1])) <= tolerance, name


def test_soft_margin_does_not_overflow():
    labels = np.r_[0, 0, 1, 1]
    points = np.float32([[0, 0], [300, 0], [1, 0], [299, 0]])
    value, gradient = ours_hard(labels, points, soft=True)
    assert value == pytest.approx(298.0, abs=2.0)
    assert np.all(np.isfinite(gradient))


def test_hard_drops_pairs_of_one_source_image():
    labels, points = random_batch(np.random.default_rng(4), classes=4)
    sources = labels * 100 + np.arange(SIZE) % 3
    found = ours_hard(labels, points, margin=1.0, source_rows=sources)
    loops = loss_oracles.triplet_hard(labels, points, margin=1.0, sources=sources)
    assert_same(found, loops, relative=2e-5)


def test_hard_of_an_empty_batch_is_zero():
    assert float(triplet_hard_loss(np.zeros(0, int), np.zeros((0, 4), np.float32))) == 0.0


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"distance_metric": "cosine"}, "choose one of L2, squared-L2, angular"),
        ({"margin": -0.1}, r"margin=-0.1 was given: give a finite number of at least 0"),
        ({"margin": float("nan")}, "margin=nan was given"),
        ({"margin": "wide"}, "margin='wide' was given"),
        ({"images_per_class": 1}, "images_per_class=1 was given: .* at least 2"),
        ({"images_per_class": 2.0}, "images_per_class=2.0 was given"),
        ({"source_rows": [1, 2]}, "2 source rows came with 3 labels"),
    ],
)
def test_bad_settings_are_refused_in_words(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        triplet_semihard_loss([0, 0, 1], np.ones((3, 2), np.float32), **settings)


def test_shapes_that_do_not_fit_are_refused_in_words():
    with pytest.raises(UserError, match="3 labels came with 4 embeddings"):
        triplet_hard_loss([0, 0, 1], np.ones((4, 2), np.float32))
    with pytest.raises(UserError, match=r"shape \(3,\) .* needs floating point embeddings"):
        triplet_hard_loss([0, 0, 1], np.ones(3, np.float32))
    with pytest.raises(UserError, match="type int64 came"):
        triplet_hard_loss([0, 0, 1], np.ones((3, 2), np.int64))
