"""Writes the TFLite files of a run: converted, with labels, prototypes and calibration inside."""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from longtail_tf import __version__, tflite
from longtail_tf.exporting import tflite_convert, tflite_metadata
from longtail_tf.exporting.rule_head import RuleHead
from longtail_tf.exporting.serving_module import labels_text
from longtail_tf.run_folder import write_atomically

DEVICE_RULE = "ncm"
_SAID = {
    "classifier": "Cosine to the nearest prototype of each class, -1..1.",
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
        files = {"labels.txt": labels, tflite.RECOGNISER_FILE: json.dumps(info).encode()}
        if kind == "embedder":
            files[tflite.PROTOTYPES_FILE] = _npy(recognizer.prototypes, np.float32)
            files[tflite.PROTOTYPE_CLASSES_FILE] = _npy(recognizer.prototype_classes, np.int32)
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
