"""Partial cross entropy and the prototype loss: against the full softmax in float64 loops."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import losses
from longtail_tf.errors import UserError
from longtail_tf.losses.partial import sample_classes
from tests import loss_oracles

SIZE, WIDTH, CLASSES = 9, 5, 23
LABELS = np.array([0, 22, 7, 7, 21, 0, 16, 3, 22])  # repeats, both ends


def head(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(SIZE, WIDTH)), rng.normal(size=(WIDTH, CLASSES))


def full(points, kernel, labels=LABELS, kept=None):
    """Value and gradients of the mean cross entropy over the `kept` classes, one slot at a time."""
    kept = list(range(kernel.shape[1])) if kept is None else kept
    value, by_points, by_kernel = 0.0, np.zeros_like(points), np.zeros_like(kernel)
    for i, y in enumerate(labels):
        logits = [points[i] @ kernel[:, c] for c in kept]
        shares = loss_oracles.softmax(logits)
        value += (np.logaddexp.reduce(logits) - logits[kept.index(y)]) / len(labels)
        for share, c in zip(shares, kept):
            slope = (share - (c == y)) / len(labels)
            by_points[i] += slope * kernel[:, c]
            by_kernel[:, c] += slope * points[i]
    return value, by_points, by_kernel


def value_and_gradients(loss, points, kernel, labels=LABELS):
    points, kernel = tf.convert_to_tensor(points), tf.convert_to_tensor(kernel)
    with tf.GradientTape() as tape:
        tape.watch([points, kernel])
        value = loss(tf.convert_to_tensor(labels), points, kernel)
    by_points, by_kernel = tape.gradient(value, [points, kernel])
    return value, by_points, tf.convert_to_tensor(by_kernel)


def check(found, expected, tolerance=2e-6):
    assert found[0].dtype == tf.float32 and found[0].shape == ()
    for tensor, right in zip(found, expected):
        left = tf.cast(tensor, tf.float64).numpy()
        np.testing.assert_allclose(left, right, rtol=10 * tolerance, atol=tolerance)


def single(*arrays):
    return [tf.constant(array, tf.float32) for array in arrays]


# --- partial -------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_sampled", [1, 4, 11, 23])
@pytest.mark.parametrize("compiled", [None, False, True])
def test_partial_is_the_cross_entropy_over_the_classes_kept(num_sampled, compiled):
    loss = functools.partial(losses.partial_cross_entropy, num_sampled=num_sampled, seed=3, step=5)
    step = functools.partial(value_and_gradients, loss)
    if compiled is not None:
        step = tf.function(step, jit_compile=compiled)
    drawn = sample_classes(CLASSES, num_sampled=num_sampled, seed=3, step=5).numpy()
    kept = sorted({*LABELS, *drawn})
    assert num_sampled == CLASSES or len(kept) < CLASSES
    check(step(*single(*head())), full(*head(), kept=kept))


def test_partial_with_all_classes_is_the_full_cross_entropy():
    loss = functools.partial(losses.partial_cross_entropy, num_sampled=CLASSES, seed=0, step=9)
    check(value_and_gradients(loss, *single(*head(7))), full(*head(7)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.bfloat16, 4e-3), (tf.float16, 5e-4)])
def test_partial_takes_half_precision(dtype, tolerance):
    points, kernel = (tf.constant(array, dtype) for array in head(4))
    loss = functools.partial(losses.partial_cross_entropy, num_sampled=CLASSES, seed=0, step=0)
    seen = [tf.cast(part, tf.float64).numpy() for part in (points, kernel)]
    check(value_and_gradients(loss, points, kernel), full(*seen), tolerance)


def test_partial_of_an_empty_batch_is_zero():
    points, kernel = single(np.zeros((0, WIDTH)), head()[1])
    loss = functools.partial(losses.partial_cross_entropy, num_sampled=3, seed=0, step=0)
    found = value_and_gradients(loss, points, kernel, np.zeros(0, np.int32))
    assert float(found[0]) == 0.0 and not np.any(found[2])


@pytest.mark.parametrize(("classes", "number"), [(23, 1), (23, 9), (23, 22), (23, 23), (10**6, 7)])
def test_the_draw_is_distinct_and_a_function_of_seed_and_step(classes, number):
    draw = functools.partial(sample_classes, classes, num_sampled=number)
    first = draw(seed=1, step=2).numpy()
    assert first.dtype == np.int32 and len(set(first)) == number
    assert first.min() >= 0 and first.max() < classes
    graph = tf.function(lambda step: draw(seed=1, step=step))(tf.constant(2, tf.int64))
    assert np.array_equal(first, graph)
    if number < classes:
        later = [tuple(sorted(draw(seed=1, step=step).numpy())) for step in range(2, 30)]
        other = [tuple(sorted(draw(seed=2, step=step).numpy())) for step in range(2, 30)]
        assert len(set(later)) > 1 and later != other


def test_every_class_is_drawn_equally_often():
    """Where the arcs differ in length too: 10 classes in 4 arcs of 2 or 3."""
    classes, number, steps = 10, 4, 4000
    draw = functools.partial(sample_classes, classes, num_sampled=number, seed=0)
    drawn = tf.function(lambda: tf.map_fn(lambda step: draw(step=step), tf.range(steps)))()
    counts = np.bincount(drawn.numpy().ravel(), minlength=classes)
    share = number / classes
    spread = np.sqrt(steps * share * (1 - share))
    assert np.all(np.abs(counts - steps * share) < 4.5 * spread)


# --- prototypes ----------------------------------------------------------------------------------


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def prototype_oracle(points, prototypes, temperature, priors=None):
    seen = [c for c in range(len(prototypes)) if np.any(prototypes[c])]
    terms = []
    for x, y in zip(points, LABELS):
        if y in seen:
            cosines = [unit(x) @ prototypes[c] / temperature for c in seen]
            if priors is not None:
                cosines = [cosine + priors[c] for cosine, c in zip(cosines, seen)]
            terms.append(-np.log(loss_oracles.softmax(cosines)[seen.index(y)]))
    return np.mean(terms) if terms else 0.0


def some_prototypes(unseen):
    prototypes = unit(np.random.default_rng(8).normal(size=(CLASSES, WIDTH)))
    prototypes[list(unseen)] = 0.0
    return prototypes


@pytest.mark.parametrize("compiled", [None, False, True])
@pytest.mark.parametrize("unseen", [(), (7, 12), range(1, CLASSES), range(CLASSES)])
def test_prototype_loss_against_loops(unseen, compiled):
    prototypes, points = some_prototypes(unseen), head(9)[0]
    priors = np.log(np.arange(1, CLASSES + 1))

    def step(points, prototypes):
        with tf.GradientTape() as tape:
            tape.watch([points, prototypes])
            value = losses.prototype_loss(
                LABELS, points, prototypes, temperature=0.3, log_priors=priors
            )
        return value, tape.gradient(value, points)

    way = step if compiled is None else tf.function(step, jit_compile=compiled)
    value, gradient = way(*single(points, prototypes))
    oracle = functools.partial(
        prototype_oracle, prototypes=prototypes, temperature=0.3, priors=priors
    )
    assert value.dtype == tf.float32
    assert float(value) == pytest.approx(oracle(points), rel=1e-5, abs=1e-7)
    for direction in np.random.default_rng(0).normal(size=(3, *points.shape)):
        expected = loss_oracles.slope_along(oracle, points, direction)
        assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_prototype_loss_leaves_prototypes_to_their_running_mean():
    points, prototypes = single(head(9)[0], some_prototypes(()))
    with tf.GradientTape() as tape:
        tape.watch(prototypes)
        value = losses.prototype_loss(LABELS, points, prototypes, temperature=0.3)
    assert tape.gradient(value, prototypes) is None


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_prototype_loss_takes_half_precision(dtype):
    points, prototypes = tf.constant(head(9)[0], dtype), some_prototypes((7,))
    found = losses.prototype_loss(LABELS, points, prototypes, temperature=0.1)
    expected = prototype_oracle(tf.cast(points, tf.float64).numpy(), prototypes, 0.1)
    assert found.dtype == tf.float32 and float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("compiled", [None, True])
@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_ema_prototypes_against_loops(momentum, compiled):
    prototypes, points = some_prototypes((7, 12)), head(10)[0]
    move = functools.partial(losses.ema_prototypes, momentum=momentum)
    move = move if compiled is None else tf.function(move, jit_compile=compiled)
    moved = move(*single(prototypes), tf.constant(LABELS), *single(points)).numpy()
    for c in range(CLASSES):
        if c not in LABELS:
            assert np.array_equal(moved[c], prototypes[c].astype(np.float32))
            continue
        mean = np.mean([unit(x) for x, y in zip(points, LABELS) if y == c], axis=0)
        expected = mean if c == 7 else momentum * prototypes[c] + (1 - momentum) * mean
        np.testing.assert_allclose(moved[c], unit(expected), atol=1e-6)


def test_ema_prototypes_of_an_empty_batch_stay():
    prototypes = some_prototypes((7,)).astype(np.float32)
    empty = tf.zeros([0], tf.int32), tf.zeros([0, WIDTH])
    moved = losses.ema_prototypes(prototypes, *empty, momentum=0.5)
    assert np.array_equal(moved, prototypes)
    assert float(losses.prototype_loss(*empty, prototypes, temperature=0.5)) == 0.0


# --- bad input -----------------------------------------------------------------------------------


def refused(sentence, function, *args, **settings):
    with pytest.raises(UserError, match=sentence):
        function(*args, **settings)


@pytest.mark.parametrize("number", [0, 24, 2.5, True, None])
def test_bad_numbers_of_classes_are_refused_in_words(number):
    refused(f"num_sampled={number} .* of 23 classes: give a whole number of 1 to 23",
            losses.partial_cross_entropy, LABELS, *single(*head()), num_sampled=number,
            seed=0, step=0)  # fmt: skip


def test_shapes_that_do_not_fit_are_refused_in_words():
    points, kernel = single(*head())
    loss = functools.partial(losses.partial_cross_entropy, num_sampled=2, seed=0, step=0)
    refused(r"labels \(2,\), neck output \(9, 5\)", loss, [0, 1], points, kernel)
    refused(r"kernel \(23, 5\) came: give", loss, LABELS, points, tf.transpose(kernel))
    refused(r"neck output \(5,\)", loss, LABELS, points[0], kernel)
    unknown = tf.function(functools.partial(loss, LABELS), autograph=False).get_concrete_function
    refused("a known number of classes", unknown, tf.TensorSpec([SIZE, WIDTH]),
            tf.TensorSpec([WIDTH, None]))  # fmt: skip


def test_bad_prototype_settings_are_refused_in_words():
    points, prototypes = single(head()[0], some_prototypes(()))
    loss = losses.prototype_loss
    refused("temperature=0 was given", loss, LABELS, points, prototypes, temperature=0)
    refused(r"prototypes of shape \(23, 4\) came with embeddings of shape \(9, 5\)", loss, LABELS,
            points, prototypes[:, :4], temperature=1.0)  # fmt: skip
    for momentum in (-0.1, 1.1, "all"):
        refused(f"momentum={momentum!r} was given", losses.ema_prototypes, prototypes, LABELS,
                points, momentum=momentum)  # fmt: skip
    refused(r"prototypes of shape \(5,\)", losses.ema_prototypes, prototypes[0], LABELS, points,
            momentum=0.5)  # fmt: skip


def test_prototype_loss_of_training_measures_then_moves_its_prototypes():
    """Twice in turn: first every class is new, then all are measured against the first batch's."""
    rng = np.random.default_rng(3)
    loss = losses.metric_loss(
        "prototype", margin=0.0, temperature=0.3, num_classes=CLASSES, embedding_dim=WIDTH
    )
    kept = np.zeros((CLASSES, WIDTH))
    for _ in range(3):
        labels, points = rng.integers(0, CLASSES, 12), rng.normal(size=(12, WIDTH))
        moved = kept.copy()
        for c in np.unique(labels):
            mean = np.mean([unit(x) for x in points[labels == c]], axis=0)
            moved[c] = unit(0.9 * kept[c] + 0.1 * mean if kept[c].any() else mean)
        against = np.where(kept.any(axis=1, keepdims=True), kept, moved)
        seen = np.flatnonzero(against.any(axis=1))
        each = []
        for label, x in zip(labels, points):
            cosines = against[seen] @ unit(x) / 0.3
            each.append(np.log(np.exp(cosines).sum()) - cosines[list(seen).index(label)])
        value = loss(tf.constant(labels), tf.constant(points, tf.float32), None)
        np.testing.assert_allclose(value, np.mean(each), rtol=1e-5)
        np.testing.assert_allclose(loss.prototypes, moved, atol=1e-6)
        kept = moved


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32])
def test_prototype_loss_of_training_in_a_graph_and_any_precision(compiled, dtype):
    rng = np.random.default_rng(4)
    labels = tf.constant(rng.integers(0, CLASSES, 12))
    batches = [tf.constant(rng.normal(size=(12, WIDTH)), dtype)]
    if dtype != tf.float16:  # in whose range the steep gradient at the origin does not fit
        batches.append(tf.zeros([12, WIDTH], dtype))
    settings = dict(margin=0.0, temperature=0.3, num_classes=CLASSES, embedding_dim=WIDTH)
    plain = losses.metric_loss("prototype", **settings)
    way = losses.metric_loss("prototype", **settings)

    @tf.function(jit_compile=compiled)
    def step(points):
        with tf.GradientTape() as tape:
            tape.watch(points)
            value = way(labels, points)
        return value, tape.gradient(value, points)

    for points in batches:  # the second has collapsed to the origin
        value, gradient = step(points)
        assert value.dtype == tf.float32 and gradient.dtype == dtype
        assert np.all(np.isfinite(tf.cast(gradient, tf.float32)))
        np.testing.assert_allclose(value, plain(labels, points), rtol=1e-5)
        np.testing.assert_allclose(way.prototypes, plain.prototypes, atol=1e-6)
