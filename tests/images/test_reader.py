"""What is read, kept, replaced and refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from absl import logging
from PIL import Image

from longtail_tf.datasets.split import Split
from longtail_tf.errors import UserError
from longtail_tf.images.reader import ImageReader

SIZE = 8


def png(value, size=SIZE):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


class Files:
    """Encoded images of one grey value each: row r has value r; counts what is read."""

    encoded = True

    def __init__(self, count, bad=(), missing=()):
        self.files = [b"broken" if row in bad else png(row) for row in range(count)]
        self.missing = set(missing)
        self.reads = []

    def read(self, rows):
        self.reads.extend(int(row) for row in rows)
        for row in rows:
            if int(row) in self.missing:
                raise UserError(f"file {row} cannot be read any more; restore it")
        files = np.empty(len(rows), object)
        files[:] = [self.files[row] for row in rows]
        return files

    def describe(self, row):
        return f"photos/{row}.png"


class Arrays:
    encoded = False

    def __init__(self, images):
        self.images = images

    def read(self, rows):
        return self.images[rows]

    def describe(self, row):
        return f"row {row}"


def reader_of(store, labels, **settings):
    split = Split(np.array(labels, np.int32), store)
    return ImageReader(split, image_size=SIZE, channels=3, **settings)


def values(images):
    assert images.shape[1:] == (SIZE, SIZE, 3) and images.dtype == np.uint8
    return images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("cache_bytes", [0, 3 * SIZE * SIZE * 3, 2**20])
def test_rows_come_in_order_whatever_is_kept(cache_bytes, rng):
    store = Files(9)
    reader = reader_of(store, [0] * 9, cache_bytes=cache_bytes)
    for _ in range(20):
        rows = rng.integers(0, 9, 6)
        images, read_rows = reader.read(rows)
        assert values(images) == rows.tolist() == read_rows.tolist()
    kept = min(9, cache_bytes // (SIZE * SIZE * 3))
    once = [row for row in range(9) if store.reads.count(row) == 1]
    assert len(once) == (9 if kept == 9 else kept)


def test_a_repeated_row_is_read_once_a_batch():
    store = Files(3)
    images, _ = reader_of(store, [0, 0, 0], cache_bytes=0).read(np.array([2, 2, 1, 2]))
    assert values(images) == [2, 2, 1, 2]
    assert sorted(store.reads) == [1, 2]


def test_images_are_resized_and_arrays_too():
    store = Files(2)
    store.files = [png(7, 30), png(9, 5)]
    assert values(reader_of(store, [0, 1]).read(np.array([1, 0]))[0]) == [9, 7]
    arrays = Arrays(
        np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) + np.zeros((1, 5, 7, 3), np.uint8)
    )
    assert values(reader_of(arrays, [0] * 4).read(np.array([3, 1, 3]))[0]) == [3, 1, 3]
    grey = Arrays(
        np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) + np.zeros((1, 8, 8, 1), np.uint8)
    )
    assert values(reader_of(grey, [0] * 4).read(np.array([2]))[0]) == [2]


def test_arrays_of_the_right_size_are_not_touched(rng):
    images = rng.integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    read, rows = reader_of(Arrays(images), [0] * 5).read(np.array([4, 0, 4]))
    np.testing.assert_array_equal(read, images[[4, 0, 4]])
    assert rows.tolist() == [4, 0, 4]


@pytest.mark.parametrize("fault", ["bad", "missing"])
def test_a_bad_image_is_replaced_from_its_class(fault):
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    rows = np.array([0, 1, 4, 1, 5])
    seen = set()
    for step in range(12):
        reader = reader_of(Files(8, **{fault: [1]}), labels)
        images, read_rows = reader.read(rows, replacement_key=(0, step))
        assert values(images) == read_rows.tolist()
        assert read_rows[[0, 2, 4]].tolist() == [0, 4, 5]
        assert set(read_rows[[1, 3]]) <= {0, 2, 3}
        seen.add(tuple(read_rows))
    assert len(seen) > 3, "the replacement varies with the key"


def test_the_replacement_does_not_depend_on_what_was_read_before():
    labels = [0] * 8 + [1] * 8
    store = {"bad": [1, 2, 3, 5, 12]}
    fresh = reader_of(Files(16, **store), labels, max_bad_share=1.0)
    used = reader_of(Files(16, **store), labels, max_bad_share=1.0, cache_bytes=0)
    for step in range(10):
        used.read(np.arange(16), replacement_key=(9, step))
    for key in [(0, 0), (0, 1), (5, 7)]:
        rows = np.array([2, 8, 1, 3])
        np.testing.assert_array_equal(
            fresh.read(rows, replacement_key=key)[1], used.read(rows, replacement_key=key)[1]
        )


def test_slots_of_a_slice_are_those_of_its_batch():
    labels = [0] * 30
    rows = np.array([1, 5, 1, 1])
    reader = reader_of(Files(30, bad=[1]), labels)
    whole = reader.read(rows, replacement_key=(0, 3))[1]
    second = reader.read(rows[2:], replacement_key=(0, 3), first_slot=2)[1]
    assert whole[2:].tolist() == second.tolist()
    assert len(set(whole)) > 2


def test_a_class_without_a_good_image_is_grey():
    reader = reader_of(Files(4, bad=[3]), [0, 0, 0, 1])
    images, rows = reader.read(np.array([3, 0, 3]), replacement_key=(0,))
    assert values(images) == [128, 0, 128]
    assert rows.tolist() == [3, 0, 3]


def test_each_bad_image_is_warned_of_once(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: lines.append(text % args))
    reader = reader_of(Files(40, bad=[1, 2]), [0] * 40)
    for step in range(5):
        reader.read(np.array([0, 1, 2]), replacement_key=(step,))
    assert len(lines) == 2
    assert lines[0].startswith("bad image 1 of this split: photos/1.png (Unknown image file format")
    assert lines[1].startswith("bad image 2 of this split: photos/2.png")


def test_too_many_bad_images_stop_training():
    reader = reader_of(Files(40, bad=range(10, 13)), [0] * 40, max_bad_share=0.05)
    reader.read(np.array([10, 11]), replacement_key=(0,))
    with pytest.raises(
        UserError,
        match=r"3 of 40 training images cannot be read, more than the 5% allowed; the first is "
        r"photos/10.png \(Unknown image file format.*--exclude",
    ):
        reader.read(np.array([12]), replacement_key=(1,))


def test_one_bad_image_never_stops_training():
    images, _ = reader_of(Files(3, bad=[0]), [0] * 3).read(np.array([0]), replacement_key=(0,))
    assert values(images)[0] in (1, 2)


@pytest.mark.parametrize("fault", ["bad", "missing"])
def test_without_replacement_the_file_is_named(fault):
    reader = reader_of(Files(6, **{fault: [4]}), [0] * 6)
    with pytest.raises(UserError, match=r"photos/4.png is not a readable image \(.*--exclude"):
        reader.read(np.arange(6))


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "Input is empty"),
        (b"a letter, by mistake", "Unknown image file format. One of JPEG, [^)]*BMP[^)]* required"),
        (png(1)[:50], "Invalid PNG data, size 50"),
        (
            png(1)[:16] + b"\x00\x00\xff\xff" * 2 + png(1)[24:],
            "image refused: more than 67108864 pi",
        ),
    ],
)
def test_reasons_are_plain_words(data, reason):
    store = Files(2)
    store.files[1] = data
    with pytest.raises(UserError, match=rf"\({reason}[^{{:]*\)?: ") as error:
        reader_of(store, [0, 0]).read(np.array([1]))
    assert "{{" not in str(error.value) and "Op:" not in str(error.value)
