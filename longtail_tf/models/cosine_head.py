"""A head classifier on cosines."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from longtail_tf.losses.pairwise import unit_vectors


class CosineHead(tf.keras.layers.Layer):
    """Logits as scaled cosines between embedding and class vectors; the scale is learned."""

    def __init__(self, num_classes: int, initial_scale: float = 16.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.initial_scale = initial_scale

    def build(self, input_shape: Any) -> None:
        """Makes kernel [D, H] and the scale."""
        self.kernel = self.add_weight(
            name="kernel", shape=(input_shape[-1], self.num_classes), initializer="glorot_uniform"
        )
        self.scale = self.add_weight(
            name="scale",
            shape=(),
            initializer=tf.keras.initializers.Constant(self.initial_scale),
        )

    def call(self, neck_output: tf.Tensor) -> tf.Tensor:
        """[B, D] -> logits [B, H]."""
        return self.scale * tf.matmul(unit_vectors(neck_output), unit_vectors(self.kernel, axis=0))

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the layer."""
        own = {"num_classes": self.num_classes, "initial_scale": self.initial_scale}
        return {**super().get_config(), **own}


def class_norms(head: Any) -> Any:
    """Lengths of a classifier's class vectors, float32 [H]; None where they have none of their own:
    no classifier, or a cosine one."""
    if head is None or isinstance(head, CosineHead):
        return None
    return tf.norm(head.kernel, axis=0).numpy()
