"""Calibration error, reliability bins and temperature against plain loops and a fine grid."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.metrics import calibration


def loop_ece(confidences, correct, num_bins=15):
    total = 0.0
    for b in range(num_bins):
        low, high = b / num_bins, (b + 1) / num_bins
        mine = [i for i, c in enumerate(confidences) if low < c <= high or (b == 0 and c == 0)]
        if mine:
            accuracy = sum(bool(correct[i]) for i in mine) / len(mine)
            confidence = sum(float(confidences[i]) for i in mine) / len(mine)
            total += len(mine) / len(confidences) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_ece_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    confidences = rng.beta(3, 1, 400)
    correct = rng.random(400) < confidences**2
    got = calibration.expected_calibration_error(confidences, correct)
    assert got == pytest.approx(loop_ece(confidences, correct), abs=1e-12)
    assert got > 0.05


def test_ece_of_probabilities_takes_the_largest(rng):
    probabilities = rng.dirichlet(np.ones(5), 300)
    labels = rng.integers(0, 5, 300)
    expected = loop_ece(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    got = calibration.expected_calibration_error(probabilities, labels)
    assert got == pytest.approx(expected, abs=1e-12)


def test_ece_extremes():
    sure = np.ones(4)
    assert calibration.expected_calibration_error(sure, np.array([True] * 4)) == 0.0
    assert calibration.expected_calibration_error(sure, np.array([False] * 4)) == 1.0
    half = np.array([True, False, True, False])
    assert calibration.expected_calibration_error(sure / 2, half) == 0.0


def test_reliability_bins_add_up(rng):
    confidences, correct = rng.random(500), rng.random(500) < 0.5
    bins = calibration.reliability_bins(confidences, correct, 10)
    assert bins["images"].sum() == 500
    filled = bins["images"] > 0
    assert np.nansum(bins["accuracy"] * bins["images"]) == pytest.approx(correct.sum())
    assert (bins["low"][filled] <= bins["confidence"][filled]).all()
    assert (bins["confidence"][filled] <= bins["high"][filled]).all()


def mean_nll(scores, labels, temperature):
    """With one more image that is, on average over the images, its own runner-up."""
    runner_up = np.argsort(-scores, axis=1)[:, 1]
    images = len(labels)
    doubt = plain_nll(scores, runner_up, temperature)
    return (images * plain_nll(scores, labels, temperature) + doubt) / (images + 1)


def plain_nll(scores, labels, temperature):
    scaled = scores.astype(np.float64) / temperature
    top = scaled.max(axis=1)
    log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
    return float(np.mean(log_sum - scaled[np.arange(len(labels)), labels]))


@pytest.mark.parametrize("true_temperature", [0.05, 0.7, 4.0])
def test_temperature_minimises_the_nll(true_temperature, rng):
    logits = rng.normal(size=(1500, 8)) * 2
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.random((1500, 1)) > np.cumsum(chance, axis=1)).sum(axis=1).clip(0, 7)
    scores = (logits * true_temperature).astype(np.float32)

    def chunks():
        for start in range(0, 1500, 400):
            yield scores[start : start + 400], labels[start : start + 400]

    got = calibration.fit_temperature(chunks)
    assert got == pytest.approx(true_temperature, rel=0.1)
    grid = true_temperature * np.exp(np.linspace(-0.3, 0.3, 601))
    best = min(mean_nll(scores, labels, one) for one in grid)
    assert mean_nll(scores, labels, got) == pytest.approx(best, abs=1e-5)


def test_a_perfect_validation_set_does_not_ask_for_certainty():
    """Nine of nine right means about nine tenths sure (rule of succession), not one."""
    scores = np.zeros((9, 2), np.float32)
    scores[:, 0] = 1.0
    temperature = calibration.fit_temperature(lambda: [(scores, np.zeros(9, int))])
    assert 1 / (1 + np.exp(-1 / temperature)) == pytest.approx(0.9, abs=1e-3)


def test_temperature_of_a_rule_that_knows_one_class():
    """Only one class possible: no runner-up to doubt with, and every temperature is as good."""
    scores = np.array([[0.0, -1e9]] * 3, np.float32)
    got = calibration.fit_temperature(lambda: [(scores, np.zeros(3, int))])
    assert np.isfinite(got)
    assert got > 0


def test_temperature_ends_at_its_bound():
    """All wrong: ever flatter is better."""
    scores = np.eye(4, dtype=np.float32)
    wrong = calibration.fit_temperature(lambda: [(scores, (np.arange(4) + 1) % 4)], high=50.0)
    assert wrong == pytest.approx(50.0, rel=0.05)


def test_log_softmax_of_wild_scores_is_finite():
    scores = np.array([[1e4, 0.0, -1e9], [-1e9, -1e9, -1e9]], np.float32)
    got = calibration.log_softmax(scores)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(np.exp(got).sum(axis=1), 1.0, rtol=1e-6)


def test_bad_input():
    with pytest.raises(UserError, match=r"confidences have shape \(2,\) and correct \(3,\)"):
        calibration.expected_calibration_error(np.ones(2), np.ones(3, bool))
    with pytest.raises(UserError, match="confidences run from 3 to 3; expected probabilities"):
        calibration.expected_calibration_error(np.full(2, 3.0), np.ones(2, bool))
    with pytest.raises(UserError, match="a temperature needs at least one"):
        calibration.fit_temperature(list)
