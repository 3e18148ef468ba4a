"""Shrinking and encoding images outside of TensorFlow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from longtail_tf.datasets.conversion.image_files import (
    ImageFileError,
    encode_png,
    image_format,
    shrink_image,
)


def encoded(width, height, kind="JPEG", mode="RGB", **settings):
    """A smooth picture, brighter to the right and lower."""
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 55, height))
    pixels = np.repeat((x + y).astype(np.uint8)[..., None], 3, 2)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **settings)
    return buffer.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_format_by_first_bytes(kind):
    assert image_format(encoded(4, 4, kind)) == kind.lower()


def test_no_format():
    assert image_format(b"RIFF") == image_format(b"") == ""


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel(rng, channels):
    pixels = rng.integers(0, 256, (7, 5, channels)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(opened(encode_png(pixels))).reshape(7, 5, -1), pixels)


@pytest.mark.parametrize(
    "size, wanted",
    [((400, 200), (200, 100)), ((200, 400), (100, 200)), ((1000, 105), (952, 100))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_shorter_side(size, wanted, kind):
    data = encoded(*size, kind)
    small = opened(shrink_image(data, shorter_side_px=100, jpeg_quality=90))
    assert small.size == wanted and small.format == ("JPEG" if kind == "JPEG" else "PNG")
    # The picture is the same: compare with the original at the new size.
    full = np.asarray(opened(data).convert("RGB").resize(wanted), float)
    assert np.abs(np.asarray(small.convert("RGB"), float) - full).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_small_images_keep_their_bytes(kind):
    data = encoded(120, 100, kind)
    assert shrink_image(data, shorter_side_px=100, jpeg_quality=90) is data


@pytest.mark.parametrize("size", [(60, 40), (600, 400)])
def test_turned_upright(size):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    data = encoded(*size, exif=exif)
    small = opened(shrink_image(data, shorter_side_px=40, jpeg_quality=95))
    assert small.size == (40, 60) and small.getexif().get(0x0112) is None
    pixels = np.asarray(small.convert("L"), float)
    # What was bright at the right is bright at the bottom now.
    assert pixels[-5:].mean() > pixels[:5].mean() + 100


@pytest.mark.parametrize("mode, kind, wanted", [
    ("L", "JPEG", "L"), ("CMYK", "JPEG", "RGB"), ("RGBA", "PNG", "RGB"), ("LA", "PNG", "L"),
    ("P", "PNG", "RGB"), ("1", "PNG", "L"),
])  # fmt: skip
def test_modes(mode, kind, wanted):
    data = encoded(90, 60, kind, mode)
    assert opened(shrink_image(data, shorter_side_px=30, jpeg_quality=90)).mode == wanted


def test_quality_counts():
    data = encoded(400, 400)
    sizes = [len(shrink_image(data, shorter_side_px=200, jpeg_quality=q)) for q in (30, 95)]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("px", [10, 5000])
@pytest.mark.parametrize(
    "data", [b"", b"hello", encoded(200, 100)[:700], encoded(9, 9, "PNG")[:60]]
)
def test_damaged(px, data):
    with pytest.raises(ImageFileError, match="."):
        shrink_image(data, shorter_side_px=px, jpeg_quality=90)


@pytest.mark.parametrize("side, match", [(10**4, "10000 x 10000 pixels, more"), (10**5, "bomb")])
def test_too_many_pixels(side, match):
    header = bytearray(encoded(10, 10, "BMP"))
    header[18:26] = side.to_bytes(4, "little") * 2
    with pytest.raises(ImageFileError, match=match):
        shrink_image(bytes(header), shorter_side_px=10, jpeg_quality=90)
