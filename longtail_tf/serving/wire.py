"""The messages a client needs, built from a table, in a pool of their own.

The official message classes import the whole of TensorFlow (about three seconds); these are the
same on the wire and need grpc and protobuf only, so `classify --server=...` starts at once. Field
numbers are those of tensorflow_serving/apis and tensorflow/core/framework; a test holds the table
against the official classes.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool

try:
    from google.protobuf.message_factory import GetMessageClass
except ImportError:  # protobuf 4.21
    from google.protobuf.message_factory import MessageFactory

    def GetMessageClass(descriptor: Any) -> Any:  # noqa: N802, D103
        return MessageFactory().GetPrototype(descriptor)


_PACKAGE = "longtail_tf.wire"
# message -> (field, number, type); a `*` means repeated, `map ` a map from string.
_MESSAGES: dict[str, list[tuple[str, int, str]]] = {
    "Int64Value": [("value", 1, "int64")],
    "ModelSpec": [
        ("name", 1, "string"),
        ("version", 2, "Int64Value"),
        ("signature_name", 3, "string"),
        ("version_label", 4, "string"),
    ],
    "Dim": [("size", 1, "int64"), ("name", 2, "string")],
    "TensorShape": [("dim", 2, "Dim*"), ("unknown_rank", 3, "bool")],
    "Tensor": [
        ("dtype", 1, "int32"),
        ("tensor_shape", 2, "TensorShape"),
        ("version_number", 3, "int32"),
        ("tensor_content", 4, "bytes"),
        ("float_val", 5, "float*"),
        ("double_val", 6, "double*"),
        ("int_val", 7, "int32*"),
        ("string_val", 8, "bytes*"),
        ("scomplex_val", 9, "float*"),
        ("int64_val", 10, "int64*"),
        ("bool_val", 11, "bool*"),
        ("dcomplex_val", 12, "double*"),
        ("half_val", 13, "int32*"),
        ("uint32_val", 16, "uint32*"),
        ("uint64_val", 17, "uint64*"),
    ],
    "PredictRequest": [
        ("model_spec", 1, "ModelSpec"),
        ("inputs", 2, "map Tensor"),
        ("output_filter", 3, "string*"),
    ],
    "PredictResponse": [("outputs", 1, "map Tensor"), ("model_spec", 2, "ModelSpec")],
    "GetModelStatusRequest": [("model_spec", 1, "ModelSpec")],
    "StatusProto": [("error_code", 1, "int32"), ("error_message", 2, "string")],
    "ModelVersionStatus": [
        ("version", 1, "int64"),
        ("state", 2, "int32"),
        ("status", 3, "StatusProto"),
    ],
    "GetModelStatusResponse": [("model_version_status", 1, "ModelVersionStatus*")],
}
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="longtail_tf/serving/wire.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            if kind.startswith("map "):
                _add_map(message, field, number, kind[len("map ") :])
            else:
                _add_field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number)
    field.label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
    kind = kind.rstrip("*")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = kind if kind.startswith(".") else f".{_PACKAGE}.{kind}"


def _add_map(message: Any, name: str, number: int, value: str) -> None:
    entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, "string")
    _add_field(entry, "value", 2, value)
    _add_field(message, name, number, f".{_PACKAGE}.{message.name}.{entry.name}*")


_CLASSES = _build()
PredictRequest = _CLASSES["PredictRequest"]
PredictResponse = _CLASSES["PredictResponse"]
GetModelStatusRequest = _CLASSES["GetModelStatusRequest"]
GetModelStatusResponse = _CLASSES["GetModelStatusResponse"]
