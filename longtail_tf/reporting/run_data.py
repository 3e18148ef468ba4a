"""What a run folder holds for a report, read once; what is missing is None."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import numpy as np

from longtail_tf.config import ResolvedConfig
from longtail_tf.files import open_file
from longtail_tf.metrics.shot_bands import BANDS
from longtail_tf.npz_files import array_names, read_array
from longtail_tf.reporting.class_tables import Classes, PerClass, read_classes, read_per_class
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.record_shapes import is_metrics_record
from longtail_tf.settings.declare import wrong_types
from longtail_tf.text_files import damaged, read_text

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
    start: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return os.path.basename(os.path.abspath(self.folder.path))

    @property
    def default_rule(self) -> str:
        """The rule that names the class."""
        return self.setting("inference_rule") or "gated"

    @property
    def head_is_everything(self) -> bool:
        """Whether every class is a head class, so that the classifier can name them all."""
        classes = self.config.get("num_classes")
        return classes is not None and self.config.get("num_head") == classes

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
    flags_text = ""
    if folder.flagfile.exists():
        flags_text = read_text(folder.flagfile, errors="backslashreplace")
    classes = read_classes(folder.classes)
    num_classes = None if classes is None else len(classes.names)
    return RunData(
        folder=folder,
        config=_read_config(folder),
        flags_text=flags_text,
        classes=classes,
        head_set=folder.read_json(folder.head_set) if folder.head_set.exists() else {},
        training=training,
        validation=validation,
        evaluation=folder.read_json(folder.evaluation) if folder.evaluation.exists() else {},
        per_class=_read_per_class(folder, num_classes),
        recognised=_read_recognised(folder, num_classes),
        start=folder.read_json(folder.start) if folder.start.exists() else None,
    )


def interval_of(metrics: dict[str, Any], group: str) -> tuple[float, float] | None:
    """The 95 % interval of a rule's accuracy on "all" or a band; None where the run has none."""
    found = (metrics.get("intervals") or {}).get(group)
    low, high = found or (None, None)
    return None if low is None or high is None else (float(low), float(high))


def _read_config(folder: RunFolder) -> dict[str, Any]:
    content = folder.read_json(folder.config)
    settings = content.get("settings") or {}
    wrong = wrong_types(ResolvedConfig, settings, any_word=True)
    if wrong:
        raise damaged(folder.config, f"its setting {wrong[0]} is {settings[wrong[0]]!r}")
    return content


def _read_metrics(folder: RunFolder) -> tuple[list, list]:
    training: list[dict] = []
    validation: list[dict] = []
    if not folder.metrics.exists():
        return training, validation
    with open_file(folder.metrics) as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue  # a line cut by a kill; the numbers before it are good
            if is_metrics_record(record):
                (validation if isinstance(record.get("val"), dict) else training).append(record)
    return training, validation


def _read_per_class(folder: RunFolder, num_classes: int | None) -> PerClass | None:
    found = read_per_class(folder.per_class)
    if found is not None and num_classes is not None:
        _check_ids(folder.per_class, "ids", found.ids, num_classes, least=0)
    return found


def _read_recognised(folder: RunFolder, num_classes: int | None) -> Recognised | None:
    path = folder.embeddings
    if not path.exists():
        return None
    names = array_names(path)
    if not {"labels", "predictions", "rows"} <= set(names):
        return None
    labels = _whole_numbers(path, "labels")
    predictions, rows = (_whole_numbers(path, name, labels) for name in ("predictions", "rows"))
    confidences = None
    if "confidences" in names:
        confidences = read_array(path, "confidences").astype(np.float64)
        if confidences.shape != labels.shape or not np.isfinite(confidences).all():
            raise damaged(path, "its array 'confidences' is not one number an image")
    by_rule = {
        name[len(_BY_RULE) :]: _whole_numbers(path, name, labels)
        for name in names
        if name.startswith(_BY_RULE)
    }
    if num_classes is not None:
        _check_ids(path, "labels", labels, num_classes, least=0)
        for name, ids in (("predictions", predictions), *by_rule.items()):
            _check_ids(path, name, ids, num_classes, least=-1)
    return Recognised(labels, predictions, rows, confidences, by_rule)


def _whole_numbers(path: Any, name: str, like: np.ndarray | None = None) -> np.ndarray:
    """An array of whole numbers [N], int64; of as many as `like` has."""
    array = read_array(path, name)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array > np.uint64(2**62)).any():
        raise damaged(path, f"its array {name!r} is not one whole number an image")
    if like is not None and len(array) != len(like):
        raise damaged(path, f"its array {name!r} has {len(array)} entries, {len(like)} are due")
    return array.astype(np.int64)


def _check_ids(path: Any, name: str, ids: np.ndarray, num_classes: int, *, least: int) -> None:
    if len(ids) and not least <= ids.min() <= ids.max() < num_classes:
        raise damaged(
            path, f"its {name} run from {ids.min()} to {ids.max()}, there are {num_classes} classes"
        )


def read_vectors(path: Any, name: str, *, num_rows: int | None = None) -> np.ndarray:
    """An array of vectors, float [N, D].

    Args:
      path: of an .npz file.
      name: of the array.
      num_rows: the N that is expected; None takes any.

    Raises:
      UserError: the file is damaged, or has no such array of vectors.
    """
    vectors = read_array(path, name)
    if num_rows is not None and len(vectors) != num_rows:
        raise damaged(path, f"its array {name!r} has {len(vectors)} rows, {num_rows} are due")
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
        raise damaged(path, f"its array {name!r} is not one vector of numbers a row")
    return vectors
