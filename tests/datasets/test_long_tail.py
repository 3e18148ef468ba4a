"""Long-tailed cuts: published totals, exact counts, seeded choice."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from longtail_tf.datasets.long_tail import (
    draw_per_class,
    long_tailed_counts,
    long_tailed_rows,
    make_long_tailed,
)
from longtail_tf.errors import UserError


@pytest.mark.parametrize(
    "num_classes, max_count, factor, total",
    [(10, 5000, 100, 12406), (100, 500, 100, 10847), (100, 500, 50, 12608), (100, 500, 10, 19573)],
)
def test_published_totals(num_classes, max_count, factor, total):
    counts = long_tailed_counts(num_classes, max_count, factor)
    assert sum(counts) == total
    assert counts[0] == max_count and counts[-1] == max_count // factor
    assert counts == sorted(counts, reverse=True)
    assert all(type(count) is int for count in counts)


def test_cifar10_counts_are_the_published_list():
    # CIFAR-10-LT at factor 100, as printed by the code of arXiv:1906.07413.
    assert long_tailed_counts(10, 5000, 100) == [
        5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50,
    ]  # fmt: skip


def test_counts_are_truncated_not_rounded():
    assert long_tailed_counts(3, 7, 4) == [7, 3, 1]  # 7, 3.5, 1.75


def test_one_class_keeps_all():
    assert long_tailed_counts(1, 5, 10) == [5]


@pytest.mark.parametrize("factor", [0, 0.5, -3, float("inf"), float("nan")])
def test_factor_out_of_range(factor):
    with pytest.raises(UserError, match="imbalance_factor=.* give a number of 1"):
        long_tailed_counts(3, 10, factor)


@pytest.mark.parametrize("num_classes, max_count", [(0, 3), (3, 0)])
def test_no_class_or_image(num_classes, max_count):
    with pytest.raises(UserError, match="at least one class and one image"):
        long_tailed_counts(num_classes, max_count, 10)


def test_make_long_tailed_keeps_pairs_counts_and_order():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(6), 50))
    images = np.arange(300)[:, None]
    cut_images, cut_labels = make_long_tailed(images, labels, imbalance_factor=10, seed=3)
    np.testing.assert_array_equal(labels[cut_images[:, 0]], cut_labels)
    assert list(np.bincount(cut_labels)) == long_tailed_counts(6, 50, 10)
    assert (np.diff(cut_images[:, 0]) > 0).all()


def test_make_long_tailed_depends_on_the_seed_only():
    labels = np.tile(np.arange(5), 40)
    images = np.arange(200)
    first, _ = make_long_tailed(images, labels, imbalance_factor=8, seed=0)
    again, _ = make_long_tailed(images, labels, imbalance_factor=8, seed=0)
    other, _ = make_long_tailed(images, labels, imbalance_factor=8, seed=1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    # Class 0 keeps everything under every seed.
    assert set(images[labels == 0]) <= set(first) & set(other)


def test_factor_equal_to_the_largest_class_leaves_one_image():
    # 49 * (1 / 49) is just under 1 in floating point; the class must not vanish.
    labels = np.repeat([0, 1, 2], 49)
    _, cut = make_long_tailed(labels, labels, imbalance_factor=49, seed=0)
    assert np.bincount(cut)[-1] == 1


def test_class_smaller_than_its_share_keeps_all():
    labels = np.array([0] * 20 + [1] * 3 + [2] * 20)
    rows = long_tailed_rows(
        labels, num_classes=3, imbalance_factor=2, seed=0, rows=np.arange(len(labels))
    )
    assert list(np.bincount(labels[rows])) == [20, 3, 10]


def test_factor_beyond_the_largest_class():
    labels = np.repeat([0, 1], 10)
    with pytest.raises(UserError, match="imbalance_factor=11 .* at most 10"):
        make_long_tailed(labels, labels, imbalance_factor=11, seed=0)


@pytest.mark.parametrize("labels", [np.array([0.0, 1.0]), np.array([0]), np.array([[0], [1]])])
def test_labels_of_wrong_kind(labels):
    with pytest.raises(UserError, match="one whole number for each image"):
        make_long_tailed(np.zeros((2, 4, 4)), labels, imbalance_factor=2, seed=0)


@pytest.mark.parametrize("labels", [np.array([0, -1]), np.zeros(0, int)])
def test_labels_negative_or_none(labels):
    with pytest.raises(UserError, match="labels from 0 to C - 1"):
        make_long_tailed(np.zeros(len(labels)), labels, imbalance_factor=2, seed=0)


@pytest.mark.parametrize("trial", range(20))
def test_draw_takes_the_wanted_count_of_each_class(trial):
    rng = np.random.default_rng(trial)
    num_classes = int(rng.integers(1, 30))
    labels = rng.integers(0, num_classes, int(rng.integers(1, 400)))
    rows = np.flatnonzero(rng.random(len(labels)) < 0.8)
    available = np.bincount(labels[rows], minlength=num_classes)
    wanted = rng.integers(0, available + 1)
    chosen = draw_per_class(labels, wanted, seed=trial, rows=rows)
    assert set(chosen) <= set(rows) and len(set(chosen)) == len(chosen)
    np.testing.assert_array_equal(np.bincount(labels[chosen], minlength=num_classes), wanted)


def test_draw_is_uniform():
    labels = np.zeros(10, int)
    hits = collections.Counter(
        int(row)
        for seed in range(3000)
        for row in draw_per_class(labels, np.array([3]), seed=seed, rows=np.arange(10))
    )
    # 900 expected of each row; the standard deviation of a count is 25.
    assert all(abs(hits[row] - 900) < 130 for row in range(10)), hits


def test_draw_of_too_many():
    with pytest.raises(IndexError, match="class 1 has 1 rows, 2 wanted"):
        draw_per_class(np.array([0, 0, 1]), np.array([1, 2]), seed=0, rows=np.arange(3))
