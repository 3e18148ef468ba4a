"""Small pieces of the sentences that name data faults."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def listing(names: Sequence[object], limit: int = 5) -> str:
    """`a, b, c and 7 more`."""
    shown = ", ".join(str(names[i]) for i in range(min(limit, len(names))))
    rest = len(names) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown


def nearest(word: str, choices: Iterable[str]) -> str:
    """The hint that follows an unknown name: the closest of `choices`, and all of them."""
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    known = f"choose one of: {', '.join(choices)}"
    return f"did you mean {close[0]!r}? Otherwise {known}" if close else known


def plural(count: int, noun: str, plural_noun: str = "") -> str:
    """`1 image`, `2 images`."""
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"
