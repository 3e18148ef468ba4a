"""Every case of the sweep, in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterator

from tests.sweep import conditions, data_sets, named_files, run_folders, settings, targets
from tests.sweep.case import Case

GROUPS = (named_files, run_folders, data_sets, targets, settings, conditions)


def cases() -> Iterator[Case]:
    """All cases; titles are unique."""
    for group in GROUPS:
        yield from group.cases()
