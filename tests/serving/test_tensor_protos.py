"""Oracle: TensorFlow's own make_tensor_proto and make_ndarray, and the official messages."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from longtail_tf.serving import tensor_protos, wire

DTYPES = [
    "float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16",
    "uint32", "uint64", "bool", "complex64", "complex128",
]  # fmt: skip


def _sample(dtype, shape, rng):
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith("complex"):
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)
    if dtype.startswith("float"):
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def _typed(array):
    """A proto in typed fields, by TensorFlow: its C++ writes them where Python writes content."""
    proto = tensor_pb2.TensorProto()
    tensor_protos.fill(proto, array)
    return proto


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 2), (0,), (2, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_survives_both_forms(dtype, shape, rng):
    array = _sample(dtype, shape, rng)
    content = tf.make_tensor_proto(array)
    typed = _typed(array)
    assert not typed.tensor_content
    assert typed.dtype == content.dtype
    for proto in (content, typed):
        ours = tensor_protos.to_array(proto)
        np.testing.assert_array_equal(ours, array)
        assert ours.dtype == array.dtype
    # what we write, TensorFlow reads
    np.testing.assert_array_equal(tf.make_ndarray(typed), array)


def test_bfloat16_survives_both_forms(rng):
    array = tf.cast(tf.constant(rng.normal(size=(2, 3))), tf.bfloat16).numpy()
    for proto in (tf.make_tensor_proto(array), _typed(array)):
        np.testing.assert_array_equal(tensor_protos.to_array(proto), array)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 2)])
def test_strings_survive_both_forms_with_every_byte(shape, rng):
    count = int(np.prod(shape))
    array = np.empty(count, object)
    array[:] = [rng.bytes(n) + b"\x00" for n in rng.integers(0, 400, count)]
    array = array.reshape(shape)
    for proto in (tf.make_tensor_proto(array), _typed(array), _string_content(array)):
        np.testing.assert_array_equal(tensor_protos.to_array(proto), array)
    parsed = tf.io.parse_tensor(_string_content(array).SerializeToString(), tf.string)
    np.testing.assert_array_equal(parsed.numpy(), array if shape else array.item())


def _string_content(array):
    """Strings in tensor_content as TensorFlow's C++ packs them: lengths, then bytes."""
    proto = tensor_pb2.TensorProto(dtype=7)
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    lengths = b""
    for text in array.ravel():
        number = len(text)
        while number > 127:
            lengths += bytes([number & 127 | 128])
            number >>= 7
        lengths += bytes([number])
    proto.tensor_content = lengths + b"".join(array.ravel())
    return proto


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 7.0], [5.0, 7.0, 9.0, 11.0]])
def test_too_few_and_too_many_values_are_read_as_tensorflow_reads_them(values):
    proto = tensor_pb2.TensorProto(dtype=1, float_val=values)
    proto.tensor_shape.dim.add(size=3)
    expected = tf.io.parse_tensor(proto.SerializeToString(), tf.float32).numpy()
    np.testing.assert_array_equal(tensor_protos.to_array(proto), expected)


def _proto(dtype=1, shape=(), **fields):
    proto = tensor_pb2.TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (_proto(dtype=0), "its dtype is not set"),
        (_proto(dtype=20), "its dtype is 20"),  # a resource handle
        (_proto(shape=(-1,)), r"its shape \[-1\] is not possible"),
        (_proto(shape=(1,) * 33), "is not possible"),
        (_proto(shape=(1, 2**31, 2**62, 0)), "too many elements"),
        (_proto(dtype=18, shape=(2**60, 0)), "too many elements"),
        (_proto(shape=(2**40, 2**40)), "too many elements"),
        (_proto(shape=(2**33,), float_val=[1.0]), "asks for 8589934592 values and 1 were sent"),
        (_proto(shape=(10**6, 10**6)), "and 0 were sent"),
        (_proto(shape=(2,), tensor_content=b"123"), "has 3 bytes and its shape .* needs 8"),
        (_proto(shape=(2**50,), tensor_content=b"1234"), "has 4 bytes"),
        (_proto(dtype=7, shape=(2,), tensor_content=b"\x05"), "too short for 2 strings"),
        (_proto(dtype=7, shape=(1,), tensor_content=b"\x05a"), "does not hold the strings"),
        (_proto(dtype=7, shape=(1,), tensor_content=b"\x85"), "ends inside a string length"),
        (_proto(dtype=8, shape=(1,), scomplex_val=[1.0]), "odd number of values"),
    ],
)
def test_impossible_tensors_are_refused_without_allocating(proto, reason):
    with pytest.raises(tensor_protos.TensorProtoError, match=reason):
        tensor_protos.to_array(proto)


def test_unknown_rank_is_refused():
    proto = _proto()
    proto.tensor_shape.unknown_rank = True
    with pytest.raises(tensor_protos.TensorProtoError, match="its shape is unknown"):
        tensor_protos.to_array(proto)


def test_numpy_types_without_a_tensor_type_are_refused():
    with pytest.raises(tensor_protos.TensorProtoError, match="datetime64.* has no place"):
        tensor_protos.fill(tensor_pb2.TensorProto(), np.array(["2020"], "datetime64[D]"))


def test_the_clients_messages_are_the_official_ones_on_the_wire(rng):
    ours, official = wire.PredictRequest(), predict_pb2.PredictRequest()
    for request in (ours, official):
        request.model_spec.name, request.model_spec.signature_name = "m", "s"
        request.model_spec.version.value = 2**40
        request.output_filter.extend(["a", "b"])
    for dtype in DTYPES:
        array = _sample(dtype, (2, 3), rng)
        tensor_protos.fill(ours.inputs[dtype], array)
        tensor_protos.fill(official.inputs[dtype], array)
    tensor_protos.fill(ours.inputs["s"], np.array([b"x", b"\xff"], object))
    tensor_protos.fill(official.inputs["s"], np.array([b"x", b"\xff"], object))
    assert predict_pb2.PredictRequest.FromString(ours.SerializeToString()) == official
    assert wire.PredictRequest.FromString(official.SerializeToString()) == ours

    ours, official = wire.GetModelStatusResponse(), get_model_status_pb2.GetModelStatusResponse()
    for response in (ours, official):
        entry = response.model_version_status.add(version=3, state=50)
        entry.status.error_code, entry.status.error_message = 5, "gone"
    parsed = get_model_status_pb2.GetModelStatusResponse.FromString(ours.SerializeToString())
    assert parsed == official

    ours, official = wire.GetModelStatusRequest(), get_model_status_pb2.GetModelStatusRequest()
    for request in (ours, official):
        request.model_spec.version_label = "stable"
    assert ours.SerializeToString() == official.SerializeToString()
