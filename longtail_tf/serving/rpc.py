"""The two services as gRPC handlers: parsing, deadlines, limits and status codes.

Requests arrive as bytes and are parsed here, so that a malformed message is answered with a code
instead of a traceback in the log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from absl import logging
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from longtail_tf.serving.model_service import ModelService
from longtail_tf.serving.prediction_service import Call, PredictionService
from longtail_tf.serving.status import Code, ServingError, from_exception

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
_STATUS_CODES = {status.value[0]: status for status in grpc.StatusCode}
Method = Callable[[Any, Call], Any]


def handlers(
    prediction: PredictionService, models: ModelService, *, max_concurrent_predictions: int
) -> list[grpc.GenericRpcHandler]:
    """gRPC handlers of both services.

    Args:
      prediction: runs models.
      models: tells and changes what is served.
      max_concurrent_predictions: more at once are refused with RESOURCE_EXHAUSTED, so that threads
        stay free for status and health requests.
    """
    slots = threading.BoundedSemaphore(max_concurrent_predictions)
    predictions = {
        "Predict": _limited(slots, prediction.predict, predict_pb2.PredictRequest),
        "Classify": _limited(slots, prediction.classify, classification_pb2.ClassificationRequest),
        "Regress": _unary(prediction.regress, regression_pb2.RegressionRequest),
        "MultiInference": _unary(prediction.multi_inference, inference_pb2.MultiInferenceRequest),
        "GetModelMetadata": _unary(
            prediction.get_model_metadata, get_model_metadata_pb2.GetModelMetadataRequest
        ),
    }
    management = {
        "GetModelStatus": _unary(
            models.get_model_status, get_model_status_pb2.GetModelStatusRequest
        ),
        "HandleReloadConfigRequest": _unary(
            models.handle_reload_config, model_management_pb2.ReloadConfigRequest
        ),
    }
    return [
        grpc.method_handlers_generic_handler(PREDICTION_SERVICE, predictions),
        grpc.method_handlers_generic_handler(MODEL_SERVICE, management),
    ]


def _limited(slots: Any, method: Method, request_class: Any) -> grpc.RpcMethodHandler:
    """A handler that refuses when all slots are taken."""

    def run(request: Any, call: Call) -> Any:
        if not slots.acquire(blocking=False):
            raise ServingError(
                Code.RESOURCE_EXHAUSTED, "too many predictions at once: try again later."
            )
        try:
            return method(request, call)
        finally:
            slots.release()

    return _unary(run, request_class)


def _unary(method: Method, request_class: Any) -> grpc.RpcMethodHandler:
    def handle(raw: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            try:
                request = request_class.FromString(raw)
            except DecodeError as error:
                raise ServingError(
                    Code.INTERNAL, f"the request is not a {request_class.DESCRIPTOR.full_name}"
                ) from error
            return method(request, _call_of(context)).SerializeToString()
        except ServingError as error:
            code, message = error.code, error.message
        except Exception as error:
            refused = from_exception(error)
            code, message = refused.code, refused.message
            logging.exception("a defect in the server, answered with %s", code.name)
        context.abort(_STATUS_CODES[int(code)], message)
        raise AssertionError("abort raises")  # only for the type checker

    return grpc.unary_unary_rpc_method_handler(handle)


def _call_of(context: grpc.ServicerContext) -> Call:
    remaining_s = context.time_remaining()
    # Without a deadline gRPC reports a time hundreds of years away
    has_deadline = remaining_s is not None and remaining_s < 1e7
    deadline = time.monotonic() + remaining_s if has_deadline else None
    return Call(deadline=deadline, cancelled=lambda: not context.is_active())
