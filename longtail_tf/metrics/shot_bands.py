"""Shot bands: many / medium / few-shot classes, told apart by their number of training images.

The cuts are those of OLTR's `shot_acc`, which Kang 2020 (arXiv:1910.09217, section 5.1) and most
long-tail papers use: many > 100, medium 20..100 inclusive, few < 20 training images.
"""

from __future__ import annotations

import numpy as np

from longtail_tf.errors import UserError

BANDS = ("many", "medium", "few")
MANY_ABOVE = 100  # training images
FEW_BELOW = 20  # training images


def band_ids(train_counts: np.ndarray) -> np.ndarray:
    """Returns 0 (many), 1 (medium) or 2 (few) for each class.

    Args:
      train_counts: int [C], training images of each class, after any validation carve-out.

    Returns:
      int8 [C], positions in `BANDS`.
    """
    counts = np.asarray(train_counts)
    if counts.ndim != 1 or counts.size == 0:
        raise UserError(
            f"train_counts has shape {counts.shape}; it must hold one count for each class"
        )
    return np.where(counts > MANY_ABOVE, 0, np.where(counts < FEW_BELOW, 2, 1)).astype(np.int8)


def band_names(train_counts: np.ndarray) -> list[str]:
    """Returns "many", "medium" or "few" for each class of int [C] `train_counts`."""
    return [BANDS[band] for band in band_ids(train_counts)]
