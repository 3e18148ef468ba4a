"""Rules that correct a classifier of every class, against formulas written from their papers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.metrics import balanced_accuracy
from longtail_tf.recognition import all_class_rules
from longtail_tf.recognition.enrollment import add_class, remove_class, replace_class
from longtail_tf.recognition.fit import Embedded, Recognizer, evaluate_rules, fit_recognizer
from longtail_tf.settings.choices import ALL_CLASS_RULES
from tests import rounding

COUNTS = np.array([300, 90, 30, 9, 3])
CLASSES, DIM = 5, 8


def biased(seed, counts):
    """Overlapping classes, and a linear classifier whose vectors are long for frequent classes."""
    centres = np.random.default_rng(7).normal(size=(CLASSES, DIM))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), counts)).astype(np.int32)
    vectors = centres[labels] / 3 + 0.35 * rng.normal(size=(len(labels), DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Embedded(vectors, (vectors @ kernel()).astype(np.float32), labels)


def kernel():
    centres = np.random.default_rng(7).normal(size=(CLASSES, DIM))
    return (centres.T * COUNTS**0.35).astype(np.float32)


@pytest.fixture(scope="module")
def splits():
    return biased(0, COUNTS), biased(1, [20] * CLASSES), biased(2, [100] * CLASSES)


def fit(splits, *, val=True, **settings):
    train, validation, _ = splits
    lines = []
    settings = {"head_norms": np.linalg.norm(kernel(), axis=0), "num_head": CLASSES, **settings}
    recognizer = fit_recognizer(
        train,
        validation if val else None,
        num_classes=CLASSES,
        seed=0,
        log=lines.append,
        **settings,
    )
    return recognizer, "\n".join(lines)


def test_every_rule_helps_a_biased_classifier_and_changes_nothing_else(splits):
    recognizer, said = fit(splits)
    rows = evaluate_rules(recognizer, splits[2], train_counts=COUNTS, replicates=0)
    assert list(rows)[-6:] == ["head_only", "gated_lda", *ALL_CLASS_RULES]
    for rule in ALL_CLASS_RULES:
        assert rows[rule]["balanced"] > rows["head_only"]["balanced"] + 0.03, rule
    assert "head_adjusted: tau" in said and "tau_norm: tau" in said
    plain, _ = fit(splits, rules=("ncm", "gated", "head_only"))
    for rule in ("ncm", "gated", "head_only"):
        np.testing.assert_array_equal(
            plain.scores(rule, splits[2].embeddings, splits[2].head_logits),
            recognizer.scores(rule, splits[2].embeddings, splits[2].head_logits),
        )


def test_without_validation_tau_is_the_papers_1(splits):
    """Menon 2021, equation 9: f_y(x) - log pi_y; Kang 2020, equation 5: w_y / |w_y|^tau."""
    recognizer, _ = fit(splits, val=False)
    test = splits[2]
    share = COUNTS / COUNTS.sum()
    norms = [np.sqrt(sum(float(w) ** 2 for w in kernel()[:, c])) for c in range(CLASSES)]
    adjusted = recognizer.scores("head_adjusted", test.embeddings, test.head_logits)
    normed = recognizer.scores("tau_norm", test.embeddings, test.head_logits)
    for i in range(0, len(test.labels), 50):
        for c in range(CLASSES):
            logit = float(test.head_logits[i, c])
            assert adjusted[i, c] == pytest.approx(logit - np.log(share[c]), rel=1e-4, abs=1e-6)
            assert normed[i, c] == pytest.approx(logit / norms[c], rel=1e-4, abs=1e-6)


def test_tau_is_the_best_on_validation_and_the_nearest_to_1_among_equals(splits):
    val = splits[1]
    offsets = -np.log(COUNTS / COUNTS.sum())

    def corrected(logits, tau):
        return logits + tau * offsets

    tau = all_class_rules.choose_tau(val.head_logits, val.labels, corrected)
    found = {
        one: balanced_accuracy(val.labels, corrected(val.head_logits, one).argmax(axis=1))
        for one in np.arange(0, 2.01, 0.1)
    }
    best = [one for one, accuracy in found.items() if accuracy == max(found.values())]
    assert abs(tau - 1) == pytest.approx(min(abs(one - 1) for one in best))
    level = all_class_rules.choose_tau(val.head_logits, val.labels, lambda logits, tau: logits)
    assert level == 1.0


def balanced_cross_entropy(scores, labels):
    """Expected loss of class-balanced batches, in float64."""
    scores = np.asarray(scores, np.float64)
    losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(labels)), labels]
    return np.mean([losses[labels == c].mean() for c in range(CLASSES)])


def test_lws_is_near_the_minimum_of_its_loss(splits):
    train = splits[0]
    scales = all_class_rules.fit_lws(train.head_logits, train.labels, seed=0)

    def loss(factors):
        return balanced_cross_entropy(train.head_logits * factors, train.labels)

    assert loss(scales) < loss(np.ones(CLASSES)) - 0.02
    for c in range(CLASSES):
        for change in (0.8, 1.25):
            other = scales.copy()
            other[c] *= change
            assert loss(other) > loss(scales) - 1e-3


def test_crt_learns_from_new_weights_on_balanced_batches(splits):
    train = splits[0]
    made, bias = all_class_rules.fit_crt(train.embeddings, train.labels, CLASSES, seed=0)
    again, _ = all_class_rules.fit_crt(train.embeddings, train.labels, CLASSES, seed=0)
    np.testing.assert_array_equal(made, again)
    other, _ = all_class_rules.fit_crt(train.embeddings, train.labels, CLASSES, seed=1)
    assert (made != other).any()
    scores = train.embeddings @ made + bias
    assert balanced_cross_entropy(scores, train.labels) < 0.5 * np.log(CLASSES)
    recall = [np.mean(scores.argmax(axis=1)[train.labels == c] == c) for c in range(CLASSES)]
    assert min(recall) > 0.6


def test_rules_that_do_not_apply_are_left_out_and_reported(splits):
    recognizer, said = fit(splits, prior_corrected="--classification_loss=logit_adjusted")
    assert "head_adjusted" not in recognizer.available_rules()
    assert "head_adjusted: left out, --classification_loss=logit_adjusted corrects" in said
    recognizer, said = fit(splits, head_norms=None)
    assert "tau_norm" not in recognizer.available_rules()
    assert "tau_norm: left out, a cosine classifier" in said
    train, val, test = (
        Embedded(part.embeddings, part.head_logits[:, :3], part.labels) for part in splits
    )
    recognizer, said = fit((train, val, test), num_head=3)
    assert not set(ALL_CLASS_RULES) & set(recognizer.available_rules()) and "lws" not in said
    with pytest.raises(UserError, match="'lws' was not fitted here"):
        recognizer.scores("lws", test.embeddings, test.head_logits)


def test_large_problems_leave_the_fits_out(splits, monkeypatch):
    monkeypatch.setattr(all_class_rules, "MAX_CELLS", 100)
    recognizer, said = fit(splits)
    assert {"lws", "crt"} & set(recognizer.available_rules()) == set()
    assert "head_adjusted" in recognizer.available_rules()
    assert "lws, crt: not fitted, 432 images x 5 classes" in said


def test_logits_must_come(splits):
    recognizer, _ = fit(splits)
    for rule in ("head_adjusted", "tau_norm", "lws"):
        with pytest.raises(UserError, match=f"'{rule}' needs head_logits; None came"):
            recognizer.scores(rule, splits[2].embeddings)
    assert recognizer.available_rules(has_head_logits=False)[-1] == "crt"


def test_saved_and_loaded(splits, tmp_path):
    recognizer, _ = fit(splits)
    recognizer.save(tmp_path / "r.npz")
    loaded = Recognizer.load(tmp_path / "r.npz")
    test = splits[2]
    for rule in ALL_CLASS_RULES:
        np.testing.assert_array_equal(
            loaded.scores(rule, test.embeddings, test.head_logits),
            recognizer.scores(rule, test.embeddings, test.head_logits),
        )


def test_enrolling_keeps_what_still_holds(splits):
    recognizer, _ = fit(splits)
    test = splits[2]
    for changed in (
        add_class(recognizer, test.embeddings[:3]),
        replace_class(recognizer, 2, test.embeddings[:3]),
    ):
        assert not set(ALL_CLASS_RULES) & set(changed.available_rules())
    left = remove_class(recognizer, 1)
    stay = np.array([0, 2, 3, 4])
    # Products with one column less are added up in another order.
    sizes = np.abs(test.embeddings) @ np.abs(recognizer.crt_kernel) + np.abs(recognizer.crt_bias)
    for rule in ALL_CLASS_RULES:
        raw = dataclasses.replace(left, temperatures={})
        before = dataclasses.replace(recognizer, temperatures={})
        np.testing.assert_allclose(
            raw.scores(rule, test.embeddings, test.head_logits[:, stay]),
            before.scores(rule, test.embeddings, test.head_logits)[:, stay],
            rtol=1e-6,
            atol=rounding.sums_apart(DIM + 1, sizes.max()),
        )


def test_the_adjustment_takes_the_counts_that_the_classifier_met(splits):
    met = np.array([10, 20, 30, 40, 50])
    shares = {}
    for counts in (COUNTS, met):
        recognizer, said = fit(splits, val=False, head_counts=counts)
        shares[tuple(counts)] = recognizer.adjusted_offsets
        expected = -np.log(counts / counts.sum())  # without validation tau is 1
        np.testing.assert_allclose(recognizer.adjusted_offsets, expected, rtol=1e-6)
    assert not np.allclose(*shares.values())
