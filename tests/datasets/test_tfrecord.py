"""tfrecord: source against TensorFlow's own writer, its index cache, and damaged shards."""

from __future__ import annotations

import os
import pickle
import re
import stat
import threading
import time

import google_crc32c
import numpy as np
import pytest

from longtail_tf.datasets import load_index
from longtail_tf.datasets.shards import record_store, shard_index
from longtail_tf.datasets.shards.shard_index import cached_shard_indices
from longtail_tf.datasets.shards.tf_example import BadExampleError, encode_example, find_features
from longtail_tf.datasets.shards.tfrecord_file import frame_records, masked_crc32c, read_records
from longtail_tf.datasets.sources import tfrecord
from longtail_tf.errors import UserError
from tests.waiting import HANG_S


@pytest.fixture(scope="module")
def tf():
    import tensorflow

    return tensorflow


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def example(i, label=None, text=None, **more):
    features = {"image/encoded": b"image %d " % i * (i % 7 + 1), **more}
    if label is not None:
        features["image/class/label"] = label
    if text is not None:
        features["image/class/text"] = text
    return features


def write_shard(path, examples):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(frame_records([encode_example(e) for e in examples]))
    return path


LABELS = [2, 5, 2, 2, 5, 9, 9, 9, 9]


def write_set(folder, name="part-0000{}-of-00002.tfrecord"):
    examples = [example(i, label, b"class %d" % label) for i, label in enumerate(LABELS)]
    write_shard(folder / name.format(0), examples[:5])
    write_shard(folder / name.format(1), examples[5:])
    return f"tfrecord:{folder}/*.tfrecord?test_fraction=0"


def load(spec, **kwargs):
    return load_index(spec, val_per_class=0, **kwargs)


@pytest.mark.parametrize(
    "message, crc",
    # RFC 3720, appendix B.4, and the check value of the CRC catalogue.
    [
        (b"123456789", 0xE3069283),
        (b"\0" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"", 0),
    ],
)
def test_known_checksums(message, crc):
    assert google_crc32c.value(message) == crc
    # Masked as TensorFlow's record_format writes it: rotated right by 15 bits, plus a constant.
    rotated = int(f"{crc:032b}"[-15:] + f"{crc:032b}"[:-15], 2)
    assert masked_crc32c(message) == (rotated + 0xA282EAD8) % 2**32


def test_tensorflow_reads_what_we_write(tf, tmp_path, rng):
    features = [{"b": rng.bytes(n), "i": int(n) - 2, "big": -(2**62)} for n in (0, 1, 200, 70_000)]
    path = write_shard(tmp_path / "x.tfrecord", features)
    records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
    for record, wanted in zip(records, features):
        parsed = tf.train.Example.FromString(record).features.feature
        assert parsed["b"].bytes_list.value[0] == wanted["b"]
        assert parsed["i"].int64_list.value[0] == wanted["i"]
        assert parsed["big"].int64_list.value[0] == -(2**62)
        assert parsed["b"].bytes_list.value and len(parsed) == 3


def test_we_read_what_tensorflow_writes(tf, tmp_path, rng):
    path = str(tmp_path / "x.tfrecord")
    written = []
    with tf.io.TFRecordWriter(path) as writer:
        for n in (0, 3, 300, 20_000):
            feature = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[rng.bytes(n)])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[n, 7])),
                "minus": tf.train.Feature(int64_list=tf.train.Int64List(value=[-5])),
                "score": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, 1.5])),
                "none": tf.train.Feature(int64_list=tf.train.Int64List(value=[])),
                "unset": tf.train.Feature(),
            }
            record = tf.train.Example(features=tf.train.Features(feature=feature))
            written.append((n, feature["image"].bytes_list.value[0], record.SerializeToString()))
            writer.write(written[-1][2])
    records = list(read_records(path))
    whole = (tmp_path / "x.tfrecord").read_bytes()
    for (offset, record, _), (n, image, serialized) in zip(records, written):
        assert record == serialized == whole[offset : offset + len(record)]
        found = find_features(record)
        assert record[found[b"image"].start :][: found[b"image"].length] == image
        assert found[b"label"].number == n and found[b"minus"].number == -5
        assert found[b"score"].number is None and found[b"score"].start == -1
        assert found[b"none"].number is None and found[b"unset"].start == -1
    assert frame_records([r for _, r, _ in records]) == whole


