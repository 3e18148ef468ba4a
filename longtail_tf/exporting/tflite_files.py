"""Writes the TFLite files of a run: converted, with labels, prototypes and calibration inside."""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from longtail_tf import __version__
from longtail_tf.exporting import device, parity, tflite_convert, tflite_metadata
from longtail_tf.exporting.parity import image_files, preprocessed, spread_rows
from longtail_tf.exporting.rule_head import RuleHead
from longtail_tf.exporting.serving_module import labels_text
from longtail_tf.files import write_atomically, write_json
from longtail_tf.images import preprocess

DEVICE_RULE = "ncm"
_SAID = {
    "classifier": "Cosine to the prototype of each class, -1..1.",
    "embedder": "Unit-length embedding; compare with prototypes.npy by a dot product.",
}


def write_tflite_files(
    *,
    folder: pathlib.Path,
    model_name: str,
    model: Any,
    recognizer: Any,
    class_names: Sequence[str],
    image_size: int,
    channels: int,
    variants: Sequence[str],
    calibration: np.ndarray | None,
    unknown_threshold: float | None,
) -> dict[tuple[str, str], pathlib.Path]:
    """Converts and writes `folder/KIND_VARIANT.tflite` for both kinds and every variant.

    Args:
      folder: where the files go.
      model_name: said in the metadata.
      model: has `features(images, training)` and `neck_output(features, training)`.
      recognizer: a fitted `recognizer.Recognizer`; devices use its prototypes (rule "ncm").
      class_names: name of each class id.
      image_size: side S of the network's input, px.
      channels: 1 or 3.
      variants: of `tflite_convert.VARIANTS`.
      calibration: uint8 [N, S, S, C] real training images, for int8.
      unknown_threshold: best cosine below it is "unknown"; None names a class for every image.

    Returns:
      Path by (kind, variant).
    """
    rule_head = RuleHead(recognizer, rule=DEVICE_RULE)
    module = tflite_convert.DeviceModule(model, rule_head, image_size=image_size, channels=channels)
    labels = labels_text(class_names).encode()
    paths = {}
    for kind, output in tflite_convert.KINDS.items():
        info = {
            "kind": kind, "output": output, "image_size": image_size, "channels": channels,
            "rule": DEVICE_RULE, "temperature": rule_head.temperature,
            "unknown_threshold": unknown_threshold, "longtail_tf": __version__,
        }  # fmt: skip
        files = {"labels.txt": labels, device.RECOGNISER_FILE: json.dumps(info).encode()}
        if kind == "embedder":
            files[device.PROTOTYPES_FILE] = _npy(recognizer.prototypes, np.float32)
        for variant in variants:
            raw = tflite_convert.convert(module, kind, variant, calibration)
            description = tflite_metadata.Description(
                name=f"{model_name} {kind}",
                description=f"longtail_tf {kind}, {len(class_names)} classes, {variant}.",
                version=__version__,
                image_size=image_size,
                channels=channels,
                output_name=output,
                output_description=_SAID[kind],
            )
            paths[kind, variant] = folder / f"{kind}_{variant}.tflite"
            write_atomically(paths[kind, variant], tflite_metadata.pack(raw, description, files))
    return paths


def _npy(array: Any, dtype: type) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array, dtype))
    return file.getvalue()


REPORT_FILE = "parity.json"
_BATCH_SIZE = 64


def write_device_files(
    folder: pathlib.Path,
    *,
    index: Any,
    test: Any,
    model: Any,
    recognizer: Any,
    class_names: Sequence[str],
    image_size: int,
    channels: int,
    unknown_threshold: float | None,
    model_name: str,
    variants: Sequence[str],
    calibration_images: int,
    parity_images: int,
    info: Mapping[str, Any],
) -> tuple[list[pathlib.Path], list[dict[str, Any]], str]:
    """Converts, measures against Keras, writes parity.json.

    Args:
      folder: where the files go.
      index: the data set; calibration images come from its training split.
      test: the split the report reads, `parity_images` of it with the classes taken in turns.
      model, recognizer, class_names, image_size, channels, unknown_threshold, model_name,
        variants: as in `write_tflite_files`.
      calibration_images: training images for int8.
      parity_images: images of the report.
      info: provenance.

    Returns:
      Files, report rows, and the report as a text table.
    """
    shape = {"image_size": image_size, "channels": channels}
    calibration = None
    if "int8" in variants:
        rows = spread_rows(index.train.labels, calibration_images, seed=0)
        calibration = preprocessed(image_files(index.train, rows), **shape)
    paths = write_tflite_files(
        folder=folder,
        model_name=model_name,
        model=model,
        recognizer=recognizer,
        class_names=class_names,
        variants=variants,
        calibration=calibration,
        unknown_threshold=unknown_threshold,
        **shape,
    )
    rows = spread_rows(test.labels, parity_images, seed=0)
    images, valid = preprocess.preprocess_many(
        tf.constant(image_files(test, rows)), parallel_calls=4, **shape
    )
    images, rows = images.numpy()[valid.numpy()], rows[valid.numpy()]
    report = parity.parity_report(
        paths,
        images=images,
        labels=np.asarray(test.labels)[rows],
        train_counts=index.class_counts,
        keras_scores=keras_scores(model, recognizer, images),
    )
    write_json(
        folder / REPORT_FILE,
        {"rule": DEVICE_RULE, "images": len(images), "files": report, "provenance": dict(info)},
    )
    return list(paths.values()), report, parity.parity_table(report)


def keras_scores(model: Any, recognizer: Any, images: np.ndarray) -> np.ndarray:
    """Prototype scores [N, C] of the Keras network for uint8 images [N, S, S, C]."""
    embeddings = [
        model.embed_with_logits(tf.constant(images[at : at + _BATCH_SIZE]))[0].numpy()
        for at in range(0, len(images), _BATCH_SIZE)
    ]
    return np.concatenate(embeddings) @ recognizer.prototypes.T
