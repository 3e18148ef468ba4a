from __future__ import annotations

import socket
import subprocess
import sys
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.serving import client as client_module
from longtail_tf.serving.client import Client
from longtail_tf.serving.connection import sentence
from tests.serving_models import (
    colour_scores,
    copy_version,
    held_back,
    png,
    saved_once,
    serving,
)
from tests.waiting import HANG_S


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "m"
    for number in (1, 2):
        copy_version(saved_once(), base, number)
    config = base.parent / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{base}" '
        'model_platform: "tensorflow" model_version_policy { all {} } '
        'version_labels { key: "stable" value: 1 } } }'
    )
    with serving(model_config_file=str(config)) as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.address, "m", timeout_s=HANG_S) as client:
        yield client


class FakeServer:
    """A Predict that does what a list of functions says, one a call; counts calls in flight."""

    def __init__(self, answers):
        self.answers, self.calls, self.lock = list(answers), 0, threading.Lock()
        self.server = grpc.server(futures.ThreadPoolExecutor(16))
        handler = grpc.method_handlers_generic_handler(
            "tensorflow.serving.PredictionService",
            {"Predict": grpc.unary_unary_rpc_method_handler(self._predict)},
        )
        self.server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def _predict(self, raw, context):
        with self.lock:
            answer = self.answers[min(self.calls, len(self.answers) - 1)]
            self.calls += 1
        return answer(raw, context)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(0).wait()


def _abort(code, details="said so"):
    return lambda raw, context: context.abort(code, details)


def test_many_images_come_back_in_order(client, rng):
    colours = rng.integers(1, 255, (100, 3))
    predictions = list(client.classify(png(colour) for colour in colours))
    assert len(predictions) == 100
    for colour, prediction in zip(colours, predictions):
        truth = colour_scores(colour)
        assert prediction.error is None
        assert prediction.class_ids == np.argsort(-truth, kind="stable").tolist()
        np.testing.assert_allclose(prediction.scores, sorted(truth, reverse=True), atol=1e-6)
        assert set(prediction.labels) == {"red", "green", "blue"}


def test_files_are_read_when_their_turn_comes(client, tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png((9, 1, 1)))
    paths = [tmp_path / "0.png", str(tmp_path / "1.png"), tmp_path / "missing.png"]
    with pytest.raises(UserError, match="the image .*missing.png cannot be read: No such file"):
        list(client.classify(paths))


@pytest.mark.parametrize("bad", [[0], [3], [0, 1, 2, 3, 4, 5, 6], [2, 5]])
def test_a_bad_image_gets_an_error_and_its_neighbours_an_answer(server, bad):
    images = [b"bad" if i in bad else png((9, 200, 1)) for i in range(7)]
    with Client(server.address, "m", batch_size=5) as client:
        predictions = list(client.classify(images))
    for i, prediction in enumerate(predictions):
        if i in bad:
            assert "Unknown image file format" in prediction.error
            assert prediction.labels == []
        else:
            assert prediction.labels[0] == "green"


def test_the_exports_valid_output_marks_bad_images():
    from longtail_tf.serving import tensor_protos, wire

    def answer(raw, context):
        response = wire.PredictResponse()
        arrays = {
            "labels": np.array([[b"a"], [b"b"]], object),
            "class_ids": np.array([[1], [2]]),
            "scores": np.array([[0.5], [0.25]], np.float32),
            "valid": np.array([False, True]),
        }
        for name, array in arrays.items():
            tensor_protos.fill(response.outputs[name], array)
        return response.SerializeToString()

    with FakeServer([answer]) as fake, Client(fake.address, "m") as client:
        first, second = client.classify([b"bad", b"good"])
    assert first.error == "the server cannot decode this image"
    assert (second.labels, second.class_ids, second.scores) == (["b"], [2], [0.25])


def test_embeddings(client):
    (vector,) = client.embed([png((3, 4, 0))])
    np.testing.assert_allclose(vector, [0.6, 0.8, 0], atol=1e-6)
    with pytest.raises(UserError, match="an image cannot be embedded: Unknown image"):
        list(client.embed([b"bad"]))


def test_predict_takes_arrays_and_selects_outputs(client):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[..., 2] = 5
    outputs = client.predict({"images": images}, signature="predict_images", outputs=["labels"])
    assert {name: array[:, 0].tolist() for name, array in outputs.items()} == {
        "labels": [b"blue", b"blue"]
    }
    raw = png((9, 1, 1)) + b"\x00\x00"  # numpy's bytes dtype would drop the zeros
    assert client.predict({"image_bytes": [raw]})["class_ids"][0, 0] == 0
    with pytest.raises(UserError, match="input 'x' cannot be sent: numpy dtype"):
        client.predict({"x": np.array(["2020"], "datetime64[D]")})


def test_versions_and_labels_can_be_asked_for(server):
    with Client.connect(f"{server.address}/m@stable") as client:
        assert next(client.classify([png((9, 1, 1))])).labels[0] == "red"
    missing = pytest.raises(UserError, match=r"does not serve what was asked .*Specific\(m, 9\)")
    with Client.connect(f"{server.address}/m/9") as client, missing:
        list(client.classify([b"x"]))