def test_unpacked_integers_and_unknown_fields(tf):
    # Old writers put each integer under its own tag: field 3 {field 1, varint: 300}.
    value = b"\x1a\x03\x08\xac\x02"
    entry = b"\x0a\x01k\x12" + bytes([len(value)]) + value
    features = (
        b"\x0a" + bytes([len(entry)]) + entry + b"\x10\x01" + b"\x1d\0\0\0\0" + b"\x21" + b"\0" * 8
    )
    record = b"\x0a" + bytes([len(features)]) + features
    assert tf.train.Example.FromString(record).features.feature["k"].int64_list.value[0] == 300
    assert find_features(record)[b"k"].number == 300


@pytest.mark.parametrize(
    "record", [b"\x0a\x05ab", b"\x0a", b"\x0b\x01", b"\xff" * 12, b"\x0a\x04\x0a\x02\x0a\x7f"]
)
def test_what_is_no_example(record):
    with pytest.raises(BadExampleError):
        find_features(record)


def test_rows_labels_and_names(tmp_path):
    index = load(write_set(tmp_path))
    assert list(index.class_names) == ["class 9", "class 2", "class 5"]
    assert list(index.class_counts) == [4, 3, 2]
    assert index.train.labels.tolist() == [1, 2, 1, 1, 2, 0, 0, 0, 0]
    assert index.train.encoded and index.image_shape is None and index.channels == 3
    rows = np.array([8, 0, 5, 5])
    assert list(index.train.read(rows)) == [example(i)["image/encoded"] for i in rows]
    assert index.train.describe(6) == f"record 1 of {tmp_path}/part-00001-of-00002.tfrecord"
    assert index.train.key(6) == "part-00001-of-00002.tfrecord:1"


def test_exclude_by_record(tmp_path):
    spec = write_set(tmp_path)
    listed = ["part-00001-of-00002.tfrecord:1", "part-00001-of-00002.tfrecord:4", "other:0", "x"]
    (tmp_path / "bad").write_text("\n".join(listed))
    index = load(spec, exclude=str(tmp_path / "bad"))
    assert len(index.train) == 8 and index.class_counts[0] == 3
    assert index.train.key(6) == "part-00001-of-00002.tfrecord:2"
    assert any("1 image left out" in n and "3 entries name no image" in n for n in index.notes)


def test_splits_from_names_folders_or_the_option(tmp_path):
    for name in ("set-train.tfrecord-0", "validation/part-0.tfrecord", "set_TEST.tfrecord"):
        write_shard(tmp_path / name, [example(i, i % 2) for i in range(6)])
    index = load(f"tfrecord:{tmp_path}/**/*tfrecord*")
    assert len(index.train) == len(index.val) == len(index.test) == 6
    assert index.test.key(0) == "set_TEST.tfrecord:0"
    assert index.val.key(0) == "validation/part-0.tfrecord:0"
    index = load(f"tfrecord:{tmp_path}/**/*tfrecord*?split=train&test_fraction=0")
    assert len(index.train) == 18 and index.val is None
    write_shard(tmp_path / "set-other.tfrecord", [example(0, 0)])
    with pytest.raises(UserError, match="the name of .*other.tfrecord does not say which split"):
        load(f"tfrecord:{tmp_path}/**/*tfrecord*")
    write_shard(tmp_path / "set-other.tfrecord", [example(0, 0)]).rename(tmp_path / "train-test.x")
    with pytest.raises(UserError, match="train-test.x names more than one split"):
        load(f"tfrecord:{tmp_path}/*.x")


