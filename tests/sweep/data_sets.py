"""Cases: data sets that are odd, damaged, or laid out as people do."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests import fakes
from tests.sweep import bad_arrays
from tests.sweep.bad_contents import wrong_tables
from tests.sweep.calls import data_call
from tests.sweep.case import Call, Case, Place
from tests.sweep.named_files import absolute_table
from tests.sweep.runner import Outcome
from tests.sweep.world import write_npz

Layout = Callable[[Place], Call]


def cases() -> Iterator[Case]:
    """Arrays, tables, folders and shards."""
    yield from _arrays()
    yield from _tables()
    for function in FOLDERS:
        name = (function.__doc__ or "").splitlines()[0].rstrip(".")
        yield Case("inspect", f"folder: {name}", function)
    for function in TRAINED:
        name = (function.__doc__ or "").splitlines()[0].rstrip(".")
        yield Case("train", f"data: {name}", function)
    yield from _shards()


def _inspect(
    place: Place, spec: str, *, expect: str = "any", classes: int = 0, wants: str = ""
) -> Call:
    """Inspects `spec`; a success must find so many classes, and say `wants`."""

    def check(outcome: Outcome) -> str:
        facts = json.loads(outcome.stdout)
        found = facts.get("num_classes", facts.get("classes"))
        if isinstance(found, dict):
            found = found.get("count")
        if classes and found != classes:
            return f"{found} classes, {classes} are there"
        return "" if wants in outcome.stdout else f"it does not say {wants!r}"

    return Call(data_call("inspect", place, spec), expect=expect, check=check)


# Arrays


def _arrays() -> Iterator[Case]:
    for place, (name, raw) in enumerate(bad_arrays.MEMBERS.items()):
        names = ("images", "labels", "class_names", "split", "split_names")
        for member in names if place < 12 else (names[place % 5], names[(place + 2) % 5]):
            spoil = functools.partial(_member, name=member, raw=raw)
            yield Case("inspect", f"npz {member} {name}", functools.partial(_npz, spoil=spoil))
    for name, spoil_member in bad_arrays.ARCHIVES.items():
        for member in ("images", "labels", "class_names"):
            spoil = functools.partial(spoil_member, name=member)
            yield Case("inspect", f"npz {member} {name}", functools.partial(_npz, spoil=spoil))
    for member in ("images", "labels", "class_names", "split"):
        yield Case("inspect", f"npz {member} a bomb", functools.partial(_bomb, name=member))
    for name, spoil in bad_arrays.FILES.items():
        yield Case("inspect", f"npz {name}", functools.partial(_npz, spoil=spoil))
    for name, changes in ARRAYS.items():
        yield Case("inspect", f"npz with {name}", functools.partial(_changed_npz, changes=changes))


def _images(**changes: Any) -> np.ndarray:
    return fakes.make_arrays(**changes)[0]


def _labels() -> np.ndarray:
    return fakes.make_arrays()[1]


ARRAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "of two images": lambda: {"images": _images()[:2], "labels": _labels()[:2], "split": None},
    "without images": lambda: {"images": None},
    "without labels": lambda: {"labels": None},
    "without class names": lambda: {"class_names": None},
    "without split names": lambda: {"split_names": None},
    "images of floats": lambda: {"images": _images() / 255.0},
    "images channels first": lambda: {"images": _images(channels=3).transpose(0, 3, 1, 2)},
    "images of four channels": lambda: {"images": np.repeat(_images(), 4, -1)},
    "images of no pixel": lambda: {"images": _images()[:, :0]},
    "a single image": lambda: {"images": _images()[0]},
    "labels one short": lambda: {"labels": _labels()[:-1]},
    "labels in a column": lambda: {"labels": _labels()[:, None]},
    "labels negative": lambda: {"labels": _labels() - 1},
    "labels of one class": lambda: {"labels": _labels() * 0},
    "labels beyond the names": lambda: {"labels": _labels() + 5},
    "labels with a gap": lambda: {"labels": _labels() * 1000, "class_names": None},
    "labels of 64 bits": lambda: {"labels": _labels() + 2**40, "class_names": None},
    "labels beyond signed": lambda: {
        "labels": _labels().astype(np.uint64) + np.uint64(2**63), "class_names": None
    },
    "names twice": lambda: {"class_names": np.array(["a"] * 8)},
    "names twice in two forms": lambda: {
        "class_names": np.array(["café", unicodedata.normalize("NFD", "café"), *"abcdef"])
    },
    "names empty": lambda: {"class_names": np.array(["", *"abcdefg"])},
    "names with line breaks": lambda: {"class_names": np.array(["a\nb", "c\rd", *"abcdef"])},
    "names with a NUL": lambda: {"class_names": np.array(["a\0b", *"abcdefg"])},
    "names with a surrogate": lambda: {"class_names": np.array(["a\ud800", *"abcdefg"])},
    "names with escape sequences": lambda: {"class_names": np.array(["\x1b[2J", *"abcdefg"])},
    "names of bytes": lambda: {
        "class_names": np.array([b"caf\xe9", *(b"%d" % i for i in range(7))])
    },
    "names of 100 kB": lambda: {"class_names": np.array(["x" * 100_000, *"abcdefg"])},
    "names of numbers": lambda: {"class_names": np.arange(8)},
    "names in a table": lambda: {"class_names": np.array([["a"] * 8])},
    "split of texts": lambda: {"split": np.array(["train"] * len(_labels()))},
    "split beyond the names": lambda: {"split": np.full(len(_labels()), 9, np.uint8)},
    "split of validation only": lambda: {"split": np.ones(len(_labels()), np.uint8)},
    "split names odd": lambda: {"split_names": np.array(["train", "val", "holdout"])},
    "split names of numbers": lambda: {"split_names": np.arange(3)},
    "split names a scalar": lambda: {"split_names": np.array("train")},
}  # fmt: skip


def _npz(place: Place, *, spoil: Callable[[pathlib.Path], None]) -> Call:
    path = place.copy(place.world.npz, "data.npz")
    spoil(path)
    return Call(data_call("inspect", place, f"npz:{path}"), names=("data.npz", "data set data"))


def _member(path: pathlib.Path, *, name: str, raw: bytes) -> None:
    bad_arrays.write_members(path, {**bad_arrays.members(path), name: raw})


def _bomb(place: Place, *, name: str) -> Call:
    cache = place.folder.parents[1] / "bombs"
    cache.mkdir(exist_ok=True)
    path = bad_arrays.cached_bomb(cache, place.world.npz, name)
    return Call(data_call("inspect", place, f"npz:{path}"))


def _changed_npz(place: Place, *, changes: Callable[[], dict[str, Any]]) -> Call:
    path = place.path("data.npz")
    write_npz(path, **changes())
    return Call(data_call("inspect", place, f"npz:{path}"), names=("data.npz", "data set data"))


# Tables


def _tables() -> Iterator[Case]:
    for number in range(55):
        yield Case("inspect", f"csv table {number}", functools.partial(_table, number=number))
    for name, (change, classes) in LABELS.items():
        prepare = functools.partial(_labels_table, change=change, classes=classes)
        yield Case("inspect", f"csv {name}", prepare)
    yield Case("inspect", "csv --exclude of a path that comes twice", _exclude_twice)
    for name in (
        "nowhere.png",
        "https://x.invalid/a.png",
        "CON",
        "..",
        "/etc/passwd",
        "-",
        "~",
        "a" * 5000,
        "\u202e",
        "é\0",
    ):
        prepare = functools.partial(_more_lines, line=f"{name},bär 0,train")
        yield Case("inspect", f"csv with the path {name[:20]!a}", prepare)


PATHS = (
    "nowhere.png", "https://x.invalid/a.png", "CON", "..", "/etc/passwd", "-", "~", "a" * 5000,
    "\u202e", "é\0",
)  # fmt: skip
# (number of the class -> its label), and the number of classes a success must find
LABELS: dict[str, tuple[Callable[[int, int], str], int]] = {
    "labels 1 and 1.0": (lambda k, row: f"{k}.0" if row % 2 and k == 1 else str(k), 8),
    "labels 1 and 001": (lambda k, row: f"00{k}" if row % 2 and k == 1 else str(k), 8),
    "labels 1 and +1": (lambda k, row: f"+{k}" if row % 2 and k == 1 else str(k), 8),
    "labels 1 and 1e0": (lambda k, row: f"{k}e0" if row % 2 and k == 1 else str(k), 8),
    "labels 0 and -0": (lambda k, row: f"-{k}" if row % 2 and k == 0 else str(k), 8),
    "labels 1 and 1_0": (lambda k, row: "1_0" if k == 1 else str(k), 0),
    "labels huge": (lambda k, row: str(10**30 + k), 0),
    "labels beyond float": (lambda k, row: "9" * 400 + str(k), 0),
    "labels nan and inf": (lambda k, row: "nan" if k == 1 else "inf" if k == 2 else str(k), 0),
    "labels Arabic digits": (lambda k, row: "٣" if k == 3 and row % 2 else str(k), 8),
    "labels in two Unicode forms": (
        lambda k, row: unicodedata.normalize("NFD" if row % 2 else "NFC", f"é{k}"), 8
    ),
    "labels in two cases": (lambda k, row: ("Bar" if row % 2 else "bar") + str(k), 0),
    "labels with inner spaces": (lambda k, row: "a  b" if k == 1 else f"a b {k}", 0),
    "labels with non-breaking spaces": (lambda k, row: f"a\u00a0{k}" if row % 2 else f"a {k}", 0),
    "labels with escape sequences": (lambda k, row: f"\x1b[2J{k}", 0),
    "labels that only look alike": (lambda k, row: "о" if k == 1 else "o" if k == 2 else str(k), 8),
}  # fmt: skip


def _table(place: Place, *, number: int) -> Call:
    ways = list(wrong_tables(absolute_table(place.world)))
    what, text = ways[number % len(ways)]
    path = place.path("data.csv")
    path.write_bytes(text)
    return Call(
        data_call("inspect", place, f"csv:{path}"), names=("data.csv", "data set data"), about=what
    )


def _labels_table(place: Place, *, change: Callable[[int, int], str], classes: int) -> Call:
    path = place.path("data.csv")
    lines = absolute_table(place.world).decode().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    changed = [
        f"{image},{change(int(label.split()[-1]), row)},{split}"
        for row, (image, label, split) in enumerate(rows)
    ]
    path.write_text("\n".join([lines[0], *changed, ""]), encoding="utf-8")
    return _inspect(place, f"csv:{path}", classes=classes)


def _more_lines(place: Place, *, line: str) -> Call:
    path = place.path("data.csv")
    path.write_bytes(absolute_table(place.world) + line.encode() + b"\n")
    return Call(data_call("inspect", place, f"csv:{path}"), names=("data.csv",))


def _exclude_twice(place: Place) -> Call:
    lines = absolute_table(place.world).decode().splitlines()
    path = place.path("data.csv")
    path.write_text("\n".join([*lines, lines[1], ""]), encoding="utf-8")
    place.path("bad.txt").write_text(f"{lines[1].split(',')[0]}\ttwice\n", encoding="utf-8")

    def check(outcome: Outcome) -> str:
        return "" if "2 images left out" in outcome.stdout else "one of the two rows stayed"

    arguments = [*data_call("inspect", place, f"csv:{path}"), f"--exclude={place.path('bad.txt')}"]
    return Call(arguments, check=check, expect="work")


# Folders


def _photos(folder: pathlib.Path, *, classes: int = 3, each: int = 6, suffix: str = ".png") -> None:
    """Class folders of a few images."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        place = folder / f"class {label}"
        place.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            image = fakes.png_bytes(fakes.draw(label, rng, channels=3))
            (place / f"{number}{suffix}").write_bytes(image)


