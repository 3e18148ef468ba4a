"""The triplet losses as Keras losses, in place of tensorflow-addons' classes of the same names."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from longtail_tf.compat import keras_version
from longtail_tf.errors import UserError
from longtail_tf.losses.triplet import check_settings, triplet_hard_loss, triplet_semihard_loss

_register = tf.keras.utils.register_keras_serializable(package="longtail_tf")


@_register
class TripletSemiHardLoss(tf.keras.losses.Loss):
    """Triplet loss with semi-hard negatives; a drop-in for tensorflow-addons' class.

    The value is a mean over the pairs of the batch given, not a loss for each image, so there is
    nothing left to reduce. Under tf.distribute that is a replica's own mean: divide it by the
    number of replicas (`fit` does), or gather the embeddings first.

    Args:
      margin: at least 0. The default is tensorflow-addons' and wide for unit-length embeddings,
        for which 0.1 to 0.5 is usual.
      distance_metric: "L2", "squared-L2" or "angular".
      name: name of the loss in logs.

    Raises:
      UserError: a setting is out of range.
    """

    def __init__(
        self,
        margin: float = 1.0,
        distance_metric: str = "L2",
        name: str = "triplet_semihard_loss",
    ) -> None:
        check_settings(margin, distance_metric)
        super().__init__(name=name)
        self.margin = margin
        self.distance_metric = distance_metric

    def __call__(
        self, y_true: Any, y_pred: Any, source_rows: Any = None, sample_weight: Any = None
    ) -> tf.Tensor:
        """Loss of a batch.

        Args:
          y_true: class of each slot, int [B] or [B, 1].
          y_pred: embeddings, float [B, D].
          source_rows: int [B], the image each slot came from, or None if they all differ.
          sample_weight: None, or one number for the whole loss. A floating point number in the
            third place is taken as this one: Keras 3 passes it there.

        Returns:
          Scalar of the dtype of `y_pred`; 0 where there is no positive pair.

        Raises:
          UserError: a weight for each image was given, or the shapes do not fit.
        """
        source_rows, weight = _rows_and_weight(source_rows, sample_weight)
        loss = triplet_semihard_loss(
            y_true,
            y_pred,
            margin=self.margin,
            distance_metric=self.distance_metric,
            source_rows=source_rows,
        )
        loss = keras_version.share_of_replica(loss)
        return loss if weight is None else loss * tf.cast(weight, loss.dtype)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """The same without source rows, under the name that Keras asks for."""
        return self(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the loss."""
        return {
            "margin": self.margin,
            "distance_metric": self.distance_metric,
            "name": self.name,
        }


@_register
class TripletHardLoss(tf.keras.losses.Loss):
    """Batch-hard triplet loss; a drop-in for tensorflow-addons' class.

    As in `TripletSemiHardLoss`, the value is a mean already, here over the anchors.

    Args:
      margin: at least 0. The default is tensorflow-addons' and wide for unit-length embeddings,
        for which 0.1 to 0.5 is usual. Not used if `soft`.
      soft: log(1 + exp(positive - negative)) in place of the hinge.
      distance_metric: "L2", "squared-L2" or "angular".
      name: name of the loss in logs.

    Raises:
      UserError: a setting is out of range.
    """

    def __init__(
        self,
        margin: float = 1.0,
        soft: bool = False,
        distance_metric: str = "L2",
        name: str = "triplet_hard_loss",
    ) -> None:
        check_settings(margin, distance_metric)
        if not isinstance(soft, bool):
            raise UserError(
                f"soft={soft!r} was given: give True for the soft margin or False for the hinge."
            )
        super().__init__(name=name)
        self.margin = margin
        self.soft = soft
        self.distance_metric = distance_metric

    def __call__(
        self, y_true: Any, y_pred: Any, source_rows: Any = None, sample_weight: Any = None
    ) -> tf.Tensor:
        """Loss of a batch; see `TripletSemiHardLoss.__call__`. 0 for an empty batch."""
        source_rows, weight = _rows_and_weight(source_rows, sample_weight)
        loss = triplet_hard_loss(
            y_true,
            y_pred,
            margin=self.margin,
            soft=self.soft,
            distance_metric=self.distance_metric,
            source_rows=source_rows,
        )
        loss = keras_version.share_of_replica(loss)
        return loss if weight is None else loss * tf.cast(weight, loss.dtype)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """The same without source rows, under the name that Keras asks for."""
        return self(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the loss."""
        return {
            "margin": self.margin,
            "soft": self.soft,
            "distance_metric": self.distance_metric,
            "name": self.name,
        }


def _rows_and_weight(source_rows: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Source rows or None, and one weight or None, whatever place they came in."""
    if source_rows is not None:
        source_rows = tf.convert_to_tensor(source_rows)
        if source_rows.dtype.is_floating and sample_weight is None:
            source_rows, sample_weight = None, source_rows
    if sample_weight is not None:
        sample_weight = tf.convert_to_tensor(sample_weight)
        if sample_weight.shape.rank != 0:
            raise UserError(
                f"sample weights of shape {sample_weight.shape} came to a triplet loss, which "
                "joins three images a term: give one number for the whole loss, or none (no "
                "class_weight either); source_rows must be integers."
            )
    return source_rows, sample_weight
