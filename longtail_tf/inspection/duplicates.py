"""Images that are exact copies of each other, from digests of their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Copy(NamedTuple):
    """An image that has a copy it should not have.

    Attributes:
      row: of the image.
      other: row of the copy.
      kind: `different_labels`, `across_splits` or `duplicate`.
      quarantined: whether this one of the copies is better left out.
    """

    row: int
    other: int
    kind: str
    quarantined: bool


def find_copies(digests: np.ndarray, *, labels: np.ndarray, splits: np.ndarray) -> Iterator[Copy]:
    """The copies among images.

    Where labels differ nobody can say which is right, so all copies are to be left out. Of copies
    with one label the one in the highest split stays (test before validation before training), so
    that test sets stay whole; the others are to be left out.

    Args:
      digests: uint64 [N, 2] of the images' bytes.
      labels: int [N].
      splits: int [N] codes, rising from training to test.
    """
    order = np.lexsort((np.arange(len(digests)), digests[:, 1], digests[:, 0]))
    same = (digests[order][1:] == digests[order][:-1]).all(axis=1)
    # A group is a run of equal digests; only runs of two and more matter.
    starts = np.flatnonzero(np.concatenate([[True], ~same])) if len(order) else np.zeros(0, int)
    ends = np.append(starts[1:], len(order))
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1]):
        yield from _copies_in(order[start:end], labels, splits)


def _copies_in(rows: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> Iterator[Copy]:
    own_labels, own_splits = labels[rows], splits[rows]
    if (own_labels != own_labels[0]).any():
        for row, label in zip(rows.tolist(), own_labels):
            other = int(rows[np.argmax(own_labels != label)])
            yield Copy(row, other, "different_labels", True)
        return
    kept = int(np.argmax(own_splits))
    for place, row in enumerate(rows.tolist()):
        if place != kept:
            across = own_splits[place] != own_splits[kept]
            yield Copy(row, int(rows[kept]), "across_splits" if across else "duplicate", True)
