"""The arithmetic of each inference rule against a plain loop over images and classes."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf.recognition import inference_rules as rules
from longtail_tf.recognition.rule_selection import choose_gate_weight, choose_votes
from tests import rounding


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def gated_oracle(scores, logits, weight):
    """One image: argmax over everything, then over the head only if it is a head class."""
    head = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    best = int(np.argmax(scores))
    if best >= len(head):
        return best
    return int(np.argmax(scores[: len(head)] + weight * head))


@pytest.mark.parametrize("weight", [0.0, 0.05, 0.5, 5.0])
def test_gate_against_the_definition(weight, rng):
    scores = rng.normal(size=(300, 9)).astype(np.float32)
    logits = 3 * rng.normal(size=(300, 4)).astype(np.float32)
    before = scores.copy()
    got = rules.gated_scores(scores, logits, weight)
    np.testing.assert_array_equal(scores, before)
    expected = [gated_oracle(s, h, weight) for s, h in zip(scores, logits)]
    np.testing.assert_array_equal(got.argmax(axis=1), expected)
    # A tail winner stays the winner, and its row is untouched.
    tail = scores.argmax(axis=1) >= 4
    np.testing.assert_array_equal(got[tail], scores[tail])
    np.testing.assert_array_equal(got[:, 4:], scores[:, 4:])
    size = np.abs(scores).max() + weight * np.abs(logits).max()
    apart = rounding.sums_apart(8, size)
    np.testing.assert_allclose(got.max(axis=1), scores.max(axis=1), atol=apart)


def test_sure_head_logits_cannot_take_a_tail_image():
    """What makes adding the head softmax ruinous: it is sure about images it has never seen."""
    scores = np.array([[0.1, 0.2, 0.9]], np.float32)
    logits = np.array([[50.0, -50.0]], np.float32)
    assert rules.gated_scores(scores, logits, 10.0).argmax() == 2


def test_head_only_never_names_a_tail_class(rng):
    logits = rng.normal(size=(20, 3)).astype(np.float32) * 100
    got = rules.head_only_scores(logits, 8)
    np.testing.assert_array_equal(got.argmax(axis=1), logits.argmax(axis=1))
    np.testing.assert_allclose(np.exp(got.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_votes_against_a_loop(k, power, rng):
    counts = np.array([30, 5, 2, 1])
    similarities = -np.sort(-rng.uniform(-1, 1, (60, k)).astype(np.float32), axis=1)
    classes = rng.integers(0, 4, (60, k))
    class_scores = rng.uniform(-1, 1, (60, 4)).astype(np.float32)
    weights = rules.vote_weights(similarities, classes, counts, power)
    got = rules.vote_scores(weights, classes, class_scores)
    winners = rules.vote_winners(weights, classes)
    for i in range(60):
        near = np.exp(10 * similarities[i].astype(np.float64))
        near /= near.sum()
        votes = np.zeros(4)
        for j in range(k):
            votes[classes[i, j]] += near[j] / min(counts[classes[i, j]], k) ** power
        expected = np.log(votes + 1e-4) + 1e-3 * class_scores[i]
        np.testing.assert_allclose(got[i], expected, atol=1e-4)
        assert votes[winners[i]] == pytest.approx(votes.max(), rel=1e-5)


def test_vote_normalisation_lets_a_tail_class_win():
    """Nine neighbours of a class of 1000 against the only, equally near, image of another."""
    similarities = np.full((1, 10), 0.8, np.float32)
    classes = np.array([[0] * 9 + [1]])
    counts = np.array([1000, 1])
    plain = rules.vote_weights(similarities, classes, counts, 0.0)
    fair = rules.vote_weights(similarities, classes, counts, 1.0)
    assert rules.vote_winners(plain, classes) == [0]
    assert rules.vote_winners(fair, classes) == [1]


def test_gate_weight_is_the_best_on_validation_and_0_when_none_helps(rng):
    """The head logits know; the prototypes confuse head classes 0 and 1, never the tail."""
    labels = rng.integers(0, 4, 400)
    scores = 0.1 * rng.normal(size=(400, 4)).astype(np.float32)
    scores[np.arange(400), np.where(labels < 2, rng.integers(0, 2, 400), labels)] += 1
    knows = np.where(labels[:, None] == np.arange(2), 5.0, -5.0).astype(np.float32)
    lies = -knows
    chunks = [(slice(0, 150), scores[:150]), (slice(150, 400), scores[150:])]
    weight, accuracy = choose_gate_weight(chunks, knows, labels)
    assert weight >= 0.1
    assert accuracy > 0.97
    weight, accuracy = choose_gate_weight(chunks, lies, labels)
    assert weight == 0.0
    assert accuracy == pytest.approx(0.75, abs=0.06)


def test_votes_are_chosen_on_validation(rng):
    """A head of 400 spread images around three tail classes of 2: fair votes must be chosen."""
    centres = unit(rng.normal(size=(4, 8)))
    gallery_labels = np.repeat([0, 1, 2, 3], [400, 2, 2, 2])
    spread = np.where(gallery_labels == 0, 1.0, 0.1)[:, None]
    gallery = unit(centres[gallery_labels] + spread * rng.normal(size=(406, 8)))
    val_labels = np.repeat(np.arange(4), 30)
    val = unit(centres[val_labels] + 0.25 * rng.normal(size=(120, 8)))
    chosen = choose_votes(
        gallery,
        gallery_labels,
        np.bincount(gallery_labels),
        val_embeddings=val,
        val_labels=val_labels,
        k=10,
    )
    assert chosen == (10, 1.0)
    nothing = {"val_embeddings": None, "val_labels": None}
    counts = np.bincount(gallery_labels)
    assert choose_votes(gallery, gallery_labels, counts, k=None, **nothing) == (5, 0.5)
    assert choose_votes(gallery[:3], gallery_labels[:3], counts, k=None, **nothing) == (3, 0.5)
