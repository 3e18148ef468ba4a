"""folder: and csv: sources on real image files, and what goes wrong with them."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from longtail_tf.datasets import load_index
from longtail_tf.errors import UserError


def write_image(path, value=0, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (value % 256, 0, 0)).save(path, kind)


@pytest.fixture
def folder(tmp_path):
    """Three classes of 6, 4 and 2 images in every format."""
    root = tmp_path / "animals"
    suffixes = [".jpg", ".JPEG", ".png", ".bmp", ".gif", ".JPG"]
    for name, count in (("cat", 6), ("dog", 4), ("猫", 2)):
        for i in range(count):
            write_image(root / name / f"{i}{suffixes[i]}", i)
    return root


def test_class_folders(folder):
    index = load_index(f"folder:{folder}?test_fraction=0", val_per_class=0)
    assert list(index.class_names) == ["cat", "dog", "猫"]
    assert list(index.class_counts) == [6, 4, 2] and index.notes == ()
    assert index.name == "animals" and index.image_shape is None and index.channels == 3
    assert index.train.encoded and index.flip_is_valid
    files = index.train.read(np.array([11, 0]))
    assert files.dtype == object and files.shape == (2,)
    assert files[0] == (folder / "猫" / "1.JPEG").read_bytes()
    assert index.train.describe(11) == str(folder / "猫" / "1.JPEG")
    assert index.train.key(11) == "猫/1.JPEG"


def test_train_and_test_folders(tmp_path):
    root = tmp_path / "set"
    for split, count in (("train", 5), ("Validation", 2), ("test", 3)):
        for name in ("a", "b"):
            for i in range(count):
                write_image(root / split / name / f"{i}.png")
    index = load_index(f"folder:{root}")
    assert (len(index.train), len(index.val), len(index.test)) == (10, 4, 6)
    assert index.val.key(0) == "Validation/a/0.png" and index.notes == ()
    assert list(np.bincount(index.test.labels)) == [3, 3]


def test_what_is_skipped_is_counted(folder):
    (folder / "README.txt").write_text("x")
    (folder / ".hidden").mkdir()
    (folder / "cat" / "notes.txt").write_text("x")
    (folder / "cat" / "Thumbs").write_text("x")
    (folder / "cat" / ".DS_Store").write_text("x")
    (folder / "dog" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    write_image(folder / "dog" / "more" / "deep.png")
    (folder / "dog" / "more" / "loop").symlink_to(folder / "dog")
    (folder / "cat" / "self.png").symlink_to("self.png")
    index = load_index(f"folder:{folder}?test_fraction=0", val_per_class=0)
    assert list(index.class_counts) == [6, 5, 2]
    (note,) = index.notes
    assert "8 entries" in note
    for part in ("2 hidden", "1 .txt", "1 without extension", "2 a broken link", "1 outside a cl",
                 "1 a link back to a folder above"):  # fmt: skip
        assert part in note
    assert index.train.key(10) == "dog/more/deep.png"


def test_file_names_of_any_bytes(folder):
    shutil.copy(folder / "cat" / "0.jpg", os.fsencode(folder / "cat") + b"/\xff\xfe.jpg")
    index = load_index(f"folder:{folder}?test_fraction=0", val_per_class=0)
    row = [i for i in range(7) if "\udcff" in index.train.key(i)]
    assert index.train.read(np.array(row))[0] == (folder / "cat" / "0.jpg").read_bytes()


def test_digest_is_the_same_elsewhere(folder, tmp_path):
    digest = load_index(f"folder:{folder}").digest
    shutil.copytree(folder, tmp_path / "else" / "where")
    assert load_index(f"folder:{tmp_path / 'else' / 'where'}/").digest == digest
    os.rename(folder / "cat" / "0.jpg", folder / "cat" / "00.jpg")
    assert load_index(f"folder:{folder}").digest != digest
    os.rename(folder / "cat" / "00.jpg", folder / "cat" / "0.jpg")
    assert load_index(f"folder:{folder}").digest == digest
    with open(folder / "cat" / "0.jpg", "ab") as file:
        file.write(b"x")
    assert load_index(f"folder:{folder}").digest != digest


def test_class_named_train_beside_other_classes(tmp_path):
    for name in ("train", "bus"):
        for i in range(4):
            write_image(tmp_path / name / f"{i}.png")
    assert list(load_index(f"folder:{tmp_path}").class_names) == ["bus", "train"]


def test_unclear_splits(tmp_path):
    for name in ("train", "test", "annotations"):
        for inner in ("a", "b"):
            for i in range(4):
                write_image(tmp_path / name / inner / f"{i}.png")
    with pytest.raises(UserError, match="test, train beside annotations, so it is unclear"):
        load_index(f"folder:{tmp_path}")
    index = load_index(f"folder:{tmp_path}?layout=splits")
    assert (index.num_classes, len(index.train), len(index.test)) == (2, 8, 8)
    index = load_index(f"folder:{tmp_path}?layout=classes")
    assert index.num_classes == 3


def test_folder_refusals(tmp_path, folder):
    with pytest.raises(UserError, match="there is no folder .*nowhere"):
        load_index(f"folder:{tmp_path / 'nowhere'}")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="has no class folders"):
        load_index(f"folder:{empty}")
    (empty / "a").mkdir()
    with pytest.raises(UserError, match="hold no image; give JPEG"):
        load_index(f"folder:{empty}")
    (empty / "a" / "x.webp").write_bytes(b"x")
    with pytest.raises(UserError, match=r"hold no image \(1 entry: 1 .webp skipped\)"):
        load_index(f"folder:{empty}")
    with pytest.raises(UserError, match="no folder named train, val or test"):
        load_index(f"folder:{folder}?layout=splits")
    (folder / "fox").mkdir()
    with pytest.raises(UserError, match=r"1 class \(fox\) with no image at all"):
        load_index(f"folder:{folder}")
    assert load_index(f"folder:{folder}?untrained=drop").num_classes == 3


def test_folder_that_may_not_be_listed(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        # Root may read anywhere, so permissions alone would test nothing here.
        if os.fsdecode(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", os.fsdecode(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="dog cannot be listed .Permission denied"):
        load_index(f"folder:{folder}")


def test_one_class_folder_and_two_images(tmp_path):
    write_image(tmp_path / "a" / "0.png")
    write_image(tmp_path / "a" / "1.png")
    with pytest.raises(UserError, match=r"one class only \(a\)"):
        load_index(f"folder:{tmp_path}")
    os.makedirs(tmp_path / "b")
    os.rename(tmp_path / "a" / "1.png", tmp_path / "b" / "1.png")
    with pytest.raises(UserError, match="has 2 training images, one in each class"):
        load_index(f"folder:{tmp_path}")


def test_image_that_goes_away(folder):
    index = load_index(f"folder:{folder}?test_fraction=0", val_per_class=0)
    os.remove(folder / "cat" / "0.jpg")
    with pytest.raises(UserError, match="cat/0.jpg cannot be read any more .No such file"):
        index.train.read(np.array([0]))


def test_exclude_by_path(folder, tmp_path):
    (tmp_path / "bad").write_text("猫/0.jpg\tblurred\n")
    index = load_index(
        f"folder:{folder}?test_fraction=0", val_per_class=0, exclude=str(tmp_path / "bad")
    )
    assert list(index.class_counts) == [6, 4, 1]


def table(folder, text, encoding="utf-8"):
    (folder / "set.csv").write_bytes(text.encode(encoding))
    return f"csv:{folder / 'set.csv'}?test_fraction=0"


def test_csv_with_splits(folder):
    rows = "".join(f"cat/{p.name},cat,train\n" for p in sorted((folder / "cat").iterdir()))
    rows += 'dog/0.jpg,dog,train\ndog/1.JPEG,dog,train\n\n"dog/2.png",dog,VAL\n猫/0.jpg,cat,test\n'
    index = load_index(table(folder, "path,label,split\n" + rows))
    assert list(index.class_names) == ["cat", "dog"] and list(index.class_counts) == [6, 2]
    assert index.val.key(0) == "dog/2.png" and index.test.key(0) == "猫/0.jpg"
    assert index.train.describe(0) == str(folder / "cat" / "0.jpg")
    assert index.test.read(np.array([0]))[0] == (folder / "猫" / "0.jpg").read_bytes()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_of_a_spreadsheet(folder, separator):
    text = "\ufefflabel,note,path\r\n10,x,cat/0.jpg\r\n9,y,cat/2.png\r\n10,,dog/0.jpg\r\n"
    index = load_index(table(folder, text.replace(",", separator)), val_per_class=0)
    # Numbers are ordered as numbers: 9 comes before 10 where counts tie, but 10 has more images.
    assert list(index.class_names) == ["10", "9"] and list(index.class_counts) == [2, 1]


def test_csv_orders_numbers_as_numbers(folder):
    text = "path,label\n" + "".join(f"cat/0.jpg,{n}\ncat/2.png,{n}\n" for n in (10, 9, 2))
    assert list(load_index(table(folder, text), val_per_class=0).class_names) == ["2", "9", "10"]


def test_csv_columns_by_option(folder):
    text = "file,kind\ncat/0.jpg,a\ncat/2.png,a\ndog/0.jpg,b\n"
    index = load_index(table(folder, text) + "&path_column=file&label_column=kind")
    assert index.num_classes == 2


@pytest.mark.parametrize(
    "text, match",
    [
        ("", "set.csv is empty"),
        ("file,label\ncat/0.jpg,a\n", "line 1, has no column 'path', only file, label; rename"),
        ("path,kind\ncat/0.jpg,a\n", "line 1, has no column 'label'"),
        ("path,label\n", "has a header but no rows"),
        ("path,label\ncat/0.jpg,a\n\ncat/9.jpg,a\n", "line 4, names the file cat/9.jpg, which"),
        ("path,label\ncat/0.jpg,a\ncat,a\n", "line 3, names cat, which is no file"),
        ("path,label\ncat/0.jpg,\n", "line 2, has no label"),
        ("path,label\n,a\n", "line 2, has no path"),
        ("path,label\ncat/0.jpg,a,b\n", "line 2, has 3 columns and the header 2"),
        ("path,label\ncat/0.jpg,0\ncat/2.png,-1\n", "line 3, has the label -1, but all labels"),
        ("path,label\ncat/0.jpg,0\ncat/2.png,1.5\n", "line 3, has the label 1.5"),
        ("path,label\ncat/0.jpg,0\ncat/2.png,nan\n", "line 3, has the label nan"),
        ("path,label,split\ncat/0.jpg,a,tran\n", "line 2, has the split 'tran'; use train"),
        ("path,label,label\ncat/0.jpg,a,b\n", "line 1, names the column 'label' twice"),
        ('path,label\ncat/0.jpg,"a\ncat/2.png,b\n', "line 3, ends a path or label that holds a li"),
        ("path,label\ncat/0.jpg,a\0b\n", "line 2, ends a path or label that .* not closed"),
    ],
)
def test_csv_refusals_name_file_and_line(folder, text, match):
    with pytest.raises(UserError, match=match):
        load_index(table(folder, text))


def test_csv_tells_how_many_lines_are_bad_and_the_first(folder):
    lines = ["cat/0.jpg,a", "cat/x.jpg,a", "cat/2.png", "dog/0.jpg,", "cat/0.jpg,b"]
    with pytest.raises(UserError) as said:
        load_index(table(folder, "path,label\n" + "\n".join(lines) + "\n"))
    assert str(said.value) == (
        f"{folder / 'set.csv'} has 3 bad lines: line 3 names the file cat/x.jpg, which cannot be "
        f"read from {folder} (No such file or directory), line 4 has 1 columns and the header 2, "
        "line 5 has no label; give paths relative to the CSV file; put quotes around text that "
        "holds the separator; fill it in or delete the line"
    )
    rows = "".join(f"cat/{i}.none,a\n" for i in range(1200))
    with pytest.raises(UserError, match="1,200 bad lines: .*line 6 names .*, and 1,195 more; give"):
        load_index(table(folder, "path,label\n" + rows))
    rows = "".join(f"cat/0.jpg,{i % 3 - 1}\n" for i in range(30))
    with pytest.raises(UserError, match="10 bad lines: line 2 has the label -1, .*, and 5 more"):
        load_index(table(folder, "path,label\n" + rows))


def test_csv_that_is_no_text(folder):
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load_index(table(folder, "path,label\ncät/0.jpg,a\n", "latin1"))
    with pytest.raises(UserError, match="there is no file"):
        load_index(f"csv:{folder / 'none.csv'}")


def test_csv_line_after_a_quoted_line_break(folder):
    text = 'path,label,note\ncat/0.jpg,a,"two\nlines"\ncat/9.jpg,a,x\n'
    with pytest.raises(UserError, match="line 4, names the file cat/9.jpg"):
        load_index(table(folder, text))
