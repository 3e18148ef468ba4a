"""Conversion to TFLite: two models, each in four precisions.

| file | in | out |
|---|---|---|
| classifier_V.tflite | image [1, S, S, C] | `scores` [1, C]: cosine to each class's prototype |
| embedder_V.tflite | image [1, S, S, C] | `embedding` [1, D], unit length; prototypes lie in the file |

V is float32, float16 (weights), dynamic (int8 weights) or int8 (all, uint8 pixels in, float out).
The image is float32 in 0..255, uint8 for int8. Batch 1, because delegates want fixed shapes.
Softmax and top-k stay on the host: in int8 they would leave a few dozen distinct scores.
"""  # noqa: E501

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from longtail_tf.compat.quiet import quiet_converter, quiet_saving
from longtail_tf.errors import UserError
from longtail_tf.exporting.device import quiet_interpreter
from longtail_tf.exporting.rule_head import RuleHead

VARIANTS = ("float32", "float16", "dynamic", "int8")
KINDS = {"classifier": "scores", "embedder": "embedding"}
INPUT_NAME = "image"
MIN_CALIBRATION_IMAGES = 10


class DeviceModule(tf.Module):
    """The network with its normalisation inside, and the prototypes, for one image."""

    def __init__(self, model: Any, rule_head: RuleHead, *, image_size: int, channels: int) -> None:
        super().__init__(name="longtail_tf_device")
        self.rule_head = rule_head
        # the vector before the network's own normalisation, so that ours (no L2_NORMALIZATION
        # operation, which GPU delegates refuse) is the only one
        self.vector: Callable[[tf.Tensor], Any] = lambda images: model.neck_output(
            model.features(images, False), False
        )
        self.spec = tf.TensorSpec([1, image_size, image_size, channels], tf.float32, INPUT_NAME)

    def function(self, kind: str, *, integer: bool = False) -> Any:
        """The concrete function of "classifier" or "embedder".

        Args:
          kind: which.
          integer: for int8 arithmetic. There a sum of squares has too few steps (lengths 0.63 to
            1.05 were measured where 1 was due), and TFLite's own normalisation has fixed ones.
            In float the written-out one is exact and runs on GPU delegates.
        """
        to_unit = _integer_unit_rows if integer else unit_rows

        def embed(image: tf.Tensor) -> tf.Tensor:
            return to_unit(self.vector(image))

        def classifier(image: tf.Tensor) -> dict[str, tf.Tensor]:
            return {KINDS["classifier"]: self.rule_head.prototype_scores(embed(image))}

        def embedder(image: tf.Tensor) -> dict[str, tf.Tensor]:
            return {KINDS["embedder"]: embed(image)}

        body = classifier if kind == "classifier" else embedder
        concrete = tf.function(
            body, input_signature=[self.spec], autograph=False
        ).get_concrete_function()
        self.used_variables = list(concrete.graph.variables)  # see ServingModule.signatures
        return concrete


def convert(
    module: DeviceModule, kind: str, variant: str, calibration: np.ndarray | None = None
) -> bytes:
    """A .tflite of `kind` in precision `variant`, with one signature named after the kind.

    Args:
      module: the network and prototypes.
      kind: "classifier" or "embedder".
      variant: one of VARIANTS.
      calibration: uint8 [N, S, S, C], real training images; int8 only.

    Raises:
      UserError: an unknown variant, or int8 without enough calibration images.
    """
    if variant not in VARIANTS:
        raise UserError(
            f"TFLite variant {variant!r} is not known: choose from {', '.join(VARIANTS)}."
        )
    with tempfile.TemporaryDirectory() as scratch:
        signatures = {kind: module.function(kind, integer=variant == "int8")}
        with quiet_saving():
            tf.saved_model.save(module, scratch, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch, signature_keys=[kind])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if variant != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if variant == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if variant == "int8":
            images = calibration_images(calibration)
            converter.representative_dataset = lambda: _examples(images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.uint8
            converter.inference_output_type = tf.float32
        with quiet_saving(), quiet_converter():
            model = converter.convert()
    if variant == "int8":
        check_raw_pixels(model)
    return model


def calibration_images(images: np.ndarray | None) -> np.ndarray:
    """Real images and two extremes, black and white: the input range must be 0..255 exactly.

    Raises:
      UserError: too few images.
    """
    count = 0 if images is None else len(images)
    if images is None or count < MIN_CALIBRATION_IMAGES:
        raise UserError(
            f"{count} calibration images came, int8 needs at least {MIN_CALIBRATION_IMAGES} real "
            "training images: give a data set with more, or leave int8 out of --tflite."
        )
    extremes = np.zeros((2, *images.shape[1:]), images.dtype)
    extremes[1] = 255
    return np.concatenate([images, extremes])


def check_raw_pixels(model: bytes) -> None:
    """The uint8 input takes raw pixels: scale 1, zero point 0.

    Raises:
      RuntimeError: it does not; clients who send pixels would get nonsense.
    """
    with quiet_interpreter():
        details = tf.lite.Interpreter(model_content=model).get_input_details()[0]
    if details["dtype"] != np.uint8 or details["quantization"] != (1.0, 0):
        raise RuntimeError(
            f"The int8 model's input is {details['dtype'].__name__} with scale and zero point "
            f"{details['quantization']}, not uint8 with (1.0, 0): calibrate over 0..255."
        )


def unit_rows(rows: tf.Tensor) -> tf.Tensor:
    """Rows [N, D] scaled to length 1; a zero row stays zero.

    Written out, with its axis: `tf.math.l2_normalize` without one converts to TFLite wrongly and
    without a word, and its own TFLite operation does not run on GPU delegates.
    """
    squares = tf.reduce_sum(rows * rows, axis=-1, keepdims=True)
    return rows * tf.math.rsqrt(squares + 1e-12)


def _integer_unit_rows(rows: tf.Tensor) -> tf.Tensor:
    """L2_NORMALIZATION, whose int8 output always has scale 1/128. The axis must be given: without
    one it converts wrongly and without a word."""
    return tf.math.l2_normalize(rows, axis=-1)


def _examples(images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for image in images:
        yield {INPUT_NAME: image[np.newaxis].astype(np.float32)}
