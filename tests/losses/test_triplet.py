"""The triplet losses against float64 loops in O(B^3) and against tensorflow-addons."""

import re

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.losses import triplet, triplet_hard_loss, triplet_mining, triplet_semihard_loss
from tests import loss_oracles

METRICS = ("L2", "squared-L2", "angular")
SIZE, WIDTH = 24, 16  # one shape for most batches: each new one is compiled
VALUE, GRADIENT = 1e-6, 1e-5  # how near to the float64 loops


def value_and_gradient(function, points):
    points = tf.constant(points)
    with tf.GradientTape() as tape:
        tape.watch(points)
        value = function(points)
    gradient = tape.gradient(value, points)
    return float(value), tf.cast(gradient, tf.float32).numpy()


def assert_same(ours, theirs, value=VALUE, gradient=GRADIENT):
    """Values to `value` of 1 or of themselves, gradients to `gradient` of their largest number, and
    where pulls of length 1 cancel, to float32's rounding of them."""
    assert ours[0] == pytest.approx(theirs[0], rel=value, abs=value)
    largest = np.max(np.abs(theirs[1]), initial=0.0)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=gradient * min(largest, 1.0) + 1e-7)


def ours(labels, points, **settings):
    return value_and_gradient(lambda e: triplet_semihard_loss(labels, e, **settings), points)


def ours_hard(labels, points, **settings):
    return value_and_gradient(lambda e: triplet_hard_loss(labels, e, **settings), points)


def loops(labels, points, **settings):
    return loss_oracles.triplet_semihard(labels, points, **settings)


def loops_hard(labels, points, **settings):
    return loss_oracles.triplet_hard(labels, points, **settings)


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


