"""What a check of a data set found, as text, JSON, CSV, and a list of images to leave out."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from longtail_tf import files
from longtail_tf.datasets.exclusion import format_exclusions
from longtail_tf.datasets.wording import plural

ERROR, WARNING, NOTE = "error", "warning", "note"
_SHOWN = 5


class Kind(NamedTuple):
    """How bad a kind of finding is, what to call it, what to do."""

    severity: str
    title: str
    remedy: str


_OUT = "leave out with --exclude, or replace the file"
KINDS: Mapping[str, Kind] = {
    "unreadable": Kind(ERROR, "files that cannot be read", "look at permissions and the disk"),
    "empty_file": Kind(ERROR, "empty files", _OUT),
    "not_an_image": Kind(ERROR, "files that are no JPEG, PNG, BMP or GIF", _OUT),
    "truncated": Kind(ERROR, "images that are cut off", _OUT),
    "undecodable": Kind(ERROR, "images that cannot be decoded", _OUT),
    "unsupported": Kind(
        ERROR, "images of a variant that training cannot read", "save again as PNG"
    ),
    "no_pixels": Kind(ERROR, "images without pixels", _OUT),
    "too_many_pixels": Kind(ERROR, "images with too many pixels", "shrink with convert"),
    "too_many_bytes": Kind(ERROR, "files that are too large", "shrink with convert"),
    "different_labels": Kind(ERROR, "copies of one image with different labels", "keep the right"),
    "across_splits": Kind(
        ERROR, "copies of test or validation images among others", "the scores would flatter"
    ),
    "one_class": Kind(ERROR, "class alone has training images", "give images of two or more"),
    "untrained_class": Kind(
        ERROR, "classes with no training image but others", "add images, or untrained=drop"
    ),
    "empty_class": Kind(
        ERROR, "classes without any image", "delete the folder or name, or untrained=drop"
    ),
    "duplicate": Kind(WARNING, "copies of an image in its own class and split", "keep one"),
    "similar_names": Kind(WARNING, "class names that differ in case or spaces only", "join them"),
    "wrong_extension": Kind(WARNING, "images with the extension of another format", "rename"),
    "symlink_loop": Kind(WARNING, "links back to a folder above, not followed", "delete the link"),
    "broken_link": Kind(WARNING, "links to files that are not there", "delete the link"),
    "bad_name": Kind(WARNING, "names that are no UTF-8", "rename before sharing the data"),
    "cmyk": Kind(NOTE, "CMYK images", "save as RGB"),
    "16_bit": Kind(NOTE, "images of 16 bits a channel", "save with 8 bits"),
    "alpha": Kind(NOTE, "images with transparency", "save on the background you want"),
    "animated": Kind(NOTE, "animated images", "save the frame you want"),
    "turned": Kind(NOTE, "images that the camera marked as turned", "convert --resize_px turns"),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
      kind: a key of `KINDS`.
      detail: what was seen.
      key: the image's name in exclusion lists; empty where it is not about an image.
      split: train, val or test; empty where it is not about an image.
      class_name: of the image, or the class it is about.
      quarantined: whether leaving the image out repairs the data.
    """

    kind: str
    detail: str
    key: str = ""
    split: str = ""
    class_name: str = ""
    quarantined: bool = False

    @property
    def severity(self) -> str:
        """`error`, `warning` or `note`."""
        return KINDS[self.kind].severity


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """All findings of a check, by kind and then in the order of the data."""

    name: str
    num_images: int
    num_classes: int
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Findings of each kind that occurs."""
        found = collections.Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    @property
    def num_errors(self) -> int:
        """Findings that stop training or spoil its scores."""
        return sum(finding.severity == ERROR for finding in self.findings)

    @property
    def quarantine(self) -> list[tuple[str, str]]:
        """(key, reason) of every image to leave out, each once."""
        reasons: dict[str, str] = {}
        for finding in self.findings:
            if finding.quarantined:
                reasons.setdefault(finding.key, f"{finding.kind}: {finding.detail}")
        return list(reasons.items())


def render_text(report: CheckReport) -> str:
    """The report for people: each kind with its count, remedy and first images."""
    lines = [
        f"{report.name}: {plural(report.num_images, 'image')} of "
        f"{plural(report.num_classes, 'class', 'classes')} checked."
    ]
    by_kind: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    for kind in (kind for kind in KINDS if kind in by_kind):
        found, (severity, title, remedy) = by_kind[kind], KINDS[kind]
        lines.append(f"\n{severity}: {len(found):,} {title} ({remedy})")
        for finding in found[:_SHOWN]:
            what = _printable(finding.key or finding.class_name)
            lines.append(f"  {what}: {_printable(finding.detail)}" if what else
                         f"  {_printable(finding.detail)}")  # fmt: skip
        if len(found) > _SHOWN:
            lines.append(f"  and {len(found) - _SHOWN:,} more")
    if not report.findings:
        lines.append("Nothing found.")
    elif report.quarantine:
        lines.append(
            f"\n{len(report.quarantine):,} images are better left out: write them with "
            "--quarantine=FILE and pass --exclude=FILE."
        )
    return "\n".join(lines) + "\n"


def report_json(report: CheckReport) -> dict[str, Any]:
    """The report as plain values."""
    return {
        "name": report.name,
        "num_images": report.num_images,
        "num_classes": report.num_classes,
        "num_errors": report.num_errors,
        "counts": report.counts,
        "findings": [
            {"severity": finding.severity, **_plain(finding)} for finding in report.findings
        ],
    }


def write_json(report: CheckReport, path: str | os.PathLike[str]) -> None:
    """Writes the whole report as JSON."""
    files.write_json(path, report_json(report))


def write_csv(report: CheckReport, path: str | os.PathLike[str]) -> None:
    """Writes one line a finding."""
    header = ["severity", *(field.name for field in dataclasses.fields(Finding))]
    rows = ([finding.severity, *_plain(finding).values()] for finding in report.findings)
    files.write_csv(path, header, rows)


def write_quarantine(report: CheckReport, path: str | os.PathLike[str]) -> int:
    """Writes the images to leave out as a list for `--exclude`; returns how many there are."""
    text = format_exclusions(report.quarantine)
    files.write_atomically(path, text.encode("utf-8", "surrogateescape"))
    return len(report.quarantine)


def _plain(finding: Finding) -> dict[str, Any]:
    values = dataclasses.asdict(finding)
    return {
        name: _printable(value) if isinstance(value, str) else value
        for name, value in values.items()
    }


def _printable(text: str) -> str:
    """The text with bytes that are no UTF-8 written as escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