def two_folders(*names: str) -> Layout:
    """A layout of outer folders that hold the same class folders."""

    def prepare(place: Place) -> Call:
        for name in names:
            _photos(place.path("data") / name)
        return _inspect(place, f"folder:{place.path('data')}", classes=3)

    prepare.__doc__ = f"outer folders {' and '.join(names)}"
    return prepare


def beside(name: str, *files: str) -> Layout:
    """A layout of class folders with something that is none beside them."""

    def prepare(place: Place) -> Call:
        data = place.path("data")
        _photos(data)
        image = (data / "class 0" / "0.png").read_bytes()
        for file in files:
            path = data / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
        return _inspect(place, f"folder:{data}", classes=3, expect="work")

    prepare.__doc__ = name
    return prepare


def class_named(name: bytes, *, expect: str = "any") -> Layout:
    """A layout in which a class folder has an odd name."""

    def prepare(place: Place) -> Call:
        data = place.path("data")
        _photos(data)
        os.rename(data / "class 0", os.fsencode(data) + b"/" + name)
        return _inspect(place, f"folder:{data}", classes=3, expect=expect)

    prepare.__doc__ = f"a class named {name[:30]!a}"
    return prepare


def images_ending(suffix: str, *, classes: int, expect: str) -> Layout:
    """A layout in which the images of one class have another ending."""

    def prepare(place: Place) -> Call:
        data = place.path("data")
        _photos(data)
        for path in (data / "class 0").iterdir():
            path.rename(path.with_suffix(suffix))
        return _inspect(place, f"folder:{data}", classes=classes, expect=expect)

    prepare.__doc__ = f"a class of {suffix or 'no ending'} only"
    return prepare


