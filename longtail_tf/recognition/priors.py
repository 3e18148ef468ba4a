"""How often each class is expected where the recogniser is used."""

from __future__ import annotations

import csv
import math
import unicodedata
from collections.abc import Sequence

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.text_files import open_text


def read_test_prior(
    spec: str, *, class_names: Sequence[str], class_counts: np.ndarray
) -> np.ndarray | None:
    """The prior that a setting names, as weights of the classes.

    Its logarithm is added to calibrated scores (Menon 2021, arXiv:2007.07314, section 4.1), so a
    class twice as frequent needs half the evidence.

    Args:
      spec: "" or "uniform" for all classes alike; "train" for the training counts; else a CSV file
        with the columns name and weight. A class it does not list weighs as the smallest listed.
      class_names: class id -> name.
      class_counts: int [C], training images.

    Returns:
      float64 [C], or None for all alike.

    Raises:
      UserError: a file that cannot be read, an unknown class, a weight that is not above 0.
    """
    if spec in ("", "uniform"):
        return None
    if spec == "train":
        return np.asarray(class_counts, np.float64)
    try:
        with open_text(spec) as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--test_prior={spec} cannot be read ({reason}): give uniform, train, or a CSV file "
            "with the columns name and weight."
        ) from error
    ids = {name: place for place, name in enumerate(class_names)}
    weights = np.full(len(class_counts), np.nan)
    for line, row in enumerate(rows, start=2):
        name = row.get("name")
        name = name and unicodedata.normalize("NFC", name)
        if name not in ids:
            raise UserError(
                f"{spec}, line {line}: {name!r} is no class of this run; give one of its class "
                "names (classes.csv lists them) in the column name."
            )
        weights[ids[name]] = _weight(row.get("weight"), where=f"{spec}, line {line}")
    if not rows:
        raise UserError(f"{spec} lists no class: give lines of name,weight under that header.")
    return np.where(np.isnan(weights), np.nanmin(weights), weights)


def _weight(text: str | None, *, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{where}: weight is {text!r}; expected a number above 0.")
    return value
