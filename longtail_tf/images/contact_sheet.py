"""A picture of what a stream really sees: one batch, augmented, under its class names."""

from __future__ import annotations

import functools
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically

_TILE_PX = 112  # smaller images are enlarged by a whole factor, larger ones reduced
_GAP_PX, _MARGIN_PX = 6, 24
_NAME_PX, _TITLE_PX = 13, 20
_MAX_COLUMNS = 12
_PAPER, _INK, _FAINT, _MARK = (250, 250, 247), (28, 28, 30), (120, 120, 118), (214, 110, 20)


def contact_sheet(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    rows: np.ndarray | None = None,
    max_images: int = 96,
) -> None:
    """Writes a PNG of a batch, each image over its class name.

    A PK batch keeps the images of a class side by side, several classes a line. Where `rows` are
    given, a slot that repeats an image of an earlier slot has an orange frame.

    Args:
      images: uint8 or float [B, S, S, C] in 0..255, C = 1 or 3.
      labels: int [B] class ids.
      class_names: name of each class id.
      path: PNG file to write; written beside and renamed.
      title: a line above the images.
      rows: int [B] source row of each image.
      max_images: the first so many are shown, and the title says so.

    Raises:
      UserError: no images, or not such an array.
    """
    batch = {"": (images, labels) if rows is None else (images, labels, rows)}
    streams_sheet(batch, class_names, path, titles={"": title}, max_images=max_images)


def streams_sheet(
    batch: Mapping[str, Sequence[Any]],
    class_names: Sequence[str],
    path: str | os.PathLike[str],
    *,
    titles: Mapping[str, str] | None = None,
    max_images: int = 96,
) -> None:
    """Writes one PNG of all streams of a training batch, one below the other.

    Args:
      batch: stream name -> (images, labels[, rows, ...]), as `training_streams` yields.
      class_names, path, max_images: as in `contact_sheet`.
      titles: stream name -> the line above it; otherwise its name and the size of the batch.
    """
    parts = []
    for stream, (images, labels, *more) in batch.items():
        pixels = _checked_pixels(images, labels)
        title = (titles or {}).get(stream, f"{stream} stream, {len(pixels)} images")
        rows = np.asarray(more[0]) if more else None
        parts.append(_section(pixels, np.asarray(labels), class_names, title, rows, max_images))
    if not parts:
        raise UserError("a contact sheet got no stream: give a batch with one or more.")
    width = max(part.width for part in parts) + 2 * _MARGIN_PX
    height = sum(part.height + _MARGIN_PX for part in parts) + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    top = _MARGIN_PX
    for part in parts:
        sheet.paste(part, (_MARGIN_PX, top))
        top += part.height + _MARGIN_PX
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_atomically(pathlib.Path(path), buffer.getvalue())


def _section(
    pixels: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    title: str,
    rows: np.ndarray | None,
    max_images: int,
) -> Image.Image:
    """One titled grid of images."""
    shown = min(len(pixels), max_images)
    if shown < len(pixels):
        title = f"{title} (the first {shown} of {len(pixels)})".strip()
    columns = _columns(labels[:shown])
    side = max(_TILE_PX, pixels.shape[1] * (_TILE_PX // pixels.shape[1]))
    title_height = _TITLE_PX + 14 if title else 0
    line_height = side + _NAME_PX + 8 + _GAP_PX
    lines = -(-shown // columns)
    grid_width = columns * (side + _GAP_PX) - _GAP_PX
    width = max(grid_width, int(_font(_TITLE_PX).getlength(title)) + 1)
    section = Image.new("RGB", (width, title_height + lines * line_height), _PAPER)
    draw = ImageDraw.Draw(section)
    draw.text((0, 0), title, font=_font(_TITLE_PX), fill=_INK)
    seen: set[int] = set()
    for slot in range(shown):
        left = slot % columns * (side + _GAP_PX)
        top = title_height + slot // columns * line_height
        section.paste(_tile(pixels[slot], side), (left, top))
        if rows is not None and int(rows[slot]) in seen:
            draw.rectangle((left, top, left + side - 1, top + side - 1), outline=_MARK, width=3)
        seen.add(int(rows[slot]) if rows is not None else slot)
        repeated_name = slot % columns and labels[slot] == labels[slot - 1]
        draw.text(
            (left, top + side + 3),
            _shortened(str(class_names[int(labels[slot])]), side),
            font=_font(_NAME_PX),
            fill=_FAINT if repeated_name else _INK,
        )
    return section


def _columns(labels: np.ndarray) -> int:
    """Images a line: whole classes where the batch has K images of each, else nearly a square."""
    runs = np.diff(np.flatnonzero(np.diff(labels, prepend=-1, append=-1)))
    per_class = int(np.gcd.reduce(runs))
    if 2 <= per_class <= _MAX_COLUMNS:
        classes_a_line = max(
            1, min(_MAX_COLUMNS // per_class, round(len(labels) ** 0.5 / per_class))
        )
        return per_class * classes_a_line
    return max(1, min(_MAX_COLUMNS, len(labels), int(np.ceil(len(labels) ** 0.5 * 1.25))))


def _tile(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    crisp = side % image.width == 0  # a whole factor: show the pixels as they are
    return image.resize(
        (side, side), Image.Resampling.NEAREST if crisp else Image.Resampling.LANCZOS
    )


def _shortened(name: str, width: int) -> str:
    name = " ".join(name.split()) or "(no name)"
    if _font(_NAME_PX).getlength(name) <= width:
        return name
    while name and _font(_NAME_PX).getlength(name + "…") > width:
        name = name[:-1]
    return name.rstrip() + "…"


def _checked_pixels(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """uint8 [B, S, S, 3]."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise UserError(
            f"a contact sheet got images of shape {list(images.shape)}: give one or more, "
            "[B, S, S, C] with C = 1 or 3."
        )
    if len(labels) != len(images):
        raise UserError(
            f"a contact sheet got {len(images)} images and {len(labels)} labels: give one label "
            "for each image."
        )
    pixels = np.clip(np.round(images), 0, 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[3] == 1 else pixels


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans from matplotlib: Latin, Greek and Cyrillic class names on every machine."""
    import matplotlib

    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size_px)
