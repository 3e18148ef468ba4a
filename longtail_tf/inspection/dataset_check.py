"""Finds what ruins training in a data set: bad images, copies, labels that do not fit.

Works on the source as it lies, before any split is cut, so that it can also look at data that
training refuses.
"""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import os
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from longtail_tf.datasets.conversion.image_files import MAX_IMAGE_PIXELS
from longtail_tf.datasets.exclusion import exclude as exclude_listed
from longtail_tf.datasets.file_store import FileStore
from longtail_tf.datasets.index import SPLIT_NAMES, TRAIN, UNUSED, Source
from longtail_tf.datasets.load import load_source
from longtail_tf.datasets.wording import plural
from longtail_tf.errors import UserError
from longtail_tf.inspection.check_report import (
    ERROR,
    KINDS,
    CheckReport,
    Finding,
    render_text,
    report_json,
    write_csv,
    write_json,
    write_quarantine,
)
from longtail_tf.inspection.image_check import Fault, check_image

__all__ = [
    "check_dataset",
    "render_text",
    "report_json",
    "write_csv",
    "write_json",
    "write_quarantine",
]
MAX_IMAGE_BYTES = 64 * 2**20
_CHUNK_ROWS, _CHUNKS_AHEAD = 32, 64
_Looked = list[tuple[bytes, list[Fault]]]


