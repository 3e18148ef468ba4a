"""The sheet shows the pixels it was given, under their names."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from longtail_tf.errors import UserError
from longtail_tf.images import contact_sheet as sheets
from longtail_tf.images.contact_sheet import contact_sheet, streams_sheet

NAMES = ["alpha", "a very long class name that cannot fit", "gamma"]
PAPER = (250, 250, 247)


def read(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image.convert("RGB"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_pixel_of_a_small_image_is_there_enlarged(channels, dtype, tmp_path, rng):
    images = rng.integers(0, 256, (4, 28, 28, channels)).astype(dtype)
    contact_sheet(images, np.array([0, 1, 2, 0]), NAMES, tmp_path / "sheet.png")
    sheet = read(tmp_path / "sheet.png")
    enlarged = np.repeat(np.repeat(images[0], 4, 0), 4, 1)
    assert sheet.shape[0] > 2 * 112
    np.testing.assert_array_equal(
        sheet[24 : 24 + 112, 24 : 24 + 112], enlarged + np.zeros(3, np.uint8)
    )
    assert tuple(sheet[0, 0]) == PAPER


def test_large_images_are_reduced(tmp_path):
    contact_sheet(np.full((1, 300, 300, 3), 77, np.uint8), [2], NAMES, tmp_path / "sheet.png")
    sheet = read(tmp_path / "sheet.png")
    assert sheet.shape[1] == 112 + 48
    assert (sheet[24 : 24 + 112, 24:-24] == 77).all()


def test_repeats_of_a_row_are_framed(tmp_path):
    images = np.full((3, 56, 56, 1), 200, np.uint8)
    contact_sheet(images, [0, 0, 0], NAMES, tmp_path / "sheet.png", rows=np.array([9, 4, 9]))
    sheet = read(tmp_path / "sheet.png")
    corners = [tuple(sheet[24, 24 + slot * 118]) for slot in range(3)]
    assert corners == [(200, 200, 200), (200, 200, 200), (214, 110, 20)]


@pytest.mark.parametrize(
    "labels, columns",
    [
        (np.repeat(np.arange(32), 4), 12),
        (np.repeat(np.arange(8), 4), 4),
        (np.repeat(np.arange(3), 20), 10),
        (np.arange(16), 5),
        (np.array([0]), 1),
        (np.repeat([3, 3, 5], 2), 2),
    ],
)
def test_classes_of_a_pk_batch_are_not_torn(labels, columns):
    assert sheets._columns(labels) == columns


def test_long_names_are_cut_to_the_image_and_odd_ones_drawn(tmp_path):
    short = sheets._shortened(NAMES[1], 112)
    assert short.endswith("…") and sheets._font(13).getlength(short) <= 112
    assert sheets._shortened(" \n", 112) == "(no name)"
    contact_sheet(np.zeros((2, 8, 8, 1)), [0, 1], ["Ünïcödé жук", "two\nlines"], tmp_path / "s.png")


def test_only_the_first_images_are_shown_and_said(tmp_path, monkeypatch):
    said = []
    real = sheets._section
    monkeypatch.setattr(sheets, "_section", lambda *a: said.append(a[-1]) or real(*a))
    images = np.zeros((50, 28, 28, 1), np.uint8)
    contact_sheet(images, np.zeros(50, int), NAMES, tmp_path / "few.png", max_images=4)
    contact_sheet(images, np.zeros(50, int), NAMES, tmp_path / "all.png")
    assert read(tmp_path / "few.png").shape[0] < read(tmp_path / "all.png").shape[0] / 2
    assert said == [4, 96]


def test_streams_are_stacked(tmp_path):
    head = (np.full((2, 28, 28, 1), 10, np.uint8), [0, 1], [5, 6], [1, 0], 0.5)
    whole = (np.full((4, 28, 28, 1), 240, np.uint8), [0, 0, 2, 2], [1, 2, 3, 3])
    streams_sheet({"head": head, "whole": whole}, NAMES, tmp_path / "both.png")
    contact_sheet(*head[:2], NAMES, tmp_path / "head.png", title="x")
    both, alone = read(tmp_path / "both.png"), read(tmp_path / "head.png")
    assert both.shape[0] > 2 * alone.shape[0]
    first, last = (np.flatnonzero((both == value).all(-1).any(1)) for value in (10, 240))
    assert first.max() < last.min()


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (np.zeros((0, 8, 8, 1)), [], r"images of shape \[0, 8, 8, 1\]: give one or more"),
        (np.zeros((8, 8, 1)), [0], r"images of shape \[8, 8, 1\]"),
        (np.zeros((2, 8, 8, 1)), [0], "2 images and 1 labels: give one label for each"),
    ],
)
def test_what_cannot_be_drawn_is_refused(images, labels, message, tmp_path):
    with pytest.raises(UserError, match=message):
        contact_sheet(images, labels, NAMES, tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())


def test_a_batch_without_a_stream_is_refused(tmp_path):
    with pytest.raises(UserError, match="got no stream"):
        streams_sheet({}, NAMES, tmp_path / "sheet.png")
