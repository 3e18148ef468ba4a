"""Writes the run folder of an enrolled run, and measures what it costs the other classes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from longtail_tf.datasets import DatasetIndex, StringTable
from longtail_tf.errors import UserError
from longtail_tf.files import (
    MOST_IMAGE_BYTES,
    named,
    new_folder,
    read_bytes,
    write_atomically,
    write_csv,
    write_json,
)
from longtail_tf.images.preprocess import preprocess_many
from longtail_tf.metrics import shot_accuracy, shot_bands
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.recognition.embedding_pass import embed_split
from longtail_tf.recognition.enrollment import RECORD_FILE, enrolled_index
from longtail_tf.recognition.fit import Recognizer
from longtail_tf.runs import kept_backbone
from longtail_tf.runs.folder import FORMAT_VERSION, RunFolder
from longtail_tf.runs.record_shapes import need
from longtail_tf.runs.trained_run import TrainedRun, build_model, load_run, save_run
from longtail_tf.text_files import MOST_TEXT_BYTES, damaged


def embed_files(run: TrainedRun, paths: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Embeddings float32 [n, D] of image files, and the sha256 of each.

    Raises:
      UserError: a file is missing or cannot be decoded, or comes twice.
    """
    contents = []
    for path in paths:
        try:
            contents.append(read_bytes(path, most_bytes=MOST_IMAGE_BYTES))
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    for row, digest in enumerate(digests):
        if digest in digests[:row]:
            raise UserError(
                f"{paths[row]} is the same file as {paths[digests.index(digest)]}: give each image "
                "once."
            )
    images, valid = preprocess_many(
        tf.constant(contents), image_size=run.config.image_size, channels=run.channels
    )
    if not valid.numpy().all():
        bad = paths[int(np.flatnonzero(~valid.numpy())[0])]
        raise UserError(
            f"{bad} is not a whole JPEG, PNG, BMP or GIF image: replace or leave it out."
        )
    return run.model.embed_with_logits(images)[0].numpy(), digests


def load_data(run: TrainedRun, spec: str = "") -> DatasetIndex:
    """The data set of a run in the classes of the run, also where classes were enrolled.

    Raises:
      UserError: the data set is not the run's.
    """
    record = run.folder.path / RECORD_FILE
    if not record.exists():
        return run.load_data(spec)
    content = run.folder.read_json(record)
    need(record, content, "trained_class_names", "class_map", "changes")
    names, ids = content["trained_class_names"], content["class_map"]
    if len(names) != len(ids) or max(ids, default=-1) >= len(run.class_names):
        raise damaged(record, "its class_map is not one of its classes")
    trained_names = StringTable.from_strings(names)
    index = dataclasses.replace(run, class_names=trained_names).load_data(spec)
    return enrolled_index(
        index,
        class_map=ids,
        class_names=run.class_names,
        class_counts=run.class_counts,
    )


def cost(
    run: TrainedRun, recognizer: Recognizer, rule: str, *, new_ids: np.ndarray
) -> dict[str, Any] | str:
    """Accuracy on the validation images of the classes that stay, before and after.

    Args:
      run: before the change.
      recognizer: after it.
      rule: inference rule of both.
      new_ids: new id of each old class, -1 where removed.

    Returns:
      {"images", "before", "after": {all, many, medium, few}, "lost": images right before and wrong
      after}; in words why that is not known, where the images are not at hand.
    """
    try:
        index = load_data(run)
    except (UserError, OSError, ImportError) as error:
        return f"the run's own images are not at hand ({error})"
    if index.val is None or not len(index.val):
        return "there are no validation images"
    val = embed_split(run.model, index.val, image_size=run.config.image_size, channels=run.channels)
    stays = new_ids[val.labels] >= 0
    embeddings, labels = val.embeddings[stays], val.labels[stays]
    logits = None if val.head_logits is None else val.head_logits[stays]
    before = run.recognizer.predict(rule, embeddings, logits).class_ids[:, 0]
    if logits is not None and recognizer.num_head < run.recognizer.num_head:
        logits = logits[:, new_ids[: run.recognizer.num_head] >= 0]
    after = recognizer.predict(rule, embeddings, logits).class_ids[:, 0]
    old_ids = np.full(recognizer.num_classes, -1)
    old_ids[new_ids[new_ids >= 0]] = np.flatnonzero(new_ids >= 0)
    after = old_ids[after]  # a class that was added becomes -1: wrong for every image here
    return {
        "images": int(stays.sum()),
        "before": shot_accuracy(labels, before, run.class_counts),
        "after": shot_accuracy(labels, after, run.class_counts),
        "lost": int(np.sum((before == labels) & (after != labels))),
    }


