"""How far apart two right answers may lie: tolerances that follow from the arithmetic."""

from __future__ import annotations

import numpy as np


def sums_apart(terms: int, size: float = 1.0, dtype: type = np.float32) -> float:
    """The largest difference of two sums of the same products, added up in any two orders.

    Each lies within `terms * eps / 2 * size` of the exact sum (Higham 2002, "Accuracy and Stability
    of Numerical Algorithms", equation 3.5), whatever blocks, lanes or fused operations a BLAS
    kernel takes. So it holds between matrix products of other shapes, other processors and other
    libraries; equality does not.

    Args:
      terms: products in a sum, and other roundings on the way (a bias, a scale) one each.
      size: the largest sum of the products' magnitudes. Of two unit vectors it is at most 1
        (Cauchy and Schwarz), of logits over a temperature 1 / temperature.
      dtype: of the sums.
    """
    return terms * float(np.finfo(dtype).eps) * size


# How far outputs of order 1 of a small float32 network may move with the batch size, the kernels or
# the fusing of operations: sums of up to 150 terms through 8 layers, each rounded: 150 * 8 * eps.
# Errors of a network, a wrong weight or a missing step, are of order 0.01 and more.
NETWORK = 1.5e-4


def assert_same_top(found: list, expected: list, *, atol: float) -> None:
    """The same names with the same scores, best first; only names as good as equal may swap.

    Args:
      found: (name, score) of one image, best first.
      expected: likewise.
      atol: how far scores may lie apart, and so how near names must be to swap.
    """
    scores, theirs = ([float(score) for _, score in rows] for rows in (found, expected))
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=atol)
    ours, known = dict(found), dict(expected)
    assert len(ours) == len(found)
    for name, score in ours.items():
        # One that the other list leaves out must be as good as equal to that list's last.
        np.testing.assert_allclose(score, known.get(name, theirs[-1]), rtol=0, atol=2 * atol)


def assert_top_of(class_ids: np.ndarray, scores: np.ndarray, *, atol: float) -> None:
    """`class_ids` [N, k] name the k best of `scores` [N, C], whose last bits may differ."""
    named = np.take_along_axis(scores, class_ids, axis=1)
    best = -np.sort(-scores, axis=1)[:, : class_ids.shape[1]]
    np.testing.assert_allclose(named, best, rtol=0, atol=atol)
    assert all(len(set(row)) == len(row) for row in class_ids.tolist())
