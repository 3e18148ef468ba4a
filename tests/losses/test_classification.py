"""The classification losses against float64 formulas written from their papers."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import losses
from longtail_tf.errors import UserError
from longtail_tf.losses import class_weights
from longtail_tf.models.cosine_head import CosineHead
from longtail_tf.settings.choices import CLASSIFICATION_LOSSES
from tests import loss_oracles

COUNTS = [5000, 300, 300, 17, 1]
LABELS = [0, 4, 1, 1, 3, 0, 2]
TOLERANCE = {tf.float32: 1e-5, tf.float16: 2e-3, tf.bfloat16: 2e-2}


def some_logits(seed=0, scale=3.0):
    return scale * np.random.default_rng(seed).normal(size=(len(LABELS), len(COUNTS)))


def logit_adjusted(logits):
    """Menon 2021, equation 10: log(1 + sum over the other classes)."""
    shares = np.array(COUNTS) / sum(COUNTS)
    total = 0.0
    for y, row in zip(LABELS, logits):
        terms = [shares[c] / shares[y] * np.exp(row[c] - row[y]) for c in range(len(row)) if c != y]
        total += np.log(1.0 + sum(terms))
    return total / len(LABELS)


def class_balanced(logits, beta=0.9999, smoothing=0.0):
    weights = [(1.0 - beta) / (1.0 - beta**count) for count in COUNTS]
    weights = [weight * len(COUNTS) / sum(weights) for weight in weights]
    return loss_oracles.cross_entropy(LABELS, logits, weights=weights, smoothing=smoothing)


def focal(logits, gamma=2.0):
    total = 0.0
    for y, row in zip(LABELS, logits):
        share = loss_oracles.softmax(row)[y]
        total -= (1.0 - share) ** gamma * np.log(share)
    return total / len(LABELS)


def ldam(logits, scale=16.0, max_margin=0.5):
    """Cao 2019, equation 12, the margins in cosine."""
    margins = [max_margin / count**0.25 * min(COUNTS) ** 0.25 for count in COUNTS]
    lowered = np.array(logits)
    for i, y in enumerate(LABELS):
        lowered[i, y] -= scale * margins[y]
    return loss_oracles.cross_entropy(LABELS, lowered)


ORACLES = {
    "cross_entropy": ({}, functools.partial(loss_oracles.cross_entropy, LABELS)),
    "cross_entropy, smoothed": (
        {"label_smoothing": 0.2},
        functools.partial(loss_oracles.cross_entropy, LABELS, smoothing=0.2),
    ),
    "logit_adjusted": ({}, logit_adjusted),
    "class_balanced": ({}, class_balanced),
    "class_balanced, smoothed": (
        {"label_smoothing": 0.1},
        functools.partial(class_balanced, smoothing=0.1),
    ),
    "class_balanced, beta": ({"beta": 0.9}, functools.partial(class_balanced, beta=0.9)),
    "focal": ({}, focal),
    "focal, gamma": ({"gamma": 0.5}, functools.partial(focal, gamma=0.5)),
    "ldam": ({}, ldam),
    "ldam, margin": (
        {"max_margin": 0.2, "scale": 30.0},
        functools.partial(ldam, max_margin=0.2, scale=30.0),
    ),
}


def made(name, **settings):
    return losses.classification_loss(name, **{"class_counts": COUNTS, **settings})


def value_and_gradient(loss, logits):
    logits = tf.convert_to_tensor(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(tf.constant(LABELS), logits)
    return value, tape.gradient(value, logits)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("case", list(ORACLES))
def test_value_and_gradient_are_the_papers(case, dtype):
    settings, oracle = ORACLES[case]
    logits = tf.constant(some_logits(), dtype)
    seen = tf.cast(logits, tf.float64).numpy()
    value, gradient = value_and_gradient(made(case.split(",")[0], **settings), logits)
    assert value.dtype == tf.float32 and value.shape == () and gradient.dtype == dtype
    assert float(value) == pytest.approx(oracle(seen), rel=1e-5)  # in float32 whatever came
    for i, c in np.ndindex(*seen.shape):
        direction = np.zeros_like(seen)
        direction[i, c] = 1.0
        expected = loss_oracles.slope_along(oracle, seen, direction)
        found = float(tf.cast(gradient[i, c], tf.float64))
        assert found == pytest.approx(expected, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_every_loss_is_the_same_in_a_graph_and_compiled(name):
    loss = made(name)
    step = functools.partial(value_and_gradient, loss)
    logits = tf.constant(some_logits(1), tf.float32)
    value, gradient = step(logits)
    for way in (tf.function(step), tf.function(step, jit_compile=True)):
        graph_value, graph_gradient = way(logits)
        assert float(graph_value) == pytest.approx(float(value), rel=1e-5)
        np.testing.assert_allclose(graph_gradient, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_far_logits_and_empty_batches_are_finite(name):
    loss = made(name, gamma=0.5)
    for scale in (1e4, -1e4):  # the label's class certain, and certainly another
        logits = scale * tf.one_hot(LABELS, len(COUNTS))
        value, gradient = value_and_gradient(loss, logits)
        assert np.isfinite(value) and np.all(np.isfinite(gradient))
    empty = tf.zeros([0, len(COUNTS)])
    with tf.GradientTape() as tape:
        tape.watch(empty)
        value = loss(tf.zeros([0], tf.int32), empty)
    assert float(value) == 0.0
    assert tape.gradient(value, empty).shape == (0, len(COUNTS))


def test_logit_adjusted_is_balanced_softmax():
    """Ren 2020, equation 4: counts, not shares, in the softmax."""
    total = 0.0
    for y, row in zip(LABELS, some_logits(2)):
        powers = np.array(COUNTS) * np.exp(row)
        total -= np.log(powers[y] / powers.sum())
    found = made("logit_adjusted")(LABELS, some_logits(2).astype(np.float32))
    assert float(found) == pytest.approx(total / len(LABELS), rel=1e-5)


def test_equal_counts_make_the_count_losses_cross_entropy():
    logits = some_logits(3).astype(np.float32)
    plain = float(made("cross_entropy")(LABELS, logits))
    for name, settings in [
        ("logit_adjusted", {}),
        ("class_balanced", {}),
        ("ldam", {"max_margin": 0.0}),
        ("focal", {"gamma": 0.0}),
    ]:
        loss = made(name, **{"class_counts": [40] * len(COUNTS), **settings})
        assert float(loss(LABELS, logits)) == pytest.approx(plain, rel=1e-5), name


def test_ldam_takes_the_learned_scale_of_the_cosine_head():
    head = CosineHead(len(COUNTS))
    logits = head(tf.random.stateless_normal([len(LABELS), 6], [1, 2]))
    assert float(head.scale) == 16.0  # the default scale of the loss
    loss = made("ldam", scale=head.scale)
    assert float(loss(LABELS, logits)) == pytest.approx(ldam(logits.numpy()), rel=1e-5)
    head.scale.assign(4.0)
    expected = ldam(logits.numpy(), scale=4.0)
    assert float(loss(LABELS, logits)) == pytest.approx(expected, rel=1e-5)


def test_labels_of_shape_b_1_and_any_integer_type_are_taken():
    logits = some_logits(4).astype(np.float32)
    expected = float(made("cross_entropy")(LABELS, logits))
    for labels in (np.array(LABELS, np.uint8), np.array(LABELS, np.int64)[:, None]):
        assert float(made("cross_entropy")(labels, logits)) == expected
    assert float(losses.classification_loss("focal", class_counts=None, gamma=0.0)(
        LABELS, logits)) == pytest.approx(expected)  # fmt: skip


# --- what the counts become ----------------------------------------------------------------------


def test_effective_numbers_keep_their_digits():
    """In float32, 1 - 0.9999 ** 1 would be right to three digits only."""
    with_one = class_weights.effective_number_weights([1, 10**7], beta=0.9999)
    assert with_one[0] / with_one[1] == pytest.approx(1e4, rel=1e-5)
    assert with_one.dtype == np.float32
    assert np.mean(class_weights.effective_number_weights(COUNTS)) == pytest.approx(1.0)
    assert np.all(class_weights.effective_number_weights(COUNTS, beta=0) == 1.0)
    assert np.all(np.diff(class_weights.effective_number_weights([9, 8, 7, 2])) > 0)


def test_margins_and_offsets():
    margins = class_weights.ldam_margins([160000, 16, 10000], max_margin=0.6)
    np.testing.assert_allclose(margins, [0.06, 0.6, 0.12], rtol=1e-6)
    offsets = class_weights.prior_offsets([6, 3, 1], tau=2.0)
    np.testing.assert_allclose(offsets, 2 * np.log([0.6, 0.3, 0.1]), rtol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "ldam"])
def test_deferred_weights_begin_at_their_step(name):
    """Cao 2019, section 3.3: effective-number weights, 1 on average over the training images."""
    beta, images = 0.9999, sum(COUNTS)
    raw = [(1.0 - beta) / (1.0 - beta**count) for count in COUNTS]
    usual = sum(count * weight for count, weight in zip(COUNTS, raw)) / images
    step = tf.Variable(6, dtype=tf.int64)
    loss = tf.function(made(name, reweight_from=7, step=step))
    logits = some_logits(4).astype(np.float32)
    assert float(loss(LABELS, logits)) == pytest.approx(float(made(name)(LABELS, logits)), rel=1e-6)
    step.assign(7)
    each = [float(made(name)([y], logits[i : i + 1])) for i, y in enumerate(LABELS)]
    expected = sum(raw[y] / usual * one for y, one in zip(LABELS, each)) / len(LABELS)
    assert float(loss(LABELS, logits)) == pytest.approx(expected, rel=1e-5)
    assert not np.isclose(expected, np.mean(each), rtol=0.1)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "hinge"}, "classification_loss='hinge' is unknown: choose one of cross_entropy,"),
        ({"name": "logit_adjusted", "class_counts": [3, 0]},
         "class 1 came with 0 training images to logit_adjusted, which needs at least 1"),
        ({"name": "class_balanced", "class_counts": [3, -2]}, "class 1 came with -2 training"),
        ({"name": "ldam", "class_counts": [float("nan"), 1.0]}, "class 0 came with nan training"),
        ({"name": "ldam", "class_counts": None}, r"class_counts of shape \(0,\) .* came to ldam"),
        ({"name": "ldam", "class_counts": [[1]]}, r"class_counts of shape \(1, 1\)"),
        ({"name": "ldam", "class_counts": ["a"]}, "one number a class"),
        ({"name": "ldam", "max_margin": -0.1}, "max_margin=-0.1 was given"),
        ({"name": "ldam", "scale": 0.0}, "scale=0.0 was given: .* above 0"),
        ({"name": "focal", "gamma": -1}, "gamma=-1 was given: .* at least 0"),
        ({"name": "class_balanced", "beta": 1.0}, "beta=1.0 .* needs 0 <= beta < 1"),
        ({"name": "class_balanced", "beta": -0.1}, "beta=-0.1 was given"),
        ({"name": "cross_entropy", "label_smoothing": 1.0}, "label_smoothing=1.0 .* 0 to below 1"),
        ({"name": "cross_entropy", "label_smoothing": -0.1}, "label_smoothing=-0.1 was given"),
        *(
            ({"name": name, "label_smoothing": 0.1},
             f"label_smoothing=0.1 .*classification_loss='{name}'.* undo .* set it to 0, or choose "
             "cross_entropy or class_balanced")
            for name in ("logit_adjusted", "focal", "ldam")
        ),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_in_words(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        losses.classification_loss(**{"class_counts": COUNTS, **settings})


def test_bad_offsets_are_refused_in_words():
    with pytest.raises(UserError, match="tau=-1 was given"):
        class_weights.prior_offsets(COUNTS, tau=-1)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_bad_batches_are_refused_in_words(name):
    loss = made(name)
    with pytest.raises(UserError, match="logits of 4 classes came, but class_counts has 5"):
        loss([0, 1], np.zeros((2, 4), np.float32))
    with pytest.raises(UserError, match="3 labels came with 2 rows of logits"):
        loss([0, 1, 2], np.zeros((2, 5), np.float32))
    with pytest.raises(UserError, match=r"logits of shape \(5,\)"):
        loss([0], np.zeros(5, np.float32))
    with pytest.raises(UserError, match="type int64 came: .* floating point"):
        loss([0], np.zeros((1, 5), np.int64))
