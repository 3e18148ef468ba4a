"""Warm-up: the requests an export carries are run before a version takes traffic."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from longtail_tf.serving.servable import Servable
from longtail_tf.serving.signatures import (
    DEFAULT_SIGNATURE,
    Signature,
    checked_inputs,
    serialized_examples,
)
from longtail_tf.serving.status import Code, ServingError, from_exception, invalid_argument

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000  # the real server refuses more


def warm_up(servable: Servable) -> int:
    """Replays the version's warm-up file, if it has one; returns the number of records.

    Raises:
      ServingError: a record cannot be read or fails. The version must not take traffic then.
    """
    path = os.path.join(servable.path, FILE)
    if not os.path.isfile(path):
        return 0
    count = 0
    try:
        for raw in tf.data.TFRecordDataset(path).as_numpy_iterator():
            count += 1
            if count > MAX_RECORDS:
                raise invalid_argument(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
                )
            _replay(servable, raw)
    except DecodeError as error:
        raise ServingError(
            Code.DATA_LOSS, f"Failed to parse warmup record: {count} from {path}"
        ) from error
    except tf.errors.OpError as error:
        raise from_exception(error) from error
    return count


def _replay(servable: Servable, raw: bytes) -> None:
    log = prediction_log_pb2.PredictionLog.FromString(raw)
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        signature = _signature(servable, request)
        servable.infer(signature, checked_inputs(signature, request.inputs))
    elif kind == "classify_log":
        request = log.classify_log.request
        signature = _signature(servable, request)
        examples = serialized_examples(request.input)
        servable.infer(signature, {alias: examples for alias in signature.inputs})
    else:
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")


def _signature(servable: Servable, request: Any) -> Signature:
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    return servable.signatures[name]
