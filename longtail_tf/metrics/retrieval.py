"""Retrieval metrics: how pure the neighbourhood of an image is in embedding space.

Each query looks for images of its own class in a gallery. Without a gallery of its own, the queries
are searched among themselves, each with itself left out. A query whose class has no other image to
find has no defined score and is left out of every mean.

Recall@k counts a query once if any of its k nearest is of its class; R-precision and MAP@R look at
its R nearest, where R is the number of images there are to find (Musgrave 2020, arXiv:2003.08505,
section 3.1). Memory: about 100 MB beside the embeddings, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.array_checks import checked_embeddings, unit_rows
from longtail_tf.metrics.nearest_neighbours import nearest_neighbours
from longtail_tf.metrics.shot_bands import BANDS, band_ids

_HIT_CELLS = 2 << 20  # neighbour lists held at once: queries x R


class QueryScores(NamedTuple):
    """One row a query that has something to find; see `query_scores`."""

    rows: np.ndarray  # int64 [Q], which queries
    first_hit: np.ndarray  # int64 [Q], rank (from 0) of the nearest image of its class
    r_precision: np.ndarray  # float64 [Q]
    average_precision_at_r: np.ndarray  # float64 [Q]


def recall_at_k(
    embeddings: np.ndarray,
    labels: np.ndarray,
    k: int = 1,
    *,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
) -> float:
    """Returns the share of queries with an image of their class among the k nearest, 0..1.

    Args:
      embeddings: float [N, D], queries; compared by cosine.
      labels: int [N].
      k: how far down the list to look.
      gallery: float [G, D]; default: the queries, each without itself.
      gallery_labels: int [G], with `gallery`.
    """
    scores = query_scores(
        embeddings,
        labels,
        depth=k,
        to_r=False,
        gallery=gallery,
        gallery_labels=gallery_labels,
    )
    return float(np.mean(scores.first_hit < k))


def map_at_r(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
) -> float:
    """Returns the mean average precision at R, 0..1; args as `recall_at_k`."""
    scores = query_scores(embeddings, labels, gallery=gallery, gallery_labels=gallery_labels)
    return float(np.mean(scores.average_precision_at_r))


def retrieval_metrics(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    train_counts: np.ndarray | None = None,
    ks: Sequence[int] = (1, 5, 10),
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
) -> dict[str, int | float | None | dict[str, float | None]]:
    """Returns Recall@k, R-precision and MAP@R from one search, over all queries and per shot band.

    Args are those of `recall_at_k`, and:
      train_counts: int [C]; with it each metric becomes a dict all / many / medium / few, None
        where no query falls in the band.
      ks: the k of Recall@k; those beyond the gallery are left out.

    Returns:
      {"recall_at_1": ..., "r_precision": ..., "map_at_r": ..., "queries": number that count}.
    """
    size = len(embeddings) - 1 if gallery is None else len(gallery)
    ks = [k for k in ks if k <= size] or [1]
    scores = query_scores(
        embeddings, labels, depth=max(ks), gallery=gallery, gallery_labels=gallery_labels
    )
    columns = {f"recall_at_{k}": (scores.first_hit < k).astype(np.float64) for k in ks}
    columns["r_precision"] = scores.r_precision
    columns["map_at_r"] = scores.average_precision_at_r
    result: dict[str, int | float | None | dict[str, float | None]] = {}
    bands = None
    if train_counts is not None:
        bands = band_ids(train_counts)[np.asarray(labels)[scores.rows]]
    for name, values in columns.items():
        if bands is None:
            result[name] = float(values.mean())
            continue
        split: dict[str, float | None] = {"all": float(values.mean())}
        for band, band_name in enumerate(BANDS):
            members = values[bands == band]
            split[band_name] = float(members.mean()) if members.size else None
        result[name] = split
    result["queries"] = len(scores.rows)
    return result


def query_scores(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    depth: int = 1,
    to_r: bool = True,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
) -> QueryScores:
    """Returns the retrieval scores of each query.

    Args are those of `recall_at_k`, and:
      depth: how far `first_hit` must be known; a hit beyond what was searched is the largest int64.
      to_r: search to R at least; without it the two scores at R are of `depth` neighbours only.
    """
    queries, labels, targets, target_labels, alone = _checked(
        embeddings, labels, gallery, gallery_labels
    )
    relevant: np.ndarray = _relevant_counts(labels, target_labels) - alone
    rows = np.flatnonzero(relevant > 0)
    if not rows.size:
        raise UserError(
            "no query has an image of its class to find; retrieval metrics need at least two "
            "images of one class"
        )
    limit = len(targets) - alone
    if not 1 <= depth <= limit:
        raise UserError(
            f"k = {depth} was asked for, but a query can find 1..{limit} gallery images"
        )
    first = np.full(len(rows), np.iinfo(np.int64).max)
    r_precision, average = np.zeros(len(rows)), np.zeros(len(rows))
    # Queries of one R together: a head class of thousands must not widen everyone's list.
    order = np.argsort(relevant[rows], kind="stable")
    widths = np.maximum(relevant[rows[order]], depth) if to_r else np.full(len(rows), depth)
    for piece in _pieces(widths):
        where = order[piece]
        asked, sought = rows[where], relevant[rows[where]]
        width = int(widths[piece][-1])
        found, _ = nearest_neighbours(
            queries[asked], targets, width, own_rows=asked if alone else None
        )
        hits = target_labels[found] == labels[asked, None]
        any_hit = hits.any(axis=1)
        first[where[any_hit]] = hits[any_hit].argmax(axis=1)
        within = hits & (np.arange(width) < sought[:, None])
        r_precision[where] = within.sum(axis=1) / sought
        precision = np.cumsum(within, axis=1) / np.arange(1, width + 1)
        average[where] = (precision * within).sum(axis=1) / sought
    return QueryScores(rows, first, r_precision, average)


def _pieces(widths: np.ndarray) -> Iterator[slice]:
    """Cuts queries, sorted by list width, into runs whose lists fit in `_HIT_CELLS`."""
    start = 0
    while start < len(widths):
        stop = start + 1
        while stop < len(widths) and widths[stop] * (stop + 1 - start) <= _HIT_CELLS:
            stop += 1
        yield slice(start, stop)
        start = stop


def _relevant_counts(labels: np.ndarray, target_labels: np.ndarray) -> np.ndarray:
    classes, counts = np.unique(target_labels, return_counts=True)
    at = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    return np.where(classes[at] == labels, counts[at], 0)


def _checked(
    embeddings: np.ndarray,
    labels: np.ndarray,
    gallery: np.ndarray | None,
    gallery_labels: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]:
    if (gallery is None) != (gallery_labels is None):
        raise UserError("gallery and gallery_labels go together; one came without the other")
    queries, labels = checked_embeddings(embeddings, labels)
    if gallery is None or gallery_labels is None:
        queries = unit_rows(queries)
        return queries, labels, queries, labels, True
    targets, target_labels = checked_embeddings(gallery, gallery_labels, "gallery")
    if targets.shape[1] != queries.shape[1]:
        raise UserError(
            f"queries have {queries.shape[1]} dimensions and the gallery {targets.shape[1]}; both "
            "must come from one network"
        )
    return unit_rows(queries), labels, unit_rows(targets), target_labels, False