def _simple(name: str, make: Callable[[pathlib.Path], None], *, expect: str = "any",
            classes: int = 0, plain_user: bool = False) -> Layout:  # fmt: skip
    def prepare(place: Place) -> Call:
        data = place.path("data")
        data.mkdir()
        make(data)
        call = _inspect(place, f"folder:{data}", classes=classes, expect=expect)
        return Call(call.arguments, expect=expect, check=call.check, plain_user=plain_user)

    prepare.__doc__ = name
    return prepare


def _flat(data: pathlib.Path) -> None:
    _photos(data)
    for path in list(data.glob("*/*.png")):
        path.rename(data / f"{path.parent.name}_{path.name}")
    for folder in list(data.iterdir()):
        if folder.is_dir():
            folder.rmdir()


def _loop(data: pathlib.Path) -> None:
    _photos(data)
    (data / "class 0" / "again").symlink_to("..")


def _closed(data: pathlib.Path) -> None:
    _photos(data)
    (data / "class 1").chmod(0)


def _closed_image(data: pathlib.Path) -> None:
    _photos(data)
    (data / "class 1" / "0.png").chmod(0)


def _pipe_image(data: pathlib.Path) -> None:
    _photos(data)
    os.mkfifo(data / "class 1" / "pipe.png")


def _sparse_image(data: pathlib.Path) -> None:
    _photos(data)
    os.truncate(data / "class 1" / "0.png", 20 << 30)


