"""python -m longtail_tf.convert: what comes out, resuming, faults."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from longtail_tf import files
from longtail_tf.convert import ConvertConfig, run
from longtail_tf.datasets import load_index
from longtail_tf.datasets.conversion import folder as conversion_folder
from longtail_tf.datasets.conversion import plan
from longtail_tf.datasets.shards.tfrecord_file import read_records
from longtail_tf.datasets.sources import tfrecord
from longtail_tf.errors import UserError
from tests import waiting


@pytest.fixture
def folder(tmp_path):
    """Images of three classes in files of 20, 9 and 4."""
    rng = np.random.default_rng(0)
    for name, count in (("cat", 20), ("dog", 9), ("猫", 4)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)
            kind = "png" if i % 3 else "jpg"
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.{kind}")
    return tmp_path / "photos"


def config(folder, out, **settings):
    defaults = {"shard_megabytes": 0.02, "workers": 1}
    return ConvertConfig(data=f"folder:{folder}", out=str(out), **{**defaults, **settings})


def shard_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord")}


def content(split, names):
    """{(class name, image bytes)} of a split."""
    images = split.read(np.arange(len(split)))
    return sorted((names[label], image) for label, image in zip(split.labels, images))


def test_shards_hold_the_same_splits(folder, tmp_path):
    result = run(config(folder, tmp_path / "out"))
    assert result.num_images == 33 and result.already_there == 0
    source, shards = load_index(f"folder:{folder}"), load_index(f"tfrecord:{tmp_path}/out")
    assert list(shards.class_names) == list(source.class_names)
    np.testing.assert_array_equal(shards.class_counts, source.class_counts)
    for name in ("train", "val", "test"):
        theirs, ours = getattr(source, name), getattr(shards, name)
        assert content(ours, shards.class_names) == content(theirs, source.class_names)
    assert shards.notes == ()
    assert sorted(result.shards) == sorted(shard_bytes(tmp_path / "out"))
    assert len(result.shards) > 4
    manifest = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert manifest["complete"] is True and manifest["source_digest"] == source.digest


def test_tensorflow_reads_the_shards(folder, tmp_path):
    import tensorflow as tf

    run(config(folder, tmp_path / "out"))
    path = sorted((tmp_path / "out").glob("train-*"))[0]
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/format": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/class/text": tf.io.FixedLenFeature([], tf.string),
        "image/key": tf.io.FixedLenFeature([], tf.string),
    }
    names = list(load_index(f"folder:{folder}").class_names)
    for record in tf.data.TFRecordDataset(str(path)):
        parsed = tf.io.parse_single_example(record, features)
        key = parsed["image/key"].numpy().decode()
        assert (folder / key).read_bytes() == parsed["image/encoded"].numpy()
        assert parsed["image/class/text"].numpy().decode() == key.split("/")[0]
        assert names[int(parsed["image/class/label"])] == key.split("/")[0]
        assert parsed["image/format"].numpy().decode() == {"jpg": "jpeg", "png": "png"}[key[-3:]]


def test_index_is_written_beside_and_right(folder, tmp_path, monkeypatch):
    run(config(folder, tmp_path / "out"))
    spec = f"tfrecord:{tmp_path}/out"
    digest = load_index(spec).digest
    with monkeypatch.context() as patch:
        patch.setattr(tfrecord, "_rows", None)  # reading a shard again would fail
        assert load_index(spec).digest == digest
    for path in (tmp_path / "out").glob(".*.index.npz"):
        path.unlink()
    assert load_index(spec).digest == digest


@pytest.mark.parametrize("resize_px", [0, 16])
def test_same_bytes_whatever_the_workers(folder, tmp_path, resize_px):
    for workers in (1, 2, 5):
        run(config(folder, tmp_path / str(workers), workers=workers, resize_px=resize_px))
    one = shard_bytes(tmp_path / "1")
    assert one == shard_bytes(tmp_path / "2") == shard_bytes(tmp_path / "5")
    run(config(folder, tmp_path / "seed", seed=1, resize_px=resize_px))
    assert one != shard_bytes(tmp_path / "seed")


def test_resize(folder, tmp_path):
    run(config(folder, tmp_path / "out", resize_px=16))
    index = load_index(f"tfrecord:{tmp_path}/out")
    for image in index.train.read(np.arange(len(index.train))):
        assert Image.open(io.BytesIO(image)).size == (21, 16)


def test_arrays_become_png(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 9, 9, 1)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.repeat([3, 7], 20))
    run(ConvertConfig(data=f"npz:{tmp_path / 'x.npz'}", out=str(tmp_path / "out"), workers=1))
    index = load_index(f"tfrecord:{tmp_path}/out?channels=1")
    assert sorted(index.class_names) == ["3", "7"]
    pixels = {np.asarray(Image.open(io.BytesIO(i))).tobytes() for i in index.test.read([0, 1, 2])}
    assert pixels <= {image.tobytes() for image in images}


def test_goes_on_after_a_fault(folder, tmp_path, monkeypatch):
    run(config(folder, tmp_path / "whole"))
    written = []
    write = plan.ShardWriter.write

    def fail_at_the_third(self, shard, count):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(shard.name)
        write(self, shard, count)

    monkeypatch.setattr(plan.ShardWriter, "write", fail_at_the_third)
    with pytest.raises(OSError, match="No space left"):
        run(config(folder, tmp_path / "out"))
    monkeypatch.undo()
    assert sorted(shard_bytes(tmp_path / "out")) == sorted(written)
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["complete"] is False
    (note,) = load_index(f"tfrecord:{tmp_path}/out").notes[:1]
    assert note.startswith("Only 2 of ") and "train shards are there" in note
    half = f".train-00009-of-00010.tfrecord.{files._machine()}00000000.part"
    (tmp_path / "out" / half).write_text("half")
    result = run(config(folder, tmp_path / "out"))
    assert result.already_there == 2
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    assert not list((tmp_path / "out").glob(".*.part"))
    assert run(config(folder, tmp_path / "out")).already_there == len(result.shards)


def test_goes_on_after_a_kill(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3000, 48, 48, 3)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(3000) % 7)
    arguments = [f"--data=npz:{tmp_path / 'x.npz'}", "--shard_megabytes=0.2", "--workers=2"]
    command = [sys.executable, "-m", "longtail_tf.convert", *arguments, f"--out={tmp_path / 'out'}"]
    with waiting.started(command) as child:  # its end is a SIGKILL
        child.wait_until(lambda: len(list(tmp_path.glob("out/train-*"))) >= 5)
    before = shard_bytes(tmp_path / "out")
    assert before
    for name in before:
        assert list(read_records(str(tmp_path / "out" / name)))  # whole, or this raises
    settings = {"data": f"npz:{tmp_path / 'x.npz'}", "shard_megabytes": 0.2, "workers": 2}
    result = run(ConvertConfig(out=str(tmp_path / "out"), **settings))
    assert len(before) <= result.already_there < len(result.shards)
    run(ConvertConfig(out=str(tmp_path / "whole"), **settings))
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


def test_other_conversions_are_not_mixed(folder, tmp_path):
    run(config(folder, tmp_path / "out"))
    for settings, differs in (
        ({"seed": 1}, "seed"),
        ({"resize_px": 8}, "jpeg_quality, resize_px"),
        ({"shard_megabytes": 0.04}, "shards"),
        ({"split_seed": 5}, "source_digest"),
    ):
        with pytest.raises(UserError, match=rf"another conversion \(its .*{differs}.* differ\)"):
            run(config(folder, tmp_path / "out", **settings))
    (tmp_path / "out" / "conversion.json").write_text("{")
    with pytest.raises(UserError, match="conversion.json is damaged .*convert into another"):
        run(config(folder, tmp_path / "out"))


def test_folders_that_are_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="photos is not empty and holds no conversion"):
        run(config(folder, folder))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file is a file; give a folder"):
        run(config(folder, tmp_path / "file"))
    with pytest.raises(UserError, match="no folder is given"):
        run(config(folder, ""))
    run(config(folder, tmp_path / "out"))
    monkeypatch.setattr(conversion_folder, "_LOCK_SECONDS", 0.0)
    with open(tmp_path / "out" / ".conversion.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is converting into"):
            run(config(folder, tmp_path / "out"))


@pytest.mark.parametrize(
    "name, value",
    [("resize_px", -1), ("jpeg_quality", 0), ("workers", -1), ("shard_megabytes", 0.0)],
)
def test_settings_out_of_range(folder, tmp_path, name, value):
    with pytest.raises(UserError, match=f"--{name}={value} is out of range; give a number from"):
        run(config(folder, tmp_path / "out", **{name: value}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 3])
def test_bad_image_is_named_and_can_be_excluded(folder, tmp_path, workers):
    (folder / "cat" / "1.png").write_bytes(b"no image at all")
    with pytest.raises(UserError, match="cat/1.png is no image that can be resized .*--exclude"):
        run(config(folder, tmp_path / "out", resize_px=16, workers=workers))
    assert not list((tmp_path / "out").glob(".*.part"))
    (tmp_path / "bad").write_text("cat/1.png\n")
    settings = {"exclude": str(tmp_path / "bad"), "workers": workers}
    result = run(config(folder, tmp_path / "other", resize_px=16, **settings))
    assert result.num_images == 32


def test_worker_that_dies_is_reported(folder, tmp_path, monkeypatch):
    parent = os.getpid()

    def die(self, shard, count):
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(plan.ShardWriter, "write", die)
    with pytest.raises(UserError, match="a worker was ended from outside .exit code -9."):
        run(config(folder, tmp_path / "out", workers=2))


def test_defect_in_a_worker_comes_with_its_traceback(folder, tmp_path, monkeypatch):
    def fail(self, shard, count):
        raise KeyError("a defect of ours")

    monkeypatch.setattr(plan.ShardWriter, "write", fail)
    with pytest.raises(RuntimeError, match="Traceback.*\n(.*\n)*.*a defect of ours"):
        run(config(folder, tmp_path / "out", workers=2))


def test_command_line(folder, tmp_path):
    command = [sys.executable, "-m", "longtail_tf.convert", f"--data=folder:{folder}"]
    done = subprocess.run(
        [*command, f"--out={tmp_path / 'out'}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"train with --data=tfrecord:{tmp_path / 'out'}" in done.stdout
    assert "33 of 33 images" in done.stderr and "images/s" in done.stderr
    done = subprocess.run(
        [*command, f"--out={folder}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "is not empty and holds no conversion" in done.stderr
    assert "Traceback" not in done.stderr
