"""Data sets as people lay them out: odd names, odd folders, labels written in two ways."""

from __future__ import annotations

import os
import unicodedata

import numpy as np
import pytest

from longtail_tf.datasets import load_index
from longtail_tf.datasets.load import load_source
from longtail_tf.errors import UserError
from tests import fakes

IMAGE = fakes.png_bytes(np.zeros((8, 8, 3), np.uint8))
CAFE, CAFE_IN_TWO = "café", unicodedata.normalize("NFD", "café")


def photos(folder, *classes, each=4, suffix=".png"):
    for name in classes:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            (place / f"{number}{suffix}").write_bytes(IMAGE)


def names_of(spec):
    return sorted(load_index(spec, val_per_class=0).class_names)


# Folders


@pytest.mark.parametrize(
    "outer",
    [
        ("train", "eval"),
        ("Training_set", "Test_set"),
        ("train2", "test"),
        ("seg_train", "seg_test"),
        ("fold1", "fold2", "fold3"),
    ],
)
def test_splits_under_other_names_are_refused_with_both_ways_out(tmp_path, outer):
    for name in outer:
        photos(tmp_path / name, "cat", "dog")
    (tmp_path / outer[1] / "fox").mkdir()  # not all of them need be the same
    (tmp_path / outer[0] / "list.csv").write_text("x")
    with pytest.raises(UserError, match="hold the same folders .cat, dog. and no image.*name them"):
        load_index(f"folder:{tmp_path}")
    found = load_index(f"folder:{tmp_path}?layout=classes", val_per_class=0)
    assert sorted(found.class_names) == sorted(outer)


@pytest.mark.parametrize("outer", [("train", "test"), ("Train", "VALID"), ("training", "dev")])
def test_splits_under_their_names_are_splits(tmp_path, outer):
    for name in outer:
        photos(tmp_path / name, "cat", "dog")
    assert names_of(f"folder:{tmp_path}") == ["cat", "dog"]


def test_folders_inside_classes_are_no_splits(tmp_path):
    photos(tmp_path / "cat", "front", "side")
    photos(tmp_path / "dog", "front", "back", "left")
    photos(tmp_path, "fox")  # its images lie in it
    assert names_of(f"folder:{tmp_path}") == ["cat", "dog", "fox"]


@pytest.mark.parametrize(
    "foreign", ["__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", ".ipynb_checkpoints"]
)
def test_folders_of_systems_are_neither_classes_nor_images(tmp_path, foreign):
    photos(tmp_path, "cat", "dog")
    photos(tmp_path, foreign, f"cat/{foreign}")
    source, _ = load_source(f"folder:{tmp_path}")
    assert list(source.class_names) == ["cat", "dog"] and len(source.labels) == 8
    assert any("of the system" in note or "hidden" in note for note in source.notes)


@pytest.mark.parametrize("suffix", [".webp", ".heic", ".tif", ""])
def test_a_class_of_unread_files_only_is_told_with_what_was_skipped(tmp_path, suffix):
    photos(tmp_path, "cat", "dog")
    photos(tmp_path, "fox", suffix=suffix)
    what = suffix or "without extension"
    with pytest.raises(UserError, match=rf"fox: 4 entries: 4 {what} skipped.*no image at all"):
        load_index(f"folder:{tmp_path}")
    assert names_of(f"folder:{tmp_path}?untrained=drop") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"a\nb", "holds a line break or control character"),
        (b"a\rb", "holds a line break or control character"),
        (b"\x1b[2J", "holds a line break or control character"),
        ("a\u2028b".encode(), "holds a line break or control character"),
        (b"caf\xe9", "is no UTF-8"),
        (b" ", "is empty"),
    ],
)
def test_class_folders_that_no_table_can_hold_are_refused(tmp_path, name, reason):
    photos(tmp_path, "cat", "dog", "fox")
    os.rename(tmp_path / "fox", os.fsencode(tmp_path) + b"/" + name)
    with pytest.raises(UserError, match=f"has a class whose name {reason}.*give it another name"):
        load_index(f"folder:{tmp_path}")


@pytest.mark.parametrize("name", ["🐈 cat", 'a,"b"', "-rf", "x" * 255, "NaN", "<b>", "שלום"])
def test_any_other_class_name_stays(tmp_path, name):
    photos(tmp_path, "cat", name)
    assert names_of(f"folder:{tmp_path}") == sorted(["cat", name])