def next_folder(run: TrainedRun) -> pathlib.Path:
    """RUN_DIR/enrolled/N for the first free N; beside it for a run that is enrolled itself."""
    parent = _place_of_enrolled(run)
    with named(parent):
        taken = [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
    return parent / str(max(taken, default=0) + 1)


def done_already(run: TrainedRun, record: Mapping[str, Any]) -> pathlib.Path | None:
    """The folder in which this very change was made to this run before, if there is one.

    A call that was killed before it had exported finds it, so that giving the command again goes
    on and does not begin anew.

    Args:
      run: before the change.
      record: what is to be done.
    """
    parent = _place_of_enrolled(run)
    before = _earlier(run).get("changes", [])
    wanted = [*before, {k: v for k, v in record.items() if k != "validation"}]
    for path in sorted(parent.glob("*")) if parent.is_dir() else ():
        folder = RunFolder(path)
        if not path.name.isdigit() or not folder.enrollment.exists():
            continue
        content = folder.read_json(folder.enrollment)
        made = [{k: v for k, v in each.items() if k != "validation"} for each in content["changes"]]
        kept = [{k: v for k, v in each.items() if k != "validation"} for each in wanted]
        if made == kept:
            return path
    return None


def _place_of_enrolled(run: TrainedRun) -> pathlib.Path:
    is_enrolled = run.folder.enrollment.exists()
    return run.folder.path.parent if is_enrolled else run.folder.path / "enrolled"


def _earlier(run: TrainedRun) -> dict[str, Any]:
    """The record of a run that is enrolled itself; empty for one that is not."""
    path = run.folder.enrollment
    return run.folder.read_json(path) if path.exists() else {}


def save_enrolled(
    run: TrainedRun,
    recognizer: Recognizer,
    *,
    out: pathlib.Path,
    class_names: Sequence[str],
    new_ids: np.ndarray,
    rule: str,
    record: Mapping[str, Any],
) -> TrainedRun:
    """Writes a complete run folder beside the old one, under a hidden name until it is whole.

    Args:
      run: before the change; stays as it is.
      recognizer: after the change.
      out: the new folder; must not exist.
      class_names: of the new class ids.
      new_ids: new id of each old class, -1 where removed.
      rule: inference rule of the new run.
      record: what was done, for enrollment.json.
    """
    with named(out):
        is_there = os.path.lexists(out)
    if is_there:
        raise UserError(f"--out_dir={out} exists and is never overwritten: name a new folder.")
    with new_folder(out) as hidden:
        _fill(
            RunFolder(hidden), run, recognizer, class_names=class_names, new_ids=new_ids, rule=rule,
            record=record,
        )  # fmt: skip
    return load_run(str(out))


def _fill(
    folder: RunFolder,
    run: TrainedRun,
    recognizer: Recognizer,
    *,
    class_names: Sequence[str],
    new_ids: np.ndarray,
    rule: str,
    record: Mapping[str, Any],
) -> None:
    """Writes the files of an enrolled run; arguments as of `save_enrolled`."""
    for path in (run.folder.flagfile, run.folder.head_set):
        write_atomically(
            folder.path / path.name,
            read_bytes(run.folder.require(path), most_bytes=MOST_TEXT_BYTES),
        )
    with kept_backbone.keeping(run.config.backbone, folder.path):
        pass
    content = run.folder.read_json(run.folder.config)
    content["format_version"] = FORMAT_VERSION
    content["settings"]["inference_rule"] = rule
    content.update(num_classes=recognizer.num_classes, num_head=recognizer.num_head)
    write_json(folder.config, content)
    bands = shot_bands.band_names(recognizer.class_counts)
    write_csv(
        folder.classes,
        ("id", "name", "train_count", "head", "band"),
        (
            (i, name, int(count), int(i < recognizer.num_head), band)
            for i, (name, count, band) in enumerate(
                zip(class_names, recognizer.class_counts, bands)
            )
        ),
    )
    earlier = _earlier(run)
    ids = np.asarray(earlier.get("class_map", range(len(run.class_names))))
    write_json(
        folder.path / RECORD_FILE,
        {
            "source": str(run.folder.path),
            "trained_class_names": earlier.get("trained_class_names", list(run.class_names)),
            "class_map": np.where(ids >= 0, new_ids[np.maximum(ids, 0)], -1).tolist(),
            "changes": [*earlier.get("changes", []), dict(record)],
            "provenance": content["provenance"],
        },
    )
    folder.record_digests(folder.config, folder.classes, folder.head_set, folder.enrollment)
    save_run(folder, _model_of(run, recognizer, new_ids), recognizer)


def _model_of(run: TrainedRun, recognizer: Recognizer, new_ids: np.ndarray) -> TwoStreamModel:
    """The network, without the head column of a head class that was removed."""
    if recognizer.num_head == run.num_head or run.model.head is None:
        return run.model
    config = run.config
    model = build_model(config, channels=run.channels, num_head=recognizer.num_head)
    model.embedder.set_weights(run.model.embedder.get_weights())
    if model.neck is not None:
        model.neck.set_weights(run.model.neck.get_weights())
    if model.head is not None:
        kernel, *rest = run.model.head.get_weights()
        model.head.set_weights([kernel[:, new_ids[: run.num_head] >= 0], *rest])
    return model
