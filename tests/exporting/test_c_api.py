"""The export runs from a C program on TensorFlow's C API: no Python anywhere near it."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from longtail_tf.exporting.saved_model import build_serving_module
from longtail_tf.exporting.serving_module import Limits
from tests import export_model

SOURCE = pathlib.Path(__file__).with_name("export_c_api.c")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    compiler = shutil.which("gcc")
    library = pathlib.Path(tf.sysconfig.get_lib())
    if compiler is None:
        pytest.skip("no gcc to build the C program with")
    if not (library / "libtensorflow_cc.so.2").exists():
        pytest.skip("this TensorFlow wheel has no libtensorflow_cc.so.2")
    out = tmp_path_factory.mktemp("c") / "export_c_api"
    command = [compiler, "-O1", "-o", str(out), str(SOURCE), f"-I{tf.sysconfig.get_include()}",
               f"-L{library}", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2",
               f"-Wl,-rpath,{library}"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    trained, folder = export_model.trained(), tmp_path_factory.mktemp("model")
    module = build_serving_module(
        model=trained.model, recognizer=trained.recognizer, class_names=export_model.NAMES,
        image_size=export_model.SIZE, channels=export_model.CHANNELS,
        labels_path=str(folder / "labels.txt"), limits=Limits(strict=True),
    )  # fmt: skip
    tf.saved_model.save(module, str(folder / "1"), signatures=module.signatures())
    return folder / "1"


def run(program, version, image, tmp_path):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((version / "saved_model.pb").read_bytes())
    signature = saved.meta_graphs[0].signature_def["serving_default"]
    feed = signature.inputs["image_bytes"].name.split(":")[0]
    fetch, index = signature.outputs["class_ids"].name.split(":")
    file = tmp_path / "image"
    file.write_bytes(image)
    command = [str(program), str(version), feed, fetch, index, str(file)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_c_program_names_the_class_keras_names(program, version, tmp_path):
    trained, row = export_model.trained(), 3
    embedding, logits = trained.model.embed_with_logits(tf.constant(trained.test_images[[row]]))
    scores = trained.recognizer.scores("gated", embedding.numpy(), logits.numpy())
    done = run(program, version, export_model.test_files(row + 1)[row], tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == int(np.argmax(scores))


def test_a_bad_image_is_an_invalid_argument_in_words(program, version, tmp_path):
    done = run(program, version, b"not an image", tmp_path)
    assert done.returncode == 1
    assert "code 3" in done.stderr  # INVALID_ARGUMENT
    assert "cannot be read; send JPEG, PNG, GIF or BMP" in done.stderr