def random_batch(rng, size=SIZE, width=WIDTH, spread=0.7, classes=None):
    """Ragged labels with singletons, embeddings around class centres."""
    classes = classes or int(rng.integers(2, size // 2 + 1))
    labels = rng.integers(0, classes, size)
    centres = rng.normal(size=(classes, width))
    points = centres[labels] + spread * rng.normal(size=(size, width))
    return labels, points.astype(np.float32)


def pk_batch(rng, size, images_per_class, width):
    """Unit embeddings that know nothing of the classes: negatives lie close round each positive."""
    labels = rng.permutation(np.arange(size) // images_per_class)
    points = rng.normal(size=(size, width))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return labels, points.astype(np.float32)


def tied_batches():
    """Small integer coordinates, between which most distances tie; and duplicates of slots, many
    of them in another class."""
    for seed in range(8):
        rng = np.random.default_rng(300 + seed)
        labels, points = random_batch(rng)
        grid = np.zeros_like(points)
        grid[:, :3] = rng.integers(0, 3, size=(SIZE, 3))
        yield labels, grid
        labels, points = random_batch(rng, classes=5)
        for _ in range(8):
            points[rng.integers(SIZE)] = points[rng.integers(SIZE)]
        yield labels, points


def special_batches():
    rng = np.random.default_rng(5)
    points = rng.normal(size=(SIZE, WIDTH)).astype(np.float32)
    labels = np.arange(SIZE) // 4
    one = np.repeat(points[:1], SIZE, axis=0)
    far = (points + 100.0 * (labels // 3)[:, None]).astype(np.float32)
    yield "one class, no negatives", np.zeros(SIZE, int), points
    yield "all embeddings the same", labels, one
    yield "one class, all the same", np.zeros(SIZE, int), one
    yield "nearly the same", labels, (one + 1e-4 * points).astype(np.float32)
    yield "nearly the same direction", labels, (points + 1000.0).astype(np.float32)
    yield "one pair, many singletons", np.r_[0, 0, np.arange(1, SIZE - 1)], points
    yield "two classes far apart", labels // 3, far
    yield "class ids of 40 bits and negative", labels * 2**40 - 7, points
    yield "classes in no order", np.arange(SIZE) % 6, points


# --- semi-hard -----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_semihard_equals_loops_on_ragged_batches(metric):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        labels, points = random_batch(rng)
        margin = float(rng.uniform(0.0, 3.0))
        found = ours(labels, points, margin=margin, distance_metric=metric)
        assert_same(found, loops(labels, points, margin=margin, metric=metric))


@pytest.mark.parametrize("metric", METRICS)
def test_semihard_equals_addons_on_ragged_batches(metric, addons):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        labels, points = random_batch(rng)
        margin = float(rng.uniform(0.0, 3.0))
        found = ours(labels, points, margin=margin, distance_metric=metric)
        # Its distances are float32 differences of squares, some ten times coarser than ours.
        assert_same(found, theirs(addons, labels, points, margin, metric), 1e-5, 1e-4)


@pytest.mark.parametrize(
    ("size", "images_per_class", "width"),
    [(96, 2, 16), (96, 3, 16), (96, 5, 16), (96, 32, 16), (256, 128, 8), (256, 4, 128),
     (512, 4, 16), (1024, 4, 128), (1024, 4, 8)],
)  # fmt: skip
def test_semihard_equals_loops_on_large_batches(size, images_per_class, width):
    """Where float32 distances choose other negatives than exact ones."""
    labels, points = pk_batch(np.random.default_rng(size + width), size, images_per_class, width)
    found = ours(labels, points, margin=0.3)
    assert_same(found, loops(labels, points, margin=0.3))


@pytest.mark.parametrize("metric", METRICS)
def test_semihard_is_the_same_in_blocks_of_rows(metric, monkeypatch):
    labels, points = random_batch(np.random.default_rng(11), size=50)
    monkeypatch.setattr(triplet_mining, "_BLOCK", 50 * 16)  # 16, 16, 16 and 2 rows
    triplet._compiled.cache_clear()
    found = ours(labels, points, margin=0.7, distance_metric=metric)
    hard = ours_hard(labels, points, margin=0.7, distance_metric=metric)
    triplet._compiled.cache_clear()
    assert_same(found, loops(labels, points, margin=0.7, metric=metric))
    assert_same(hard, loops_hard(labels, points, margin=0.7, metric=metric))


@pytest.mark.parametrize("metric", METRICS)
def test_a_negative_as_far_as_the_positive_is_not_beyond_it(metric):
    """With ties any of the equals may be taken: the value does not tell which."""
    away_from_zero = np.float32([1.0] * 3 + [0.0] * (WIDTH - 3))
    for labels, tied in tied_batches():
        points = tied + away_from_zero
        found = ours(labels, points, margin=0.45, distance_metric=metric)
        expected = loops(labels, points, margin=0.45, metric=metric)
        assert found[0] == pytest.approx(expected[0], rel=VALUE, abs=VALUE)
        if metric != "angular":  # a loss of differences: it moves no batch as a whole
            np.testing.assert_allclose(np.sum(found[1], axis=0), 0.0, atol=1e-6)


def test_the_taken_one_of_equals_is_one_of_them():
    """Anchor at 0 and positive at 1; negatives at 2, 2 and 3 round it: one of the near two."""
    labels = np.array([0, 0, 1, 2, 3])
    points = np.float32([[0, 0], [1, 0], [0, 2], [0, -2], [-3, 0]])
    _, gradient = ours(labels, points, margin=1.5)
    moved = np.abs(gradient[2:]).sum(axis=1) > 0
    assert moved[2] == 0 and sorted(moved[:2]) == [False, True]


def test_semihard_on_special_batches(addons):
    for metric in METRICS:
        for name, labels, points in special_batches():
            found = ours(labels, points, margin=0.4, distance_metric=metric)
            assert np.all(np.isfinite(found[1])), name
            expected = loops(labels, points, margin=0.4, metric=metric)
            assert found[0] == pytest.approx(expected[0], rel=VALUE, abs=VALUE), name
            known = theirs(addons, labels, points, 0.4, metric)
            if "nearly" not in name:  # where its distances are noise
                assert found[0] == pytest.approx(known[0], rel=1e-5, abs=1e-5), name
            if "the same" not in name:
                assert_same(found, expected)


def test_all_zero_embeddings_have_a_finite_gradient():
    for metric in METRICS:
        zeros = np.zeros((SIZE, WIDTH), np.float32)
        for call in (ours, ours_hard):
            value, gradient = call(np.arange(SIZE) // 4, zeros, margin=0.4, distance_metric=metric)
            assert value == pytest.approx(0.4) and np.all(np.isfinite(gradient))


def test_semihard_is_zero_without_a_positive_pair():
    points = np.random.default_rng(0).normal(size=(SIZE, WIDTH)).astype(np.float32)
    for labels, rows in ((np.arange(SIZE), None), (np.arange(SIZE) // 4, np.arange(SIZE) // 4)):
        value, gradient = ours(labels, points, source_rows=rows)
        assert value == 0.0
        assert np.all(gradient == 0.0)


@pytest.mark.parametrize("size", [0, 1])
def test_semihard_on_no_and_one_slot(size):
    value, gradient = ours(np.zeros(size, int), np.ones((size, 4), np.float32))
    assert value == 0.0
    assert np.all(gradient == 0.0)


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_lost_number_is_not_hidden(lost):
    labels, points = random_batch(np.random.default_rng(1), classes=3)
    labels[3] = 9  # a negative only
    points[3, 2] = lost
    assert not np.isfinite(float(triplet_semihard_loss(labels, points)))
    assert not np.isfinite(float(triplet_hard_loss(labels, points)))


def test_semihard_drops_pairs_of_one_source_image():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        labels, points = random_batch(rng, classes=4)
        sources = labels * 100 + rng.integers(0, 3, SIZE)
        found = ours(labels, points, margin=1.0, source_rows=sources)
        expected = loops(labels, points, margin=1.0, sources=sources)
        assert_same(found, expected)
        plain = loops(labels, points, margin=1.0)
        assert abs(expected[0] - plain[0]) > 1e-4  # the mask matters in this batch


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_not_computed_in_itself(dtype):
    labels, points = random_batch(np.random.default_rng(2))
    half = tf.cast(points, dtype)
    for loss in (triplet_semihard_loss, triplet_hard_loss):
        found = value_and_gradient(lambda e, loss=loss: loss(labels, e, margin=1.0), half)
        single = value_and_gradient(
            lambda e, loss=loss: loss(labels, e, margin=1.0), tf.cast(half, tf.float32)
        )
        assert loss(labels, half).dtype == dtype
        # The same result rounded once: not within a tolerance, equal.
        assert found[0] == float(tf.cast(single[0], dtype))
        np.testing.assert_array_equal(found[1], tf.cast(tf.cast(single[1], dtype), tf.float32))


def test_eager_graph_and_compiled_give_the_same():
    labels, points = random_batch(np.random.default_rng(3))
    for loss, oracle in ((triplet_semihard_loss, loops), (triplet_hard_loss, loops_hard)):

        def step(points, loss=loss):
            with tf.GradientTape() as tape:
                tape.watch(points)
                value = 3.0 * loss(labels, points, margin=1.0)
            return value, tape.gradient(value, points)

        value, gradient = oracle(labels, points, margin=1.0)
        for way in (step, tf.function(step), tf.function(step, jit_compile=True)):
            found, by_points = way(tf.constant(points))
            assert_same((float(found), by_points.numpy()), (3.0 * value, 3.0 * gradient))


@pytest.mark.parametrize("semihard", [True, False])
def test_steps_do_not_retrace(semihard):
    traces = []
    loss = triplet_semihard_loss if semihard else triplet_hard_loss

    @tf.function
    def step(labels, points, margin):
        traces.append(1)
        return loss(labels, points, margin=margin)

    inner = triplet._compiled("L2", semihard=semihard)
    for seed in range(4):
        labels, points = random_batch(np.random.default_rng(seed))
        step(tf.constant(labels), tf.constant(points), tf.constant(0.1 * seed))
        loss(labels, points, margin=0.1 * seed)
        if seed == 0:
            before = inner.experimental_get_tracing_count()
    assert len(traces) == 1
    assert inner.experimental_get_tracing_count() == before


def test_unknown_batch_size_in_a_graph():
    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, WIDTH], tf.float32)]
    )
    def step(labels, points):
        with tf.GradientTape() as tape:
            tape.watch(points)
            value = triplet_semihard_loss(labels, points, margin=1.0)
        return value, tape.gradient(value, points)

    for size in (SIZE, 9):
        labels, points = random_batch(np.random.default_rng(size), size=size, classes=3)
        value, gradient = step(labels, points)
        assert_same((float(value), gradient.numpy()), loops(labels, points, margin=1.0))
    assert float(step(np.zeros(0, int), np.zeros((0, WIDTH), np.float32))[0]) == 0.0


@pytest.mark.parametrize("semihard", [True, False])
def test_no_tensor_is_as_large_as_all_triplets(semihard):
    """Of the compiled mining of 96 slots no tensor has more than a number for each pair."""
    size = 96
    labels, points = random_batch(np.random.default_rng(6), size=size, width=4)

    @tf.function(jit_compile=True)
    def mine(labels, points):
        settings = {"distance_metric": "L2", "semihard": semihard}
        return triplet_mining.loss_and_gradient(labels, points, None, None, 0.3, **settings)

    batch = tf.constant(labels), tf.constant(points, tf.float64)
    program = mine.experimental_get_compiler_ir(*batch)(stage="hlo")
    shapes = re.findall(r"\w\d+\[(\d+(?:,\d+)*)\]", program)
    sizes = [np.prod([int(side) for side in shape.split(",")]) for shape in shapes]
    assert max(sizes) == size * size


# --- hard ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("soft", [False, True])
def test_hard_equals_loops_and_addons(metric, soft, addons):
    for seed in range(8):
        labels, points = random_batch(np.random.default_rng(seed))
        found = ours_hard(labels, points, margin=0.7, soft=soft, distance_metric=metric)
        assert_same(found, loops_hard(labels, points, margin=0.7, metric=metric, soft=soft))
        known = theirs_hard(addons, labels, points, 0.7, soft, metric)
        assert_same(found, known, 1e-5, 1e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_hard_with_ties(soft):
    for labels, points in tied_batches():
        found = ours_hard(labels, points, margin=0.45, soft=soft)
        expected = loops_hard(labels, points, margin=0.45, soft=soft)
        assert found[0] == pytest.approx(expected[0], rel=VALUE, abs=VALUE)
        np.testing.assert_allclose(np.sum(found[1], axis=0), 0.0, atol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_hard_on_special_batches(soft, addons):
    for name, labels, points in special_batches():
        found = ours_hard(labels, points, margin=0.4, soft=soft)
        assert np.all(np.isfinite(found[1])), name
        expected = loops_hard(labels, points, margin=0.4, soft=soft)
        assert found[0] == pytest.approx(expected[0], rel=VALUE, abs=VALUE), name
        known = theirs_hard(addons, labels, points, 0.4, soft)
        if np.isfinite(known[0]) and "nearly" not in name:
            assert found[0] == pytest.approx(known[0], rel=1e-5, abs=1e-5), name
        if "the same" not in name:
            assert_same(found, expected)


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
    assert_same(found, loops_hard(labels, points, margin=1.0, sources=sources))


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
    with pytest.raises(UserError, match="labels that are text came: give a whole number"):
        triplet_hard_loss(["a", "a", "b"], np.ones((3, 2), np.float32))
