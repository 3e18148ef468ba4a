"""`longtail_tf.export` and `longtail_tf.enroll` on a run folder that training left."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import classify, enroll, export, train
from longtail_tf.config import Config
from longtail_tf.enroll import EnrollConfig
from longtail_tf.errors import UserError
from longtail_tf.export import ExportConfig
from longtail_tf.exporting.device import DeviceClassifier
from longtail_tf.runs.enrolled import load_data
from longtail_tf.runs.trained_run import load_run
from tests import fakes, rounding

QUICK = {"batch_sizes": "1,2", "gate_images": 8, "parity_images": 40}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of a few seconds on grey bars; class 7 has one image."""
    folder = tmp_path_factory.mktemp("run")
    spec = fakes.write_npz(folder / "bars.npz", size=12)
    train.run(
        Config(
            data=spec, run_dir=str(folder / "run"), head_num_classes=3, steps=60, warmup_steps=5,
            eval_every=0, checkpoint_every=60, head_batch_size=16, classes_per_batch=6,
            images_per_class=3, backbone="resnet8", width=8, embedding_dim=16,
        )
    )  # fmt: skip
    return folder / "run"


@pytest.fixture(scope="module")
def exported(done):
    return export.run(ExportConfig(run_dir=str(done), tflite="float32,int8", **QUICK))


def bars(label, count, folder, *, seed=5, invert=False):
    """Image files of one class, never seen in training."""
    rng, paths = np.random.default_rng(seed), []
    for row in range(count):
        image = fakes.draw(label, rng, size=12)
        paths.append(folder / f"bar_{label}_{row}.png")
        paths[-1].write_bytes(fakes.png_bytes(255 - image if invert else image))
    return [str(path) for path in paths]


@pytest.mark.slow
def test_an_export_answers_as_the_run_does(done, exported, tmp_path):
    run = load_run(str(done))
    paths = bars(0, 4, tmp_path) + bars(2, 4, tmp_path)
    answers = classify.run(classify.ClassifyConfig(images=tuple(paths), run_dir=str(done)))
    loaded = tf.saved_model.load(str(exported.version_dir))
    files = [pathlib.Path(path).read_bytes() for path in paths]
    rows = loaded.signatures["serving_default"](image_bytes=tf.constant(files))
    for labels, scores, answer in zip(rows["labels"].numpy(), rows["scores"].numpy(), answers):
        rounding.assert_same_top(
            [(label.decode(), score) for label, score in zip(labels, scores)],
            [(each["name"], each["score"]) for each in answer["classes"]],
            atol=rounding.NETWORK,
        )
    assert exported.version_dir == done / "export" / "longtail" / "1"
    facts = json.loads((exported.version_dir / "assets.extra" / "longtail_tf.json").read_text())
    assert facts["data_digest"] == run.data_digest
    assert facts["unknown_threshold"] is None
    assert facts["rule"] == "gated"


@pytest.mark.slow
def test_device_files_and_their_report_lie_beside_it(done, exported):
    report = json.loads((done / "export" / "tflite" / "parity.json").read_text())
    assert [row["variant"] for row in report["files"]] == ["float32", *["float32", "int8"] * 2]
    assert report["images"] == 40
    assert all(row["top1_agreement"] >= 0.9 for row in report["files"])
    device = DeviceClassifier(done / "export" / "tflite" / "classifier_int8.tflite")
    assert device.channels == 1
    assert device.labels == list(load_run(str(done)).class_names)
    assert len(exported.tflite_files) == 4
    assert (done / "export" / "serving" / "models.config").is_file()


