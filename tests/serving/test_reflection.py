"""Health checking, and reflection as grpcurl uses it: list, describe, call without any stubs."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from longtail_tf.serving.reflection import HEALTH_NAMES
from tests.serving_models import copy_version, png, saved_once, serving
from tests.waiting import HANG_S, wait_for


@pytest.fixture
def base(tmp_path):
    copy_version(saved_once(), tmp_path / "m", 1)
    return tmp_path / "m"


def _check(stub, name=""):
    return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=HANG_S).status


def test_health_follows_the_models(tmp_path):
    (tmp_path / "m").mkdir()
    with serving(model_base_path=str(tmp_path / "m"), model_name="m") as running:
        channel = grpc.insecure_channel(running.address)
        stub = health_pb2_grpc.HealthStub(channel)
        assert {_check(stub, name) for name in HEALTH_NAMES} == {2}  # NOT_SERVING: no version yet
        copy_version(saved_once(), tmp_path / "m", 1)
        wait_for(lambda: _check(stub) == 1)
        assert {_check(stub, name) for name in HEALTH_NAMES} == {1}
        with pytest.raises(grpc.RpcError) as caught:
            _check(stub, "other")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        channel.close()


def _ask(stub, **request):
    (answer,) = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=HANG_S
    )
    return answer


def test_a_client_without_stubs_can_list_describe_and_call(base):
    """Only what the server says about itself is used: descriptors go into an empty pool."""
    with serving(model_base_path=str(base), model_name="m") as running:
        channel = grpc.insecure_channel(running.address)
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed = {
            service.name for service in _ask(stub, list_services="").list_services_response.service
        }
        assert listed == {
            "tensorflow.serving.PredictionService",
            "tensorflow.serving.ModelService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        pool, seen = descriptor_pool.DescriptorPool(), set()

        def fetch(**request):
            for raw in _ask(stub, **request).file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(raw)
                if file.name in seen:
                    continue
                seen.add(file.name)
                for dependency in file.dependency:
                    fetch(file_by_filename=dependency)
                pool.AddSerializedFile(raw)

        fetch(file_containing_symbol="tensorflow.serving.PredictionService")
        fetch(file_containing_symbol="tensorflow.serving.ModelService")
        for service, methods in {
            "PredictionService": {
                "Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"
            },
            "ModelService": {"GetModelStatus", "HandleReloadConfigRequest"},
        }.items():  # fmt: skip
            described = pool.FindServiceByName(f"tensorflow.serving.{service}")
            assert {method.name for method in described.methods} == methods
        predict = pool.FindServiceByName("tensorflow.serving.PredictionService").FindMethodByName(
            "Predict"
        )
        request = GetMessageClass(predict.input_type)()
        request.model_spec.name = "m"
        tensor = request.inputs["image_bytes"]
        tensor.dtype = 7
        tensor.tensor_shape.dim.add(size=1)
        tensor.string_val.append(png((1, 9, 1)))
        call = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(predict.output_type).FromString,
        )
        assert call(request, timeout=HANG_S).outputs["labels"].string_val[0] == b"green"
        channel.close()
