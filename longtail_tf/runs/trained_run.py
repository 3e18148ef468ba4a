"""A trained network with all it needs to name a class, saved in and loaded from a run folder."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex, StringTable
from longtail_tf.errors import UserError
from longtail_tf.files import check_file, replacing_by_name
from longtail_tf.models import networks, weights_file
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.recognition.fit import Recognizer
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.record_shapes import need
from longtail_tf.runs.resolve import index_of
from longtail_tf.runs.saved_settings import load_settings
from longtail_tf.text_files import csv_rows, damaged, first_line


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What `train.run` made and every later entry point starts from.

    Attributes:
      folder: where it lives.
      config: the settings, resolved.
      model: float32 network for inference; not compiled.
      recognizer: prototypes and calibration.
      class_names: class id -> name.
      class_counts: int64 [C], training images by class id, falling.
      num_head: head classes are the ids below it.
      channels: 1 or 3.
      data_digest: of the data set it was trained on.
    """

    folder: RunFolder
    config: ResolvedConfig
    model: TwoStreamModel
    recognizer: Recognizer
    class_names: StringTable
    class_counts: np.ndarray
    num_head: int
    channels: int
    data_digest: str

    def load_data(self, spec: str = "") -> DatasetIndex:
        """The data set of this run, or `spec` if it holds the same classes.

        Raises:
          UserError: the classes or the image channels differ.
        """
        index = index_of(self.config, spec)
        if not spec and index.digest != self.data_digest:
            raise UserError(
                f"{self.config.data} has changed since the training (digest {index.digest[:12]}, "
                f"was {self.data_digest[:12]}): restore it, or name it with --data to evaluate the "
                "run on the changed set."
            )
        if list(index.class_names) != list(self.class_names):
            theirs, ours = set(index.class_names), set(self.class_names)
            odd = sorted(theirs ^ ours)[:3]
            raise UserError(
                f"{spec or self.config.data} has other classes than the run ({index.num_classes} "
                f"against {len(self.class_names)}"
                + (f"; for example {', '.join(odd)}" if odd else ", in another order of counts")
                + "): give a data set with the classes of the training."
            )
        if index.channels != self.channels:
            raise UserError(
                f"{spec or self.config.data} has {index.channels}-channel images, the run was "
                f"trained on {self.channels} channels: convert the images."
            )
        return index


def build_model(
    config: ResolvedConfig, *, channels: int, num_head: int, precision: str = "float32"
) -> TwoStreamModel:
    """The network of a run from pixels to embeddings, with random weights, not compiled.

    Args:
      config: settings; its own `weights` say where a training starts, not what to load here.
      channels: of the images.
      num_head: classes of the head classifier.
      precision: arithmetic of the backbone.
    """
    embedder = build_embedder(config, channels=channels, precision=precision)
    return two_streams_over(embedder, config, num_head=num_head)


def build_embedder(
    config: ResolvedConfig, *, channels: int, precision: str, weights: str = "none"
) -> tf.keras.Model:
    """The embedder of a run.

    Args:
      config: settings.
      channels: of the images.
      precision: arithmetic of the backbone.
      weights: start of the backbone: "none" (random), "imagenet", a file, or a run folder.
    """
    source = None
    if pathlib.Path(weights, "config.json").is_file():
        source, weights = load_run(weights), "none"
    embedder = networks.build_embedder(
        backbone=config.backbone,
        image_size=config.image_size,
        channels=channels,
        embedding_dim=config.embedding_dim,
        width=config.width,
        weights="" if weights == "none" else weights,
        pixel_range=config.pixel_range,
        precision=precision,
        whitened=config.embedding_start == "whitened",
    )
    if source is not None:
        _copy_backbone(source, embedder, config)
    return embedder


def two_streams_over(
    embedder: tf.keras.Model, config: ResolvedConfig, *, num_head: int, **settings: Any
) -> TwoStreamModel:
    """Neck and head classifier of a run over an embedder; `settings` are of `TwoStreamModel`."""
    return TwoStreamModel(
        embedder,
        num_head_classes=num_head if config.has_head_stream else 0,
        neck=config.neck,
        cosine_head=config.cosine_head,
        keep_norms=config.backbone_norms == "kept",
        **settings,
    )


def inference_copy(
    model: TwoStreamModel, config: ResolvedConfig, *, channels: int
) -> TwoStreamModel:
    """A float32 network from pixels with the weights of `model` and none of its training state."""
    num_head = 0 if model.head is None else int(model.head.kernel.shape[-1])
    copy = build_model(config, channels=channels, num_head=num_head)
    copy_weights(model, copy)
    return copy


