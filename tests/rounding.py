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
