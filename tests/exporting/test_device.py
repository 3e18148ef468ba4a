"""Running a .tflite with numpy and Pillow, on whichever runtime is installed."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.exporting import device
from longtail_tf.exporting.device import DeviceClassifier, read_image
from longtail_tf.images import preprocess
from tests import export_model, rounding

# Python of an environment that holds one other consumer, set by whoever has made one
ENVIRONMENTS = {
    "ai-edge-litert": "LONGTAIL_LITERT_PYTHON",
    "tflite-runtime": "LONGTAIL_TFLITE_RUNTIME_PYTHON",
    "mediapipe": "LONGTAIL_MEDIAPIPE_PYTHON",
    "tflite-support": "LONGTAIL_TFLITE_SUPPORT_PYTHON",
}


@pytest.fixture(scope="module")
def paths():
    return export_model.tflite_paths()


def picture(height, width, channels=3):
    """A smooth picture: resize filters may differ by little on it, by much on noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (5 + c)) + np.cos(y / (7 - c)) for c in range(channels)]
    return np.clip(128 + 50 * np.stack(waves, -1), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
@pytest.mark.parametrize("size", [(16, 16), (20, 28), (33, 40), (90, 70), (300, 200), (12, 9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_read_image_sees_what_the_network_was_trained_on(kind, size, channels):
    file = export_model.encoded(picture(*size), kind)
    expected = preprocess.preprocess_bytes(tf.constant(file), image_size=16, channels=channels)
    given = read_image(file, 16, channels)
    assert given.shape == (16, 16, channels)
    assert given.dtype == np.uint8
    difference = np.abs(given.astype(int) - expected.numpy())
    assert difference.mean() <= 1.0
    assert difference.max() <= 6


def test_read_image_drops_alpha_and_reads_palettes():
    rgba = np.dstack([picture(16, 16), np.full((16, 16), 40, np.uint8)])
    assert np.array_equal(read_image(export_model.encoded(rgba), 16, 3), rgba[..., :3])


def test_read_image_names_what_it_cannot_read(tmp_path):
    with pytest.raises(UserError, match="absent.png does not exist: check the path"):
        read_image(tmp_path / "absent.png", 16, 3)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="notes.txt cannot be read as an image"):
        read_image(tmp_path / "notes.txt", 16, 3)
    png = export_model.encoded(picture(60, 60))
    with pytest.raises(UserError, match="The image cannot be read as an image"):
        read_image(png[: len(png) // 2], 16, 3)


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_classifier_and_embedder_agree_with_the_recognizer(paths, variant):
    trained = export_model.trained()
    images, labels = trained.test_images[:60], trained.test_labels[:60]
    embeddings = trained.model(tf.constant(images), training=False).numpy()
    expected = trained.recognizer.predict("ncm", embeddings, k=3)
    for kind in ("classifier", "embedder"):
        device = DeviceClassifier(paths[kind, variant])
        found = [device.classify(image, top_k=3) for image in images]
        ids = np.array([[c.class_id for c in row] for row in found])
        assert np.mean(ids[:, 0] == expected.class_ids[:, 0]) >= 0.97
        assert np.mean(ids[:, 0] == labels) > 0.85
        assert all(c.label == export_model.NAMES[c.class_id] for row in found for c in row)
        if variant == "float32":
            given = [[c.probability for c in row] for row in found]
            # Scores are divided by a temperature of 0.1.
            atol = rounding.NETWORK / 0.1
            np.testing.assert_allclose(given, expected.probabilities, atol=atol)


def test_a_class_can_be_added_on_the_device(paths):
    trained = export_model.trained()
    device = DeviceClassifier(paths["embedder", "float32"])
    nines = trained.train_images[trained.train_labels == 9]
    black_on_white = 255 - nines  # nothing the network has seen
    device.add_class("black nine", list(black_on_white[:5]))
    assert device.labels[-1] == "black nine"
    named = [device.classify(image, top_k=1)[0].label for image in black_on_white[5:45]]
    assert named.count("black nine") > 35
    tests = trained.test_images[:100]
    kept = [device.classify(image, top_k=1)[0].class_id for image in tests]
    assert np.mean(np.array(kept) == trained.test_labels[:100]) > 0.8
    with pytest.raises(UserError, match="'zero' exists already"):
        device.add_class("zero", [nines[0]])
    with pytest.raises(UserError, match="'new' came without an image"):
        device.add_class("new", [])
    with pytest.raises(UserError, match="gives scores only: use the embedder"):
        DeviceClassifier(paths["classifier", "float32"]).add_class("new", [nines[0]])


def test_unknown_comes_first_below_the_threshold(paths):
    device = DeviceClassifier(paths["classifier", "float32"])
    image = export_model.trained().test_images[0]
    best = device.classify(image)[0]
    device.unknown_threshold = best.score + 0.01
    found = device.classify(image, top_k=3)
    assert (found[0].label, found[0].class_id) == ("unknown", -1)
    assert found[1] == best
    assert len(found) == 3
    device.unknown_threshold = best.score - 0.01
    assert device.classify(image)[0] == best


def test_pixels_must_be_what_the_model_takes(paths):
    device = DeviceClassifier(paths["classifier", "float32"])
    with pytest.raises(UserError, match=r"shape \(8, 8, 3\) and type uint8 came; this model takes"):
        device.scores(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="type float32 came"):
        device.scores(np.zeros((16, 16, 3), np.float32))


def test_files_that_are_no_export_are_refused(paths, tmp_path):
    with pytest.raises(UserError, match=r"none.tflite cannot be read \(No such file"):
        DeviceClassifier(tmp_path / "none.tflite")
    content = paths["classifier", "float32"].read_bytes()
    for name, damaged in {
        "bare.tflite": b"\0\0\0\0TFL3" + b"\0" * 40,
        "cut.tflite": content[:-100],
        "cut_in_the_model.tflite": content[:3000],
        "empty.tflite": b"",
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=f"{name} is not a .tflite that longtail_tf exported"):
            DeviceClassifier(tmp_path / name)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("labels.txt", "a\n")
    with pytest.raises(UserError, match="is not a .tflite that longtail_tf exported"):
        DeviceClassifier(other)


@pytest.mark.parametrize("place", [0, 5, 2000, 20000])
def test_a_damaged_model_is_refused_before_the_interpreter_sees_it(paths, tmp_path, place):
    content = bytearray(paths["classifier", "float32"].read_bytes())
    content[place] ^= 0xFF
    (tmp_path / "broken.tflite").write_bytes(content)
    with pytest.raises(UserError, match=r"broken.tflite is damaged \(its digest differs\)"):
        DeviceClassifier(tmp_path / "broken.tflite")


def test_a_runtime_that_cannot_load_the_model_is_named(paths, monkeypatch):
    class TooOld:
        def __init__(self, **arguments):
            raise ValueError("Didn't find op for builtin opcode\nmore")

    monkeypatch.setattr(device, "load_runtime", lambda runtime: (TooOld, "tflite-runtime"))
    with pytest.raises(UserError, match=r"does not load in tflite-runtime \(Didn't find op.*\)"):
        DeviceClassifier(paths["classifier", "float32"])


def test_a_runtime_must_be_known_and_there(monkeypatch):
    with pytest.raises(UserError, match="TFLite runtime 'onnx' is not known: one of ai-edge"):
        device.load_runtime("onnx")

    def none_there(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", none_there)
    with pytest.raises(UserError, match=r"No TFLite runtime can be imported \(ai-edge-litert, "):
        device.load_runtime()
    with pytest.raises(UserError, match=r"\(tensorflow\): pip install tensorflow"):
        device.load_runtime("tensorflow")


def test_importing_it_does_not_import_tensorflow():
    code = "import sys, longtail_tf.exporting.device; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# consumers that need an environment of their own


def other_python(consumer):
    variable = ENVIRONMENTS[consumer]
    if not os.environ.get(variable):
        pytest.skip(f"{variable} does not name the Python of an environment with {consumer}")
    return os.environ[variable]


def run_elsewhere(consumer, code, tmp_path, files):
    np.save(tmp_path / "images.npy", export_model.trained().test_images[:50])
    source = str(pathlib.Path(device.__file__).parents[2])
    command = [other_python(consumer), "-c", code, source, str(tmp_path / "images.npy"), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def expected_names():
    trained = export_model.trained()
    embeddings = trained.model(tf.constant(trained.test_images[:50]), training=False).numpy()
    best = (embeddings @ trained.recognizer.prototypes.T).argmax(axis=1)
    return [export_model.NAMES[c] for c in best]


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime"])
def test_other_runtimes_without_tensorflow(paths, tmp_path, runtime):
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from longtail_tf.exporting.device import DeviceClassifier
images, names = np.load(sys.argv[2]), {}
for file in sys.argv[3:]:
    device = DeviceClassifier(file)
    names[file] = [device.runtime, [device.classify(image, 1)[0].label for image in images]]
assert "tensorflow" not in sys.modules
print(json.dumps(names))
"""
    found = run_elsewhere(runtime, code, tmp_path, [str(path) for path in paths.values()])
    for file, (used, names) in found.items():
        assert used == runtime, file
        assert np.mean(np.array(names) == expected_names()) >= 0.96, file


MEDIAPIPE = """
import json, sys
import numpy as np, mediapipe as mp
from mediapipe.tasks.python import BaseOptions, vision
images, names = np.load(sys.argv[2]), {}
for file in sys.argv[3:]:
    options = vision.ImageClassifierOptions(BaseOptions(model_asset_path=file), max_results=1)
    classifier = vision.ImageClassifier.create_from_options(options)
    names[file] = []
    for image in images:
        picture = mp.Image(mp.ImageFormat.SRGB, np.ascontiguousarray(image))
        [found] = classifier.classify(picture).classifications
        names[file].append(found.categories[0].category_name)
    classifier.close()
print(json.dumps(names))
"""

TASK_LIBRARY = """
import json, sys
import numpy as np
from tflite_support.task import core, processor, vision
images, names = np.load(sys.argv[2]), {}
for file in sys.argv[3:]:
    options = vision.ImageClassifierOptions(
        core.BaseOptions(file_name=file), processor.ClassificationOptions(max_results=1))
    classifier = vision.ImageClassifier.create_from_options(options)
    names[file] = []
    for image in images:
        [found] = classifier.classify(vision.TensorImage.create_from_array(image)).classifications
        names[file].append(found.categories[0].category_name)
print(json.dumps(names))
"""


@pytest.mark.parametrize(
    "consumer, code",
    [("mediapipe", MEDIAPIPE), ("tflite-support", TASK_LIBRARY)],
    ids=["mediapipe", "tflite-support"],
)
def test_standard_image_classifiers_read_metadata_and_labels(paths, tmp_path, consumer, code):
    files = [str(path) for (kind, _), path in paths.items() if kind == "classifier"]
    found = run_elsewhere(consumer, code, tmp_path, files)
    assert len(found) == 4
    for file, names in found.items():
        assert np.mean(np.array(names) == expected_names()) >= 0.96, file