@pytest.mark.slow
def test_classes_are_added_and_removed_without_touching_the_run(done, exported, tmp_path):
    kept = [path for path in done.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.read_bytes() for path in kept if "serving" not in path.parts}
    paths = bars(1, 6, tmp_path, invert=True)
    added = enroll.run(EnrollConfig(run_dir=str(done), add="black bar", images=tuple(paths[:3])))
    assert added.run_dir == done / "enrolled" / "1"
    assert added.version_dir == done / "export" / "longtail" / "2"
    answers = classify.run(
        classify.ClassifyConfig(images=tuple(paths[3:]), run_dir=str(added.run_dir))
    )
    assert [answer["classes"][0]["name"] for answer in answers] == ["black bar"] * 3
    labels = (added.version_dir / "assets" / "labels.txt").read_text().splitlines()
    assert labels == [*load_run(str(done)).class_names, "black bar"]
    cost = added.record["validation"]
    assert cost is None or cost["before"]["all"] - cost["after"]["all"] <= 0.2
    # a head class goes: its column of the head classifier goes with it
    name = load_run(str(done)).class_names[1]
    removed = enroll.run(EnrollConfig(run_dir=str(added.run_dir), remove=name, export=False))
    assert removed.run_dir == done / "enrolled" / "2"
    run = load_run(str(removed.run_dir))
    assert run.num_head == 2
    assert run.model.head.kernel.shape[-1] == 2
    assert name not in list(run.class_names)
    index = load_data(run)
    assert len(index.train) == int(run.class_counts.sum()) - 3  # without the enrolled images
    assert np.bincount(index.train.labels).tolist() == run.class_counts[:-1].tolist()
    renamed = enroll.run(
        EnrollConfig(run_dir=str(removed.run_dir), rename="black bar", to="shadow", export=False)
    )
    assert load_run(str(renamed.run_dir)).class_names[7] == "shadow"
    record = json.loads((renamed.run_dir / "enrollment.json").read_text())
    assert [change["change"] for change in record["changes"]] == ["add", "remove", "rename"]
    assert record["class_map"] == [0, -1, 1, 2, 3, 4, 5, 6]
    assert record["changes"][0]["image_sha256"]
    digests = json.loads((renamed.run_dir / "digests.json").read_text())["sha256"]
    assert set(digests) == {
        "config.json", "classes.csv", "head_set.json", "enrollment.json", "prototypes.npz",
        "model.weights.h5",
    }  # fmt: skip
    changed = renamed.run_dir / "enrollment.json"
    changed.write_text(changed.read_text().replace("shadow", "shade"))
    with pytest.raises(UserError, match="enrollment.json was changed after the run wrote it"):
        enroll.run(EnrollConfig(run_dir=str(renamed.run_dir), remove="shadow"))
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.slow
def test_the_result_of_enrolling_can_be_exported_with_device_files(done, exported, tmp_path):
    paths = bars(1, 3, tmp_path, seed=9, invert=True)
    result = enroll.run(
        EnrollConfig(run_dir=str(done), replace="bar 7", images=tuple(paths), export=False,
                     out_dir=str(tmp_path / "out"))
    )  # fmt: skip
    made = export.run(ExportConfig(run_dir=str(result.run_dir), tflite="float32", **QUICK))
    assert made.version_dir == tmp_path / "out" / "export" / "longtail" / "1"
    assert all(row["meets"] for row in made.parity)


@pytest.mark.slow
@pytest.mark.parametrize("settings, said", [
    ({}, r"0 changes are asked for \(none\): give exactly one of --add"),
    ({"add": "x", "remove": "bar 1"}, r"2 changes are asked for \(add, remove\)"),
    ({"add": "x"}, "--add came without an image"),
    ({"remove": "bar 1", "images": ("a.png",)}, "--remove takes no image, but 1 came"),
    ({"rename": "bar 1"}, "--rename=OLD and --to=NEW go together"),
    ({"remove": "bar 1", "to": "x"}, "--rename=OLD and --to=NEW go together"),
    ({"remove": "cat"}, "--remove=cat: this run has no such class; it has 8, for example bar"),
    ({"rename": "bar 1", "to": "bar 2"}, "class 'bar 2' exists already: choose another name"),
    ({"rename": "bar 1", "to": " x"}, "class ' x' has spaces at its ends"),
    ({"add": "bar 1", "images": ("a.png",)}, "exists already: choose another name, or change its"),
    ({"add": "x", "images": ("absent.png",)}, "absent.png cannot be read"),
])  # fmt: skip
def test_changes_that_cannot_be_made_are_refused(done, settings, said):
    folders = sorted((done / "enrolled").glob("*"))
    with pytest.raises(UserError, match=said):
        enroll.run(EnrollConfig(run_dir=str(done), **settings))
    assert sorted((done / "enrolled").glob("*")) == folders


