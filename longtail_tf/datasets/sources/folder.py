"""`folder:PATH`: a folder of class folders, or train/val/test folders of class folders."""

from __future__ import annotations

import array
import collections
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from longtail_tf.datasets.file_store import FileStore
from longtail_tf.datasets.index import TRAIN, Source, split_code, times_digest
from longtail_tf.datasets.spec import Option
from longtail_tf.datasets.string_table import StringTable
from longtail_tf.datasets.wording import listing, plural
from longtail_tf.errors import UserError

IMAGE_SUFFIXES = (b".jpg", b".jpeg", b".png", b".bmp", b".gif")
# Folders that systems and tools put among others.
FOREIGN_FOLDERS = frozenset(
    (b"__MACOSX", b"@eaDir", b"@__thumb", b"#recycle", b"$RECYCLE.BIN", b"lost+found",
     b"System Volume Information", b"__pycache__")
)  # fmt: skip
OPTIONS: Mapping[str, Option] = {
    "channels": Option("3", str, ("1", "3")),
    "layout": Option("auto", str, ("auto", "classes", "splits")),
}


def read(path: str, options: Mapping[str, Any]) -> Source:
    """Lists the image files under `path`; the name of the class folder is the class name.

    Images may lie in folders inside a class folder too. Hidden entries, folders of systems and
    files that are no JPEG, PNG, BMP or GIF by their extension are skipped and counted in the notes.
    """
    root = os.path.normpath(path)
    if not os.path.isdir(root):
        raise UserError(f"there is no folder {path}; give the path of a folder of class folders")
    skipped: collections.Counter[str] = collections.Counter()
    faults: list[tuple[str, str]] = []
    by_class: dict[bytes, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    try:
        names, files = _list_files(root, options["layout"], skipped, by_class, faults)
    except OSError as error:
        raise UserError(
            f"the folder {error.filename or path} cannot be listed ({error.strerror}); "
            "look at its permissions"
        ) from error
    for each in by_class.values():
        skipped += each
    if not len(files.labels):
        found = f" ({_skipped_text(skipped)} skipped)" if skipped else ""
        raise UserError(
            f"the class folders in {path} hold no image{found}; "
            "give JPEG, PNG, BMP or GIF files named .jpg, .jpeg, .png, .bmp or .gif"
        )
    store = files.store(root)
    channels = int(options["channels"])
    return Source(
        name=os.path.basename(os.path.abspath(root)),
        class_names=StringTable.from_strings(names),
        labels=np.frombuffer(files.labels, np.int32),
        split=np.frombuffer(files.splits, np.uint8),
        store=store,
        content=store.digest(),
        image_shape=None,
        channels=channels,
        flip_is_valid=channels == 3,
        notes=(f"Skipped in {path}: {_skipped_text(skipped)}.",) if skipped else (),
        skipped={os.fsdecode(n): _skipped_text(c) for n, c in by_class.items() if c},
        faults=tuple(faults),
    )


def _list_files(
    root: str,
    layout: str,
    skipped: collections.Counter[str],
    by_class: dict[bytes, collections.Counter[str]],
    faults: list[tuple[str, str]],
) -> tuple[list[bytes], _Files]:
    folders = _class_folders(root, layout, skipped)
    if not folders:
        raise UserError(
            f"the folder {root} has no class folders; put the images of each class in a folder "
            "of their own, named after the class"
        )
    names = sorted({name for _, _, name in folders})
    ids = {name: i for i, name in enumerate(names)}
    files = _Files()
    for code, relative, name in folders:
        for folder, file_name, status in _image_files(root, relative, by_class[name], faults):
            files.add(folder, file_name, status, ids[name], code)
    return names, files


class _Files:
    """File entries gathered into arrays, never into a list of strings."""

    def __init__(self) -> None:
        self.labels, self.splits = array.array("i"), bytearray()
        self.folder_ids, self.sizes = array.array("i"), array.array("q")
        self.times = array.array("q")
        self.folders: list[bytes] = []
        self.name_bytes, self.name_ends = bytearray(), array.array("q", [0])

    def add(
        self, folder: bytes, file_name: bytes, status: os.stat_result, label: int, split: int
    ) -> None:
        if not self.folders or self.folders[-1] != folder:
            self.folders.append(folder)
        self.labels.append(label)
        self.splits.append(split)
        self.folder_ids.append(len(self.folders) - 1)
        self.sizes.append(status.st_size)
        self.times.append(status.st_mtime_ns)
        self.name_bytes += file_name
        self.name_ends.append(len(self.name_bytes))

    def store(self, root: str) -> FileStore:
        ends = np.frombuffer(self.name_ends, np.int64)
        small = len(self.name_bytes) < 2**32
        return FileStore(
            root=root,
            folders=StringTable.from_strings(self.folders),
            folder_ids=np.frombuffer(self.folder_ids, np.int32),
            names=StringTable(
                np.frombuffer(bytes(self.name_bytes), np.uint8),
                ends.astype(np.uint32) if small else ends,
            ),
            sizes=np.frombuffer(self.sizes, np.int64),
            times=times_digest(self.times),
        )


def _class_folders(
    root: str, layout: str, skipped: collections.Counter[str]
) -> list[tuple[int, bytes, bytes]]:
    """(split code, folder relative to root, class name) of each class folder, sorted."""
    outer = _subfolders(os.fsencode(root), skipped)
    codes = {name: split_code(os.fsdecode(name)) for name in outer}
    split_like = [name for name in outer if codes[name] is not None]
    has_train = any(codes[name] == TRAIN for name in split_like)
    if layout == "auto" and has_train and 1 < len(split_like) < len(outer):
        others = [os.fsdecode(name) for name in outer if codes[name] is None]
        raise UserError(
            f"the folder {root} has {listing([os.fsdecode(name) for name in split_like])} beside "
            f"{listing(others)}, so it is unclear whether they are splits or classes; "
            "add ?layout=splits or ?layout=classes to the data spec"
        )
    if layout == "classes" or (
        layout == "auto" and not (has_train and len(split_like) == len(outer))
    ):
        if layout == "auto":
            _check_no_splits(root, outer)
        return [(TRAIN, name, name) for name in outer]
    if not split_like:
        raise UserError(
            f"the folder {root} has no folder named train, val or test; "
            "leave out layout=splits if its folders are classes"
        )
    folders = []
    for name in split_like:
        for inner in _subfolders(os.path.join(os.fsencode(root), name), skipped):
            folders.append((int(codes[name] or 0), name + b"/" + inner, inner))
    return folders


def _check_no_splits(root: str, outer: list[bytes]) -> None:
    """Refuses folders that hold the same folders each, and no image: splits under other names."""
    inner: list[set[bytes]] = []
    for name in outer:
        found = _folders_only(os.path.join(os.fsencode(root), name))
        if found:
            inner.append(found)
    if len(inner) < 2 or len(inner) < len(outer):
        return
    shared, every = set.intersection(*inner), set.union(*inner)
    if len(every) > 1 and 2 * len(shared) >= len(every):
        raise UserError(
            f"the folders {listing([os.fsdecode(name) for name in outer])} in {root} hold the same "
            f"folders ({listing([os.fsdecode(name) for name in sorted(shared)])}) and no image, so "
            "they look like splits and not like classes; name them train, val and test, or add "
            "?layout=classes to the data spec"
        )


def _folders_only(folder: bytes) -> set[bytes]:
    """Names of the folders in a folder; empty where it holds an image too."""
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(IMAGE_SUFFIXES):
                return set()
            hidden = entry.name.startswith(b".") or entry.name in FOREIGN_FOLDERS
            if not hidden and _is(entry.is_dir):
                names.add(entry.name)
    return names


def _subfolders(folder: bytes, skipped: collections.Counter[str]) -> list[bytes]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                skipped["hidden"] += 1
            elif entry.name in FOREIGN_FOLDERS:
                skipped["of the system"] += 1
            elif _is(entry.is_dir):
                names.append(entry.name)
            else:
                skipped["outside a class folder"] += 1
    return sorted(names)


def _image_files(
    root: str,
    relative: bytes,
    skipped: collections.Counter[str],
    faults: list[tuple[str, str]],
) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """(relative folder, file name, status) of the images below a class folder, sorted."""
    parts = relative.split(b"/")
    folders = [b"/".join(parts[:depth]) for depth in range(len(parts) + 1)]
    pending = [(relative, frozenset(_identity(root, folder) for folder in folders))]
    while pending:
        folder, above = pending.pop()
        inner, files = [], []
        with os.scandir(os.path.join(os.fsencode(root), folder)) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    skipped["hidden"] += 1
                elif entry.name in FOREIGN_FOLDERS:
                    skipped["of the system"] += 1
                elif _is(entry.is_dir):
                    identity = _identity(root, folder + b"/" + entry.name)
                    if identity in above:
                        skipped["a link back to a folder above"] += 1
                        faults.append(("symlink_loop", os.fsdecode(folder + b"/" + entry.name)))
                    else:
                        inner.append((folder + b"/" + entry.name, above | {identity}))
                elif not entry.name.lower().endswith(IMAGE_SUFFIXES):
                    skipped[_suffix(entry.name)] += 1
                elif not _is(entry.is_file):
                    skipped["a broken link"] += 1
                    faults.append(("broken_link", os.fsdecode(folder + b"/" + entry.name)))
                else:
                    files.append((entry.name, entry.stat()))
        files.sort(key=operator.itemgetter(0))
        for name, status in files:
            yield folder, name, status
        pending.extend(sorted(inner, reverse=True))


def _identity(root: str, folder: bytes) -> tuple[int, int]:
    """Tells a folder by whatever name it is reached."""
    status = os.stat(os.path.join(os.fsencode(root), folder))
    return status.st_dev, status.st_ino


def _is(ask: Callable[[], bool]) -> bool:
    """The answer of a directory entry; False for a link that leads to itself."""
    try:
        return ask()
    except OSError:
        return False


def _suffix(name: bytes) -> str:
    suffix = os.path.splitext(os.fsdecode(name))[1].lower()
    return suffix or "without extension"


def _skipped_text(skipped: collections.Counter[str]) -> str:
    total = plural(sum(skipped.values()), "entry", "entries")
    return f"{total}: {listing([f'{count:,} {what}' for what, count in skipped.most_common()], 6)}"