def test_images_whose_names_are_no_utf8_are_read(tmp_path):
    photos(tmp_path, "cat", "dog")
    for name in (b"caf\xe9.png", b"a\nb.png"):
        with open(os.fsencode(tmp_path / "cat") + b"/" + name, "wb") as file:
            file.write(IMAGE)
    index = load_index(f"folder:{tmp_path}?test_fraction=0", val_per_class=0)
    assert set(index.train.read(np.arange(len(index.train)))) == {IMAGE}


def test_a_class_in_two_unicode_forms_is_one(tmp_path):
    photos(tmp_path, "dog", CAFE, each=2)
    photos(tmp_path, CAFE_IN_TWO, each=3)
    index = load_index(f"folder:{tmp_path}?test_fraction=0", val_per_class=0)
    assert list(index.class_names) == [CAFE, "dog"] and index.class_counts.tolist() == [5, 2]
    assert any("one class each" in note for note in index.notes)


def test_a_name_in_the_other_form_alone_is_composed_without_a_word(tmp_path):
    photos(tmp_path, "dog", CAFE_IN_TWO)
    index = load_index(f"folder:{tmp_path}", val_per_class=0)
    assert sorted(index.class_names) == [CAFE, "dog"]
    assert not any("Unicode" in note for note in index.notes)


# Tables


def table(folder, labels, *, paths=None):
    """A table of one image a row."""
    lines = ["path,label"]
    for row, label in enumerate(labels):
        path = paths[row] if paths else f"{row}.png"
        (folder / path).write_bytes(IMAGE + bytes(row))
        lines.append(f"{path},{label}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"csv:{folder / 'data.csv'}"


@pytest.mark.parametrize("other", ["1.0", "001", "+1", "1e0", "01.00", "١"])
def test_a_number_written_in_two_ways_is_refused_with_both_lines(tmp_path, other):
    spec = table(tmp_path, ["0", "1", "0", other])
    with pytest.raises(UserError) as told:
        load_index(spec)
    assert f"line 5, has the label {other} and line 3 the label 1, which are one" in str(told.value)


def test_minus_nought_is_nought(tmp_path):
    with pytest.raises(UserError, match="which are one number"):
        load_index(table(tmp_path, ["0", "1", "-0", "1"]))


@pytest.mark.parametrize(
    "labels",
    [
        ["001", "002", "001", "002"],
        ["1.0", "2.0", "1.0", "2.0"],
        [str(10**30), str(10**30 + 1), str(10**30)],  # alike as floats
        ["1_0", "10", "1_0", "10"],  # a text and a number: texts
        ["a1", "1", "a1", "1"],
    ],
)
def test_labels_written_alike_stay_as_they_are(tmp_path, labels):
    assert names_of(f"{table(tmp_path, labels)}?test_fraction=0") == sorted(set(labels))


@pytest.mark.parametrize("label", ["nan", "inf", "1.5", "-1", "9" * 400 + ".5"])
def test_numbers_that_are_no_class_are_refused(tmp_path, label):
    with pytest.raises(UserError, match="line 4, has the label .* all labels are numbers"):
        load_index(table(tmp_path, ["0", "1", label]))


def test_labels_in_two_unicode_forms_are_one_class(tmp_path):
    spec = table(tmp_path, [CAFE, CAFE_IN_TWO, "x", CAFE])
    assert names_of(f"{spec}?test_fraction=0") == [CAFE, "x"]


def test_a_path_that_comes_again_counts_once_and_is_excluded_whole(tmp_path):
    paths = ["a.png", "b.png", "a.png", "c.png", "d.png", "d.png"]
    spec = table(tmp_path, ["x", "x", "x", "y", "x", "y"], paths=paths)
    source, _ = load_source(spec)
    assert source.split.tolist() == [0, 0, 255, 0, 0, 0]
    assert any("1 row of" in note and "again" in note for note in source.notes)
    (tmp_path / "bad.txt").write_text("d.png\tcalled x and y\n")
    index = load_index(f"{spec}?test_fraction=0", val_per_class=0, exclude=tmp_path / "bad.txt")
    assert index.class_counts.tolist() == [2, 1], "both rows of d.png are left out"


# When files were written


def test_the_times_of_files_are_told_apart_from_what_they_are(tmp_path):
    photos(tmp_path, "cat", "dog")
    before = load_index(f"folder:{tmp_path}")
    os.utime(tmp_path / "cat" / "0.png", (1, 1))
    after = load_index(f"folder:{tmp_path}")
    assert before.digest == after.digest and before.times and before.times != after.times
    assert load_index(fakes.write_npz(tmp_path / "a.npz")).times == "", "its digest is of contents"
