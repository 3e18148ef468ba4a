"""What a run folder holds for a report, read once; what is missing is None."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.shot_bands import BANDS
from longtail_tf.reporting.class_tables import Classes, PerClass, read_classes, read_per_class
from longtail_tf.runs.folder import RunFolder

_BY_RULE = "predictions_"  # arrays of embeddings.npz
GROUPS = ("all", *BANDS)
BAND_WORDS = {
    "all": "all classes",
    "many": "many-shot (over 100 images)",
    "medium": "medium-shot (20 to 100)",
    "few": "few-shot (under 20)",
}


@dataclasses.dataclass(frozen=True)
class Recognised:
    """The test images as the default rule named them, without their embeddings.

    Attributes:
      labels, predictions: int64 [N] class ids.
      rows: int64 [N] in the test split.
      confidences: float64 [N] in 0..1, None where the run kept none.
      by_rule: int64 [N] class ids that each rule named; empty where the run kept none.
    """

    labels: np.ndarray
    predictions: np.ndarray
    rows: np.ndarray
    confidences: np.ndarray | None
    by_rule: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RunData:
    """A run folder, as far as it goes."""

    folder: RunFolder
    config: dict[str, Any]
    flags_text: str
    classes: Classes | None
    head_set: dict[str, Any]
    training: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    evaluation: dict[str, Any]
    per_class: PerClass | None
    recognised: Recognised | None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return os.path.basename(os.path.abspath(self.folder.path))

    @property
    def default_rule(self) -> str:
        """The rule that names the class."""
        return self.setting("inference_rule") or "gated"

    @property
    def rules(self) -> dict[str, dict[str, Any]]:
        """Metrics of each inference rule on the test set, the default rule first."""
        rules = self.evaluation.get("rules") or {}
        first = [self.default_rule] if self.default_rule in rules else []
        return {rule: rules[rule] for rule in [*first, *(r for r in rules if r not in first)]}

    @property
    def split(self) -> str:
        """The split that was read: "test", or "val" where there is no test split."""
        return self.evaluation.get("split") or "test"

    @property
    def image_words(self) -> str:
        """What the evaluated images are called: "test image" or "validation image"."""
        return "validation image" if self.split == "val" else "test image"

    @property
    def provenance(self) -> dict[str, Any]:
        """Commit, packages, data digest, seed: of the evaluation, else of the settings."""
        return {
            **(self.config.get("provenance") or {}),
            **(self.evaluation.get("provenance") or {}),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """The training's settings by name."""
        for key in ("settings", "config"):
            if isinstance(self.config.get(key), dict):
                return self.config[key]
        return {k: v for k, v in self.config.items() if k not in ("provenance", "format_version")}

    def setting(self, name: str) -> Any:
        """A setting of the training, None where it is not set."""
        return self.settings.get(name)


def read_run(run_dir: Any) -> RunData:
    """Reads a run folder for a report.

    Raises:
      UserError: it is not a run folder, or one of its files is damaged or was changed.
    """
    folder = RunFolder.open(run_dir)
    folder.check_digests(
        folder.evaluation,
        folder.per_class,
        folder.embeddings,
        remedy="write it again with longtail_tf.evaluate",
    )
    training, validation = _read_metrics(folder)
    flags_text = folder.flagfile.read_text() if folder.flagfile.is_file() else ""
    return RunData(
        folder=folder,
        config=folder.read_json(folder.config),
        flags_text=flags_text,
        classes=read_classes(folder.classes),
        head_set=folder.read_json(folder.head_set) if folder.head_set.is_file() else {},
        training=training,
        validation=validation,
        evaluation=folder.read_json(folder.evaluation) if folder.evaluation.is_file() else {},
        per_class=read_per_class(folder.per_class),
        recognised=_read_recognised(folder),
    )


def interval_of(metrics: dict[str, Any], group: str) -> tuple[float, float] | None:
    """The 95 % interval of a rule's accuracy on "all" or a band; None where the run has none."""
    found = (metrics.get("intervals") or {}).get(group)
    low, high = found or (None, None)
    return None if low is None or high is None else (float(low), float(high))


def _read_metrics(folder: RunFolder) -> tuple[list, list]:
    training: list[dict] = []
    validation: list[dict] = []
    if not folder.metrics.is_file():
        return training, validation
    with open(folder.metrics, encoding="utf-8") as file:
        for text in file:
            try:
                record = json.loads(text)
            except json.JSONDecodeError:
                continue  # a line cut by a kill; the numbers before it are good
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                (validation if isinstance(record.get("val"), dict) else training).append(record)
    return training, validation


def _read_recognised(folder: RunFolder) -> Recognised | None:
    if not folder.embeddings.is_file():
        return None
    names = array_names(folder.embeddings)
    if not {"labels", "predictions", "rows"} <= set(names):
        return None
    labels, predictions, rows = (
        read_array(folder.embeddings, name).astype(np.int64)
        for name in ("labels", "predictions", "rows")
    )
    confidences = None
    if "confidences" in names:
        confidences = read_array(folder.embeddings, "confidences").astype(np.float64)
    by_rule = {
        name[len(_BY_RULE) :]: read_array(folder.embeddings, name).astype(np.int64)
        for name in names
        if name.startswith(_BY_RULE)
    }
    return Recognised(labels, predictions, rows, confidences, by_rule)


def array_names(path: Any) -> list[str]:
    """Names of the arrays in an .npz file.

    Raises:
      UserError: the file is damaged.
    """
    with _arrays(path) as arrays:
        return list(arrays.files)


def read_array(path: Any, name: str) -> np.ndarray:
    """One array of an .npz file; the others stay on disk.

    Raises:
      UserError: the file is damaged or has no such array.
    """
    with _arrays(path) as arrays:
        if name not in arrays.files:
            raise UserError(
                f"{path} has no array {name!r}, only {', '.join(arrays.files)}: evaluate the run "
                "again with this longtail_tf."
            )
        return arrays[name]


@contextlib.contextmanager
def _arrays(path: Any) -> Iterator[Any]:
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            yield arrays
    except UserError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a copy.") from error
