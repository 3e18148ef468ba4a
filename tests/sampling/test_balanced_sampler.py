"""Class-balanced sampling: even over classes, even within a class, a function of (seed, step)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.sampling import BalancedSampler

COUNTS = {"ragged": [17, 9, 6, 5, 4, 3, 3, 2, 2, 1, 1], "giant": [101, 1, 2], "one": [5]}


def made(counts, batch_size, seed=0):
    """A sampler of rows 100, 103, ... and the class of each row."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = 100 + 3 * np.arange(len(labels))
    return dict(zip(rows, labels)), BalancedSampler(rows, labels, batch_size=batch_size, seed=seed)


@pytest.mark.parametrize(("name", "size"), itertools.product(COUNTS, (1, 4, 11, 32)))
def test_classes_and_the_images_of_a_class_come_evenly(name, size):
    counts = COUNTS[name]
    labels, sampler = made(counts, size)
    classes, images = np.zeros(len(counts), int), dict.fromkeys(labels, 0)
    for step in range(120):
        rows = sampler.batch(step)
        assert rows.dtype == np.int64 and rows.shape == (size,)
        for row in rows:
            classes[labels[row]] += 1
            images[row] += 1
        assert classes.max() - classes.min() <= 1
        for label in range(len(counts)):
            uses = [n for row, n in images.items() if labels[row] == label]
            assert max(uses) - min(uses) <= 1
    seen = sampler.describe(steps_done=120)["seen"]["images"]
    assert seen == sum(n > 0 for n in images.values())


def test_batches_depend_on_seed_and_step_alone():
    _, sampler = made(COUNTS["ragged"], 7)
    _, again = made(COUNTS["ragged"], 7)
    later = again.batch(1000)
    block = sampler.batches(0, 1001)
    np.testing.assert_array_equal(block[1000], later)
    np.testing.assert_array_equal(block[3], again.batch(3))
    assert (made(COUNTS["ragged"], 7, seed=1)[1].batch(3) != block[3]).any()
    assert sampler.state() == again.state()
    assert sampler.state() != made(COUNTS["ragged"], 7, seed=1)[1].state()


def test_orders_within_a_class_change_from_round_to_round():
    _, sampler = made([50, 1], 2)
    drawn = [row for batch in sampler.batches(0, 100) for row in batch]
    labels, _ = made([50, 1], 2)
    mine = np.array([row for row in drawn if labels[row] == 0]).reshape(2, 50)
    assert set(mine[0]) == set(mine[1]) and (mine[0] != mine[1]).any()


def test_replicas_share_the_batch():
    _, sampler = made(COUNTS["ragged"], 12)
    for count in (2, 3, 4):
        parts = [sampler.batch(5, shard=(i, count)) for i in range(count)]
        np.testing.assert_array_equal(np.concatenate(parts), sampler.batch(5))
        np.testing.assert_array_equal(sampler.batches(5, 1, shard=(1, count))[0], parts[1])
    with pytest.raises(UserError, match="does not give 5 replicas equal shares"):
        sampler.batch(0, shard=(0, 5))


def test_bad_input_is_refused_in_words():
    with pytest.raises(UserError, match=r"labels of shape \[3\] came with 2 rows"):
        BalancedSampler(np.arange(2), np.zeros(3, int), batch_size=1, seed=0)
    with pytest.raises(UserError, match="rows are empty"):
        BalancedSampler(np.zeros(0, int), np.zeros(0, int), batch_size=1, seed=0)
    with pytest.raises(UserError, match="batch_size is 0"):
        BalancedSampler(np.arange(2), np.zeros(2, int), batch_size=0, seed=0)
