"""A client written by others, in its own environment, against our server.

`ovmsclient` speaks to TensorFlow Serving and OpenVINO Model Server; it needs a protobuf that
TensorFlow 2.15 cannot have, so it lives in a virtual environment of its own. It always sends a
version number, 0 by default, which OpenVINO takes for "the latest" and TensorFlow Serving (and so
our server) for version 0: with a TensorFlow server its users must give the version.

    python -m venv /tmp/ovms && /tmp/ovms/bin/pip install ovmsclient
    LONGTAIL_TF_OVMSCLIENT_PYTHON=/tmp/ovms/bin/python pytest tests/test_serving_other_clients.py
"""

from __future__ import annotations

import json
import os
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


def test_ovmsclient_cannot_tell(tmp_path):
    python = os.environ.get("LONGTAIL_TF_OVMSCLIENT_PYTHON")
    if not python:
        pytest.skip("LONGTAIL_TF_OVMSCLIENT_PYTHON names no interpreter with ovmsclient")
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
