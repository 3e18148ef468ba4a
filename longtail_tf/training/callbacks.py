"""What happens between train steps: numbers, validation, checkpoints, and stopping in time.

Every callback counts train steps. Records go to sinks, plain functions that take one dict:
metrics.jsonl, TensorBoard, the progress line, the collapse sentinel.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

import tensorflow as tf
from absl import logging

from longtail_tf.errors import UserError
from longtail_tf.training.checkpoints import Checkpoints
from longtail_tf.training.progress import format_seconds

Sink = Callable[[dict[str, Any]], None]
COLLAPSED_SPREAD = 0.02  # of unit vectors: features within a cone of about one degree
ESTIMATE_STEPS = 5
SETTLING_STEPS = 100  # a fresh network may start close to collapse


class StepCallback(tf.keras.callbacks.Callback):
    """Calls `after_step(step)` after each train step; `step` counts from the start of the run."""

    # Keras would copy every metric to the host after every step to fill `logs`.
    _supports_tf_logs = True

    def __init__(self, *, start_step: int, steps: int) -> None:
        super().__init__()
        self.start_step, self.steps = start_step, steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keras' hook."""
        self.after_step(self.start_step + batch + 1)

    def after_step(self, step: int) -> None:
        """What the callback does."""

    def is_due(self, step: int, every: int) -> bool:
        """Whether `step` is a multiple of `every` or the last one."""
        return step == self.steps or (every > 0 and step % every == 0)


class TrainingLog(StepCallback):
    """Sends the streams' mean numbers since the last record to the sinks."""

    def __init__(
        self,
        *,
        start_step: int,
        steps: int,
        every: int,
        images_per_step: int,
        sinks: Sequence[Sink],
    ) -> None:
        super().__init__(start_step=start_step, steps=steps)
        self._every, self._images_per_step, self._sinks = every, images_per_step, sinks
        self._since = (start_step, time.perf_counter())

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the clock."""
        self._since = (self.start_step, time.perf_counter())

    def after_step(self, step: int) -> None:
        """Makes a record when one is due."""
        if not self.is_due(step, self._every):
            return
        record: dict[str, Any] = {"step": step}
        record.update({metric.name: float(metric.result()) for metric in self.model.metrics})
        self.model.reset_metrics()
        record["learning_rate"] = float(tf.convert_to_tensor(self.model.optimizer.learning_rate))
        last_step, last_time = self._since
        seconds = max(time.perf_counter() - last_time, 1e-9)
        record["images_per_s"] = round((step - last_step) * self._images_per_step / seconds, 1)
        for sink in self._sinks:
            sink(record)
        self._since = (step, time.perf_counter())


class Estimate(StepCallback):
    """Says once, early, how long the run will take: at step 5, or 10 seconds after the first step.

    The first step traces the graph, so its time says nothing.
    """

    def __init__(
        self, *, start_step: int, steps: int, evaluation: Callable[[float], float]
    ) -> None:
        """Prepares to estimate.

        Args:
          start_step: of this training.
          steps: the last one.
          evaluation: seconds a train step -> seconds of what comes after the last one.
        """
        super().__init__(start_step=start_step, steps=steps)
        self._evaluation = evaluation
        self._first_at: float | None = None
        self._done = False

    def after_step(self, step: int) -> None:
        """Notes the first step; then speaks when it is time."""
        now = time.perf_counter()
        if self._first_at is None:
            self._first_at = now
            return
        steps_timed = step - self.start_step - 1
        if self._done or (steps_timed < ESTIMATE_STEPS - 1 and now - self._first_at < 10):
            return
        self._done = True
        a_step = (now - self._first_at) / steps_timed
        left = a_step * (self.steps - step) + self._evaluation(a_step)
        logging.info("about %s left on this machine, evaluation included", format_seconds(left))


class Validation(StepCallback):
    """Runs `evaluate(step)` when due and sends the record, if it gives one, to the sinks."""

    def __init__(
        self,
        *,
        start_step: int,
        steps: int,
        every: int,
        evaluate: Callable[[int], Optional[dict[str, Any]]],
        sinks: Sequence[Sink],
    ) -> None:
        super().__init__(start_step=start_step, steps=steps)
        self._every, self._evaluate, self._sinks = every, evaluate, sinks

    def after_step(self, step: int) -> None:
        """Evaluates when due, but not at the last step, which has its own evaluation."""
        if step == self.steps or not self.is_due(step, self._every):
            return
        record = self._evaluate(step)
        if record is not None:
            for sink in self._sinks:
                sink(record)


class Stopped(NamedTuple):
    """A training that was stopped: the step it saved last, and the signal that asked for it."""

    step: int
    signal: int


class Checkpointing(StepCallback):
    """Saves when due, and at SIGTERM or Ctrl-C, after which training stops.

    Args:
      agree: (step, whether this process was asked to stop) -> whether to stop at this step.
        Processes that train together must all save and stop at the same step.

    Attributes:
      stopped: where and by which signal the training was stopped before its end, or None.
    """

    def __init__(
        self,
        *,
        start_step: int,
        steps: int,
        every: int,
        checkpoints: Checkpoints,
        agree: Callable[[int, bool], bool] = lambda step, asked: asked,
    ) -> None:
        super().__init__(start_step=start_step, steps=steps)
        self._every, self._checkpoints, self._agree = every, checkpoints, agree
        self._signal: Optional[int] = None
        self._handlers: dict[int, Any] = {}
        self.stopped: Optional[Stopped] = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Takes over the signals; Python allows that in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._ask_to_stop)

    def on_train_end(self, logs: Any = None) -> None:
        """Gives the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def after_step(self, step: int) -> None:
        """Saves when due or asked to stop."""
        stop = self._agree(step, self._signal is not None)
        if stop or self.is_due(step, self._every):
            self._checkpoints.save()
        if stop and step < self.steps:
            self.stopped = Stopped(step, self._signal or signal.SIGTERM)  # another worker's
            self.model.stop_training = True

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: now
        self._signal = number