def test_a_folder_stands_for_its_shards(tmp_path):
    write_set(tmp_path / "s")
    assert len(load(f"tfrecord:{tmp_path}/s?test_fraction=0").train) == 9
    write_set(tmp_path / "test")
    with pytest.raises(UserError, match="no training image, only images for test; give"):
        load(f"tfrecord:{tmp_path}/test")
    with pytest.raises(UserError, match="no file matches .*; give a glob such as 'DIR/.*tfrecord"):
        load(f"tfrecord:{tmp_path}/none-*")


def test_integers_only_and_texts_only(tmp_path):
    write_shard(tmp_path / "i.tfrecord", [example(i, n) for i, n in enumerate([10, 9, 9, 10])])
    index = load(f"tfrecord:{tmp_path}/i.tfrecord?test_fraction=0")
    assert list(index.class_names) == ["9", "10"]
    texts = [b"zebra", b"ant", b"zebra", b"ant"]
    write_shard(tmp_path / "t.tfrecord", [example(i, text=t) for i, t in enumerate(texts)])
    index = load(f"tfrecord:{tmp_path}/t.tfrecord?test_fraction=0")
    assert list(index.class_names) == ["ant", "zebra"] and index.train.labels[0] == 1
    # A label of bytes is a name, too.
    examples = [example(i, **{"name": t}) for i, t in enumerate(texts)]
    write_shard(tmp_path / "n.tfrecord", examples)
    index = load(f"tfrecord:{tmp_path}/n.tfrecord?test_fraction=0&label_key=name")
    assert list(index.class_names) == ["ant", "zebra"]


def test_huge_label_values(tmp_path):
    labels = [2**31 - 1, 5, 5, 2**31 - 1]
    write_shard(tmp_path / "x.tfrecord", [example(i, n) for i, n in enumerate(labels)])
    index = load(f"tfrecord:{tmp_path}/x.tfrecord?test_fraction=0")
    assert list(index.class_names) == ["5", "2147483647"]


def test_other_keys(tmp_path):
    features = [{"jpeg": b"x%d" % i, "y": i % 2, "image/encoded": b"no"} for i in range(4)]
    write_shard(tmp_path / "x.tfrecord", features)
    index = load(f"tfrecord:{tmp_path}/x.tfrecord?image_key=jpeg&label_key=y&test_fraction=0")
    assert index.train.read(np.array([3]))[0] == b"x3"


@pytest.mark.parametrize(
    "examples, match",
    [
        ([], "have no record"),
        ([{"a": b"x"}], "record 0 of .*byte 12. has no bytes under 'image/encoded', only a; name"),
        ([{"image/encoded": 3}], "has no bytes under 'image/encoded'"),
        ([example(0), example(1)], "record 0 of .* has neither a label nor a class text"),
        ([example(0, 0), example(1, -1)], "record 1 of .* has the label -1; give class ids from 0"),
        ([example(0, 2**31)], "has the label 2147483648"),
        ([example(0, 0), example(1)], "record 1 of .* has no integer label but others have"),
        ([example(0, 0, b"a"), example(1, 0, b"b")], "label 0 is called both 'a' and 'b'"),
        ([example(0, 0, b"a"), example(1, 1, b"a")], "labels 0 and 1 are both called 'a'"),
    ],
)
def test_bad_examples(tmp_path, examples, match):
    write_shard(tmp_path / "x.tfrecord", examples)
    with pytest.raises(UserError, match=match):
        load(f"tfrecord:{tmp_path}/x.tfrecord")


def test_record_that_is_no_example(tmp_path):
    (tmp_path / "x.tfrecord").write_bytes(frame_records([b"\x0a\x05ab"]))
    with pytest.raises(UserError, match="record 0 of .* is no tf.Example .*longer than what"):
        load(f"tfrecord:{tmp_path}/x.tfrecord")


def shard_of_many(tmp_path):
    return write_shard(tmp_path / "x.tfrecord", [example(i, i % 3) for i in range(20)])


