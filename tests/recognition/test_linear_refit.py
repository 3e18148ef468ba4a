"""The balanced linear refit: gradient by finite differences, balance, early stop, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf.metrics import balanced_accuracy
from longtail_tf.recognition import linear_refit
from longtail_tf.recognition.linear_refit import fit_linear
from longtail_tf.recognition.prototypes import class_prototypes


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def case(seed, counts, spread=0.6, dimension=12, nuisance=0.0):
    """Gaussian classes; `nuisance` blurs one direction, which a fit can learn to ignore."""
    centres = np.random.default_rng(5).normal(size=(len(counts), dimension))
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    vectors = centres[labels] + 2 * spread * rng.normal(size=(len(labels), dimension))
    vectors[:, 0] += nuisance * rng.normal(size=len(labels))
    return unit(vectors), labels


def adjusted_loss(weights, vectors, labels, log_prior):
    logits = vectors.astype(np.float64) @ weights[:-1] + weights[-1] + log_prior
    logits -= logits.max(axis=1, keepdims=True)
    log_chance = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_chance[np.arange(len(labels)), labels].mean()


def test_gradient_by_finite_differences(rng):
    vectors, labels = case(0, [9, 4, 2, 1])
    weights = rng.normal(size=(13, 4)).astype(np.float32)
    log_prior = np.log(np.array([9, 4, 2, 1]) / 16).astype(np.float32)
    got = linear_refit.softmax_gradient(weights, vectors, labels, log_prior)
    for row, column in [(0, 0), (3, 1), (7, 2), (11, 3), (12, 0), (12, 3)]:
        step = np.zeros(weights.shape)
        step[row, column] = 1e-5
        up = adjusted_loss(weights + step, vectors, labels, log_prior)
        down = adjusted_loss(weights - step, vectors, labels, log_prior)
        assert got[row, column] == pytest.approx((up - down) / 2e-5, abs=2e-5)


def test_it_is_fair_to_the_tail():
    """200 images against 4 of an overlapping class: both are recognised about equally often."""
    vectors, labels = case(1, [200, 4], spread=0.5, dimension=4)
    test, truth = case(2, [500, 500], spread=0.5, dimension=4)
    found = [
        fit_linear(vectors, labels, class_prototypes(vectors, labels, 2), scale=10.0, seed=s)
        for s in range(3)
    ]
    recall = np.mean(
        [
            [np.mean((test @ f.kernel + f.bias).argmax(axis=1)[truth == c] == c) for c in (0, 1)]
            for f in found
        ],
        axis=0,
    )
    assert recall.min() > 0.6
    assert abs(recall[0] - recall[1]) < 0.3


def test_the_best_pass_on_validation_is_kept():
    counts = [80, 40, 20, 8, 4, 2]
    vectors, labels = case(3, counts, spread=0.3, nuisance=4.0)
    val, val_labels = case(4, [12] * 6, spread=0.3, nuisance=4.0)
    prototypes = class_prototypes(vectors, labels, 6)
    arguments = {"val_embeddings": val, "val_labels": val_labels, "seed": 0, "scale": 8.0}
    fit = fit_linear(vectors, labels, prototypes, **arguments)
    predictions = (val @ fit.kernel + fit.bias).argmax(axis=1)
    assert balanced_accuracy(val_labels, predictions) == fit.val_balanced_accuracy
    start = balanced_accuracy(val_labels, (val @ prototypes.T).argmax(axis=1))
    assert fit.val_balanced_accuracy > start
    assert fit.epochs > 0
    again = fit_linear(vectors, labels, prototypes, **arguments)
    np.testing.assert_array_equal(again.kernel, fit.kernel)


def test_the_prototypes_stay_where_nothing_is_better():
    """Nothing beats a perfect start, and equals do not replace it."""
    vectors, labels = case(3, [40, 20, 10], spread=0.1)
    fit = fit_linear(
        vectors,
        labels,
        class_prototypes(vectors, labels, 3),
        scale=8.0,
        seed=0,
        val_embeddings=vectors,
        val_labels=labels,
    )
    assert fit.epochs == 0  # already perfect
    np.testing.assert_array_equal(fit.bias, np.zeros(3))
    np.testing.assert_allclose(fit.kernel, 8.0 * class_prototypes(vectors, labels, 3).T, atol=1e-6)


def test_without_validation_it_learns_the_training_set():
    vectors, labels = case(6, [60, 30, 15, 6, 3])
    prototypes = class_prototypes(vectors, labels, 5)
    fit = fit_linear(vectors, labels, prototypes, scale=8.0, seed=0)
    assert fit.val_balanced_accuracy is None
    before = balanced_accuracy(labels, (vectors @ prototypes.T).argmax(axis=1))
    after = balanced_accuracy(labels, (vectors @ fit.kernel + fit.bias).argmax(axis=1))
    assert after > before
