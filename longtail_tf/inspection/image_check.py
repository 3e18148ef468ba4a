"""What is wrong with one encoded image, as training would meet it.

Pillow decodes every image. TensorFlow's decoders are stricter about how a file ends, so PNG, GIF
and BMP files are also walked to their last block.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, NamedTuple

from longtail_tf.datasets.conversion.image_files import image_format

_SUFFIX_FORMATS = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".png": "png",
    ".gif": "gif",
    ".bmp": "bmp",
}
# How and where a format declares width and height.
_SIZE_AT = {"png": (">II", 16), "bmp": ("<ii", 18)}
_PNG_BITS_AT = 24
_BMP_BITS = (8, 24, 32)
_ORIENTATION = 0x0112


class Fault(NamedTuple):
    """A kind of fault (a key of `check_report.KINDS`) and what was seen."""

    kind: str
    detail: str


def check_image(encoded: bytes, *, suffix: str, max_bytes: int, max_pixels: int) -> list[Fault]:
    """The faults of an encoded image; empty where there is none.

    Args:
      encoded: the file's bytes.
      suffix: of its name, with the dot; empty where it has none.
      max_bytes: longer files are refused, as in training.
      max_pixels: images that declare more pixels are refused and not decoded.
    """
    if not encoded:
        return [Fault("empty_file", "0 bytes")]
    if len(encoded) > max_bytes:
        return [Fault("too_many_bytes", f"{len(encoded):,} bytes, {max_bytes:,} allowed")]
    kind = image_format(encoded)
    if not kind:
        return [Fault("not_an_image", _what_it_is(encoded))]
    faults = []
    said = _SUFFIX_FORMATS.get(suffix.lower(), "")
    if said and said != kind:
        faults.append(Fault("wrong_extension", f"{suffix} holds a {kind.upper()}"))
    try:
        return faults + _check_content(encoded, kind, max_pixels)
    except Exception as error:  # Pillow's decoders raise errors of a dozen kinds
        text = " ".join(str(error).split()) or type(error).__name__
        if type(error).__name__ == "UnidentifiedImageError":
            text = "its header is damaged"  # Pillow's text would name an object of ours
        if type(error).__name__.startswith("DecompressionBomb"):
            return [*faults, Fault("too_many_pixels", text)]
        cut = "truncated" in text.lower() or isinstance(error, (EOFError, struct.error))
        return [*faults, Fault("truncated" if cut else "undecodable", text[:200])]


def _check_content(encoded: bytes, kind: str, max_pixels: int) -> list[Fault]:
    from PIL import Image

    if kind in _SIZE_AT:  # Pillow calls these damaged
        width, height = struct.unpack_from(_SIZE_AT[kind][0], encoded, _SIZE_AT[kind][1])
        if width * height == 0:
            return [Fault("no_pixels", f"{width} x {height}")]
        if abs(width * height) > max_pixels:  # far above it, Pillow refuses in words of its own
            return [Fault("too_many_pixels", _pixels(width, height, max_pixels))]
    end = _check_end(encoded, kind)
    if end:
        return [end]
    with Image.open(io.BytesIO(encoded)) as image:
        width, height = image.size
        if width * height > max_pixels:
            return [Fault("too_many_pixels", _pixels(width, height, max_pixels))]
        # Pillow reads a colour PNG of 16 bits as one of 8.
        faults = _oddities(image, deep=kind == "png" and encoded[_PNG_BITS_AT] == 16)
        image.load()
    return faults


def _pixels(width: int, height: int, max_pixels: int) -> str:
    return f"{width:,} x {abs(height):,}, {max_pixels:,} allowed"


def _check_end(encoded: bytes, kind: str) -> Fault | None:
    """A fault where the file stops before its format says it ends."""
    if kind == "png":
        return _check_png(encoded)
    if kind == "gif" and not _gif_is_whole(encoded):
        return Fault("truncated", "the file stops before the end of its last block")
    if kind == "bmp":
        return _check_bmp(encoded)
    return None


def _check_png(encoded: bytes) -> Fault | None:
    at = 8
    while True:
        if at + 12 > len(encoded):
            return Fault("truncated", f"the file stops at byte {len(encoded):,} without an end")
        length, name = struct.unpack_from(">I4s", encoded, at)
        end = at + 12 + length
        if end > len(encoded):
            return Fault("truncated", f"the file stops inside the chunk at byte {at:,}")
        if zlib.crc32(encoded[at + 4 : end - 4]) != struct.unpack_from(">I", encoded, end - 4)[0]:
            return Fault("undecodable", f"the checksum of the chunk at byte {at:,} is wrong")
        if name == b"IEND":
            return None
        at = end


def _gif_is_whole(encoded: bytes) -> bool:
    try:
        at = 13 + _colour_table_bytes(encoded[10])
        while encoded[at] != 0x3B:
            if encoded[at] == 0x2C:  # an image: its place, its colours, a byte, then its data
                at += 10 + _colour_table_bytes(encoded[at + 9]) + 1
            elif encoded[at] == 0x21:  # an extension: its kind, then its data
                at += 2
            else:
                return False
            while encoded[at]:
                at += encoded[at] + 1
            at += 1
    except IndexError:
        return False
    return True


def _colour_table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _check_bmp(encoded: bytes) -> Fault | None:
    start = struct.unpack_from("<I", encoded, 10)[0]
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", encoded, 18)
    if bits not in _BMP_BITS or compression not in (0, 3):
        return Fault("unsupported", f"a BMP of {bits} bits a pixel, compression {compression}")
    needed = start + (width * bits // 8 + 3) // 4 * 4 * abs(height)
    if len(encoded) < needed:
        return Fault("truncated", f"{len(encoded):,} of {needed:,} bytes are there")
    return None


def _oddities(image: Any, *, deep: bool) -> list[Fault]:
    """What training can read but may read otherwise than its owner thinks."""
    faults = []
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1:
        faults.append(Fault("animated", f"{frames} frames; the first is used"))
    if image.mode == "CMYK":
        faults.append(Fault("cmyk", "colours for print; they change when they become RGB"))
    if deep or image.mode.startswith("I") or image.mode == "F":
        faults.append(Fault("16_bit", "more than 8 bits a channel; the lower ones are dropped"))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        faults.append(Fault("alpha", "transparency is dropped; what it hid shows"))
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation not in (0, 1):
        faults.append(Fault("turned", f"EXIF orientation {orientation} is not applied"))
    return faults


def _what_it_is(encoded: bytes) -> str:
    head = encoded[:512].lstrip().lower()
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "a WebP image, which TensorFlow 2.15 cannot read"
    if encoded[:4] in (b"II*\0", b"MM\0*"):
        return "a TIFF image, which training cannot read"
    if encoded[4:8] == b"ftyp":
        return "a HEIC or AVIF image, which training cannot read"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps of a download that failed"
    if head.startswith((b"<?xml", b"<svg")):
        return "an XML or SVG file"
    return f"starts with the bytes {encoded[:8].hex(' ')}"
