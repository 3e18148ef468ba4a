"""A run folder of one stack (TensorFlow 2.15, or 2.21 with Keras 3) works on the other.

LONGTAIL_TF_OTHER_STACK=.venv-keras3/bin/python pytest tests/runs/test_other_stack.py
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.compat import keras_version
from longtail_tf.errors import UserError
from longtail_tf.exporting.device import DeviceClassifier
from tests import fakes, rounding, waiting

OTHER = os.environ.get("LONGTAIL_TF_OTHER_STACK", "")


def python(program, *arguments):
    """Runs one task of `other_stack_runs`; both stacks alike, in a process of their own."""
    result = waiting.run(
        [program, "-m", "tests.other_stack_runs", *map(str, arguments)],
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.skipif(not OTHER, reason="LONGTAIL_TF_OTHER_STACK names no Python of the other stack")
@pytest.mark.parametrize("trained_here", [True, False])
def test_a_run_folder_works_on_the_other_stack(trained_here, tmp_path):
    spec = fakes.write_npz(tmp_path / "bars.npz", size=12)
    rng = np.random.default_rng(5)
    images = [tmp_path / f"{label}.png" for label in range(4)]
    pixels = [fakes.draw(label, rng, size=12) for label in range(4)]
    for path, image in zip(images, pixels):
        path.write_bytes(fakes.png_bytes(image))
    trainer = sys.executable if trained_here else OTHER
    run = tmp_path / "run"
    python(trainer, "train", spec, run)
    versions = json.loads((run / "config.json").read_text())["provenance"]["packages"]
    assert versions["keras"].startswith("3." if trained_here == keras_version.KERAS_3 else "2.")

    found = []
    for name, program in (("here", sys.executable), ("there", OTHER)):
        python(program, "use", run, tmp_path / name, *images)
        found.append(np.load(tmp_path / name / "found.npz"))
    here, there = found
    for name in ("weights", "kept_prototypes"):
        np.testing.assert_array_equal(here[name], there[name], err_msg=name)
    for name in ("prototypes", "logits", "scores"):
        atol = rounding.NETWORK * max(1, np.abs(here[name]).max())
        np.testing.assert_allclose(here[name], there[name], atol=atol, err_msg=name)
    np.testing.assert_allclose(here["prototypes"], here["kept_prototypes"], atol=rounding.NETWORK)
    np.testing.assert_array_equal(here["best"], there["best"])
    # One of six test images of a class may lie between two classes.
    np.testing.assert_allclose(here["balanced"], there["balanced"], atol=1 / 6 / 8 + 1e-6)

    # What the other stack exported answers alike on this one.
    saved = tf.saved_model.load(str(tmp_path / "there" / "export" / "longtail" / "1"))
    answer = saved.signatures["predict_images"](tf.constant(np.stack(pixels)))
    assert [name.decode() for name in answer["labels"][:, 0].numpy()] == list(here["best"])
    files = {side: tmp_path / side / "export" / "tflite" for side in ("here", "there")}
    for variant in ("float32", "dynamic"):
        name = f"classifier_{variant}.tflite"
        try:
            device = DeviceClassifier(files["there"] / name)
        except UserError as error:  # 2.21's dynamic-range files need a newer runtime than 2.15's
            assert variant == "dynamic" and not keras_version.KERAS_3
            assert "does not load in" in str(error) and "install a newer runtime" in str(error)
            continue
        ours = DeviceClassifier(files["here"] / name)
        tolerance = rounding.NETWORK if variant == "float32" else 0.05
        for image in pixels:
            np.testing.assert_allclose(device.scores(image), ours.scores(image), atol=tolerance)
