"""The module that is saved for serving: encoded images, pixels or tf.Examples in, classes out.

| signature | input | output |
|---|---|---|
| serving_default | `image_bytes` string [N] | `labels` string [N, k], `class_ids` int64 [N, k], `scores` float [N, k], `valid` bool [N] |
| predict_images | `images` uint8 [N, H, W, C] | the same |
| embed | `image_bytes` string [N] | `embedding` float [N, D], `valid` bool [N] |
| classify | `inputs` string [N]: tf.Example with `image/encoded` | `classes` string [N, k], `scores` float [N, k] |

A row that is not `valid` has empty labels, class id -1, score 0 and a zero embedding. With
`unknown_threshold`, a row whose best prototype score is below it starts with the label "unknown",
class id -1; the known candidates follow. Scores are calibrated probabilities.
"""  # noqa: E501

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.exporting.rule_head import RuleHead
from longtail_tf.images import preprocess

UNKNOWN_LABEL = "unknown"
PARALLEL_DECODES = 16
EMPTY_BATCH = "The request holds no image: send at least one."
EXAMPLE_KEY = "image/encoded"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may hold; a PNG of 140 kB can announce 144 million pixels."""

    image_bytes: int = 16 * 2**20
    image_pixels: int = 32 * 2**20
    strict: bool = False  # one bad image fails its request, instead of its own row


class ServingModule(tf.Module):
    """One network, one inference rule, the class names, and the signatures over them."""

    def __init__(
        self,
        *,
        model: Any,
        rule_head: RuleHead,
        labels_path: str,
        image_size: int,
        channels: int,
        top_k: int,
        unknown_threshold: float | None,
        limits: Limits,
    ) -> None:
        super().__init__(name="longtail_tf_serving")
        # In a closure, not an attribute: a tracked Keras model would be saved with a traced
        # function for every layer (training branches too) and with its optimizer.
        self.embed: Callable[[tf.Tensor], Any]
        if rule_head.needs_head_logits:
            self.embed = lambda images: model.embed_with_logits(images, training=False)
        else:
            self.embed = lambda images: (model(images, training=False), None)
        self.rule_head = rule_head
        self.image_size, self.channels = image_size, channels
        self.top_k = min(top_k, rule_head.num_classes)
        self.unknown_threshold = unknown_threshold
        self.limits = limits
        self.labels_asset = tf.saved_model.Asset(labels_path)
        self.labels = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                self.labels_asset.asset_path,
                tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER,
                tf.string, tf.lookup.TextFileIndex.WHOLE_LINE,
            ),
            default_value=UNKNOWN_LABEL,
        )  # fmt: skip

    def signatures(self) -> dict[str, Any]:
        """Concrete functions by signature key."""
        pixels = tf.TensorSpec([None, None, None, self.channels], tf.uint8, "images")
        strings = tf.TensorSpec([None], tf.string, "image_bytes")
        examples = tf.TensorSpec([None], tf.string, "inputs")
        functions = {
            "serving_default": _traced(self._predict_bytes, strings),
            "predict_images": _traced(self._predict_images, pixels),
            "embed": _traced(self._embed_bytes, strings),
            "classify": _traced(self._classify_examples, examples),
        }
        # Exactly the variables the graphs read. Keras 3 hides its own from tf.Module: without this
        # list such an export loads in TF Serving as uninitialised, and in TFLite as NaN.
        used = {v.ref(): v for f in functions.values() for v in f.graph.variables}
        self.used_variables = list(used.values())
        return functions

    def _predict_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images, valid = self._decode(image_bytes)
        return self._recognise(images, valid)

    def _predict_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.shape(images, out_type=tf.int64)
        pixels, limit = shape[1] * shape[2], self.limits.image_pixels
        few = tf.logical_and(pixels > 0, pixels <= limit)
        checks = [
            tf.debugging.Assert(shape[0] > 0, [EMPTY_BATCH]),
            tf.debugging.Assert(few, [f"Images of 1 to {limit} pixels are taken; shape:", shape]),
        ]
        with tf.control_dependencies(checks):
            images = tf.identity(images)
        images = preprocess.preprocess_images(images, image_size=self.image_size)
        return self._recognise(images, tf.fill(shape[:1], True))

    def _embed_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images, valid = self._decode(image_bytes)
        embedding, _ = self.embed(images)
        keep = tf.cast(valid, embedding.dtype)[:, tf.newaxis]
        return {"embedding": embedding * keep, "valid": valid}

    def _classify_examples(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.Assert(tf.size(inputs) > 0, [EMPTY_BATCH])]):
            inputs = tf.identity(inputs)
        # an Example without the feature is a bad image of its own, not a failed request
        feature = tf.io.FixedLenFeature([], tf.string, default_value="")
        parsed = tf.io.parse_example(inputs, {EXAMPLE_KEY: feature})
        rows = self._predict_bytes(parsed[EXAMPLE_KEY])
        return {"classes": rows["labels"], "scores": rows["scores"]}

    def _decode(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        checks = [tf.debugging.Assert(tf.size(image_bytes) > 0, [EMPTY_BATCH])]
        with tf.control_dependencies(checks):
            image_bytes = tf.identity(image_bytes)
        images, valid = preprocess.preprocess_many(
            image_bytes,
            image_size=self.image_size,
            channels=self.channels,
            max_bytes=self.limits.image_bytes,
            max_pixels=self.limits.image_pixels,
            parallel_calls=PARALLEL_DECODES,
        )
        if not self.limits.strict:
            return images, valid
        bad = tf.reshape(tf.where(tf.logical_not(valid)), [-1])
        refusal = tf.debugging.Assert(
            tf.reduce_all(valid),
            [
                "These images of the request (counted from 0) cannot be read; send JPEG, PNG, GIF "
                f"or BMP files of at most {self.limits.image_bytes} bytes and "
                f"{self.limits.image_pixels} pixels:",
                bad,
            ],
        )
        with tf.control_dependencies([refusal]):
            return tf.identity(images), tf.identity(valid)

    def _recognise(self, images: tf.Tensor, valid: tf.Tensor) -> dict[str, tf.Tensor]:
        embedding, head_logits = self.embed(images)
        probabilities = tf.nn.softmax(self.rule_head.scores(embedding, head_logits), axis=-1)
        scores, class_ids = tf.math.top_k(probabilities, k=self.top_k)
        class_ids = tf.cast(class_ids, tf.int64)
        if self.unknown_threshold is not None:
            nearest = self.rule_head.prototype_scores(embedding)
            unknown = tf.reduce_max(nearest, axis=1, keepdims=True) < self.unknown_threshold
            shifted_ids = tf.concat([-tf.ones_like(class_ids[:, :1]), class_ids[:, :-1]], axis=1)
            shifted_scores = tf.concat([scores[:, :1], scores[:, :-1]], axis=1)
            class_ids = tf.where(unknown, shifted_ids, class_ids)
            scores = tf.where(unknown, shifted_scores, scores)
        keep = valid[:, tf.newaxis]
        return {
            "labels": tf.where(keep, self.labels.lookup(class_ids), ""),
            "class_ids": tf.where(keep, class_ids, -1),
            "scores": tf.where(keep, scores, 0.0),
            "valid": valid,
        }


def labels_text(class_names: Sequence[str]) -> str:
    """The labels file: one class name a line, class id = line number from 0.

    Raises:
      UserError: a name is empty or holds a line break.
    """
    for class_id, name in enumerate(class_names):
        if not name or name != name.replace("\n", "").replace("\r", ""):
            raise UserError(
                f"Class {class_id} is named {name!r}: a labels file holds one name a line, so "
                "rename the class without line breaks (and not empty)."
            )
    return "".join(f"{name}\n" for name in class_names)


def _traced(function: Callable, spec: tf.TensorSpec) -> Any:
    return tf.function(function, input_signature=[spec], autograph=False).get_concrete_function()
