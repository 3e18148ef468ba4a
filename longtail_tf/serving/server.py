"""The server: a `ModelStore` polled by a thread, behind a gRPC port."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures

import grpc
from absl import logging

from longtail_tf.errors import UserError
from longtail_tf.serving.batching_parameters import BatchingParameters
from longtail_tf.serving.model_config import ModelConfig, read_model_config
from longtail_tf.serving.model_service import ModelService
from longtail_tf.serving.model_store import ModelStore
from longtail_tf.serving.prediction_service import PredictionService
from longtail_tf.serving.reflection import Health, enable_reflection
from longtail_tf.serving.rpc import handlers
from longtail_tf.serving.status import ServingError

MAX_MESSAGE_BYTES = 2**31 - 1  # the real server's limit
_SPARE_THREADS = 8  # for status, health and reflection while predictions wait


class Server:
    """Serves a `ModelStore` until stopped.

    Args:
      store: what to serve; the server owns it and closes it.
      host: interface to listen on.
      port: 0 lets the system choose.
      batching: the store's parameters; they bound how many requests wait.
      max_message_bytes: larger requests are refused with RESOURCE_EXHAUSTED.
      poll_wait_s: seconds between two looks at the model folders; 0 never looks again.

    Raises:
      UserError: the port is taken or the host is not this machine's.
    """

    def __init__(
        self,
        store: ModelStore,
        *,
        host: str = "127.0.0.1",
        port: int = 8500,
        batching: BatchingParameters | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        poll_wait_s: float = 1.0,
    ):
        self.store, self._poll_wait_s = store, poll_wait_s
        limits = batching or BatchingParameters()
        # A thread waits for each admitted request; idle ones are never started.
        places = limits.queue_limit + limits.num_batch_threads * limits.max_batch_size
        self._threads = futures.ThreadPoolExecutor(places + _SPARE_THREADS, "grpc")
        self._server = grpc.server(
            self._threads,
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
            ],
        )
        for handler in handlers(
            PredictionService(store), ModelService(store), max_concurrent_predictions=places
        ):
            self._server.add_generic_rpc_handlers((handler,))
        self._health = Health(self._server)
        enable_reflection(self._server)
        self._stopping = threading.Event()
        self._pollers: list[threading.Thread] = []
        self.address = f"{_bracketed(host)}:{self._bind(host, port)}"

    def start(self) -> None:
        """Loads the models, then answers requests.

        Raises:
          ServingError: a version label names a version that did not load.
        """
        self.store.on_change = self._tell_health
        self.store.load_all()
        self._tell_health()
        self._server.start()
        if self._poll_wait_s > 0:
            self.every(self._poll_wait_s, self.store.poll, what="looking for new versions")

    def every(self, seconds: float, action: Callable[[], object], *, what: str) -> None:
        """Calls `action` again and again until the server stops; a failure is logged."""

        def run() -> None:
            while not self._stopping.wait(seconds):
                try:
                    action()
                except Exception:
                    logging.exception("%s failed; trying again in %g s", what, seconds)

        thread = threading.Thread(target=run, name=what, daemon=True)
        self._pollers.append(thread)
        thread.start()

    def stop(self, drain_s: float = 30.0) -> None:
        """Refuses new requests, lets running ones finish for `drain_s`, and frees everything."""
        self._stopping.set()
        self._health.drain()
        self._server.stop(drain_s).wait()
        for thread in self._pollers:
            thread.join()
        self.store.close()
        self._threads.shutdown()

    def _tell_health(self) -> None:
        self._health.set(is_serving=self.store.is_ready())

    def _bind(self, host: str, port: int) -> int:
        wanted = f"{_bracketed(host)}:{port}"
        try:
            bound = self._server.add_insecure_port(wanted)
        except RuntimeError as error:
            raise _cannot_listen(wanted) from error
        if not bound:
            raise _cannot_listen(wanted)
        return bound


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _cannot_listen(wanted: str) -> UserError:
    return UserError(
        f"cannot listen on {wanted}: another program may hold the port, or the host is not this "
        "machine's; choose another --port (0 picks a free one) or --host."
    )


class ConfigFollower:
    """Called again and again: reads the file, and reloads the store when it says something new.

    Args:
      path: the models.config file.
      models: what it said when the store was made.
      store: follows it.
    """

    def __init__(self, path: str, models: list[ModelConfig], store: ModelStore):
        self._path, self._models, self._store = path, models, store
        self._complaint = ""

    def __call__(self) -> None:
        """One look; what is wrong is logged once, and what is served stays."""
        complaint = ""
        try:
            models = read_model_config(self._path)
            if models != self._models:
                self._store.reload(models)
                self._models = models
        except (UserError, ServingError) as error:
            complaint = str(error)
        if complaint and complaint != self._complaint:
            logging.error("the configuration is not (fully) taken over: %s", complaint)
        self._complaint = complaint
