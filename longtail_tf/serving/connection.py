"""One connection to one model on a server: requests, retries where safe, errors as sentences."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.serving import tensor_protos, wire

_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.1, 2.0


class Connection:
    """A channel to `address`, and the model every request names.

    Args:
      address: HOST:PORT.
      model: the model's name.
      version: its number, or None for the newest.
      version_label: its label instead.
      timeout_s: for one request, all its retries included.
      max_attempts: tries of a request while the server is unavailable.

    Raises:
      UserError: grpcio is missing, or the address is not HOST:PORT.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        version: int | None,
        version_label: str | None,
        timeout_s: float,
        max_attempts: int,
    ):
        try:
            import grpc
        except ImportError as error:
            raise UserError(
                "talking to a server needs grpcio, which is not installed: "
                "pip install 'longtail_tf[serving]'"
            ) from error
        if not re.fullmatch(r"\S+:\d+", address):
            raise UserError(
                f"the server address {address!r} is not HOST:PORT, as in localhost:8500."
            )
        if version is not None and version_label is not None:
            raise UserError("both version and version_label were given: give one of them.")
        self.grpc = grpc
        self.address, self.model, self.timeout_s = address, model, timeout_s
        self._version, self._label = version, version_label
        self._max_attempts = max_attempts
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 2000),
                # Not shared with other clients of this process, whose backoff would be ours
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.predict = self._channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=wire.PredictRequest.SerializeToString,
            response_deserializer=wire.PredictResponse.FromString,
        )
        self.status = self._channel.unary_unary(
            "/tensorflow.serving.ModelService/GetModelStatus",
            request_serializer=wire.GetModelStatusRequest.SerializeToString,
            response_deserializer=wire.GetModelStatusResponse.FromString,
        )

    def close(self) -> None:
        """Closes the channel; requests under way are cancelled."""
        self._channel.close()

    def predict_request(self, inputs: Mapping[str, Any], signature: str) -> Any:
        """A PredictRequest of arrays, or lists of bytes, by input name."""
        request = wire.PredictRequest()
        self._fill_spec(request.model_spec)
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            try:
                tensor_protos.fill(request.inputs[name], _array(value))
            except (tensor_protos.TensorProtoError, TypeError, ValueError) as error:
                raise UserError(f"input {name!r} cannot be sent: {error}") from error
        return request

    def status_request(self) -> Any:
        """A GetModelStatusRequest."""
        request = wire.GetModelStatusRequest()
        self._fill_spec(request.model_spec)
        return request

    def call(self, method: Any, request: Any) -> Any:
        """Sends with retries; every failure is a UserError."""
        try:
            return self.send(method, request)
        except self.grpc.RpcError as error:
            raise self.user_error(error) from error

    def send(self, method: Any, request: Any) -> Any:
        """Sends, and sends again with growing pauses while the server is unavailable.

        Raises:
          grpc.RpcError: the last failure.
        """
        end = time.monotonic() + self.timeout_s
        pause_s = _FIRST_BACKOFF_S
        for attempt in range(1, self._max_attempts + 1):
            remaining_s = max(0.001, end - time.monotonic())
            try:
                return method(request, timeout=remaining_s)
            except self.grpc.RpcError as error:
                is_last = attempt == self._max_attempts or time.monotonic() + pause_s >= end
                if error.code() != self.grpc.StatusCode.UNAVAILABLE or is_last:
                    raise
            time.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(_LAST_BACKOFF_S, 2 * pause_s)
        raise AssertionError("the last attempt returns or raises")

    def user_error(self, error: Any) -> UserError:
        """The sentence for a failed request."""
        return UserError(
            sentence(
                error.code().name,
                str(error.details()),
                address=self.address,
                model=self.model,
                timeout_s=self.timeout_s,
            )
        )

    def _fill_spec(self, spec: Any) -> None:
        spec.name = self.model
        if self._version is not None:
            spec.version.value = self._version
        if self._label is not None:
            spec.version_label = self._label


def arrays_of(response: Any) -> dict[str, np.ndarray]:
    """The outputs of a PredictResponse by name."""
    return {name: tensor_protos.to_array(proto) for name, proto in response.outputs.items()}


def _array(value: Any) -> np.ndarray:
    """An array that keeps bytes as they are: numpy's own bytes dtype drops trailing zeros."""
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], bytes):
        array = np.empty(len(value), object)
        array[:] = value
        return array
    array = np.asarray(value)
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8").astype(object)
    return array.astype(object) if array.dtype.kind == "S" else array


def sentence(code: str, details: str, *, address: str, model: str, timeout_s: float) -> str:
    """One sentence: what came, and what to do.

    Args:
      code: the gRPC code's name, "NOT_FOUND".
      details: the server's (or gRPC's) message; its first line is kept.
      address: HOST:PORT.
      model: the model asked for.
      timeout_s: the client's limit.
    """
    said = details.strip().split("\n")[0]
    sentences = {
        "UNAVAILABLE": f"no server answers at {address} ({said}): start one with python -m "
        "longtail_tf.serve, or correct the address.",
        "DEADLINE_EXCEEDED": f"{address} did not answer within {timeout_s:g} s: send fewer images "
        "at once, or allow more time.",
        "NOT_FOUND": f"{address} does not serve what was asked of model {model!r} ({said}): check "
        "the model's name and version, and whether it has loaded.",
        "RESOURCE_EXHAUSTED": f"{address} is overloaded or the request is too large ({said}): try "
        "again later.",
        "UNIMPLEMENTED": f"{address} is no TensorFlow Serving server, or an old one ({said}).",
        "INVALID_ARGUMENT": f"{address} refuses the request to model {model!r}: {said}",
        "FAILED_PRECONDITION": f"{address} refuses the request to model {model!r}: {said}",
    }
    return sentences.get(code, f"{address} failed with {code}: {said}")
