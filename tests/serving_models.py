"""Toy SavedModels with the signatures of an export, for the serving tests.

A "colour classifier": an image's embedding is its mean colour, normalised; the classes are the
three primary colours. `colour_scores` is the same in numpy, by hand.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import pathlib
import shutil
import tempfile
import threading

import numpy as np
import tensorflow as tf
from PIL import Image

from tests.waiting import HANG_S

CLASSES = (b"red", b"green", b"blue")


def png(colour, size=4) -> bytes:
    """A one-colour PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), tuple(colour)).save(buffer, "PNG")
    return buffer.getvalue()


def colour_scores(colour) -> np.ndarray:
    """Cosine to the three primaries, in float64."""
    mean = np.asarray(colour, np.float64)
    return mean / np.linalg.norm(mean)


class ColourModel(tf.Module):
    def __init__(self, tag="", top_k=3, spin=400):
        super().__init__()
        self.prototypes = tf.Variable(np.eye(3, dtype=np.float32))
        self.names = tf.constant([tag.encode() + name for name in CLASSES])
        self.top_k, self.spin = top_k, spin

    def _embed(self, images):
        mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])
        return tf.math.l2_normalize(mean, axis=-1)

    def _decode(self, image_bytes):
        def one(raw):
            image = tf.io.decode_image(raw, channels=3, expand_animations=False)
            image.set_shape([None, None, 3])
            return tf.image.resize(image, [4, 4], method="nearest")

        return tf.map_fn(one, image_bytes, fn_output_signature=tf.TensorSpec([4, 4, 3], tf.uint8))

    def _rank(self, images):
        scores, ids = tf.math.top_k(
            tf.matmul(self._embed(images), self.prototypes, transpose_b=True), self.top_k
        )
        return {
            "labels": tf.gather(self.names, ids),
            "class_ids": tf.cast(ids, tf.int64),
            "scores": scores,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_default(self, image_bytes):
        return self._rank(self._decode(image_bytes))

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.uint8, name="images")])
    def predict_images(self, images):
        return self._rank(images)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def embed(self, image_bytes):
        return {"embedding": self._embed(self._decode(image_bytes))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        features = tf.io.parse_example(
            inputs, {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        )
        ranked = self._rank(self._decode(features["image/encoded"]))
        return {"classes": ranked["labels"], "scores": ranked["scores"]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def slow(self, x):
        """Keeps a core busy for a while: `spin` products of two 200 x 200 matrices."""
        matrix = tf.eye(200) + 0.0 * tf.reduce_sum(x)
        for _ in tf.range(self.spin):
            matrix = tf.matmul(matrix, matrix)
        return {"y": x * matrix[0, 0]}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.float32, name="a"),
            tf.TensorSpec([None, None], tf.float32, name="b"),
        ]
    )
    def add(self, a, b):
        """Two inputs, free shapes."""
        return {"sum": a + b}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def total(self, x):
        """No batch dimension in the output: requests must not be merged."""
        return {"total": tf.reduce_sum(x)}


def save_version(base, number, *, tag="", **kwargs) -> pathlib.Path:
    """Writes BASE/number beside and renames it, as the exporter does."""
    base = pathlib.Path(base)
    base.mkdir(parents=True, exist_ok=True)
    beside, final = base / f".{number}.being-written", base / str(number)
    model = ColourModel(tag, **kwargs)
    names = "serving_default predict_images embed classify slow add total".split()
    tf.saved_model.save(
        model, str(beside), signatures={name: getattr(model, name) for name in names}
    )
    _set_classify_method(beside)
    os.rename(beside, final)
    return final


def copy_version(version, base, number) -> pathlib.Path:
    """A saved version under another number or model: much cheaper than saving again."""
    beside, final = pathlib.Path(base) / f".{number}.being-copied", pathlib.Path(base) / str(number)
    beside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(version, beside)
    os.rename(beside, final)
    return final


def _set_classify_method(path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    message.meta_graphs[0].signature_def["classify"].method_name = "tensorflow/serving/classify"
    file.write_bytes(message.SerializeToString())


@functools.cache
def saved_once(tag="") -> pathlib.Path:
    """Version 1 of a toy model, saved once a test process."""
    folder = tempfile.mkdtemp(prefix="longtail_tf_serving_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save_version(folder, 1, tag=tag)


@contextlib.contextmanager
def serving(**settings):
    """A running server on a free loopback port; polls quickly."""
    from longtail_tf import serve

    defaults = {"port": 0, "file_system_poll_wait_seconds": 0.05, "drain_seconds": 5.0}
    server = serve.start(serve.ServeConfig(**{**defaults, **settings}))
    try:
        yield server
    finally:
        close_channels(server.address)
        server.stop(5.0)


_channels: dict = {}


def close_channels(address):
    """Closes what `stubs` opened to a server, whether the test went well or not."""
    for channel in _channels.pop(address, ()):
        channel.close()


def stubs(address):
    """Official stubs (PredictionService, ModelService) and their channel.

    The channel closes with the `serving` that started the server.
    """
    import grpc
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    _channels.setdefault(address, []).append(channel)
    return (
        prediction_service_pb2_grpc.PredictionServiceStub(channel),
        model_service_pb2_grpc.ModelServiceStub(channel),
        channel,
    )


def predict_request(name="m", signature="", version=None, **inputs):
    """An official PredictRequest of arrays."""
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return request


@contextlib.contextmanager
def held_back(monkeypatch):
    """A server of this process begins no run of a model within the block; gives what has come.

    What must happen while a model runs then needs no model that runs just long enough.
    """
    from longtail_tf.serving.servable import Servable

    arrived, may_run, run = threading.Semaphore(0), threading.Event(), Servable.run

    def run_later(self, signature, arrays):
        arrived.release()
        may_run.wait(HANG_S)
        return run(self, signature, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(Servable, "run", run_later)
        try:
            yield arrived
        finally:
            may_run.set()


def refusal(method, request, timeout=HANG_S):
    """(code name, message) of a call that must fail."""
    import grpc
    import pytest

    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=timeout)
    return caught.value.code().name, caught.value.details()