def test_shard_cut_anywhere_is_refused(tmp_path):
    path = shard_of_many(tmp_path)
    data = path.read_bytes()
    starts = {0, *(offset - 12 for offset, _, _ in read_records(str(path)))}
    for size in range(1, len(data)):
        path.write_bytes(data[:size])
        if size in starts:
            list(read_records(str(path)))  # whole records only: nothing tells that some are gone
            continue
        last = max(start for start in starts if start < size)
        with pytest.raises(
            UserError, match=f"cut in the middle: the record at byte {last:,} needs"
        ):
            list(read_records(str(path)))
    path.write_bytes(data[:-3])
    with pytest.raises(UserError, match="x.tfrecord is cut in the middle"):
        load(f"tfrecord:{path}")
    assert sorted(os.listdir(tmp_path)) == ["x.tfrecord"]  # no index of a bad shard is left


def test_any_flipped_bit_is_found(tmp_path, rng):
    path = shard_of_many(tmp_path)
    data = path.read_bytes()
    for at in rng.integers(0, len(data), 60):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged: the checksum|is no TFRecord file"):
            list(read_records(str(path)))


def test_what_is_no_tfrecord(tmp_path):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"\x1f\x8b" + bytes(50))
    with pytest.raises(UserError, match="compressed with gzip"):
        load(f"tfrecord:{path}")
    path.write_bytes(b"just some text, and long enough for a header")
    with pytest.raises(UserError, match="is no TFRecord file"):
        load(f"tfrecord:{path}")
    path.write_bytes(b"")
    with pytest.raises(UserError, match="have no record"):
        load(f"tfrecord:{path}")


def count_scans(monkeypatch):
    scans = []
    scan = tfrecord.scan_shard

    def counted(path, **kwargs):
        scans.append(os.path.basename(path))
        return scan(path, **kwargs)

    monkeypatch.setattr(tfrecord, "scan_shard", counted)
    return scans


def test_index_is_built_once_and_again_when_stale(tmp_path, monkeypatch):
    scans = count_scans(monkeypatch)
    spec = write_set(tmp_path / "s")
    digest = load(spec).digest
    assert len(scans) == 2
    again = load(spec)
    assert len(scans) == 2 and again.digest == digest
    shard = tmp_path / "s" / "part-00001-of-00002.tfrecord"
    # Other content of the same size; only the time tells.
    examples = [example(i + 5, label, b"class %d" % label) for i, label in enumerate([2, 9, 9, 9])]
    write_shard(shard, examples)
    os.utime(shard, ns=(0, 12345))
    changed = load(spec)
    assert scans[2:] == [shard.name] and list(changed.class_counts) == [4, 3, 2]
    assert changed.digest != digest and changed.class_names[0] == "class 2"
    load(spec)
    assert len(scans) == 3
    load(spec + "&text_key=")
    assert len(scans) == 5  # other keys, other index


def test_damaged_index_is_built_again(tmp_path, monkeypatch):
    scans = count_scans(monkeypatch)
    spec = write_set(tmp_path / "s")
    digest = load(spec).digest
    for path, keep in zip(sorted((tmp_path / "s").glob(".*.npz")), (100, 0)):
        path.write_bytes(path.read_bytes()[:keep])
    assert load(spec).digest == digest and len(scans) == 4
    load(spec)
    assert len(scans) == 4


def test_read_only_folder_is_indexed_in_the_cache_folder(tmp_path, monkeypatch):
    scans = count_scans(monkeypatch)
    spec = write_set(tmp_path / "s")
    write = shard_index.write_atomically

    def refuse(path, data):
        # Root may write anywhere, so permissions alone would test nothing here.
        if str(path).startswith(str(tmp_path / "s")):
            raise PermissionError(13, "Permission denied", str(path))
        write(path, data)

    monkeypatch.setattr(shard_index, "write_atomically", refuse)
    digest = load(spec).digest
    assert load(spec).digest == digest and len(scans) == 2
    assert len(list((tmp_path / "cache" / "longtail_tf").iterdir())) == 2
    assert not list((tmp_path / "s").glob(".*"))

    def refuse_all(path, data):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(shard_index, "write_atomically", refuse_all)
    (tmp_path / "cache").rename(tmp_path / "gone")
    assert load(spec).digest == digest and len(scans) == 4


