"""The rejection threshold by its promise, AUROC and FPR against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.recognition import unknowns
from longtail_tf.recognition.fit import Embedded, fit_recognizer, unknown_metrics


@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed):
    from sklearn.metrics import roc_auc_score, roc_curve

    rng = np.random.default_rng(seed)
    known = np.round(rng.normal(1.0, 1.0, 300), 1)  # rounded: many ties
    unknown = np.round(rng.normal(0.0, 1.0, 200), 1)
    got = unknowns.score_unknowns(known, unknown)
    truth, scores = np.repeat([1, 0], [300, 200]), np.concatenate([known, unknown])
    assert got["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert got["fpr_at_95_tpr"] == pytest.approx(false[true >= 0.95].min(), abs=1e-12)


def test_class_weights_are_scikit_learns_sample_weights(rng):
    from sklearn.metrics import roc_auc_score

    labels = rng.choice(5, 300, p=[0.6, 0.2, 0.1, 0.05, 0.05])
    known = rng.normal(labels / 3, 1.0)
    unknown = rng.normal(-labels / 5, 1.0)
    got = unknowns.score_unknowns(known, unknown, known_labels=labels, unknown_labels=labels)
    weights = (1 / np.bincount(labels))[labels]
    expected = roc_auc_score(
        np.repeat([1, 0], 300),
        np.concatenate([known, unknown]),
        sample_weight=np.concatenate([weights, weights]),
    )
    assert got["auroc"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2, 0.999])
def test_threshold_keeps_its_promise_and_no_lower_one_would(rate, rng):
    labels = rng.choice(6, 500, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    scores = np.round(rng.uniform(-1, 1, (500, 6)), 2).astype(np.float32)

    def chunks():
        yield scores[:123], labels[:123]
        yield scores[123:], labels[123:]

    got = unknowns.calibrate_threshold(chunks, false_accept_rate=rate)
    others = np.array([max(np.delete(row, label)) for row, label in zip(scores, labels)])
    np.testing.assert_array_equal(got.unknown, others)
    np.testing.assert_array_equal(got.known, scores.max(axis=1))

    def accepted(threshold):
        shares = [np.mean(others[labels == c] >= threshold) for c in range(6)]
        return float(np.mean(shares))

    assert accepted(got.threshold) <= rate + 1e-9
    below = others[others < got.threshold]
    if below.size:
        assert accepted(below.max()) > rate


def gaussian_split(seed, classes, per_class, centres):
    rng = np.random.default_rng(seed)
    labels = np.repeat(classes, per_class)
    vectors = centres[labels] + 0.12 * rng.normal(size=(len(labels), centres.shape[1]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), labels.astype(np.int32)


def test_threshold_holds_on_classes_nobody_enrolled():
    """Calibrated on 40 known classes at 5 %, it lets few images of 40 strangers through."""
    centres = np.random.default_rng(7).normal(size=(80, 32))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    known = np.arange(40)
    train = Embedded(*_with_logits(gaussian_split(0, known, 10, centres)))
    val = Embedded(*_with_logits(gaussian_split(1, known, 10, centres)))
    got = fit_recognizer(train, val, num_classes=40, num_head=0, seed=0, rules=("ncm",))
    strangers, _ = gaussian_split(2, np.arange(40, 80), 10, centres)
    friends, _ = gaussian_split(3, known, 10, centres)
    assert 1 - got.is_unknown(strangers).mean() < 0.15
    assert got.is_unknown(friends).mean() < 0.15
    report = unknown_metrics(got, val)
    assert report["threshold"] == got.threshold
    assert report["false_accept_rate"] <= 0.05 + 1e-9
    assert report["auroc"] > 0.95
    assert got.is_unknown(friends[:0]).shape == (0,)


def _with_logits(pair):
    return pair[0], None, pair[1]


def test_bad_input():
    scores = [(np.zeros((2, 3), np.float32), np.array([0, 1]))]
    with pytest.raises(UserError, match="false_accept_rate is 5; expected a share"):
        unknowns.calibrate_threshold(lambda: scores, false_accept_rate=5)
    with pytest.raises(UserError, match="a rejection threshold needs at least one"):
        unknowns.calibrate_threshold(list, false_accept_rate=0.05)
    one = [(np.zeros((2, 1), np.float32), np.array([0, 0]))]
    with pytest.raises(UserError, match="needs at least two classes"):
        unknowns.calibrate_threshold(lambda: one, false_accept_rate=0.05)
    with pytest.raises(UserError, match="0 known and 3 unknown images came"):
        unknowns.score_unknowns(np.zeros(0), np.zeros(3))
    blind = fit_recognizer(
        Embedded(np.eye(3, dtype=np.float32), None, np.arange(3)),
        None,
        num_classes=3,
        num_head=0,
        seed=0,
    )
    with pytest.raises(UserError, match="this recognizer has no rejection threshold"):
        blind.is_unknown(np.eye(3, dtype=np.float32))
