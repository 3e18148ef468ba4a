"""The check of a whole data set: each planted fault is found, and nothing else."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from longtail_tf.datasets import load_index
from longtail_tf.datasets.load import load_source
from longtail_tf.errors import UserError
from longtail_tf.inspection.check_report import ERROR, KINDS, CheckReport, Finding
from longtail_tf.inspection.dataset_check import (
    check_dataset,
    find_copies,
    render_text,
    report_json,
    write_csv,
    write_json,
    write_quarantine,
)

COUNTERS = {"made": 0}


def write_image(path, mode="RGB", **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    COUNTERS["made"] += 1
    rng = np.random.default_rng(COUNTERS["made"])
    pixels = rng.integers(0, 256, (12, 10, 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **settings)
    return path


@pytest.fixture
def folder(tmp_path):
    """Train and test folders of two classes without any fault."""
    root = tmp_path / "set"
    for split, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            for i in range(count):
                write_image(root / split / name / f"{i}.{'png' if i % 2 else 'jpg'}")
    return root


def check(folder, **settings):
    return check_dataset(f"folder:{folder}", **settings)


def found(report):
    return sorted((f.kind, f.key or f.class_name) for f in report.findings)


def test_nothing_found(folder):
    report = check(folder)
    assert (report.num_images, report.num_classes, report.num_errors) == (18, 2, 0)
    assert report.findings == () and report.counts == {} and report.quarantine == []
    assert "18 images of 2 classes checked" in render_text(report)
    assert "Nothing found." in render_text(report)


def test_every_planted_fault_is_found(folder):
    cat, dog = folder / "train" / "cat", folder / "train" / "dog"
    (cat / "empty.jpg").write_bytes(b"")
    (cat / "text.jpg").write_text("hello")
    data = (cat / "1.png").read_bytes()
    (cat / "cut.png").write_bytes(data[: len(data) // 2])
    os.rename(cat / "0.jpg", cat / "zero.png")
    write_image(cat / "cmyk.jpg", "CMYK")
    write_image(cat / "alpha.png", "RGBA")
    shutil.copy(dog / "1.png", dog / "again.png")
    shutil.copy(folder / "test" / "dog" / "2.jpg", dog / "leak.jpg")
    shutil.copy(cat / "3.png", dog / "cat.png")
    write_image(folder / "train" / "Cat " / "a.png")
    write_image(folder / "test" / "fox" / "a.png")
    (folder / "train" / "owl").mkdir()
    (dog / "loop").symlink_to(folder / "train")
    (dog / "gone.png").symlink_to("nowhere")
    shutil.move(write_image(folder / "x.png"), os.fsencode(dog) + b"/\xff.png")
    report = check(folder)
    assert found(report) == sorted([
        ("empty_file", "train/cat/empty.jpg"),
        ("not_an_image", "train/cat/text.jpg"),
        ("truncated", "train/cat/cut.png"),
        ("wrong_extension", "train/cat/zero.png"),
        ("cmyk", "train/cat/cmyk.jpg"),
        ("alpha", "train/cat/alpha.png"),
        ("duplicate", "train/dog/again.png"),
        ("across_splits", "train/dog/leak.jpg"),
        ("different_labels", "train/cat/3.png"),
        ("different_labels", "train/dog/cat.png"),
        ("similar_names", "Cat "),
        ("untrained_class", "fox"),
        ("empty_class", "owl"),
        ("symlink_loop", ""),
        ("broken_link", ""),
        ("bad_name", "train/dog/\udcff.png"),
    ])  # fmt: skip
    details = {f.kind: f.detail for f in report.findings}
    assert details["symlink_loop"] == "train/dog/loop"
    assert details["across_splits"] == "the same as test/dog/2.jpg"
    assert "which is called" in details["different_labels"]
    assert details["similar_names"] == "'Cat ' and 'cat'"
    assert details["untrained_class"] == "1 image, none for training"
    assert report.num_errors == 8


def test_quarantine_mends_the_data(folder, tmp_path):
    cat = folder / "train" / "cat"
    (cat / "empty.jpg").write_bytes(b"")
    (cat / " odd\tname.jpg").write_bytes(b"")
    (cat / '"q".jpg').write_bytes(b"x")
    (cat / "#h.jpg").write_bytes(b"y")
    (cat / "line\nbreak.jpg").write_bytes(b"z")
    with open(os.fsencode(cat) + b"/\xfe.jpg", "wb") as file:
        file.write(b"\1")
    shutil.copy(folder / "test" / "cat" / "2.jpg", cat / "leak.jpg")
    report = check(folder)
    listed = tmp_path / "bad.txt"
    assert write_quarantine(report, listed) == 7 == len(report.quarantine)
    mended = check(folder, exclude=str(listed))
    assert mended.findings == () and mended.num_images == 18
    index = load_index(f"folder:{folder}", val_per_class=0, exclude=str(listed))
    assert list(index.class_counts) == [6, 6]
    assert any("7 images left out" in note and "name no" not in note for note in index.notes)


def test_wrong_extension_and_notes_are_not_quarantined(folder):
    os.rename(folder / "train" / "cat" / "0.jpg", folder / "train" / "cat" / "0.png")
    write_image(folder / "train" / "cat" / "a.png", "RGBA")
    report = check(folder)
    assert len(report.findings) == 2 and report.quarantine == [] and report.num_errors == 0


def test_caps(folder):
    sizes = {p: p.stat().st_size for p in folder.rglob("*.*") if p.is_file()}
    most = sorted(sizes.values())[-3]
    report = check(folder, max_bytes=most)
    assert [f.kind for f in report.findings] == ["too_many_bytes"] * sum(
        size > most for size in sizes.values()
    )
    assert len(check(folder, max_pixels=119).findings) == 18


def test_file_that_cannot_be_read(folder):
    source, _ = load_source(f"folder:{folder}")
    os.remove(folder / "train" / "dog" / "1.png")
    (finding,) = check_dataset(source).findings
    assert (finding.kind, finding.key) == ("unreadable", "train/dog/1.png")
    assert "No such file" in finding.detail and finding.quarantined and finding.split == "train"


def test_arrays_are_searched_for_copies(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3)).astype(np.uint8)
    images[7] = images[2]
    images[9] = images[0]
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 1, 1, 1])
    split = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 0])
    np.savez(
        tmp_path / "x.npz",
        images=images, labels=labels, split=split, split_names=np.array(["train", "test"]),
    )  # fmt: skip
    report = check_dataset(f"npz:{tmp_path / 'x.npz'}")
    assert found(report) == [
        ("across_splits", "2"), ("different_labels", "0"), ("different_labels", "9"),
    ]  # fmt: skip
    assert report.quarantine[0][0] == "0"


def test_data_that_training_refuses_can_be_checked(tmp_path):
    for i in range(2):
        write_image(tmp_path / "set" / "only" / f"{i}.png")
    with pytest.raises(UserError, match="one class only"):
        load_index(f"folder:{tmp_path / 'set'}")
    [finding] = check(tmp_path / "set").findings
    assert (finding.kind, finding.detail, finding.severity) == ("one_class", "only", ERROR)
    assert "error: 1 class alone has training images" in render_text(check(tmp_path / "set"))
    with pytest.raises(UserError, match="there is no folder"):
        check(tmp_path / "none")


def test_order_does_not_depend_on_threads(folder):
    for i in range(5):
        (folder / "train" / "cat" / f"bad{i}.jpg").write_bytes(b"%d" % i)
    reports = [check(folder, threads=threads) for threads in (1, 4)]
    assert reports[0].findings == reports[1].findings


def test_progress(folder):
    said = []
    check(folder, progress=lambda done, total: said.append((done, total)))
    assert said[-1] == (18, 18)


def test_files_of_the_report(folder, tmp_path):
    (folder / "train" / "cat" / "empty.jpg").write_bytes(b"")
    with open(os.fsencode(folder / "train" / "cat") + b"/\xff.jpg", "wb") as file:
        file.write(b"x")
    report = check(folder)
    write_json(report, tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text())
    assert read == report_json(report) and read["num_errors"] == 2
    assert read["counts"] == {"empty_file": 1, "not_an_image": 1, "bad_name": 1}
    assert read["findings"][0] == {
        "severity": "error",
        "kind": "empty_file",
        "detail": "0 bytes",
        "key": "train/cat/empty.jpg",
        "split": "train",
        "class_name": "cat",
        "quarantined": True,
    }
    write_csv(report, tmp_path / "r.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [row["kind"] for row in rows] == ["empty_file", "not_an_image", "bad_name"]
    assert rows[0]["key"] == "train/cat/empty.jpg" and rows[1]["key"] == "train/cat/\\xff.jpg"
    text = render_text(report)
    assert "error: 1 empty files" in text and "train/cat/\\xff.jpg" in text
    assert "2 images are better left out" in text
    text.encode("utf-8")


def test_text_shows_the_first_of_many():
    findings = tuple(Finding("empty_file", "0 bytes", key=f"{i}.jpg") for i in range(8))
    text = render_text(CheckReport("set", 8, 1, findings))
    assert "4.jpg" in text and "5.jpg" not in text and "and 3 more" in text


def test_every_kind_has_a_remedy():
    assert all(kind.remedy and kind.title for kind in KINDS.values())


@pytest.mark.parametrize("trial", range(15))
def test_copies_against_a_plain_loop(trial):
    rng = np.random.default_rng(trial)
    n = int(rng.integers(0, 60))
    digests = rng.integers(0, 8, (n, 2)).astype(np.uint64) // 3
    labels, splits = rng.integers(0, 2, n), rng.integers(0, 3, n)
    copies = {c.row: c for c in find_copies(digests, labels=labels, splits=splits)}
    kept = [i for i in range(n) if i not in copies]
    for i in range(n):
        group = [j for j in range(n) if (digests[j] == digests[i]).all()]
        if len({labels[j] for j in group}) > 1:
            assert copies[i].kind == "different_labels" and copies[i].quarantined
            assert labels[copies[i].other] != labels[i] and copies[i].other in group
            continue
        stay = max(group, key=lambda j: (splits[j], -j))
        if i == stay:
            assert i in kept
        else:
            assert copies[i].other == stay
            across = splits[i] != splits[stay]
            assert copies[i].kind == ("across_splits" if across else "duplicate")
