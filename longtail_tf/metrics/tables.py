"""Accuracy tables as text, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COLUMNS = (
    ("all", "all"),
    ("many", "many"),
    ("medium", "medium"),
    ("few", "few"),
    ("balanced", "balanced"),
    ("macro_f1", "macro-F1"),
    ("top5", "top-5"),
)
_NAME_WIDTH = 12


def format_rules_table(
    rows: Mapping[str, Mapping[str, Any]], *, default_rule: str | None = "gated"
) -> str:
    """Returns the accuracy table of the inference rules, at most 80 columns wide.

    Args:
      rows: rule -> metrics as `evaluate_rules` gives them, fractions 0..1; None prints as "-".
      default_rule: gets a star, and its 95 % interval on the last line if it has one.

    Returns:
      Lines without a newline at the end; numbers are percent.
    """
    widths = [max(8, len(title) + 1) for _, title in _COLUMNS]
    titles = "".join(title.rjust(width) for (_, title), width in zip(_COLUMNS, widths))
    rule_width = max([_NAME_WIDTH] + [len(rule) + 2 for rule in rows])
    header = "rule".ljust(rule_width) + titles
    lines = [header, "-" * len(header)]
    for rule, metrics in rows.items():
        name = f"{rule} *" if rule == default_rule else rule
        cells = "".join(
            _percent(metrics.get(key)).rjust(width) for (key, _), width in zip(_COLUMNS, widths)
        )
        lines.append(name.ljust(rule_width) + cells)
    lines.append("-" * len(header))
    lines.append("percent; many > 100, medium 20-100, few < 20 training images a class")
    if default_rule is not None and default_rule in rows:
        note = "* default rule"
        interval = rows[default_rule].get("intervals", {}).get("all")
        if interval:
            low, high = interval
            note += f", 95 % interval of all: {100 * low:.1f} to {100 * high:.1f}"
        lines.append(note)
    return "\n".join(lines)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"
