"""The queue that merges requests: what waits while the model runs becomes the next batch.

With `batch_timeout_micros` 0 (the default) nobody ever waits for company: a request that finds an
idle thread runs at once. Requests are merged when they have the same signature, dtypes and shapes
beyond the batch dimension. If a merged run fails, its members run alone, so that one bad image
fails only its own request.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, cast

import numpy as np

from longtail_tf.serving.batching_parameters import BatchingParameters
from longtail_tf.serving.status import Code, ServingError, from_exception

Arrays = dict[str, np.ndarray]


class _Task:
    """One waiting request."""

    __slots__ = ("arrays", "cancelled", "deadline", "done", "error", "result", "rows", "since")

    def __init__(self, arrays: Arrays, deadline: float | None, cancelled: Callable[[], bool]):
        self.arrays, self.deadline, self.cancelled = arrays, deadline, cancelled
        self.rows = len(next(iter(arrays.values())))
        self.since = time.monotonic()
        self.done = threading.Event()
        self.result: Arrays | None = None
        self.error: ServingError | None = None

    def is_unwanted(self, now: float) -> bool:
        return self.cancelled() or (self.deadline is not None and now >= self.deadline)

    def finish(self, result: Arrays | None, error: ServingError | None = None) -> None:
        if not self.done.is_set():
            self.result, self.error = result, error
            self.done.set()


class BatchQueue:
    """Merges calls of `run` from many threads.

    Args:
      run: takes what `submit` got as `key`, and merged arrays by name; returns arrays by name whose
        first dimension is the same. Raises ServingError.
      parameters: sizes and limits.
      name: of its threads.
    """

    def __init__(
        self, run: Callable[[Any, Arrays], Arrays], parameters: BatchingParameters, *, name: str
    ):
        self._run, self._parameters = run, parameters
        self._changed = threading.Condition()
        self._waiting: dict[Hashable, deque[_Task]] = {}
        self._waiting_rows = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{name}-{i}", daemon=True)
            for i in range(parameters.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        key: Hashable,
        arrays: Arrays,
        *,
        deadline: float | None = None,
        cancelled: Callable[[], bool] = bool,
    ) -> Arrays:
        """Runs `arrays`, perhaps merged with others of the same key; blocks until done.

        Raises:
          ServingError: RESOURCE_EXHAUSTED when too much waits already, DEADLINE_EXCEEDED,
            CANCELLED, UNAVAILABLE after `close`, or what `run` raised.
        """
        task = _Task(arrays, deadline, cancelled)
        group = (key, tuple((name, a.dtype.str, a.shape[1:]) for name, a in arrays.items()))
        limit = self._parameters.queue_limit
        with self._changed:
            if self._closed:
                raise ServingError(Code.UNAVAILABLE, "this model version is being unloaded.")
            if self._waiting_rows and self._waiting_rows + task.rows > limit:
                raise ServingError(
                    Code.RESOURCE_EXHAUSTED,
                    "The batch scheduling queue to which this task was submitted is full; task "
                    f"size is {task.rows}, {self._waiting_rows} examples wait and {limit} may.",
                )
            self._waiting.setdefault(group, deque()).append(task)
            self._waiting_rows += task.rows
            self._changed.notify()
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not task.done.wait(timeout):
            raise _deadline_exceeded()
        if task.error is not None:
            raise task.error
        return cast("Arrays", task.result)  # done without an error: there is one

    def close(self) -> None:
        """Finishes what waits, then stops the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                batch = self._next_batch()
            if batch is None:
                return
            key, tasks = batch
            try:
                self._run_tasks(key, tasks)
            except BaseException as error:  # a defect must not leave clients waiting
                for task in tasks:
                    task.finish(None, from_exception(error))

    def _next_batch(self) -> tuple[Any, list[_Task]] | None:
        """Blocks for the next batch; None when closed and empty. The caller holds the lock."""
        while True:
            if not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
                continue
            group, patience_s = self._ripest()
            if patience_s > 0:
                self._changed.wait(patience_s)
                continue
            queue = self._waiting[group]
            tasks: list[_Task] = []
            rows = 0
            while queue and (not tasks or rows + queue[0].rows <= self._parameters.max_batch_size):
                tasks.append(queue.popleft())
                rows += tasks[-1].rows
            self._waiting_rows -= rows
            if not queue:
                del self._waiting[group]
            if self._waiting:
                self._changed.notify()
            return group[0], tasks

    def _ripest(self) -> tuple[Any, float]:
        """The group to run next, and the seconds until it should run."""
        now = time.monotonic()
        best, best_patience = None, float("inf")
        for group, queue in self._waiting.items():
            patience = queue[0].since + self._parameters.batch_timeout_micros / 1e6 - now
            is_full = sum(task.rows for task in queue) >= self._parameters.max_batch_size
            if (is_full or self._closed) and patience > 0:
                patience = 0.0
            if patience < best_patience:
                best, best_patience = group, patience
        return best, best_patience

    def _run_tasks(self, key: Any, tasks: list[_Task]) -> None:
        now = time.monotonic()
        wanted = []
        for task in tasks:
            if task.is_unwanted(now):
                late = task.deadline is not None and now >= task.deadline
                task.finish(None, _deadline_exceeded() if late else _cancelled())
            else:
                wanted.append(task)
        if not wanted:
            return
        names = list(wanted[0].arrays)
        if len(wanted) == 1:
            merged = wanted[0].arrays
        else:
            merged = {name: np.concatenate([t.arrays[name] for t in wanted]) for name in names}
        try:
            results = self._run_in_pieces(key, merged)
        except ServingError as error:
            if len(wanted) == 1:
                wanted[0].finish(None, error)
                return
            for task in wanted:
                self._run_tasks(key, [task])
            return
        start = 0
        for task in wanted:
            stop = start + task.rows
            task.finish({name: array[start:stop] for name, array in results.items()})
            start = stop

    def _run_in_pieces(self, key: Any, arrays: Arrays) -> Arrays:
        """Runs at most max_batch_size examples at a time, padded to an allowed size."""
        size = self._parameters.max_batch_size
        rows = len(next(iter(arrays.values())))
        pieces = [
            self._run_padded(key, {name: a[start : start + size] for name, a in arrays.items()})
            for start in range(0, rows, size)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _run_padded(self, key: Any, arrays: Arrays) -> Arrays:
        rows = len(next(iter(arrays.values())))
        size = min((s for s in self._parameters.allowed_batch_sizes if s >= rows), default=rows)
        if size > rows:
            arrays = {
                name: np.concatenate([a, np.repeat(a[-1:], size - rows, axis=0)])
                for name, a in arrays.items()
            }
        results = self._run(key, arrays)
        for name, array in results.items():
            if array.shape[:1] != (size,):
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f'output "{name}" of a batch of {size} has shape {list(array.shape)}: batching '
                    "needs one row for each example.",
                )
        return {name: array[:rows] for name, array in results.items()}


def _deadline_exceeded() -> ServingError:
    return ServingError(Code.DEADLINE_EXCEEDED, "Deadline exceeded before the batch was run.")


def _cancelled() -> ServingError:
    return ServingError(Code.CANCELLED, "the client cancelled the request.")