def _broken_image(data: pathlib.Path) -> None:
    _photos(data)
    (data / "class 1" / "link.png").symlink_to("nowhere")


def _empty_class(data: pathlib.Path) -> None:
    _photos(data)
    (data / "nothing").mkdir()


def _one_class(data: pathlib.Path) -> None:
    _photos(data, classes=1)


def _deep(data: pathlib.Path) -> None:
    _photos(data)
    here = os.getcwd()
    os.chdir(data / "class 0")
    try:
        for _ in range(300):
            os.mkdir("deeper_and_deeper")
            os.chdir("deeper_and_deeper")
    finally:
        os.chdir(here)


def _capital_splits(data: pathlib.Path) -> None:
    _photos(data / "TRAIN")
    _photos(data / "Test", each=2)


def _two_forms(data: pathlib.Path) -> None:
    _photos(data)
    for form in ("NFC", "NFD"):
        place = data / unicodedata.normalize(form, "café")
        shutil.copytree(data / "class 0", place)


FOLDERS: tuple[Layout, ...] = (
    two_folders("train", "eval"),
    two_folders("Training_set", "Test_set"),
    two_folders("train2", "test"),
    two_folders("training", "holdout"),
    two_folders("train", "valid", "test"),
    two_folders("seg_train", "seg_test"),
    two_folders("Train", "Validation"),
    two_folders("train_images", "val_images", "test_images"),
    two_folders("fold1", "fold2", "fold3"),
    two_folders("part_a", "part_b"),
    beside("a __MACOSX folder", "__MACOSX/class 0/._0.png", "__MACOSX/._class 0.png"),
    beside("an @eaDir folder", "@eaDir/x.png", "class 0/@eaDir/0.png@SynoEAStream.png"),
    beside("thumbnails of Windows", "class 0/Thumbs.db", "Thumbs.db", "desktop.ini"),
    beside("a lost+found folder", "lost+found/0.png"),
    beside("a $RECYCLE.BIN folder", "$RECYCLE.BIN/0.png"),
    beside(
        "checkpoints of notebooks",
        ".ipynb_checkpoints/0.png",
        "class 0/.ipynb_checkpoints/0-checkpoint.png",
    ),
    beside("hidden files", ".DS_Store", "class 0/.DS_Store"),
    beside("a table of labels", "labels.csv", "README.md"),
    class_named(b"a\nb"),
    class_named(b"a\rb"),
    class_named(b"caf\xe9"),
    class_named(b"\xff\xfe"),
    class_named("🐈".encode(), expect="work"),
    class_named(b" spaces "),
    class_named(b"a,b;c\"d'", expect="work"),
    class_named(b"\x1b[31mred"),
    class_named(b"-rf", expect="work"),
    class_named(b"x" * 255, expect="work"),
    class_named("\u202eabc".encode()),
    class_named(b"NaN", expect="work"),
    class_named(b"<script>alert(1)</script>"[:-9], expect="work"),
    images_ending(".webp", classes=0, expect="refuse"),
    images_ending(".heic", classes=0, expect="refuse"),
    images_ending(".tif", classes=0, expect="refuse"),
    images_ending(".PNG", classes=3, expect="work"),
    images_ending(".jpe", classes=0, expect="any"),
    images_ending("", classes=0, expect="any"),
    _simple("images without class folders", _flat, expect="refuse"),
    _simple("an empty folder", lambda data: None, expect="refuse"),
    _simple("a link back to the top", _loop, expect="work", classes=3),
    _simple("a class folder that is closed", _closed, expect="refuse", plain_user=True),
    _simple("an image that is closed", _closed_image, plain_user=True),
    _simple("a pipe among the images", _pipe_image, classes=3),
    _simple("a sparse image of 20 GB", _sparse_image, classes=3),
    _simple("a broken link among the images", _broken_image, classes=3, expect="work"),
    _simple("a class folder without images", _empty_class),
    _simple("one class only", _one_class, expect="refuse"),
    _simple("folders 300 deep", _deep),
    _simple("splits in capitals", _capital_splits, classes=3, expect="work"),
    _simple("a class in two Unicode forms", _two_forms, classes=4),
)


