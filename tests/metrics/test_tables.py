"""The printed table and the per-class table."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.metrics import per_class
from longtail_tf.metrics.tables import format_rules_table


def row(**values):
    full = dict.fromkeys(("all", "many", "medium", "few", "balanced", "macro_f1", "top5"), 1.0)
    return {**full, **values}


def test_table():
    rows = {
        "ncm": row(all=0.8514, many=None),
        "gated": row(few=0.0, intervals={"all": [0.8251, 0.8799]}),
        "head_only": row(macro_f1=0.12649),
    }
    lines = format_rules_table(rows).split("\n")
    assert max(map(len, lines)) <= 80
    head, _, ncm, gated, head_only, _, legend, note = lines
    assert head.split() == "rule all many medium few balanced macro-F1 top-5".split()
    assert ncm.split() == "ncm 85.1 - 100.0 100.0 100.0 100.0 100.0".split()
    assert gated.split() == "gated * 100.0 100.0 100.0 0.0 100.0 100.0 100.0".split()
    assert head_only.split()[-2] == "12.6"
    # Columns line up: every number ends where its title ends.
    assert all(len(line) == len(head) for line in (ncm, gated, head_only))
    assert head.index("many") + 4 == ncm.index(" - ") + 2
    assert legend.startswith("percent; many > 100")
    assert note == "* default rule, 95 % interval of all: 82.5 to 88.0"


def test_table_without_the_default_rule_or_intervals():
    assert "*" not in format_rules_table({"ncm": row()})
    assert format_rules_table({"gated": row()}).endswith("\n* default rule")
    assert "*" not in format_rules_table({"gated": row()}, default_rule=None)


def test_per_class_rows_against_a_loop(rng):
    counts = np.array([500, 101, 100, 20, 19, 3, 1])
    labels = rng.integers(0, 6, 200)
    predictions = np.where(rng.random(200) < 0.5, labels, rng.integers(-1, 6, 200))
    names = [f"class {c}" for c in range(7)]
    rows = per_class.per_class_rows(
        labels, predictions, class_names=names, train_counts=counts, num_head=2
    )
    assert [tuple(one) for one in rows] == [per_class.COLUMNS] * 7
    assert [one["band"] for one in rows] == ["many"] * 2 + ["medium"] * 2 + ["few"] * 3
    assert [one["head"] for one in rows] == [1, 1, 0, 0, 0, 0, 0]
    for class_id, one in enumerate(rows[:6]):
        mine = predictions[labels == class_id]
        given = labels[predictions == class_id]
        assert (one["id"], one["name"]) == (class_id, f"class {class_id}")
        assert (one["train_count"], one["test_images"]) == (counts[class_id], len(mine))
        assert one["recall"] == pytest.approx(np.mean(mine == class_id))
        assert one["precision"] == pytest.approx(np.mean(given == class_id))
        wrong = [int(p) for p in mine if p not in (-1, class_id)]
        most = max(sorted(set(wrong)), key=wrong.count)
        assert one["most_confused_with"] == most
        assert one["most_confused_name"] == f"class {most}"
        assert one["most_confused_images"] == wrong.count(most)
    empty = rows[6]
    assert empty["test_images"] == 0
    assert [empty[k] for k in ("recall", "precision", "most_confused_with")] == [None] * 3


def test_confused_pairs():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    predictions = np.array([1, 1, 2, 0, 1, 2, -1, 0])
    assert per_class.confused_pairs(labels, predictions) == [
        (0, 1, 2),
        (0, 2, 1),
        (1, 0, 1),
        (2, 0, 1),
    ]
    assert per_class.confused_pairs(labels, predictions, limit=1) == [(0, 1, 2)]
    assert per_class.confused_pairs(labels, labels) == []


def test_bad_input():
    with pytest.raises(UserError, match="1 class names and 2 training counts came"):
        per_class.per_class_rows(
            np.array([0]), np.array([0]), class_names=["a"], train_counts=[1, 2], num_head=1
        )
