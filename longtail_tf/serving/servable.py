"""One loaded SavedModel version: its signatures, input checks, and running it.

The model is loaded by the session loader, the path `tensorflow_model_server` itself takes, and run
through a session callable: 27 us a call against 190 us for `tf.saved_model.load(...).signatures`
(a one-matmul model, one core), with the kernel's own error messages.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from longtail_tf.files import check_file
from longtail_tf.serving.batching import BatchQueue
from longtail_tf.serving.batching_parameters import BatchingParameters
from longtail_tf.serving.signatures import Arrays, Signature, TensorSpec, spec_of
from longtail_tf.serving.status import Code, ServingError, from_exception, invalid_argument


class Servable:
    """A loaded model version. Requests hold a lease on it, so that it closes only when unused.

    Args:
      path: the version's folder.
      name: the model's name.
      version: its number.
      batching: parameters of its batch queue; None runs every request alone.

    Raises:
      ServingError: the folder does not hold a complete, loadable SavedModel.
    """

    def __init__(
        self,
        path: str,
        *,
        name: str,
        version: int,
        batching: BatchingParameters | None = None,
    ):
        self.name, self.version, self.path = name, version, path
        self._session, meta_graph = _load(path)
        self.signatures = {
            key: _signature(key, definition, self._session)
            for key, definition in sorted(meta_graph.signature_def.items())
        }
        self._queue = None
        if batching is not None:
            self._queue = BatchQueue(self._run_by_name, batching, name=f"{name}-{version}")
        self._unused = threading.Condition()
        self._leases = 0
        self._closing = False

    def acquire(self) -> bool:
        """Takes a lease; False once the version is being unloaded."""
        with self._unused:
            if self._closing:
                return False
            self._leases += 1
            return True

    def release(self) -> None:
        """Gives a lease back."""
        with self._unused:
            self._leases -= 1
            if not self._leases:
                self._unused.notify_all()

    def infer(
        self,
        signature: Signature,
        arrays: Arrays,
        *,
        deadline: float | None = None,
        cancelled: Callable[[], bool] = bool,
    ) -> Arrays:
        """Runs checked inputs, merged with other requests where the signature allows.

        Args:
          signature: one of `signatures`.
          arrays: every input by alias, as `checked_inputs` returns them.
          deadline: `time.monotonic()` after which nobody wants the answer.
          cancelled: whether the client is gone.

        Returns:
          Every output by alias.

        Raises:
          ServingError: with the kernel's code and message; DEADLINE_EXCEEDED; RESOURCE_EXHAUSTED.
        """
        if self._queue is None or not signature.has_batch_dimension:
            return self.run(signature, arrays)
        return self._queue.submit(signature.name, arrays, deadline=deadline, cancelled=cancelled)

    def run(self, signature: Signature, arrays: Arrays) -> Arrays:
        """Runs `arrays` in the calling thread, alone."""
        if signature.run is None:
            raise invalid_argument(f'Signature "{signature.name}" has outputs that are no tensors.')
        try:
            results = signature.run(*(arrays[alias] for alias in signature.inputs))
        except (tf.errors.OpError, MemoryError) as error:
            raise from_exception(error) from error
        return {alias: np.asarray(result) for alias, result in zip(signature.outputs, results)}

    def close(self) -> None:
        """Waits for the last lease, finishes the queue, and frees the model's memory."""
        with self._unused:
            self._closing = True
            self._unused.wait_for(lambda: not self._leases)
        if self._queue is not None:
            self._queue.close()
        self._session.close()
        # Whoever still holds this object does not keep the graph
        self._session, self.signatures = None, {}

    def _run_by_name(self, signature_name: str, arrays: Arrays) -> Arrays:
        return self.run(self.signatures[signature_name], arrays)


def _signature(name: str, definition: Any, session: Any) -> Signature:
    inputs = {alias: spec_of(info) for alias, info in sorted(definition.inputs.items())}
    outputs = {alias: spec_of(info) for alias, info in sorted(definition.outputs.items())}
    run = None
    if outputs and all(spec.dtype for spec in outputs.values()):
        run = _callable(session, list(inputs.values()), list(outputs.values()))
    return Signature(name, definition, inputs, outputs, run)


def _callable(session: Any, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Any:
    """A function from input arrays to the list of output arrays, in their orders."""
    feeds = [spec.tensor_name for spec in inputs]
    names = [spec.tensor_name for spec in outputs]
    fetches = list(dict.fromkeys(names))  # two aliases may show one tensor
    options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
    run = session._make_callable_from_options(options)
    if len(fetches) == len(names):
        return run
    places = [fetches.index(name) for name in names]

    def run_and_repeat(*arrays: np.ndarray) -> list[Any]:
        results = run(*arrays)
        return [results[place] for place in places]

    return run_and_repeat


def _load(path: str) -> tuple[Any, Any]:
    """Session and MetaGraphDef of the SavedModel in `path`."""
    if not any(
        os.path.isfile(os.path.join(path, file)) for file in ("saved_model.pb", "saved_model.pbtxt")
    ):
        raise ServingError(
            Code.NOT_FOUND,
            f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}",
        )
    _check_files(path)
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    try:
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], path)
    except Exception as error:  # whatever a broken file makes the loader raise
        session.close()
        if getattr(error, "error_code", None) is not None:
            raise from_exception(error) from error
        raise ServingError(
            Code.DATA_LOSS, f"the SavedModel in {path} cannot be loaded: {error}"
        ) from error
    return session, meta_graph


def _check_files(path: str) -> None:
    """Refuses what TensorFlow would wait for or follow in circles: pipes, devices, closed folders.

    Raises:
      ServingError: DATA_LOSS, naming the file.
    """

    def refuse(error: OSError) -> None:
        raise ServingError(Code.DATA_LOSS, f"{error.filename}: {error.strerror}")

    for folder, _, names in os.walk(path, onerror=refuse):
        for name in names:
            try:
                check_file(os.path.join(folder, name))
            except OSError as error:
                refuse(error)


class _NotForUsers(logging.Filter):
    """TF 2.15 advises against its session loader at every first use, and tells what it restores."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops these two notices."""
        text = record.getMessage()
        return "saved_model.loader_impl" not in text and "Restoring parameters" not in text


tf.get_logger().addFilter(_NotForUsers())
