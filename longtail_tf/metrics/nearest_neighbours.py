"""Exact nearest neighbours by cosine, in pieces, so that no queries x gallery matrix ever exists.

Working memory beside the two inputs stays near 100 MB for any number of gallery rows.
"""

from __future__ import annotations

import numpy as np

from longtail_tf.errors import UserError

_BLOCK_CELLS = 8 << 20  # similarities held at once: 32 MB of float32, about three times in flight
_GALLERY_ROWS = 32768


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Returns the columns of the k largest scores of each row, best first.

    Equal scores are taken in column order, so the answer never depends on how a sort breaks ties.

    Args:
      scores: float [N, C].
      k: how many, at most C.

    Returns:
      int64 [N, k] column numbers.
    """
    rows, columns = scores.shape
    if k == 1:
        return scores.argmax(axis=1)[:, None]
    if k >= columns:
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]
    cut = np.partition(scores, columns - k, axis=1)[:, columns - k, None]
    kept = scores >= cut
    crowded = np.flatnonzero(kept.sum(axis=1) != k)
    if crowded.size:  # several columns tie at the cut: keep the first of them
        above, tied = scores[crowded] > cut[crowded], scores[crowded] == cut[crowded]
        room = k - above.sum(axis=1, keepdims=True)
        kept[crowded] = above | (tied & (np.cumsum(tied, axis=1) <= room))
    found = np.nonzero(kept)[1].reshape(rows, k)
    order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def nearest_neighbours(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    own_rows: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k gallery rows most similar to each query, best first.

    Args:
      queries: float32 [Q, D], unit norm.
      gallery: float32 [G, D], unit norm.
      k: neighbours a query.
      own_rows: int [Q], the gallery row that is the query itself and must not be found; None when
        queries are not in the gallery.

    Returns:
      rows int64 [Q, k] and similarities float32 [Q, k].

    Raises:
      UserError: fewer than k rows to find.
    """
    findable = len(gallery) - (own_rows is not None)
    if not 1 <= k <= findable:
        raise UserError(
            f"k = {k} neighbours were asked for, but a query can find 1..{findable} gallery images"
        )
    rows = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float32)
    step = max(1, _BLOCK_CELLS // min(len(gallery), _GALLERY_ROWS))
    for start in range(0, len(queries), step):
        piece = slice(start, start + step)
        own = None if own_rows is None else own_rows[piece]
        rows[piece], similarities[piece] = _search(queries[piece], gallery, k, own)
    return rows, similarities


def _search(
    queries: np.ndarray, gallery: np.ndarray, k: int, own: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    best_rows = np.empty((len(queries), 0), np.int64)
    best = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(gallery), _GALLERY_ROWS):
        block = queries @ gallery[start : start + _GALLERY_ROWS].T
        if own is not None:
            here = np.flatnonzero((own >= start) & (own < start + block.shape[1]))
            block[here, own[here] - start] = -np.inf
        found = top_k(block, min(k, block.shape[1]))
        # Earlier rows stand first, so that ties across blocks go to the lower row as well.
        rows = np.concatenate([best_rows, found + start], axis=1)
        values = np.concatenate([best, np.take_along_axis(block, found, axis=1)], axis=1)
        keep = top_k(values, min(k, values.shape[1]))
        best_rows = np.take_along_axis(rows, keep, axis=1)
        best = np.take_along_axis(values, keep, axis=1)
    return best_rows, best
