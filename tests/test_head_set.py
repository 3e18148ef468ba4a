"""Head rules against a brute-force oracle, ties included; every refusal and the advice in it."""

from __future__ import annotations

import fractions
import re

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.head_set import head_row, head_table, select_head


def oracle(counts, min_count=None, ratio=None, num_classes=None):
    """Tries every cut between falling counts and keeps the largest head that the rule allows.

    The ratio is read as the decimal that was typed, in exact arithmetic.
    """
    allowed = len(counts)
    if ratio is not None:
        allowed = int(fractions.Fraction(repr(ratio)) * len(counts))
    if num_classes is not None:
        allowed = num_classes
    best = []
    for cut in sorted({-1, *counts}):
        head = [c for c, n in enumerate(counts) if n > cut]
        if min_count is not None and any(counts[c] <= min_count for c in head):
            continue
        if len(head) <= allowed and len(head) > len(best):
            best = head
    return best


def outcome(counts, **rule):
    wanted = oracle(list(counts), **rule)
    refused = not 0 < len(wanted) < len(counts) or rule.get("num_classes", 0) >= len(counts)
    return None if refused else wanted


def settings_for(counts):
    size = len(counts)
    for value in range(0, max(counts) + 2):
        yield {"min_count": value}
    for value in range(1, size + 3):
        yield {"num_classes": value}
    for value in (0.01, 0.1, 0.2, 0.29, 1 / 4, 0.5, 0.57, 0.9, 0.99, 0.999):
        yield {"ratio": value}


@pytest.mark.parametrize("seed", range(40))
def test_rules_match_the_oracle_and_advice_works(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 25))
    # Few distinct values: ties everywhere, the cut included.
    counts = rng.integers(0, int(rng.integers(1, 9)), size, endpoint=True)
    for rule in settings_for(counts):
        wanted = outcome(counts, **rule)
        if wanted is not None:
            head = select_head(counts, **rule)
            assert head.dtype == np.int64 and head.tolist() == wanted, (counts, rule)
            assert counts[head].min() > np.delete(counts, head).max(), "strictly more images"
            continue
        with pytest.raises(UserError) as refusal:
            select_head(counts, **rule)
        message = str(refusal.value)
        assert str(counts.max()) in message or str(counts.min()) in message
        advice = re.search(
            r"nearest that works is (\w+)=([\d.]+) \((\d+) head class(es)?[,)]", message
        )
        if len(set(counts.tolist())) == 1:
            assert advice is None and "no setting of any rule" in message
            continue
        name, value, promised = advice.group(1), advice.group(2), int(advice.group(3))
        value = float(value) if name == "ratio" else int(value)
        assert len(select_head(counts, **{name: value})) == promised, (counts, rule, message)
        if name in rule and name != "ratio":  # nothing nearer works
            step = 1 if rule[name] < value else -1
            for nearer in range(rule[name], value, step):
                assert outcome(counts, **{name: nearer}) is None, (counts, rule, message)


@pytest.mark.parametrize("size", [10, 100, 1000, 7])
def test_ratio_means_the_decimal_that_was_typed(size):
    counts = np.arange(size, 0, -1)
    for percent in range(1, 100):
        wanted = percent * size // 100
        if wanted:
            assert len(select_head(counts, ratio=percent / 100)) == wanted, percent
    assert 0.29 * 100 < 29 and len(select_head(np.arange(100), ratio=0.29)) == 29
    assert len(select_head(np.arange(3), ratio=1 / 3)) == 1
    assert len(select_head(np.arange(1_000_000), ratio=0.2)) == 200_000


def test_ids_are_positions_in_the_counts_given():
    counts = [1, 50, 3, 50, 20]
    assert select_head(counts, min_count=19).tolist() == [1, 3, 4]
    assert select_head(counts, min_count=20).tolist() == [1, 3], "more than, not at least"
    assert select_head(counts, num_classes=1 + 1).tolist() == [1, 3]
    assert select_head(counts, ratio=0.6).tolist() == [1, 3, 4]


def test_a_tie_at_the_cut_stays_out_as_a_whole():
    counts = [9, 5, 5, 5, 2]
    for rule in ({"num_classes": 2}, {"num_classes": 3}, {"ratio": 0.6}):
        assert select_head(counts, **rule).tolist() == [0]
    assert select_head(counts, num_classes=4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.uint64, np.float32, list])