def check_dataset(
    data: str | Source,
    *,
    exclude: str = "",
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_IMAGE_PIXELS,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Reads and decodes every image of a data set and looks at its labels and names.

    Args:
      data: a data spec, or a source that `load_source` gave.
      exclude: list of images to leave out of the check, too.
      max_bytes: files longer than this are findings.
      max_pixels: images that declare more pixels are findings.
      threads: that decode; 0 is one for each processor.
      progress: is called with (images done, all images) now and then.

    Raises:
      UserError: the data set cannot be read at all.
    """
    source = load_source(data)[0] if isinstance(data, str) else data
    if exclude:
        source = exclude_listed(source, exclude)
    rows = np.flatnonzero(source.split != UNUSED)
    findings = _check_classes(source)
    digests = np.zeros((len(rows), 2), np.uint64)
    readable = np.zeros(len(rows), bool)
    chunks = [slice(at, at + _CHUNK_ROWS) for at in range(0, len(rows), _CHUNK_ROWS)]

    def look(chunk: slice) -> _Looked:
        return [_look_at(source, int(row), max_bytes, max_pixels) for row in rows[chunk]]

    with (
        warnings.catch_warnings(),
        concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool,
    ):
        warnings.simplefilter("ignore")  # Pillow's, of oddities in files
        for chunk, looked in zip(chunks, _in_turn(pool, look, chunks)):
            for at, (digest, faults) in enumerate(looked, start=chunk.start):
                digests[at] = np.frombuffer(digest, np.uint64)
                readable[at] = not any(KINDS[fault.kind].severity == ERROR for fault in faults)
                findings += [_finding(source, int(rows[at]), fault) for fault in faults]
            if progress:
                progress(min(chunk.stop, len(rows)), len(rows))
    good = rows[readable]
    copies = find_copies(digests[readable], labels=source.labels[good], splits=source.split[good])
    for copy in copies:
        other = int(good[copy.other])
        what = f"the same as {source.store.key(other)}"
        if copy.kind == "different_labels":
            what += f", which is called {source.class_names[int(source.labels[other])]!r}"
        fault = Fault(copy.kind, what)
        findings.append(_finding(source, int(good[copy.row]), fault, copy.quarantined))
    order = list(KINDS)
    findings.sort(key=lambda finding: order.index(finding.kind))
    return CheckReport(source.name, len(rows), len(source.class_names), tuple(findings))


def _in_turn(
    pool: concurrent.futures.Executor, look: Callable[[slice], _Looked], chunks: list[slice]
) -> Iterator[_Looked]:
    """The results in order, with only so many under way that memory stays small."""
    ahead: collections.deque[concurrent.futures.Future[_Looked]] = collections.deque()
    for chunk in chunks:
        ahead.append(pool.submit(look, chunk))
        if len(ahead) >= _CHUNKS_AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _look_at(
    source: Source, row: int, max_bytes: int, max_pixels: int
) -> tuple[bytes, list[Fault]]:
    """(digest of the image's bytes, its faults)."""
    key = source.store.key(row)
    faults = [] if _is_utf8(key) else [Fault("bad_name", "the name is no UTF-8")]
    if isinstance(source.store, FileStore) and source.store.sizes[row] > max_bytes:
        size = int(source.store.sizes[row])  # not read: it may be larger than memory
        return bytes(16), [*faults, Fault("too_many_bytes", f"{size:,}, {max_bytes:,} allowed")]
    try:
        image = source.store.read(np.array([row]))[0]
    except UserError as error:
        return bytes(16), [*faults, Fault("unreadable", str(error.__cause__ or error))]
    if isinstance(image, bytes):
        suffix = os.path.splitext(key)[1] if isinstance(source.store, FileStore) else ""
        faults += check_image(image, suffix=suffix, max_bytes=max_bytes, max_pixels=max_pixels)
    else:
        image = image.tobytes()
    return hashlib.blake2b(image, digest_size=16).digest(), faults


def _finding(source: Source, row: int, fault: Fault, quarantined: bool | None = None) -> Finding:
    if quarantined is None:
        quarantined = KINDS[fault.kind].severity == ERROR
    return Finding(
        kind=fault.kind,
        detail=fault.detail,
        key=source.store.key(row),
        split=SPLIT_NAMES[int(source.split[row])],
        class_name=source.class_names[int(source.labels[row])],
        quarantined=quarantined,
    )


def _check_classes(source: Source) -> list[Finding]:
    names = source.class_names
    used = source.split != UNUSED
    all_counts = np.bincount(source.labels[used], minlength=len(names))
    train_counts = np.bincount(source.labels[source.split == TRAIN], minlength=len(names))
    findings = [Finding(kind, path) for kind, path in source.faults]
    for class_id in np.flatnonzero(train_counts == 0).tolist():
        count = int(all_counts[class_id])
        kind = "untrained_class" if count else "empty_class"
        detail = f"{plural(count, 'image')}, none for training" if count else "no image"
        findings.append(Finding(kind, detail, class_name=names[class_id]))
    trained = np.flatnonzero(train_counts)
    if len(trained) == 1:
        findings.append(Finding("one_class", names[int(trained[0])]))
    alike: dict[str, list[str]] = {}
    for name in names:
        if not _is_utf8(name):
            findings.append(Finding("bad_name", "the class name is no UTF-8", class_name=name))
        alike.setdefault(_without_case_and_spaces(name), []).append(name)
    for group in alike.values():
        if len(group) > 1:
            detail = " and ".join(repr(name) for name in group)
            findings.append(Finding("similar_names", detail, class_name=group[0]))
    return findings


def _without_case_and_spaces(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Copy(NamedTuple):
    """An image that has a copy it should not have.

    Attributes:
      row: of the image.
      other: row of the copy.
      kind: `different_labels`, `across_splits` or `duplicate`.
      quarantined: whether this one of the copies is better left out.
    """

    row: int
    other: int
    kind: str
    quarantined: bool


def find_copies(digests: np.ndarray, *, labels: np.ndarray, splits: np.ndarray) -> Iterator[Copy]:
    """The copies among images.

    Where labels differ nobody can say which is right, so all copies are to be left out. Of copies
    with one label the one in the highest split stays (test before validation before training), so
    that test sets stay whole; the others are to be left out.

    Args:
      digests: uint64 [N, 2] of the images' bytes.
      labels: int [N].
      splits: int [N] codes, rising from training to test.
    """
    order = np.lexsort((np.arange(len(digests)), digests[:, 1], digests[:, 0]))
    same = (digests[order][1:] == digests[order][:-1]).all(axis=1)
    # A group is a run of equal digests; only runs of two and more matter.
    starts = np.flatnonzero(np.concatenate([[True], ~same])) if len(order) else np.zeros(0, int)
    ends = np.append(starts[1:], len(order))
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1]):
        yield from _copies_in(order[start:end], labels, splits)


def _copies_in(rows: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> Iterator[Copy]:
    own_labels, own_splits = labels[rows], splits[rows]
    if (own_labels != own_labels[0]).any():
        for row, label in zip(rows.tolist(), own_labels):
            other = int(rows[np.argmax(own_labels != label)])
            yield Copy(row, other, "different_labels", True)
        return
    kept = int(np.argmax(own_splits))
    for place, row in enumerate(rows.tolist()):
        if place != kept:
            across = own_splits[place] != own_splits[kept]
            yield Copy(row, int(rows[kept]), "across_splits" if across else "duplicate", True)
