"""Device files of a run and the report on what each precision costs."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from longtail_tf.exporting import parity
from longtail_tf.exporting.sample_images import image_files, preprocessed, spread_rows
from longtail_tf.exporting.tflite_files import DEVICE_RULE, write_tflite_files
from longtail_tf.images import preprocess
from longtail_tf.recognition.inference_rules import prototype_scores
from longtail_tf.run_folder import write_json

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
    return prototype_scores(
        np.concatenate(embeddings),
        recognizer.prototypes,
        recognizer.prototype_classes,
        center=recognizer.center,
        bias=recognizer.prototype_bias,
    )