def _checked(
    name: str, make: Callable[[pathlib.Path], None], *, plain_user: bool = False
) -> Layout:
    """As `_simple`, with --check: every image is read."""

    def prepare(place: Place) -> Call:
        data = place.path("data")
        data.mkdir()
        make(data)
        arguments = [f"--data=folder:{data}", "--check", f"--check_csv={place.path('check.csv')}",
                     f"--quarantine={place.path('bad.txt')}"]  # fmt: skip
        return Call(arguments, expect="work", plain_user=plain_user)

    prepare.__doc__ = f"{name}, checked"
    return prepare


def _odd_images(data: pathlib.Path) -> None:
    _photos(data)
    good = (data / "class 0" / "0.png").read_bytes()
    for number, text in enumerate((b"", b"x", good[:40], good[:-1], good + good, b"\xff\xd8\xff",
                                   b"GIF89a", b"BM", b"\x89PNG\r\n\x1a\n")):  # fmt: skip
        (data / "class 1" / f"odd{number}.png").write_bytes(text)
    wide = bytearray(good)
    wide[16:24] = b"\x7f\xff\xff\xff\x7f\xff\xff\xff"
    (data / "class 1" / "wide.png").write_bytes(wide)


def _odd_names(data: pathlib.Path) -> None:
    _photos(data)
    good = (data / "class 0" / "0.png").read_bytes()
    for name in (b"caf\xe9.png", b"a\nb.png", b"\x1b[2J.png", b'"quoted".png', b"#first.png",
                 b" space .png", b"tab\t.png", "é.png".encode()):  # fmt: skip
        with open(os.fsencode(data / "class 1") + b"/" + name, "wb") as file:
            file.write(good)


FOLDERS += (
    _checked("odd images", _odd_images),
    _checked("odd names", _odd_names),
    _checked("a pipe", _pipe_image),
    _checked("a sparse image", _sparse_image),
    _checked("a closed image", _closed_image, plain_user=True),
    _checked("a broken link", _broken_image),
    _checked("a loop", _loop),
)


def _trained(name: str, make: Callable[[pathlib.Path], None], *, expect: str = "any",
             plain_user: bool = False) -> Layout:  # fmt: skip
    """Trains on a folder; what it takes it must carry through to the report."""

    def prepare(place: Place) -> Call:
        data = place.path("data")
        data.mkdir()
        make(data)
        spec = f"folder:{data}"
        options = ("--image_size=8", "--classes_per_batch=2", "--head_all", "--eval_every=0",
                   "--metric_loss=none")  # fmt: skip
        arguments = [
            each
            for each in data_call("train", place, spec)
            if not each.startswith(("--head_ratio", "--classes_per_batch", "--eval_every"))
        ]
        return Call([*arguments, *options], expect=expect, plain_user=plain_user)

    prepare.__doc__ = name
    return prepare


