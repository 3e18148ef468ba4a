"""The rule that a run is read by: its standard error, and who wins a close race."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from longtail_tf.recognition.rule_choice import (
    FEWEST_IMAGES,
    PREFERENCE,
    choose_rule,
    leads,
    paired_error,
)
from longtail_tf.settings.choices import RULES


def guesses(rng, labels, share, num_classes):
    """Predictions of which about `share` are right."""
    wrong = (labels + rng.integers(1, num_classes, len(labels))) % num_classes
    return np.where(rng.random(len(labels)) < share, labels, wrong)


def bootstrapped(rng, labels, first, second, replicates=4000):
    """Deviation of the difference of balanced accuracies, over images drawn anew in each class."""
    total = np.zeros(replicates)
    classes = np.unique(labels)
    for c in classes:
        rows = np.flatnonzero(labels == c)
        drawn = rng.choice(rows, (replicates, len(rows)))
        apart = (first[drawn] == labels[drawn]).astype(float) - (second[drawn] == labels[drawn])
        total += apart.mean(axis=1) / len(classes)
    return total.std()


@pytest.mark.parametrize("counts", [[200] * 5, [400, 150, 60, 30, 20, 10]])
@pytest.mark.parametrize("shares", [(0.7, 0.7), (0.9, 0.8)])
def test_the_error_of_a_difference_is_that_of_the_bootstrap_and_a_little_more(rng, counts, shares):
    """Images of each class drawn anew.

    To the bootstrap the mean difference of a class is no scatter; here its square counts, as if
    neither were better. The noise of 4,000 replicates is 1 / sqrt(2 * 4000) = 1.1 %.
    """
    labels = np.repeat(np.arange(len(counts)), counts)
    first, second = (guesses(rng, labels, share, len(counts)) for share in shares)
    means = 0.0
    for c, count in enumerate(counts):
        of_class = labels == c
        mean = (first[of_class] == c).mean() - (second[of_class] == c).mean()
        means += mean**2 / count / len(counts) ** 2
    expected = np.sqrt(bootstrapped(rng, labels, first, second) ** 2 + means)
    assert paired_error(labels, first, second) == pytest.approx(expected, rel=0.05)


def test_the_error_counts_what_only_one_of_the_two_has_right(rng):
    labels = np.repeat(np.arange(4), [30, 20, 5, 1])
    first, second = (guesses(rng, labels, 0.6, 4) for _ in range(2))
    counts, square = np.bincount(labels), 0.0
    for label, a, b in zip(labels, first, second):
        if (a == label) != (b == label):
            square += (1 / counts[label] / 4) ** 2
    assert paired_error(labels, first, second) == pytest.approx(np.sqrt(square), rel=1e-12)
    assert paired_error(labels, first, first) == 0.0
    assert paired_error(labels, first, second) == paired_error(labels, second, first)


def test_other_wrong_answers_make_no_error():
    labels = np.arange(10) % 2
    assert paired_error(labels, 1 - labels, np.full(10, 7)) == 0.0


def test_class_ids_may_have_gaps():
    labels = np.array([3, 3, 900, 900])
    first = np.array([3, 3, 900, 900])
    second = np.array([3, 0, 900, 900])
    assert paired_error(labels, first, second) == pytest.approx(0.25)  # one of two, of one of two


LABELS = np.repeat(np.arange(10), 20)


def right_but(number, labels=LABELS):
    """Predictions wrong for `number` images, those at the beginning of each class in turn."""
    found = labels.copy()
    order = np.argsort(np.arange(len(labels)) % 20, kind="stable")
    found[order[:number]] = (labels[order[:number]] + 1) % 10
    return found


def test_a_clear_lead_wins_whatever_comes_first():
    found = {"lda": right_but(100), "ncm": right_but(10), "gated": right_but(40)}
    choice = choose_rule(LABELS, found, num_classes=10)
    assert choice.rule == "ncm"
    for rule, predictions in found.items():
        expected = balanced_accuracy_score(LABELS, predictions)
        assert choice.accuracies[rule] == pytest.approx(expected, abs=1e-12)
    assert choice.reason == "95.0 % on 200 images it was not trained on"


@pytest.mark.parametrize(("wrong", "rule"), [(11, "lda"), (12, "ncm"), (30, "ncm")])
def test_within_one_standard_error_the_earlier_rule_is_taken(wrong, rule):
    """ncm has 10 wrong; of the further n the difference is n / 200 and its error sqrt(n) / 200.

    One image: both are 1 / 200, no lead. Two and more: n > sqrt(n).
    """
    found = {"ncm": right_but(10), "lda": right_but(wrong)}
    choice = choose_rule(LABELS, found, num_classes=10)
    assert choice.rule == rule
    said = "ncm had 95.0, within a standard error" in choice.reason
    assert said == (rule == "lda")


def test_of_rules_that_are_right_alike_the_first_preferred_is_taken():
    found = {rule: right_but(20) for rule in ("head_only", "crt", "gated", "lda")}
    assert choose_rule(LABELS, found, num_classes=10).rule == "lda"
    order = ("crt", "lda", "gated", "head_only")
    assert choose_rule(LABELS, found, num_classes=10, preference=order).rule == "crt"


def test_rules_that_were_not_fitted_are_no_candidates():
    found = {"crt": right_but(20), "gated": right_but(21)}
    assert choose_rule(LABELS, found, num_classes=10).rule == "gated"


def test_the_votes_of_every_training_image_are_never_chosen():
    """No export can hold them."""
    found = {"knn": LABELS, "head_only": right_but(150)}
    choice = choose_rule(LABELS, found, num_classes=10)
    assert choice.rule == "head_only" and "knn" not in choice.accuracies


@pytest.mark.parametrize(
    ("rows", "num_classes", "enough"),
    [
        (np.arange(0, 200, 4), 10, True),  # 50 images of 10 classes
        (np.arange(0, 196, 4), 10, False),  # 49 images
        (np.arange(100), 10, True),  # of 5 of 10 classes
        (np.arange(100), 11, False),  # of fewer than half of the classes
    ],
)
def test_few_images_decide_nothing(rows, num_classes, enough):
    assert FEWEST_IMAGES == 50
    labels = LABELS[rows]
    found = {"ncm": labels, "lda": (labels + 1) % 10}
    choice = choose_rule(labels, found, num_classes=num_classes)
    assert choice.rule == ("ncm" if enough else "lda")
    if not enough:
        assert choice.accuracies == {}
        expected = f"{len(rows)} validation images of {len(np.unique(labels))} of {num_classes}"
        assert choice.reason.startswith(expected) and choice.reason.endswith("few to choose by")


def test_every_other_rule_has_a_place_in_the_order():
    assert sorted([*PREFERENCE, "knn"]) == sorted(RULES)


@pytest.mark.parametrize("classes", [3, 7, 9, 10])
def test_a_lead_of_one_image_is_none(classes):
    """Its gain and its error are the same number, written in two ways."""
    labels = np.repeat(np.arange(classes), np.arange(3, 3 + classes))
    for row in range(len(labels)):
        worse = labels.copy()
        worse[row] = (labels[row] + 1) % classes
        assert not leads(labels, labels, worse) and not leads(labels, worse, labels)
    two = np.where(labels == classes - 1, 0, labels)
    assert leads(labels, labels, two) and not leads(labels, two, labels)