@pytest.mark.slow
def test_bad_and_repeated_images_and_look_alikes_are_refused(done, tmp_path):
    paths = bars(0, 5, tmp_path, seed=1)
    broken = tmp_path / "broken.png"
    broken.write_bytes(pathlib.Path(paths[0]).read_bytes()[:60])
    with pytest.raises(UserError, match="broken.png is not a whole JPEG, PNG, BMP or GIF image"):
        enroll.run(EnrollConfig(run_dir=str(done), add="x", images=(paths[0], str(broken))))
    with pytest.raises(UserError, match="is the same file as .*bar_0_0.png: give each image once"):
        enroll.run(EnrollConfig(run_dir=str(done), add="x", images=(paths[0], paths[1], paths[0])))
    images, labels, split = fakes.make_arrays(size=12)
    same = []
    for image in images[(labels == 0) & (split == 0)][:3]:  # images the class was trained on
        same.append(str(tmp_path / f"same_{len(same)}.png"))
        pathlib.Path(same[-1]).write_bytes(fakes.png_bytes(image))
    with pytest.raises(
        UserError, match="of 3 images are recognised as 'bar 0' and do not stand clear"
    ):
        enroll.run(EnrollConfig(run_dir=str(done), add="twin", images=tuple(same)))
    forced = enroll.run(
        EnrollConfig(run_dir=str(done), add="twin", images=tuple(same), force=True,
                     export=False, out_dir=str(tmp_path / "forced"))
    )  # fmt: skip
    assert load_run(str(forced.run_dir)).class_names[8] == "twin"
    with pytest.raises(UserError, match="--out_dir=.*forced exists and is never overwritten"):
        enroll.run(
            EnrollConfig(run_dir=str(done), remove="bar 1", out_dir=str(tmp_path / "forced"))
        )


# settings


@pytest.mark.parametrize("text", ["", "0", "1,,2", "1,x", "-1", "1.5"])
def test_batch_sizes_are_whole_numbers(text):
    with pytest.raises(UserError, match="--batch_sizes=.*give whole numbers from 1 up"):
        export.parse_batch_sizes(text)


def test_lists_in_settings_are_read():
    assert export.parse_batch_sizes("8, 1,8") == (1, 8)
    assert export.parse_variants("none") == ()
    assert export.parse_variants("int8, float16") == ("int8", "float16")
    with pytest.raises(UserError, match="--tflite=float32,int4: 'int4' is not known"):
        export.parse_variants("float32,int4")


def test_names_of_folders_beside_the_model_are_refused():
    for name in ("serving", "tflite"):
        with pytest.raises(UserError, match=f"--model_name={name} is the name of a folder beside"):
            export.run(ExportConfig(run_dir="x", model_name=name))


def test_unknown_is_off_unless_asked_for():
    assert export.choose_threshold(ExportConfig(), 0.4) is None
    assert export.choose_threshold(ExportConfig(unknown=True), 0.4) == 0.4
    assert export.choose_threshold(ExportConfig(unknown_threshold=0.7), 0.4) == 0.7
    assert export.choose_threshold(ExportConfig(unknown=True, unknown_threshold=0.7), None) == 0.7
    with pytest.raises(UserError, match="--unknown: this run has no rejection threshold"):
        export.choose_threshold(ExportConfig(unknown=True), None)


def test_help_answers_without_tensorflow():
    code = (
        "import sys; sys.argv = ['export', '--help']\n"
        "from longtail_tf import export, enroll\n"
        "try: export.main()\n"
        "except SystemExit: pass\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--batch_sizes" in done.stdout
    assert done.stdout.strip().endswith("False")