def test_status_and_waiting(server, client):
    assert [(v.version, v.state) for v in client.status()] == [(2, "AVAILABLE"), (1, "AVAILABLE")]
    client.wait_until_ready(HANG_S)
    absent = pytest.raises(UserError, match="has no available version of 'absent' after 0.1 s")
    with Client(server.address, "absent") as other, absent:
        other.wait_until_ready(0.1)


def test_unavailable_is_retried_with_pauses_and_nothing_else_is():
    codes = grpc.StatusCode
    empty = lambda raw, context: b""  # noqa: E731
    with FakeServer([_abort(codes.UNAVAILABLE)] * 2 + [empty]) as fake:
        with Client(fake.address, "m") as client:
            assert client.predict({}) == {}
        assert fake.calls == 3
    for code in (codes.DEADLINE_EXCEEDED, codes.INTERNAL, codes.ABORTED, codes.RESOURCE_EXHAUSTED):
        with FakeServer([_abort(code)]) as fake, Client(fake.address, "m") as client:
            with pytest.raises(UserError):
                client.predict({})
            assert fake.calls == 1, code
    with FakeServer([_abort(codes.UNAVAILABLE)]) as fake:
        with Client(fake.address, "m", max_attempts=3) as client, pytest.raises(UserError):
            client.predict({})
        assert fake.calls == 3


def test_a_batch_too_large_for_the_server_is_halved(server, tmp_path):
    copy_version(saved_once(), tmp_path / "m", 1)
    settings = {"model_base_path": str(tmp_path / "m"), "max_message_bytes": 1_000}
    with serving(**settings) as small, Client(small.address, "default") as client:
        predictions = list(client.classify([png((1, 1, 9))] * 50))
    assert [prediction.labels[0] for prediction in predictions] == ["blue"] * 50


def test_no_more_images_are_read_than_are_in_flight():
    read = []

    def images():
        for i in range(1000):
            read.append(i)
            yield b"x"

    with FakeServer([_abort(grpc.StatusCode.INVALID_ARGUMENT)]) as fake:
        client = Client(fake.address, "m", batch_size=4, max_in_flight=2)
        predictions = client.classify(images())
        for _ in range(5):
            assert next(predictions).error == "said so"
        predictions.close()  # abandoned half way: what is under way is cancelled
        client.close()
    assert len(read) <= 17


def test_batches_are_bounded_in_images_and_bytes(monkeypatch):
    monkeypatch.setattr(client_module, "_MAX_BATCH_BYTES", 10)
    sizes = [4, 4, 4, 30, 1, 1, 1, 1]
    batches = list(client_module.image_batches((b"x" * n for n in sizes), 3))
    assert [[len(image) for image in batch] for batch in batches] == [
        [4, 4], [4], [30], [1, 1, 1], [1]
    ]  # fmt: skip
    assert list(client_module.image_batches([], 3)) == []


def test_a_deadline_becomes_a_sentence(server, monkeypatch):
    late = pytest.raises(UserError, match="did not answer within 0.5 s: send fewer images")
    with held_back(monkeypatch), Client(server.address, "m", timeout_s=0.5) as client, late:
        client.predict({"image_bytes": [png((9, 1, 1))]})


def test_no_server_becomes_a_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nobody = pytest.raises(UserError, match=f"no server answers at 127.0.0.1:{port}")
    with Client(f"127.0.0.1:{port}", "m", max_attempts=2) as client, nobody:
        client.status()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("UNAVAILABLE", r"no server answers at h:1 \(why\): start one with python -m longtail_tf"),
        ("DEADLINE_EXCEEDED", "h:1 did not answer within 3 s: send fewer images at once"),
        ("NOT_FOUND", r"h:1 does not serve what was asked of model 'm' \(why\): check the model's"),
        ("RESOURCE_EXHAUSTED", r"h:1 is overloaded or the request is too large \(why\)"),
        ("UNIMPLEMENTED", r"h:1 is no TensorFlow Serving server, or an old one \(why\)"),
        ("INVALID_ARGUMENT", "h:1 refuses the request to model 'm': why"),
        ("FAILED_PRECONDITION", "h:1 refuses the request to model 'm': why"),
        ("DATA_LOSS", "h:1 failed with DATA_LOSS: why"),
    ],
)
def test_every_code_has_a_sentence(code, text):
    import re

    answer = sentence(code, "why\nand a trace", address="h:1", model="m", timeout_s=3.0)
    assert re.match(text, answer)
    assert "trace" not in answer


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Client("localhost", "m"), "address 'localhost' is not HOST:PORT"),
        (lambda: Client.connect("localhost:8500"), "is not HOST:PORT/MODEL, as in localhost:8500"),
        (lambda: Client.connect("h:1/m/x"), "is not HOST:PORT/MODEL"),
        (
            lambda: Client("h:1", "m", version=1, version_label="s"),
            "both version and version_label",
        ),
        (lambda: Client("h:1", "m", batch_size=0), "batch_size=0, .* must each be at least 1"),
    ],
)
def test_bad_settings_are_refused(make, text):
    with pytest.raises(UserError, match=text):
        make()


def test_without_grpc_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(UserError, match=r"pip install 'longtail_tf\[serving\]'"):
        Client("h:1", "m")


def test_the_client_needs_no_tensorflow():
    code = (
        "import sys; from longtail_tf.serving.client import Client; Client('h:1', 'm').close();"
        "sys.exit('tensorflow' in sys.modules or 'tensorflow_serving' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