@pytest.mark.parametrize("threads", [1, 4])
def test_shards_are_indexed_in_parallel_and_keep_their_order(tmp_path, threads):
    paths = [
        str(write_shard(tmp_path / f"{s}.tfrecord", [example(i, i % 3) for i in range(s)]))
        for s in range(1, 9)
    ]
    keys = {name: option.default for name, option in tfrecord.KEY_OPTIONS.items()}
    side_by_side, at_once = threading.Barrier(threads), []

    def scan(path):
        at_once.append(path)
        side_by_side.wait(timeout=HANG_S)  # hangs where fewer are read at the same time
        return tfrecord.scan_shard(path, keys=keys)

    for _ in range(2):  # the second time from what was kept
        indices = cached_shard_indices(paths, keys=keys, scan=scan, threads=threads)
        assert [index.num_rows for index in indices] == list(range(1, 9))
        assert [len(index.load()) for index in indices] == list(range(1, 9))
    assert sorted(at_once) == paths


def test_the_first_bad_shard_is_reported_and_the_good_before_are_kept(tmp_path):
    for s in range(12):
        write_shard(tmp_path / f"{s:02d}.tfrecord", [example(i, i % 3) for i in range(s + 2)])
    for s in (5, 6, 9):
        path = tmp_path / f"{s:02d}.tfrecord"
        path.write_bytes(path.read_bytes()[:-7])
    for _ in range(3):
        with pytest.raises(UserError, match="05.tfrecord is cut in the middle"):
            load(f"tfrecord:{tmp_path}/*.tfrecord")
    kept = sorted(path.name for path in tmp_path.glob(".*.npz"))
    assert kept[:5] == [f".{s:02d}.tfrecord.index.npz" for s in range(5)]


def test_long_indexing_tells_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_index, "_SECONDS_A_LINE", 0.01)
    scan, said = tfrecord.scan_shard, []

    def slow(path, **kwargs):
        time.sleep(0.1)
        return scan(path, **kwargs)

    monkeypatch.setattr(tfrecord, "scan_shard", slow)
    monkeypatch.setattr(shard_index.logging, "info", lambda text, *a: said.append(text % a))
    for s in range(5):
        write_shard(tmp_path / f"{s}.tfrecord", [example(i, i % 3) for i in range(4)])
    load(f"tfrecord:{tmp_path}/*.tfrecord")
    assert said[0] == "Indexing 5 shards (0 MB): once, the index is kept"
    assert any(re.search(r"^[1-4] of 5 shards indexed, .* s left$", line) for line in said)


def test_digest_does_not_know_the_place(tmp_path):
    first = load(write_set(tmp_path / "s")).digest
    assert load(write_set(tmp_path / "other", "shard{}.tfrecord")).digest == first


def test_store_survives_pickling_and_many_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(record_store, "_MOST_OPEN", 2)
    for shard in range(5):
        write_shard(tmp_path / f"{shard}.tfrecord", [example(shard * 3 + i, i) for i in range(3)])
    index = load(f"tfrecord:{tmp_path}/*.tfrecord?test_fraction=0")
    rows = np.array([14, 0, 7, 3, 11, 14])
    wanted = [example(i)["image/encoded"] for i in rows]
    assert list(index.train.read(rows)) == wanted
    assert len(index.train.store.shards._descriptors) == 2
    assert list(pickle.loads(pickle.dumps(index.train)).read(rows)) == wanted


def test_shard_that_shrinks_or_goes_while_in_use(tmp_path):
    index = load(write_set(tmp_path))
    os.truncate(tmp_path / "part-00001-of-00002.tfrecord", 30)
    with pytest.raises(UserError, match="became shorter while it was in use"):
        index.train.read(np.array([8]))
    os.unlink(tmp_path / "part-00000-of-00002.tfrecord")
    with pytest.raises(UserError, match="cannot be read any more .No such file"):
        index.train.read(np.array([0]))


def test_index_file_has_the_usual_permissions(tmp_path):
    load(write_set(tmp_path))
    for path in tmp_path.glob(".*.npz"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o400
