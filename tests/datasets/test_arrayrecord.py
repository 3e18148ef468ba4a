"""arrayrecord: source on shards that the library itself wrote."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from longtail_tf.datasets import load_index
from longtail_tf.datasets.shards.tf_example import encode_example
from longtail_tf.datasets.sources import arrayrecord
from longtail_tf.errors import UserError

module = pytest.importorskip("array_record.python.array_record_module")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def image(i):
    return b"image %d " % i * (i % 5 + 1)


def write_shard(path, rows, group_size=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = module.ArrayRecordWriter(str(path), f"group_size:{group_size}")
    for i, label in rows:
        writer.write(encode_example({"image/encoded": image(i), "image/class/label": label}))
    writer.close()


def write_set(folder, group_size=1):
    write_shard(folder / "train-0.array_record", [(i, i % 3) for i in range(7)], group_size)
    write_shard(folder / "train-1.array_record", [(i, 2) for i in range(7, 12)], group_size)
    write_shard(folder / "test-0.array_record", [(i, i % 3) for i in range(12, 15)], group_size)
    return f"arrayrecord:{folder}/*.array_record"


@pytest.mark.parametrize("group_size", [1, 4])
def test_random_rows(tmp_path, group_size):
    spec = write_set(tmp_path / "s", group_size)
    index = load_index(spec, val_per_class=0)
    assert list(index.class_names) == ["2", "0", "1"] and list(index.class_counts) == [7, 3, 2]
    rows = np.array([11, 0, 3, 8, 3])
    # Shards are in the order of their names: test, train-0, train-1.
    assert list(index.train.read(rows)) == [image(i) for i in rows]
    assert list(index.test.read(np.arange(3))) == [image(i) for i in (12, 13, 14)]
    assert index.train.key(8) == "train-1.array_record:1"
    assert index.train.describe(8) == f"record 1 of {tmp_path}/s/train-1.array_record"
    assert list(pickle.loads(pickle.dumps(index.train)).read(rows)) == [image(i) for i in rows]


def test_index_is_cached_and_digest_stands(tmp_path, monkeypatch):
    spec = write_set(tmp_path / "s")
    digest = load_index(spec).digest
    monkeypatch.setattr(arrayrecord, "_rows", None)  # a second scan would fail
    assert load_index(spec).digest == digest
    monkeypatch.undo()
    assert load_index(write_set(tmp_path / "t", group_size=3)).digest == digest


def test_exclude(tmp_path):
    spec = write_set(tmp_path / "s")
    (tmp_path / "bad").write_text("train-1.array_record:4\ntrain-1.array_record:5\n")
    index = load_index(spec, val_per_class=0, exclude=str(tmp_path / "bad"))
    assert index.class_counts[0] == 6 and any("1 entry name no" in n for n in index.notes)


def test_damaged_and_foreign_files(tmp_path):
    write_set(tmp_path / "s")
    path = tmp_path / "s" / "train-1.array_record"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="train-1.array_record cannot be read as an ArrayRecord"):
        load_index(f"arrayrecord:{path}")
    path.write_bytes(b"some text")
    with pytest.raises(UserError, match="cannot be read as an ArrayRecord"):
        load_index(f"arrayrecord:{path}")
    with pytest.raises(UserError, match="has no bytes under 'jpeg', only image/class/label"):
        load_index(f"arrayrecord:{tmp_path}/s/train-0*?image_key=jpeg")


def test_without_the_library(tmp_path, monkeypatch):
    spec = write_set(tmp_path / "s")
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_module", None)
    with pytest.raises(UserError, match="need the package array_record"):
        load_index(spec)
