"""Checkpoints that resume to the same bits: model, both optimizers, and the step counter.

Samplers and augmentation are pure functions of (seed, step), so the step is all of their state.
"""

from __future__ import annotations

import pathlib
from typing import Any, Optional

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.models.two_stream_model import TwoStreamModel

KEPT = 2  # the newest, and the one before it should the disk fill while the newest is written


class Checkpoints:
    """Saves and restores a compiled `TwoStreamModel` in `folder`."""

    def __init__(self, model: TwoStreamModel, folder: pathlib.Path) -> None:
        self._model = model
        parts: dict[str, Any] = {"model": model}
        if model.head_optimizer is not None:
            parts["head_optimizer"] = model.head_optimizer
        if model.whole_optimizer is not None:
            parts["whole_optimizer"] = model.whole_optimizer
        memory = getattr(model.metric_loss, "state", None)
        if memory is not None:
            parts["metric_loss"] = memory
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(**parts), str(folder), max_to_keep=KEPT, checkpoint_name="step"
        )

    def save(self) -> None:
        """Saves the present step."""
        self._manager.save(checkpoint_number=self.step)

    def restore(self, folder: Optional[pathlib.Path] = None) -> int:
        """Restores the newest checkpoint.

        Args:
          folder: where it is, if not in the folder that `save` writes to.

        Returns:
          The step it was saved at; 0, restoring nothing, where there is none.

        Raises:
          UserError: the checkpoint is of another network, or damaged.
        """
        newest = tf.train.latest_checkpoint(str(folder or self._manager.directory))
        if newest is None:
            return 0
        try:
            status = self._manager.checkpoint.restore(newest)
            status.assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise UserError(
                f"{newest} does not fit this network or is damaged: "
                "resume with the settings in config.flags and the same Keras, or start a new run."
            ) from error
        return self.step

    @property
    def step(self) -> int:
        """Train steps done."""
        return int(tf.convert_to_tensor(self._model.step))
