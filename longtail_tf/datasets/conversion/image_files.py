"""Encoded images outside of TensorFlow: their format, shrinking them, pixels to PNG."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

# As preprocess.MAX_IMAGE_PIXELS, without importing TensorFlow for it.
MAX_IMAGE_PIXELS = 2**26
_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
)
_ORIENTATION = 0x0112
_PNG_EFFORT = 3  # a tenth larger than the default, three times as fast


class ImageFileError(ValueError):
    """The bytes are no image that can be decoded."""


def image_format(encoded: bytes) -> str:
    """`jpeg`, `png`, `gif` or `bmp` by the first bytes; empty for anything else."""
    return next((name for magic, name in _MAGIC if encoded.startswith(magic)), "")


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels uint8 [H, W, 1 or 3] as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(buffer, "PNG", compress_level=_PNG_EFFORT)
    return buffer.getvalue()


def shrink_image(encoded: bytes, *, shorter_side_px: int, jpeg_quality: int) -> bytes:
    """The image with its shorter side at most `shorter_side_px`, and upright.

    Images that are small enough and upright keep their bytes. Others are turned as their EXIF
    orientation says, resized (Lanczos) and written as JPEG where they were JPEG, else as PNG; of
    an animation the first frame stays. Metadata is left out.

    Raises:
      ImageFileError: damaged, no image of a known format, or too many pixels.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities in metadata; the size is checked here
            with Image.open(io.BytesIO(encoded)) as image:
                if image.width * image.height > MAX_IMAGE_PIXELS:
                    raise ImageFileError(
                        f"{image.width} x {image.height} pixels, more than {MAX_IMAGE_PIXELS:,}"
                    )
                upright = image.getexif().get(_ORIENTATION, 1) == 1
                small = min(image.size) <= shorter_side_px
                if small and upright and image_format(encoded):
                    image.load()  # a damaged image must not pass because it is small
                    return encoded
                return _shrunk(image, shorter_side_px, jpeg_quality)
    except ImageFileError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of a dozen kinds
        raise ImageFileError(" ".join(str(error).split()) or type(error).__name__) from error


def _shrunk(image: Any, shorter_side_px: int, jpeg_quality: int) -> bytes:
    from PIL import Image, ImageOps

    is_jpeg = image.format == "JPEG"
    scale = min(1.0, shorter_side_px / min(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    # Decoding at a fraction of the size, but at twice what is wanted: Lanczos still has its say.
    image.draft(None, (2 * size[0], 2 * size[1]))
    plain = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    resized = ImageOps.exif_transpose(plain.resize(size, Image.Resampling.LANCZOS))
    resized.info.clear()
    buffer = io.BytesIO()
    if is_jpeg:
        resized.save(buffer, "JPEG", quality=jpeg_quality)
    else:
        resized.save(buffer, "PNG", compress_level=_PNG_EFFORT)
    return buffer.getvalue()
