"""Warm-up requests: what TF Serving runs before it calls a version available.

`assets.extra/tf_serving_warmup_requests` is a TFRecord file of `PredictionLog` messages. They are
written in protobuf's wire format by hand (five message types, all length-delimited fields), so that
exporting does not need the serving packages; tests parse them with the real generated classes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

FILE = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000  # TF Serving refuses to load a version with more


def warmup_records(
    *, model_name: str, image_size: int, channels: int, batch_sizes: Sequence[int]
) -> list[bytes]:
    """One `PredictionLog` for each signature and batch size.

    The picture is made up (seeded noise), so no training image leaves with the model.
    """
    pixels = np.random.default_rng(0).integers(0, 256, [image_size, image_size, channels], np.uint8)
    encoded = [_encode(pixels, kind) for kind in ("JPEG", "PNG")]
    records = []
    for size in batch_sizes:
        files = [encoded[i % 2] for i in range(size)]
        images = np.broadcast_to(pixels, [size, *pixels.shape])
        records += [
            predict_log(model_name, "serving_default", "image_bytes", tf.make_tensor_proto(files)),
            predict_log(model_name, "embed", "image_bytes", tf.make_tensor_proto(files)),
            predict_log(model_name, "predict_images", "images", tf.make_tensor_proto(images)),
            classify_log(model_name, "classify", [image_example(file) for file in files]),
        ]
    return records


def write_warmup(folder: str, records: Sequence[bytes]) -> None:
    """Writes the records into the version folder `folder`."""
    tf.io.gfile.makedirs(f"{folder}/assets.extra")
    with tf.io.TFRecordWriter(f"{folder}/{FILE}") as writer:
        for record in records:
            writer.write(record)


def image_example(image_bytes: bytes) -> bytes:
    """A serialized tf.Example with one encoded image, as the Classify RPC takes it."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image_bytes]))
    features = tf.train.Features(feature={"image/encoded": feature})
    return tf.train.Example(features=features).SerializeToString()


def predict_log(model_name: str, signature: str, name: str, tensor: object) -> bytes:
    """PredictionLog{predict_log{request{model_spec, inputs{name: tensor}}}}."""
    entry = _field(1, name.encode()) + _field(2, tensor.SerializeToString())  # type: ignore[attr-defined]
    request = _field(1, _model_spec(model_name, signature)) + _field(2, entry)
    return _field(6, _field(1, request))


def classify_log(model_name: str, signature: str, examples: Sequence[bytes]) -> bytes:
    """PredictionLog{classify_log{request{model_spec, input{example_list{examples}}}}}."""
    example_list = b"".join(_field(1, example) for example in examples)
    request = _field(1, _model_spec(model_name, signature)) + _field(2, _field(1, example_list))
    return _field(2, _field(1, request))


def _model_spec(model_name: str, signature: str) -> bytes:
    return _field(1, model_name.encode()) + _field(3, signature.encode())


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, kind)
    return file.getvalue()
