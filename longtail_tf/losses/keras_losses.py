"""The triplet losses as Keras losses, in place of tensorflow-addons' classes of the same names."""

from __future__ import annotations

from typing import Any, Optional

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.losses import triplet


@tf.keras.utils.register_keras_serializable(package="longtail_tf")
class TripletSemiHardLoss(tf.keras.losses.Loss):
    """Triplet loss with semi-hard negatives; see `triplet_semihard_loss`.

    The margin defaults to 1.0 so that the class stands in for tensorflow-addons' unchanged. For
    unit-length embeddings, whose distances end at 2, 0.1 to 0.5 is a better margin.
    """

    def __init__(
        self,
        margin: float = 1.0,
        distance_metric: str = "L2",
        images_per_class: Optional[int] = None,
        name: Optional[str] = "triplet_semihard_loss",
    ) -> None:
        """Checks and keeps the settings, which are those of `triplet_semihard_loss`.

        Raises:
          UserError: one is out of range.
        """
        triplet.check_settings(margin, distance_metric, images_per_class)
        super().__init__(reduction="none", name=name)
        self.margin = margin
        self.distance_metric = distance_metric
        self.images_per_class = images_per_class

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, *, source_rows: Any = None
    ) -> tf.Tensor:
        """Scalar loss.

        Args:
          y_true: class of each slot, [B] or [B, 1].
          y_pred: embeddings [B, D].
          sample_weight: None or one number for the whole loss.
          source_rows: int [B]; two slots of the same image are no positive pair.
        """
        loss = triplet.triplet_semihard_loss(
            y_true,
            y_pred,
            margin=self.margin,
            distance_metric=self.distance_metric,
            images_per_class=self.images_per_class,
            source_rows=source_rows,
        )
        return _weighted(loss, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Scalar loss, as Keras calls it."""
        return self(y_true, y_pred)

    def get_config(self) -> dict:
        """Settings from which `from_config` builds the same loss."""
        return {
            "margin": self.margin,
            "distance_metric": self.distance_metric,
            "images_per_class": self.images_per_class,
            "name": self.name,
        }


@tf.keras.utils.register_keras_serializable(package="longtail_tf")
class TripletHardLoss(tf.keras.losses.Loss):
    """Batch-hard triplet loss; see `triplet_hard_loss`. The margin is tensorflow-addons' 1.0."""

    def __init__(
        self,
        margin: float = 1.0,
        soft: bool = False,
        distance_metric: str = "L2",
        name: Optional[str] = "triplet_hard_loss",
    ) -> None:
        """Checks and keeps the settings, which are those of `triplet_hard_loss`.

        Raises:
          UserError: one is out of range.
        """
        triplet.check_settings(margin, distance_metric, None)
        super().__init__(reduction="none", name=name)
        self.margin = margin
        self.soft = soft
        self.distance_metric = distance_metric

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, *, source_rows: Any = None
    ) -> tf.Tensor:
        """Scalar loss; arguments as for `TripletSemiHardLoss`."""
        loss = triplet.triplet_hard_loss(
            y_true,
            y_pred,
            margin=self.margin,
            soft=self.soft,
            distance_metric=self.distance_metric,
            source_rows=source_rows,
        )
        return _weighted(loss, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Scalar loss, as Keras calls it."""
        return self(y_true, y_pred)

    def get_config(self) -> dict:
        """Settings from which `from_config` builds the same loss."""
        return {
            "margin": self.margin,
            "soft": self.soft,
            "distance_metric": self.distance_metric,
            "name": self.name,
        }


def _weighted(loss: tf.Tensor, sample_weight: Any) -> tf.Tensor:
    if sample_weight is None:
        return loss
    weight = tf.cast(tf.convert_to_tensor(sample_weight), loss.dtype)
    if weight.shape.rank != 0:
        raise UserError(
            f"sample_weight of shape {weight.shape} came: a triplet loss is over pairs of slots, "
            "so give one number for the whole loss, or leave slots out of the batch."
        )
    return loss * weight