def test_counts_of_any_whole_type(kind):
    counts = [9, 5, 1]
    counts = counts if kind is list else np.array(counts, kind)
    assert select_head(counts, min_count=4).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        ({"min_count": 9}, "min_count=9 leaves no head class: the largest class has 9 images .* "
         r"the nearest that works is min_count=8 \(1 head class\)"),
        ({"min_count": 1}, "min_count=1 takes every class: the smallest has 2 images.* "
         r"min_count=2 \(4 head classes\)"),
        ({"num_classes": 5}, "num_classes=5 takes every class: there are 5, the smallest with 2 "
         r"images; .* num_classes=4 \(4 head classes\)"),
        ({"ratio": 0.1}, r"ratio=0.1 \(0 of 5 classes\) leaves no head class: it comes to less "
         r"than one class; the largest has 9 images; .* ratio=0.2 \(1 head class\)"),
    ],
)  # fmt: skip
def test_refusals_name_the_cut_and_what_works(rule, match):
    with pytest.raises(UserError, match=match):
        select_head([9, 5, 5, 5, 2], **rule)


def test_refusal_when_the_largest_classes_tie():
    with pytest.raises(
        UserError,
        match="num_classes=2 leaves no head class: the 3 largest classes "
        r"tie at 7 images and a tie stays out .* num_classes=3 \(3 head classes\)",
    ):
        select_head([7, 7, 7, 1], num_classes=2)
    with pytest.raises(
        UserError,
        match=r"num_classes=4 takes every .* num_classes=3 \(1 head "
        r"class, as those with 2 images tie at the cut\)",
    ):
        select_head([7, 2, 2, 2], num_classes=4)


def test_refusal_when_all_classes_are_alike():
    for rule in ({"min_count": 2}, {"min_count": 5}, {"ratio": 0.5}, {"num_classes": 2}):
        with pytest.raises(
            UserError,
            match="cannot cut a head: all 4 classes have 3 images, so no " "setting of any rule",
        ):
            select_head([3, 3, 3, 3], **rule)
    with pytest.raises(UserError, match="the only class has 1 image, so"):
        select_head([1], num_classes=1)


def test_exactly_one_rule():
    with pytest.raises(UserError, match="no head rule came, but the head set needs exactly one"):
        select_head([3, 1])
    with pytest.raises(UserError, match="min_count=0 and ratio=0.5 came, but .* exactly one"):
        select_head([3, 1], min_count=0, ratio=0.5)


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        *[({"ratio": r}, "ratio is .*, but a share of the classes between 0 and 1, both excluded")
          for r in (0, 0.0, 1, 1.0, 1.5, -0.2, float("nan"), float("inf"), "half", True)],
        *[({"min_count": m}, "min_count is .*, but a whole number of at least 0 was expected")
          for m in (-1, 2.5, float("nan"), "3", True)],
        *[({"num_classes": n}, "num_classes is .*, but a whole number of at least 1 was expected")
          for n in (0, -3, 1.5, "2", False)],
    ],
)  # fmt: skip
def test_bad_settings_are_refused(rule, match):
    with pytest.raises(UserError, match=match):
        select_head([5, 3, 1], **rule)


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ([], r"class_counts have shape \[0\]"),
        ([[1, 2]], r"class_counts have shape \[1, 2\]"),
        ([3.0, float("nan")], "class_counts hold nan for class 1"),
        ([3.0, float("inf")], "class_counts hold inf for class 1"),
        ([3.5, 1.0], "class_counts hold 3.5 for class 0"),
        ([4, -1], "class_counts hold -1 for class 1, but a whole number of images"),
        (["a", "b"], "class_counts have type"),
        ([True, False], "class_counts have type bool"),
    ],
)
def test_bad_counts_are_refused(counts, match):
    with pytest.raises(UserError, match=match):
        select_head(counts, min_count=1)


def test_head_row_counts_images_and_bytes():
    counts = np.array([60, 30, 9, 1])
    row = head_row(counts, np.array([0, 1]), embedding_dim=128, head_batch_size=64)
    assert row["head_classes"] == 2 and row["class_share"] == 0.5
    assert row["images"] == 90 and row["image_share"] == 0.9 and row["least_images_in_head"] == 30
    assert row["classifier_bytes"] == 2 * 128 * 4 and row["full_classifier_bytes"] == 4 * 128 * 4
    # Weights, gradient and one optimiser slot; logits and their gradient.
    assert row["training_bytes"] == 4 * (3 * 2 * 128 + 2 * 64 * 2)
    assert row["full_training_bytes"] == 2 * row["training_bytes"]


def test_head_table_rows_are_what_select_head_gives():
    counts = (5000 / np.arange(1, 400)).astype(int)
    table = head_table(counts, 128)
    assert {row["rule"] for row in table} == {"min_count", "ratio", "num_classes"}
    for row in table:
        head = select_head(counts, **{row["rule"]: row["setting"]})
        assert row["head_classes"] == len(head) and row["images"] == counts[head].sum()
    for rule in ("min_count", "ratio", "num_classes"):
        sizes = [row["head_classes"] for row in table if row["rule"] == rule]
        assert len(sizes) >= 4 and len(set(sizes)) == len(sizes), "several, each another head"
    assert head_table([4, 4, 4], 128) == []
