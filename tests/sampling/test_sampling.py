"""Samplers: distinct classes, even passes, even images, purity in (seed, step), all messages."""

from __future__ import annotations

import concurrent.futures
import itertools

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.sampling import PKSampler, RandomSampler
from longtail_tf.sampling.class_decks import EvenDeck, WeightedDeck
from longtail_tf.sampling.class_rows import group_rows_by_class
from longtail_tf.sampling.permutations import hash_words, permute, seeded_orders, stream_key

# Ragged tails: one-image classes, fewer than K, C not a multiple of P, P > C / 2, P == C.
TAILS = {
    "ragged": [17, 9, 6, 5, 4, 3, 3, 2, 2, 1, 1],
    "all_single": [1] * 7,
    "one_giant": [101, 1, 2, 1, 3],
    "two": [3, 8],
    "equal": [6] * 12,
    "prime": list(range(1, 30)),
}
SWEEP = [
    (name, p, k)
    for name, p, k in itertools.product(TAILS, (2, 3, 4, 5, 7, 11), (2, 3, 4, 8))
    if p <= len(TAILS[name])
]


def labels_of(counts, seed=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(labels)


def pk(counts, p, k, seed=0, **settings):
    labels = labels_of(counts)
    return labels, PKSampler(labels, classes_per_batch=p, images_per_class=k, seed=seed, **settings)


@pytest.mark.parametrize(("name", "p", "k"), SWEEP)
def test_pk_batches_are_distinct_even_and_cover_every_pass(name, p, k):
    counts = np.array(TAILS[name])
    labels, sampler = pk(counts, p, k)
    num_classes = len(counts)
    steps = 3 * num_classes * int(counts.max()) // p + 2
    dealt, uses = [], np.zeros(len(labels), int)
    for step in range(min(steps, 400)):
        rows = sampler.batch(step)
        assert rows.dtype == np.int64 and rows.shape == (p * k,)
        groups = labels[rows].reshape(p, k)
        assert (groups == groups[:, :1]).all(), "rows of a class are side by side"
        assert len(set(groups[:, 0])) == p, "distinct classes"
        for label, images in zip(groups[:, 0], rows.reshape(p, k)):
            first = min(counts[label], k)
            assert len(set(images[:first])) == first, "all images before any repeat"
            np.add.at(uses, images, 1)
            mine = uses[labels == label]
            assert mine.max() - mine.min() <= 1, "images of a class are used evenly"
        dealt.extend(groups[:, 0])
    for start in range(0, len(dealt) - num_classes + 1, num_classes):
        assert sorted(dealt[start : start + num_classes]) == list(range(num_classes))


def test_classes_per_batch_sweep_keeps_every_pass_whole():
    for size, hand in itertools.product(range(1, 24), range(1, 24)):
        cards, visits = EvenDeck(size, hand, key=5).deal(0, 3 * size + 1)
        flat = cards.ravel()
        np.testing.assert_array_equal(visits.ravel(), np.arange(flat.size) // size)
        for start in range(0, flat.size - size + 1, size):
            assert sorted(flat[start : start + size]) == list(range(size)), (size, hand)
        if hand <= size:
            assert all(len(set(row)) == hand for row in cards.tolist()), (size, hand)


@pytest.mark.parametrize("class_power", [0.0, 0.5])
@pytest.mark.parametrize("p", [4, 7, 10])
def test_batch_depends_on_seed_and_step_only(p, class_power, rng):
    labels, sampler = pk(TAILS["ragged"], p, 4, seed=3, class_power=class_power)
    wanted = np.stack([sampler.batch(step) for step in range(600)])
    checked = rng.permutation(600)[:60]
    settings = dict(classes_per_batch=p, images_per_class=4, class_power=class_power)
    other = PKSampler(labels, seed=3, **settings)
    np.testing.assert_array_equal(np.stack([other.batch(s) for s in checked]), wanted[checked])
    np.testing.assert_array_equal(
        PKSampler(labels, seed=3, **settings).batches(137, 300), wanted[137:437]
    )
    assert (PKSampler(labels, seed=4, **settings).batch(0) != wanted[0]).any()


def test_batch_is_the_same_from_many_threads(rng):
    labels, sampler = pk(TAILS["prime"], 9, 3)
    wanted = sampler.batches(0, 2000)
    _, shared = pk(TAILS["prime"], 9, 3)
    order = rng.permutation(2000)[:400]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = np.stack(list(pool.map(lambda s: shared.batch(int(s)), order)))
    np.testing.assert_array_equal(got, wanted[order])


def test_changing_a_returned_batch_changes_nothing():
    _, sampler = pk(TAILS["ragged"], 4, 4)
    rows = sampler.batch(0)
    kept = rows.copy()
    rows[:] = -1
    np.testing.assert_array_equal(sampler.batch(0), kept)


@pytest.mark.parametrize("p", [4, 7, 11])
@pytest.mark.parametrize("start", [2**31 - 3, 5_000_000_000, 2**40 - 60])
@pytest.mark.parametrize("class_power", [0.0, 0.7])
def test_steps_in_the_billions(start, p, class_power):
    counts = np.array(TAILS["ragged"])
    labels, sampler = pk(counts, p, 4, class_power=class_power)
    rows = sampler.batches(start, 55)
    np.testing.assert_array_equal(sampler.batch(start + 54), rows[54])
    groups = labels[rows].reshape(55, p, 4)[:, :, 0]
    assert all(len(set(row)) == p for row in groups.tolist())
    if class_power == 0:
        flat = groups.ravel()[-start * p % len(counts) :]
        for begin in range(0, len(flat) - len(counts) + 1, len(counts)):
            assert sorted(flat[begin : begin + len(counts)]) == list(range(len(counts)))
    for images in rows.reshape(-1, 4):
        first = min(counts[labels[images[0]]], 4)
        assert len(set(images[:first].tolist())) == first


def test_batches_of_this_seed_never_change():
    # A resumed run continues the interrupted one, after an update too: these rows are a promise.
    labels = np.repeat(np.arange(11), TAILS["ragged"])
    settings = dict(classes_per_batch=3, images_per_class=2, seed=7)
    sampler = PKSampler(labels, **settings)
    assert sampler.batch(0).tolist() == GOLDEN_PK[0]
    assert sampler.batch(10**9).tolist() == GOLDEN_PK[1]
    weighted = PKSampler(labels, class_power=0.5, **settings)
    assert weighted.batch(12345).tolist() == GOLDEN_PK[2]
    assert RandomSampler(np.arange(50), batch_size=6, seed=7).batch(9).tolist() == GOLDEN_RANDOM


GOLDEN_PK = [[50, 49, 47, 48, 51, 51], [46, 45, 52, 52, 50, 49], [29, 28, 45, 44, 48, 47]]
GOLDEN_RANDOM = [18, 10, 38, 8, 32, 42]


def test_orders_differ_between_passes_and_images_change_partners():
    _, sampler = pk([8] * 16, 4, 4)
    passes = sampler.batches(0, 8).reshape(2, 16, 4)
    assert (passes[0] != passes[1]).any()
    partners = {frozenset(row) for row in sampler.batches(0, 400).reshape(-1, 4).tolist()}
    assert len(partners) > 16 * 30, "visits of a class are not always the same images together"


def test_labels_may_have_gaps_and_any_integer_type():
    counts = TAILS["ragged"]
    labels, sampler = pk(counts, 4, 4)
    for changed in (
        (labels * 1000 + 5).astype(np.uint64),
        labels.astype(np.int8),
        labels.tolist(),
        labels.astype(np.int64) * 190_000_000,
    ):
        other = PKSampler(changed, classes_per_batch=4, images_per_class=4, seed=0)
        np.testing.assert_array_equal(other.batches(0, 50), sampler.batches(0, 50))


@pytest.mark.parametrize("highest", [1, 255, 256, 70_000, 2**22, 2**31 - 1])
def test_rows_grouped_by_class_match_a_stable_argsort(highest, rng):
    labels = rng.integers(0, highest, 40_000, endpoint=True)
    index = group_rows_by_class(labels)
    np.testing.assert_array_equal(index.rows, np.argsort(labels, kind="stable"))
    np.testing.assert_array_equal(index.counts(), np.unique(labels, return_counts=True)[1])
    assert index.rows.dtype == index.offsets.dtype == np.int32


def test_rows_grouped_across_chunks(rng):
    labels = rng.zipf(1.5, 600_000).clip(max=90_000) - 1
    index = group_rows_by_class(labels)
    np.testing.assert_array_equal(index.rows, np.argsort(labels, kind="stable"))


# --- class_power ---------------------------------------------------------------------------------


def capped_rates(counts, power, p):
    """Rates in proportion to count ** power; what exceeds one a batch is shared by the others."""
    rates, open_classes = np.ones(len(counts)), np.ones(len(counts), bool)
    while True:
        weights = counts[open_classes] ** power
        rates[open_classes] = weights * (p - (~open_classes).sum()) / weights.sum()
        if rates.max() <= 1:
            return rates
        open_classes &= rates < 1
        rates[~open_classes] = 1


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("p", [2, 4, 9])
def test_class_power_frequencies(power, p):
    counts = np.array([100, 60, 40, 33, 20, 16, 9, 7, 5, 4, 3, 2, 1])
    labels, sampler = pk(counts, p, 2, class_power=power)
    steps = 20 * sampler.describe()["steps_per_class_pass"]
    groups = labels[sampler.batches(0, steps)].reshape(steps, p, 2)[:, :, 0]
    assert (np.diff(np.sort(groups, axis=1), axis=1) > 0).all(), "distinct classes"
    visits = np.cumsum(groups[:, :, None] == np.arange(len(counts)), axis=0).sum(axis=1)
    wanted = capped_rates(counts, power, p) * steps
    np.testing.assert_allclose(np.bincount(groups.ravel()), wanted, rtol=1 / 256, atol=2)
    # Rates hold all the way, not only at the end.
    expected = capped_rates(counts, power, p) * np.arange(1, steps + 1)[:, None]
    assert np.abs(visits - expected).max() < 6


def test_class_power_rates_are_exact_over_256_passes():
    counts = np.array([100, 60, 9, 2, 1])
    deck = WeightedDeck(counts**0.5, hand=3, key=2)
    steps = 256 * deck.steps_per_pass
    cards, _ = deck.deal(steps, steps)
    np.testing.assert_allclose(np.bincount(cards.ravel()) / steps, deck.rates(), rtol=1e-12)
    np.testing.assert_allclose(deck.rates(), capped_rates(counts, 0.5, 3), rtol=1.01 / 256)


def test_class_power_visits_each_class_in_every_pass_and_evenly():
    weights = np.array([30.0, 10, 5, 3, 2, 1.4, 1, 1, 1, 1])
    deck = WeightedDeck(weights, hand=3, key=11)
    length = deck.steps_per_pass
    for number in range(70):
        cards, _ = deck.deal(number * length, length)
        assert (np.bincount(cards.ravel(), minlength=10) >= 1).all()
    cards, visits = deck.deal(0, length * 70)
    for card in range(10):
        mine = np.sort(visits[cards == card])
        np.testing.assert_array_equal(mine, np.arange(len(mine)))  # no visit twice, none left out
    # Spread over the pass: no class waits longer than four times its mean distance.
    for card in range(4):
        when = np.flatnonzero((cards == card).any(axis=1))
        assert np.diff(when).max() <= 4 * len(cards) / len(when)


def test_class_power_uses_images_evenly_at_the_end_of_a_pass():
    counts = np.array([23, 11, 6, 4, 3, 1])
    labels, sampler = pk(counts, 3, 4, class_power=1.0)
    steps = sampler.describe()["steps_per_class_pass"]
    uses = np.bincount(sampler.batches(0, 7 * steps).ravel(), minlength=len(labels))
    for label in range(len(counts)):
        assert np.ptp(uses[labels == label]) <= 1


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_class_power_when_every_class_is_in_every_batch(power):
    labels, sampler = pk([50, 3, 1], 3, 2, class_power=power)
    groups = labels[sampler.batches(0, 40)].reshape(40, 3, 2)[:, :, 0]
    assert (np.sort(groups, axis=1) == [0, 1, 2]).all()


# --- RandomSampler -------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batch_size"), [(10, 3), (10, 7), (10, 10), (64, 8), (3, 8)])
def test_random_batches_use_every_row_evenly(size, batch_size):
    rows = np.arange(size) * 3 + 100
    sampler = RandomSampler(rows, batch_size=batch_size, seed=1)
    batches = np.stack([sampler.batch(step) for step in range(120)])
    assert batches.dtype == np.int64 and batches.shape == (120, batch_size)
    if batch_size <= size:
        assert all(len(set(row)) == batch_size for row in batches.tolist())
    flat = batches.ravel()
    for start in range(0, len(flat) - size + 1, size):
        assert sorted(flat[start : start + size]) == rows.tolist()
    order = np.random.default_rng(0).permutation(120)
    other = RandomSampler(rows, batch_size=batch_size, seed=1)
    np.testing.assert_array_equal(np.stack([other.batch(s) for s in order]), batches[order])
    assert (RandomSampler(rows, batch_size=batch_size, seed=2).batches(0, 120) != batches).any()


def test_random_sampler_does_not_watch_the_callers_array():
    rows = np.arange(9)
    sampler = RandomSampler(rows, batch_size=3, seed=0)
    rows[:] = 0
    assert sorted(sampler.batches(0, 3).ravel()) == list(range(9))


# --- shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_power", [0.0, 0.5])
def test_replicas_together_are_the_single_process_batch(class_power):
    labels, sampler = pk(TAILS["prime"], 12, 4, class_power=class_power)
    for count in (1, 2, 3, 6):
        parts = [sampler.batch(5, shard=(i, count)) for i in range(count)]
        np.testing.assert_array_equal(np.concatenate(parts), sampler.batch(5))
        assert all(len(set(labels[part])) == 12 // count for part in parts)
        np.testing.assert_array_equal(sampler.batches(3, 4, shard=(0, count))[2], parts[0])
    head = RandomSampler(np.arange(40), batch_size=6, seed=0)
    np.testing.assert_array_equal(
        np.concatenate([head.batch(1, shard=(i, 3)) for i in range(3)]), head.batch(1)
    )


# --- permutations --------------------------------------------------------------------------------


def test_keyed_permutation_is_a_bijection_of_every_size():
    for size in [*range(1, 70), 127, 128, 129, 1000]:
        sizes = np.full(25, size, np.uint32)
        words = hash_words(9, np.arange(25))
        slots = np.repeat(np.arange(size, dtype=np.uint32)[:, None], 25, axis=1)
        places = permute(slots, sizes, words)
        assert (np.sort(places, axis=0) == slots).all(), size


@pytest.mark.parametrize("size", [2, 3, 5, 8, 40])
def test_keyed_permutation_sends_each_position_anywhere(size):
    trials = 40_000
    words = hash_words(1, np.arange(trials))
    sizes = np.full(trials, size, np.uint32)
    slots = np.repeat(np.arange(size, dtype=np.uint32)[:, None], trials, axis=1)
    places = permute(slots, sizes, words)
    expected = trials / size
    for row in places:
        seen = np.bincount(row, minlength=size)
        assert np.abs(seen - expected).max() < 0.25 * expected
    # Neighbours do not stay neighbours: the step from one to the next takes many values.
    if size == 40:
        steps = (places[1].astype(int) - places[0]) % size
        assert np.bincount(steps, minlength=size)[1:].min() > 0.5 * trials / size


def test_seeded_orders_are_random_orders():
    orders = seeded_orders(stream_key(0, 1), 5, 30_000, 4)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    _, seen = np.unique(orders @ [1000, 100, 10, 1], return_counts=True)
    assert len(seen) == 24 and np.abs(seen - 1250).max() < 6 * 1250**0.5
    np.testing.assert_array_equal(seeded_orders(stream_key(0, 1), 17, 1, 4)[0], orders[12])
    large = seeded_orders(3, 0, 2, 100_001)
    assert (np.sort(large, axis=1) == np.arange(100_001)).all()


# --- logs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "k"), [(4, 4), (7, 3), (11, 2)])
@pytest.mark.parametrize("steps", [0, 1, 9, 100])
def test_describe_counts_what_was_really_seen(p, k, steps):
    counts = np.array(TAILS["ragged"])
    labels, sampler = pk(counts, p, k)
    seen = sampler.describe(steps_done=steps)["seen"]
    rows = [sampler.batch(step) for step in range(steps)]
    flat = np.concatenate([*rows, np.zeros(0, np.int64)])
    assert seen["exact"] is True
    assert seen["classes"] == len(set(labels[flat]))
    assert seen["images"] == len(set(flat.tolist()))
    assert seen["slots"] == len(flat)
    assert seen["repeats"] == sum(p * k - len(set(row.tolist())) for row in rows)


def test_describe_says_what_to_expect():
    counts = np.array(TAILS["ragged"])  # 11 classes, 53 images
    labels, sampler = pk(counts, 4, 4)
    facts = sampler.describe()
    assert (facts["classes"], facts["images"], facts["singletons"]) == (11, 53, 2)
    assert facts["classes_under_k"] == 6
    assert facts["steps_per_class_pass"] == 3 and facts["steps_per_image_pass"] == 4
    rows = sampler.batches(0, 11 * 12)  # whole passes: the expectation is the exact mean
    repeats = sum(16 - len(set(row.tolist())) for row in rows) / rows.size
    assert facts["repeat_share"] == pytest.approx(repeats)
    visits = rows.reshape(-1, 4)
    pairs = [np.sum(v[:, None] == v[None, :]) - 4 for v in visits]
    assert facts["same_image_pair_share"] == pytest.approx(np.mean(pairs) / 12)
    until = facts["steps_until_every_image"]
    assert sampler.describe(steps_done=until + 3)["seen"]["images"] == 53
    assert sampler.describe(steps_done=until - 4)["seen"]["images"] < 53


def test_describe_with_class_power_is_close():
    counts = np.array(TAILS["prime"])
    labels, sampler = pk(counts, 6, 4, class_power=0.6)
    facts = sampler.describe(steps_done=2000)
    rows = sampler.batches(0, 2000)
    repeats = sum(24 - len(set(row.tolist())) for row in rows)
    assert facts["seen"]["exact"] is False and facts["seen"]["classes"] == 29
    assert facts["seen"]["repeats"] == pytest.approx(repeats, rel=0.02)
    assert facts["repeat_share"] == pytest.approx(repeats / rows.size, rel=0.02)


def test_state_names_what_a_resumed_run_must_share():
    labels, sampler = pk(TAILS["ragged"], 4, 4)
    same = PKSampler(labels, classes_per_batch=4, images_per_class=4, seed=0).state()
    assert sampler.state() == same
    moved = np.roll(labels, 1)
    assert PKSampler(moved, classes_per_batch=4, images_per_class=4, seed=0).state() != same
    assert RandomSampler([1, 2], batch_size=1, seed=0).state() != (
        RandomSampler([1, 3], batch_size=1, seed=0).state()
    )
    assert RandomSampler([1, 2], batch_size=1, seed=0).describe(3)["seen"] == {
        "steps": 3, "exact": True, "images": 2, "passes": 1.5,
    }  # fmt: skip


# --- refusals ------------------------------------------------------------------------------------


def refused(match, labels=(0, 0, 1, 2), p=2, k=2, seed=0, **settings):
    with pytest.raises(UserError, match=match):
        PKSampler(labels, classes_per_batch=p, images_per_class=k, seed=seed, **settings)


def test_bad_pk_settings_are_refused_in_words():
    refused("classes_per_batch is 1, but it must be at least 2; set classes_per_batch=2", p=1)
    refused("images_per_class is 1, but it must be at least 2", k=1)
    refused("images_per_class is 2.5, but a whole number of at least 2 was expected", k=2.5)
    refused("classes_per_batch is True", p=True)
    refused("is 4, but the data has only 3 classes .* set classes_per_batch=3", p=4)
    refused("only 1 class with images .* add a second class", labels=[5, 5])
    for power in (-0.5, 1.5, float("nan"), "half", None):
        refused("class_power is .*, but a number from 0", class_power=power)
    refused("seed is None, but a whole number was expected", seed=None)
    refused("seed is 0.5", seed=0.5)


def test_bad_labels_are_refused_in_words():
    refused("labels are empty", labels=np.zeros(0, int))
    refused(r"labels hold -1 \(first at row 2\)", labels=[0, 1, -1])
    refused("labels have type float64, but whole-number class ids", labels=[0.0, 1.0])
    refused("labels have type bool", labels=[True, False])
    refused(r"labels have shape \[2, 2\]", labels=[[0, 1], [1, 2]])
    refused("labels hold 2147483648, but class ids go up to", labels=[0, 2**31])


def test_bad_rows_are_refused_in_words():
    def bad(match, rows, batch_size=2, seed=0):
        with pytest.raises(UserError, match=match):
            RandomSampler(rows, batch_size=batch_size, seed=seed)

    bad("rows are empty", np.zeros(0, int))
    bad("rows hold -3, but row numbers start at 0", [1, -3])
    bad("rows have type float64", [1.0])
    bad(r"rows have shape \[1, 2\]", [[1, 2]])
    bad("batch_size is 0, but it must be at least 1", [1, 2], batch_size=0)
    bad("batch_size is '4', but a whole number", [1, 2], batch_size="4")
    bad("seed is 'a', but a whole number", [1, 2], seed="a")


def test_bad_steps_and_shards_are_refused_in_words():
    _, sampler = pk(TAILS["ragged"], 6, 4)
    head = RandomSampler(np.arange(9), batch_size=6, seed=0)
    for one in (sampler, head):
        with pytest.raises(UserError, match="step is -1, but it must be at least 0"):
            one.batch(-1)
        with pytest.raises(UserError, match="step is 1.0, but a whole number"):
            one.batch(1.0)
        with pytest.raises(UserError, match="samplers count to 1,099,511,627,775"):
            one.batches(2**40 - 3, 4)
        with pytest.raises(UserError, match="count is 0, but it must be at least 1"):
            one.batches(0, 0)
        for shard in ((2, 2), (-1, 2), 3, (0.5, 2), (0, 1, 2)):
            with pytest.raises(UserError, match="shard is .*, but .index, count. with 0 <= index"):
                one.batch(0, shard=shard)
    with pytest.raises(
        UserError,
        match="which does not give 4 replicas at least 2 whole classes "
        "each; set classes_per_batch=8 or use fewer",
    ):
        sampler.batch(0, shard=(0, 4))
    with pytest.raises(UserError, match="does not give 6 replicas .* set classes_per_batch=12"):
        sampler.batch(0, shard=(0, 6))
    with pytest.raises(UserError, match="does not give 4 replicas equal shares; set batch_size=8"):
        head.batch(0, shard=(0, 4))