def copy_weights(source: TwoStreamModel, target: TwoStreamModel) -> None:
    """Gives `target`, a network of the same shapes, the weights and the step of `source`.

    The frozen trunk below what was trained is part of them.
    """
    target.whole_embedder().set_weights(source.whole_embedder().get_weights())
    for name in ("neck", "head"):
        part = getattr(source, name)
        if part is not None:
            getattr(target, name).set_weights(part.get_weights())
    target.step.assign(source.step)


def save_run(folder: RunFolder, model: TwoStreamModel, recognizer: Recognizer) -> TrainedRun:
    """Saves the weights and the recogniser beside the records that `records.begin` wrote.

    Args:
      folder: the run folder.
      model: a float32 `inference_copy` with refreshed batch-norm statistics.
      recognizer: fitted on its embeddings.

    Returns:
      The run as `load_run` would give it.
    """
    with folder.recording(folder.prototypes, folder.weights):
        recognizer.save(folder.prototypes)
        with replacing_by_name(folder.weights) as beside:
            model.save_weights(str(beside))
    return _with_records(folder, model, recognizer)


def load_run(path: str) -> TrainedRun:
    """Loads what `train.run` saved in the run folder `path`.

    Raises:
      UserError: a file is missing, damaged, changed, or of a newer version.
    """
    folder = RunFolder.open(path)
    config = load_settings(folder)
    content = folder.read_json(folder.config)
    folder.require(folder.weights)
    folder.check_digests(
        folder.require(folder.prototypes),
        folder.weights,
        remedy="write it again from the last checkpoint with longtail_tf.train --resume",
    )
    need(folder.config, content, "num_classes", "num_head", "channels", "provenance")
    need(folder.config, content["provenance"], "data_digest")
    need(folder.config, content.get("settings"), "image_size", "embedding_dim", "backbone")
    recognizer = Recognizer.load(folder.prototypes)
    _check_together(folder, config, content, recognizer)
    model = build_model(config, channels=content["channels"], num_head=content["num_head"])
    check_file(folder.weights)
    try:
        weights_file.load_weights(model, folder.weights)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{folder.weights} is damaged or of another network "
            f"({first_line(error)}): restore it from a copy."
        ) from error
    return _with_records(folder, model, recognizer)


def _check_together(
    folder: RunFolder, config: ResolvedConfig, content: dict[str, Any], recognizer: Recognizer
) -> None:
    """Refuses records that are each whole but not of one run, before a network is built by them."""
    dimension = recognizer.prototypes.shape[1]
    for name, here, there in (
        ("num_classes", content["num_classes"], recognizer.num_classes),
        ("num_head", content["num_head"], recognizer.num_head),
        ("embedding_dim", config.embedding_dim or dimension, dimension),  # 0: all features
    ):
        if here != there:
            raise UserError(
                f"{folder.config} says {name}={here} and {folder.prototypes.name} beside it {there}"
                ": they are not of one run; copy the whole folder again."
            )


def _with_records(folder: RunFolder, model: TwoStreamModel, recognizer: Recognizer) -> TrainedRun:
    content = folder.read_json(folder.config)
    names, counts = _read_classes(folder)
    return TrainedRun(
        folder=folder,
        config=load_settings(folder),
        model=model,
        recognizer=recognizer,
        class_names=names,
        class_counts=counts,
        num_head=content["num_head"],
        channels=content["channels"],
        data_digest=content["provenance"]["data_digest"],
    )


def _read_classes(folder: RunFolder) -> tuple[StringTable, np.ndarray]:
    path = folder.require(folder.classes)
    rows = list(csv_rows(path, ("name", "train_count")))
    num_classes = folder.read_json(folder.config)["num_classes"]
    if len(rows) != num_classes:
        raise damaged(path, f"it has {len(rows):,} classes, {num_classes:,} are due")
    try:
        counts = np.array([int(row["train_count"]) for row in rows], np.int64)
    except (ValueError, OverflowError) as error:
        raise damaged(path, error) from error
    if counts.min() < 0:
        raise damaged(path, "a class has less than no image")
    return StringTable.from_strings([row["name"] for row in rows]), counts


def _called(config: ResolvedConfig) -> str:
    return config.backbone + (f" of width {config.width}" if config.width else "")


def _copy_backbone(source: TrainedRun, embedder: Any, config: ResolvedConfig) -> None:
    theirs = networks.backbone_of(source.model.embedder)
    ours = networks.backbone_of(embedder)
    shapes = [weight.shape for weight in theirs.get_weights()]
    if shapes != [weight.shape for weight in ours.get_weights()]:
        raise UserError(
            f"--weights={source.folder.path}: that run trained {_called(source.config)}, which "
            f"does not fit {_called(config)}: set --backbone (and --width) to what it trained."
        )
    ours.set_weights(theirs.get_weights())
