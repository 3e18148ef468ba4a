"""A client of any TensorFlow Serving server, ours or the real one; needs no TensorFlow.

    with Client.connect("localhost:8500/flowers") as client:
        for prediction in client.classify(pathlib.Path("photos").glob("*.jpg")):
            print(prediction.labels[0], prediction.scores[0])

Requests are retried only where that is safe: when the server was not there (UNAVAILABLE). Images
are sent in batches, a few at a time, so that any number of them needs the memory of a few batches.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Union

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.files import MOST_IMAGE_BYTES, read_bytes
from longtail_tf.serving.connection import Connection, arrays_of
from longtail_tf.serving.versions import AVAILABLE, STATE_NAMES

_TARGET = re.compile(
    r"(?P<address>[^/\s]+:\d+)/(?P<model>[^/@\s]+)(@(?P<label>[^/@\s]+)|/(?P<version>\d+))?"
)


class Prediction(NamedTuple):
    """The answer for one image: best class first. `error` says why there is none."""

    labels: list[str]
    class_ids: list[int]
    scores: list[float]
    error: str | None = None


class VersionStatus(NamedTuple):
    """One version of the model; `message` says why it is not available."""

    version: int
    state: str
    message: str


class Client:
    """Talks to one model of one server. Use as a context manager, or call `close`.

    Args:
      address: HOST:PORT.
      model: the model's name on the server.
      version: a version number; the newest when None.
      version_label: a label such as "stable", instead of a number.
      timeout_s: for one request, all its retries included.
      max_attempts: tries of a request while the server is unavailable.
      batch_size: images a request.
      max_in_flight: requests that may be under way at once.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        version: int | None = None,
        version_label: str | None = None,
        timeout_s: float = 30.0,
        max_attempts: int = 5,
        batch_size: int = 32,
        max_in_flight: int = 2,
    ):
        if min(batch_size, max_in_flight, max_attempts) < 1:
            raise UserError(
                f"batch_size={batch_size}, max_in_flight={max_in_flight} and max_attempts="
                f"{max_attempts} must each be at least 1."
            )
        self._batch_size, self._max_in_flight = batch_size, max_in_flight
        self._connection = Connection(
            address,
            model,
            version=version,
            version_label=version_label,
            timeout_s=timeout_s,
            max_attempts=max_attempts,
        )

    @classmethod
    def connect(cls, target: str, **kwargs: Any) -> Client:
        """A client for HOST:PORT/MODEL, HOST:PORT/MODEL/VERSION or HOST:PORT/MODEL@LABEL."""
        match = _TARGET.fullmatch(target)
        if match is None:
            raise UserError(
                f"the server {target!r} is not HOST:PORT/MODEL, as in localhost:8500/flowers "
                "(then /3 for version 3, or @stable for a version label)."
            )
        version = int(match["version"]) if match["version"] else None
        return cls(
            match["address"],
            match["model"],
            version=version,
            version_label=match["label"],
            **kwargs,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; requests under way are cancelled."""
        self._connection.close()

    def classify(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Predictions in the order of the images, one for each; a bad image gets an `error`.

        Raises:
          UserError: the server is not there, has no such model, or a file cannot be read.
        """
        for outputs, row in self._rows(images, "serving_default"):
            if isinstance(outputs, str):
                yield Prediction([], [], [], outputs)
            else:
                yield Prediction(
                    [label.decode("utf-8", "replace") for label in outputs["labels"][row]],
                    outputs["class_ids"][row].tolist(),
                    outputs["scores"][row].tolist(),
                )

    def embed(self, images: Iterable[Image]) -> Iterator[np.ndarray]:
        """Embeddings [D] in the order of the images.

        Raises:
          UserError: as in `classify`, or an image cannot be decoded.
        """
        for outputs, row in self._rows(images, "embed"):
            if isinstance(outputs, str):
                raise UserError(f"an image cannot be embedded: {outputs}")
            yield outputs["embedding"][row]

    def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str = "serving_default",
        outputs: Iterable[str] = (),
    ) -> dict[str, np.ndarray]:
        """Runs any signature on arrays; all outputs unless some are named.

        Raises:
          UserError: the server is not there or refuses the request.
        """
        connection = self._connection
        request = connection.predict_request(inputs, signature)
        request.output_filter.extend(outputs)
        return arrays_of(connection.call(connection.predict, request))

    def status(self) -> list[VersionStatus]:
        """The model's versions, newest first."""
        connection = self._connection
        answer = connection.call(connection.status, connection.status_request())
        return [
            VersionStatus(
                entry.version,
                STATE_NAMES.get(entry.state, str(entry.state)),
                entry.status.error_message,
            )
            for entry in answer.model_version_status
        ]

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Returns when a version is available.

        Raises:
          UserError: none is after `timeout_s`; says what the server says of the newest.
        """
        end = time.monotonic() + timeout_s
        while True:
            try:
                versions = self.status()
                if any(version.state == STATE_NAMES[AVAILABLE] for version in versions):
                    return
                said = f"version {versions[0].version} is {versions[0].state}"
                said += f": {versions[0].message}" if versions[0].message else ""
            except UserError as error:
                said = str(error)
            if time.monotonic() >= end:
                raise UserError(
                    f"{self._connection.address} has no available version of "
                    f"{self._connection.model!r} after "
                    f"{timeout_s:g} s ({said})."
                )
            time.sleep(0.1)

    def _rows(
        self, images: Iterable[Image], signature: str
    ) -> Iterator[tuple[dict[str, np.ndarray] | str, int]]:
        """(outputs of a request, row in them) for each image, or (why there are none, 0)."""
        connection = self._connection
        pending: deque[tuple[list[bytes], Any]] = deque()
        try:
            for batch in image_batches(images, self._batch_size):
                request = connection.predict_request({"image_bytes": batch}, signature)
                future = connection.predict.future(request, timeout=connection.timeout_s)
                pending.append((batch, future))
                if len(pending) >= self._max_in_flight:
                    yield from self._collect(*pending.popleft(), signature)
            while pending:
                yield from self._collect(*pending.popleft(), signature)
        finally:
            for _, future in pending:
                future.cancel()

    def _collect(self, batch: list[bytes], future: Any, signature: str) -> Iterator[Any]:
        """The rows of a request under way; if it fails, of the same images sent again."""
        connection, codes = self._connection, self._connection.grpc.StatusCode
        try:
            if future is None:
                request = connection.predict_request({"image_bytes": batch}, signature)
                outputs = arrays_of(connection.send(connection.predict, request))
            else:
                outputs = arrays_of(future.result())
        except connection.grpc.RpcError as error:
            if error.code() == codes.UNAVAILABLE and future is not None:
                yield from self._collect(batch, None, signature)
            elif len(batch) > 1 and error.code() in (
                codes.INVALID_ARGUMENT,  # one bad image; its neighbours may be good
                codes.RESOURCE_EXHAUSTED,  # too large for the server's message or queue limit
            ):
                middle = len(batch) // 2
                yield from self._collect(batch[:middle], None, signature)
                yield from self._collect(batch[middle:], None, signature)
            elif error.code() == codes.INVALID_ARGUMENT:
                yield str(error.details()).split("\n")[0], 0
            else:
                raise connection.user_error(error) from error
            return
        valid = outputs.get("valid", np.ones(len(batch), bool)).reshape(-1)
        for row in range(len(batch)):
            yield (outputs, row) if valid[row] else ("the server cannot decode this image", 0)


Image = Union[bytes, str, "os.PathLike[str]"]  # encoded bytes, or the path of a file with them
_MAX_BATCH_BYTES = 16 * 2**20


def image_batches(images: Iterable[Image], size: int) -> Iterator[list[bytes]]:
    """Encoded images in lists of at most `size` and about `_MAX_BATCH_BYTES`."""
    batch: list[bytes] = []
    num_bytes = 0
    for image in images:
        raw = image if isinstance(image, bytes) else _read(image)
        if batch and (len(batch) == size or num_bytes + len(raw) > _MAX_BATCH_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(raw)
        num_bytes += len(raw)
    if batch:
        yield batch


def _read(path: Any) -> bytes:
    try:
        return read_bytes(path, most_bytes=MOST_IMAGE_BYTES)
    except OSError as error:
        raise UserError(f"the image {path} cannot be read: {error.strerror}.") from error
