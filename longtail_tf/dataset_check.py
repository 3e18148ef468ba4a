"""Finds what ruins training in a data set: bad images, copies, labels that do not fit.

Works on the source as it lies, before any split is cut, so that it can also look at data that
training refuses.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import unicodedata
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from longtail_tf.check_report import (
    KINDS,
    CheckReport,
    Finding,
    render_text,
    report_json,
    write_csv,
    write_json,
    write_quarantine,
)
from longtail_tf.datasets.exclusion import exclude as exclude_listed
from longtail_tf.datasets.index import SPLIT_NAMES, UNUSED, Source
from longtail_tf.datasets.load import load_source
from longtail_tf.duplicates import find_copies
from longtail_tf.errors import UserError
from longtail_tf.image_check import Fault, check_image
from longtail_tf.image_files import MAX_IMAGE_PIXELS

__all__ = [
    "check_dataset",
    "render_text",
    "report_json",
    "write_csv",
    "write_json",
    "write_quarantine",
]
MAX_IMAGE_BYTES = 64 * 2**20
_CHUNK_ROWS = 32


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
      progress: is told (images done, all images) now and then.

    Raises:
      UserError: the data set cannot be read at all.
    """
    source = load_source(data)[0] if isinstance(data, str) else data
    if exclude:
        source = exclude_listed(source, exclude)
    rows = np.flatnonzero(source.split != UNUSED)
    findings = _check_classes(source) + _check_names(source, rows)
    digests = np.zeros((len(rows), 2), np.uint64)
    readable = np.zeros(len(rows), bool)
    chunks = [slice(at, at + _CHUNK_ROWS) for at in range(0, len(rows), _CHUNK_ROWS)]

    def look(chunk: slice) -> list[tuple[bytes, list[Fault]]]:
        return [_look_at(source, int(row), max_bytes, max_pixels) for row in rows[chunk]]

    with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(
        threads or os.cpu_count() or 1
    ) as pool:
        warnings.simplefilter("ignore")  # Pillow's, of oddities in files
        for chunk, looked in zip(chunks, _in_turn(pool, look, chunks)):
            for at, (digest, faults) in enumerate(looked, start=chunk.start):
                digests[at] = np.frombuffer(digest, np.uint64)
                readable[at] = not any(KINDS[fault.kind].severity == "error" for fault in faults)
                findings += [_finding(source, int(rows[at]), fault) for fault in faults]
            if progress:
                progress(min(chunk.stop, len(rows)), len(rows))
    good = rows[readable]
    for row, fault, quarantined in find_copies(
        digests[readable], labels=source.labels[good], splits=source.split[good]
    ):
        fault = Fault(fault.kind, fault.detail.format(*map(source.store.key, good[fault.others])))
        findings.append(_finding(source, int(good[row]), fault, quarantined))
    order = list(KINDS)
    findings.sort(key=lambda finding: order.index(finding.kind))
    return CheckReport(source.name, len(rows), len(source.class_names), tuple(findings))