def _renamed(name: bytes) -> Callable[[pathlib.Path], None]:
    def make(data: pathlib.Path) -> None:
        _photos(data)
        os.rename(data / "class 0", os.fsencode(data) + b"/" + name)

    return make


TRAINED: tuple[Layout, ...] = (
    _trained("a class with a line break", _renamed(b"a\nb")),
    _trained("a class with a carriage return", _renamed(b"a\rb")),
    _trained("a class that is no UTF-8", _renamed(b"caf\xe9")),
    _trained("a class with an escape sequence", _renamed(b"\x1b[31mred")),
    _trained("a class with a comma and a quote", _renamed(b'a,"b'), expect="work"),
    _trained("odd file names", _odd_names, expect="work"),
    _trained("a closed image", _closed_image, plain_user=True),
    _trained("a sparse image", _sparse_image),
)


# Shards


def _shards() -> Iterator[Case]:
    for name, change in SHARDS.items():
        prepare = functools.partial(_shard, change=change)
        yield Case("inspect", f"shard {name}", prepare, small=False)
    for name, raw in list(bad_arrays.MEMBERS.items())[:12]:
        for member in ("facts", "offsets"):
            spoil = functools.partial(_member, name=member, raw=raw)
            prepare = functools.partial(_shard_index, spoil=spoil)
            yield Case("inspect", f"shard's index {member} {name}", prepare, small=False)
    for name in ("half", "noise", "zeros"):
        prepare = functools.partial(_shard_index, spoil=functools.partial(_bytes, name=name))
        yield Case("inspect", f"shard's index {name}", prepare, small=False)
    for name, text in {
        "a list": "[]", "null": "null", "a text": '"x"', "noise": "\ud800", "nested": "[" * 100_000,
        "wrong": '{"shards": 3}', "an open object": "{",
    }.items():  # fmt: skip
        prepare = functools.partial(_conversion, text=text)
        yield Case("convert", f"conversion.json {name}", prepare, small=False)


SHARDS: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda good: good[: len(good) // 2],
    "one byte short": lambda good: good[:-1],
    "a length of 2^63": lambda good: b"\xff" * 7 + b"\x7f" + good[8:],
    "a length of zero": lambda good: bytes(8) + good[8:],
    "a turned bit": lambda good: good[:100] + bytes([good[100] ^ 1]) + good[101:],
    "of noise": lambda good: bytes(i * 7 % 251 for i in range(4000)),
    "of zeros": lambda good: bytes(4000),
    "of text": lambda good: b"this is no shard\n" * 100,
    "empty": lambda good: b"",
    "twice": lambda good: good + good,
}


def _shard(place: Place, *, change: Callable[[bytes], bytes]) -> Call:
    if place.world.shards is None:
        raise ValueError("a small world has no shards")
    shards = place.copy(place.world.shards, "shards")
    for index in shards.glob(".*"):
        index.unlink()
    path = sorted(shards.glob("train*.tfrecord"))[0]
    path.write_bytes(change(path.read_bytes()))
    return Call(data_call("inspect", place, f"tfrecord:{shards}"), names=(path.name, "shards"))


def _shard_index(place: Place, *, spoil: Callable[[pathlib.Path], None]) -> Call:
    if place.world.shards is None:
        raise ValueError("a small world has no shards")
    shards = place.copy(place.world.shards, "shards")
    index = sorted(shards.glob(".train*.index.npz"))[0]
    spoil(index)
    call = data_call("inspect", place, f"tfrecord:{shards}")
    return Call(call, expect="work", may_change=("shards/.*.index.npz",))


def _bytes(path: pathlib.Path, *, name: str) -> None:
    path.write_bytes(SHARDS.get(name, SHARDS.get(f"of {name}", bytes))(path.read_bytes()))


def _conversion(place: Place, *, text: str) -> Call:
    if place.world.shards is None:
        raise ValueError("a small world has no shards")
    shards = place.copy(place.world.shards, "shards")
    raw = text.encode("utf-8", "surrogatepass")
    (shards / "conversion.json").write_bytes(raw)
    arguments = [f"--data=folder:{place.world.photos}", f"--out={shards}", "--workers=1"]
    return Call(arguments, expect="refuse", names=("shards", "conversion.json"),
                changes_when_refused=("shards/.conversion.lock",))  # fmt: skip
