"""Bootstrap intervals: against a loop that resamples by hand, and by what they must cover."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf import metrics
from longtail_tf.errors import UserError
from longtail_tf.metrics import bootstrap


def random_case(seed, num_classes=12, images=300):
    """Ragged test counts, some classes never tested, some never predicted."""
    rng = np.random.default_rng(seed)
    tested = rng.permutation(num_classes)[: num_classes - 3]
    labels = rng.choice(tested, images, p=rng.dirichlet(np.ones(len(tested)) * 0.7))
    guess = rng.integers(0, num_classes - 1, images)
    predictions = np.where(rng.random(images) < 0.6, labels, guess)
    counts = rng.choice([1, 5, 19, 20, 21, 99, 100, 101, 500], num_classes)
    return labels, predictions, counts


def hand_resampled(labels, predictions, counts, replicates, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(replicates):
        drawn = []
        for class_id in np.unique(labels):
            mine = np.flatnonzero(labels == class_id)
            drawn += list(rng.choice(mine, len(mine)))
        band = metrics.shot_accuracy(labels[drawn], predictions[drawn], counts)
        band["balanced"] = metrics.balanced_accuracy(labels[drawn], predictions[drawn])
        band["macro_f1"] = metrics.macro_f1(labels[drawn], predictions[drawn])
        rows.append({name: value for name, value in band.items() if value is not None})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("seed", range(3))
def test_same_distribution_as_resampling_by_hand(seed):
    labels, predictions, counts = random_case(seed, images=250)
    twice = np.bincount(labels, minlength=len(counts))[labels] > 1
    labels, predictions = labels[twice], predictions[twice]
    expected = hand_resampled(labels, predictions, counts, 400, seed)
    got = bootstrap.bootstrap_replicates(labels, predictions, counts, seed=seed, replicates=4000)
    assert set(got) == set(expected)
    for name, values in expected.items():
        assert got[name].mean() == pytest.approx(values.mean(), abs=4 * values.std() / 400**0.5)
        assert got[name].std() == pytest.approx(values.std(), rel=0.2)


def test_small_pieces_give_the_same_kind_of_answer(monkeypatch):
    labels, predictions, counts = random_case(0)
    monkeypatch.setattr(bootstrap, "_CELLS", 700)
    got = bootstrap.bootstrap_replicates(labels, predictions, counts, seed=0, replicates=101)
    assert all(len(values) == 101 for values in got.values())


def test_seeded():
    labels, predictions, counts = random_case(1)
    one = bootstrap.bootstrap_intervals(labels, predictions, counts, seed=5, replicates=50)
    two = bootstrap.bootstrap_intervals(labels, predictions, counts, seed=5, replicates=50)
    other = bootstrap.bootstrap_intervals(labels, predictions, counts, seed=6, replicates=50)
    assert one == two != other


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """2 x 20 classes with known recalls: a 95 % interval holds the true value about 95 times."""
    rng = np.random.default_rng(0)
    recall = rng.uniform(0.3, 0.95, 40)
    counts = np.where(np.arange(40) < 20, 200, 5)
    labels = np.repeat(np.arange(40), 25)
    covered = {"all": 0, "many": 0, "few": 0, "balanced": 0}
    truth = {"all": recall.mean(), "balanced": recall.mean()}
    truth.update(many=recall[:20].mean(), few=recall[20:].mean())
    trials = 200
    for trial in range(trials):
        wrong = (labels + 1 + rng.integers(0, 38, len(labels))) % 40
        predictions = np.where(rng.random(len(labels)) < recall[labels], labels, wrong)
        found = bootstrap.bootstrap_intervals(
            labels, predictions, counts, seed=trial, replicates=300
        )
        for name in covered:
            covered[name] += found[name][0] <= truth[name] <= found[name][1]
    # 0.90 and 0.99 lie three standard errors from the 0.95 minus the bootstrap's known shortfall.
    assert all(0.89 <= hits / trials <= 0.99 for hits in covered.values()), covered


def test_single_image_classes_still_have_width():
    """Resampled on their own they would never vary, and the interval would be a lie of zero."""
    labels = np.arange(60)
    predictions = np.where(labels % 2, labels, (labels + 1) % 60)
    counts = np.full(60, 3)
    low, high = bootstrap.bootstrap_intervals(labels, predictions, counts, seed=0)["few"]
    # Half of 60 right: the standard error is sqrt(.25 / 60) = 0.065.
    assert 0.15 < high - low < 0.35
    assert low < 0.5 < high


def test_one_seed_pairs_two_models():
    labels, predictions, counts = random_case(2)
    better = predictions.copy()
    better[np.flatnonzero(predictions != labels)[:15]] = labels[predictions != labels][:15]
    one = bootstrap.bootstrap_replicates(labels, predictions, counts, seed=1)
    two = bootstrap.bootstrap_replicates(labels, better, counts, seed=1)
    gain = two["all"] - one["all"]
    assert gain.min() >= 0
    assert gain.std() < 0.5 * np.hypot(one["all"].std(), two["all"].std())
    assert bootstrap.intervals({"gain": gain})["gain"][0] > 0


def test_rejected_images_and_empty_bands():
    labels, predictions = np.array([0, 0, 0, 1, 1]), np.array([0, -1, 0, 1, -1])
    got = bootstrap.bootstrap_replicates(
        labels, predictions, np.array([500, 3, 50]), seed=0, replicates=20
    )
    assert "medium" not in got
    assert np.isfinite(np.concatenate(list(got.values()))).all()


def test_bad_input():
    labels, predictions, counts = random_case(1)
    with pytest.raises(UserError, match="1 bootstrap replicates came"):
        bootstrap.bootstrap_intervals(labels, predictions, counts, seed=0, replicates=1)
    with pytest.raises(UserError, match="confidence is 95"):
        bootstrap.bootstrap_intervals(labels, predictions, counts, seed=0, confidence=95)