class TensorBoardScalars:
    """A sink that writes every number of a record as a TensorBoard scalar."""

    def __init__(self, folder: str) -> None:
        self._writer = tf.summary.create_file_writer(folder)

    def __call__(self, record: dict[str, Any]) -> None:
        """Writes one record."""
        with self._writer.as_default(step=record["step"]):
            for name, value in _flat(record).items():
                if name != "step":
                    tf.summary.scalar(name, value)
        self._writer.flush()


class CollapseSentinel:
    """A sink that stops a training which cannot recover, with cause and remedy.

    Collapse: all features fall onto one point, so every triplet costs exactly the margin and no
    gradient leads out (seen in omoindrot/tensorflow-triplet-loss issues 6, 18, 38).
    """

    def __init__(self, *, margin: float, unit_features: bool, start_step: int) -> None:
        self._margin, self._unit_features, self._start_step = margin, unit_features, start_step

    def __call__(self, record: dict[str, Any]) -> None:
        """Checks one training record.

        Raises:
          UserError: a loss is not finite, or the features have collapsed.
        """
        step = record["step"]
        for name in ("head_loss", "whole_loss"):
            if name in record and not abs(record[name]) < float("inf"):
                raise UserError(
                    f"step {step}: {name} is {record[name]}, so training has diverged: lower "
                    "--learning_rate (by 3 is a good first try) or lengthen --warmup_steps."
                )
        if "spread" not in record or step - self._start_step < SETTLING_STEPS:
            return
        scale = 1.0 if self._unit_features else max(record["positive_distance"], 1e-6)
        at_margin = abs(record["whole_loss"] - self._margin) < 0.02 * max(self._margin, 1e-6)
        if at_margin and record["spread"] < COLLAPSED_SPREAD * scale:
            raise UserError(
                f"step {step}: the features have collapsed onto one point (spread "
                f"{record['spread']:.4f}, whole_loss {record['whole_loss']:.4f} = margin): lower "
                "--learning_rate, or lengthen --warmup_steps."
            )


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested numbers by path, `val/gated/few`; other values left out."""
    flat: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}/"))
        elif isinstance(value, (int, float)):
            flat[prefix + name] = value
    return flat
