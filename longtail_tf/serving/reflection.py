"""Health checking and reflection.

Under protobuf 4 the generated modules that describe the two services cannot be imported
(`prediction_service_pb2`, `model_service_pb2`: "has_options ... not writable"), so their
descriptors are added to the pool here; then grpcurl lists and calls everything.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from longtail_tf.serving.rpc import MODEL_SERVICE, PREDICTION_SERVICE

# The real server registers the short names; both are answered, and the empty one for the server.
HEALTH_NAMES = ("", "PredictionService", "ModelService", PREDICTION_SERVICE, MODEL_SERVICE)
_APIS = "tensorflow_serving/apis/"
# service file -> (service, methods: name -> request message, response message, their file)
_SERVICES: dict[str, tuple[str, list[tuple[str, str, str, str]]]] = {
    "prediction_service.proto": (
        "PredictionService",
        [
            ("Classify", "ClassificationRequest", "ClassificationResponse", "classification"),
            ("Regress", "RegressionRequest", "RegressionResponse", "regression"),
            ("Predict", "PredictRequest", "PredictResponse", "predict"),
            ("MultiInference", "MultiInferenceRequest", "MultiInferenceResponse", "inference"),
            (
                "GetModelMetadata",
                "GetModelMetadataRequest",
                "GetModelMetadataResponse",
                "get_model_metadata",
            ),
        ],
    ),
    "model_service.proto": (
        "ModelService",
        [
            (
                "GetModelStatus",
                "GetModelStatusRequest",
                "GetModelStatusResponse",
                "get_model_status",
            ),
            (
                "HandleReloadConfigRequest",
                "ReloadConfigRequest",
                "ReloadConfigResponse",
                "model_management",
            ),
        ],
    ),
}


class Health:
    """The standard health service; everything has the state of the whole server."""

    def __init__(self, server: Any):
        self._servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        self.set(is_serving=False)

    def set(self, *, is_serving: bool) -> None:
        """Tells every watcher whether all configured models are available."""
        states = health_pb2.HealthCheckResponse
        for name in HEALTH_NAMES:
            self._servicer.set(name, states.SERVING if is_serving else states.NOT_SERVING)

    def drain(self) -> None:
        """NOT_SERVING for good."""
        self._servicer.enter_graceful_shutdown()


def enable_reflection(server: Any) -> None:
    """Lets clients such as grpcurl list and describe the services."""
    _describe_services()
    names = (PREDICTION_SERVICE, MODEL_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _describe_services() -> None:
    pool = descriptor_pool.Default()
    for file_name, (service_name, methods) in _SERVICES.items():
        try:
            pool.FindServiceByName(f"tensorflow.serving.{service_name}")
            continue  # a newer stack, or a second server in this process
        except KeyError:
            pass
        file = descriptor_pb2.FileDescriptorProto(
            name=_APIS + file_name, package="tensorflow.serving", syntax="proto3"
        )
        service = file.service.add(name=service_name)
        for method, request, response, source in methods:
            file.dependency.append(f"{_APIS}{source}.proto")
            service.method.add(
                name=method,
                input_type=f".tensorflow.serving.{request}",
                output_type=f".tensorflow.serving.{response}",
            )
        pool.AddSerializedFile(file.SerializeToString())
