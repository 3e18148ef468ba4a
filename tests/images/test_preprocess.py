"""Pixels against Pillow and plain float64 loops; the same bits eagerly, mapped and exported."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from longtail_tf.errors import UserError
from longtail_tf.images.preprocess import preprocess_bytes, preprocess_images, preprocess_many
from tests import stacks


def smooth(height, width, channels=3, seed=0):
    """A photo-like array: gradients, an edge and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    layers = [255 * y / height, 255 * x / width, 200 * (x > y)][:channels]
    return np.clip(
        np.stack(layers, -1) + rng.normal(0, 4, (height, width, channels)), 0, 255
    ).astype(np.uint8)


def encode(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that declares a size and holds nothing."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


def jpeg_declaring(width, height):
    data = bytearray(encode(smooth(16, 16), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


RGB = smooth(24, 24)
PIL_RGB = Image.fromarray(RGB)
FILES = {
    "png": (encode(RGB), RGB),
    "png_rgba": (encode(np.dstack([RGB, np.full((24, 24), 90, np.uint8)])), RGB),
    "png_palette": (encode(PIL_RGB.quantize(64)), np.array(PIL_RGB.quantize(64).convert("RGB"))),
    "png_grey": (encode(RGB[..., 0]), np.repeat(RGB[..., :1], 3, -1)),
    "png_grey_alpha": (
        encode(PIL_RGB.convert("LA")),
        np.array(PIL_RGB.convert("L").convert("RGB")),
    ),
    "png_16_bit": (encode(RGB[..., 0].astype(np.uint16) * 257), np.repeat(RGB[..., :1], 3, -1)),
    "png_1_bit": (encode(PIL_RGB.convert("1")), np.array(PIL_RGB.convert("1").convert("RGB"))),
    "bmp_24": (encode(RGB, "BMP"), RGB),
    "bmp_8": (encode(RGB[..., 0], "BMP"), np.repeat(RGB[..., :1], 3, -1)),
    "bmp_32": (encode(np.dstack([RGB, np.full((24, 24), 255, np.uint8)]), "BMP"), RGB),
    "gif_animated": (
        encode(PIL_RGB.quantize(64), "GIF", save_all=True, append_images=[PIL_RGB.rotate(90)]),
        np.array(PIL_RGB.quantize(64).convert("RGB")),
    ),
}
JPEGS = {
    "jpeg": encode(RGB, "JPEG", quality=90),
    "jpeg_progressive": encode(RGB, "JPEG", quality=90, progressive=True),
    "jpeg_444": encode(RGB, "JPEG", quality=90, subsampling=0),
    "jpeg_grey": encode(RGB[..., 0], "JPEG", quality=90),
    "jpeg_large": encode(smooth(200, 333), "JPEG", quality=90),
}
ALL = {
    **{name: data for name, (data, _) in FILES.items()},
    **JPEGS,
    "png_tall": encode(smooth(99, 20)),
}


@pytest.mark.parametrize("name", FILES)
def test_lossless_formats_give_pillows_pixels(name):
    data, expected = FILES[name]
    pixels = preprocess_bytes(data, image_size=24, channels=3)
    assert pixels.dtype == tf.uint8
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("name", ["jpeg", "jpeg_progressive", "jpeg_444", "jpeg_grey"])
def test_jpegs_are_within_rounding_of_pillow(name):
    expected = np.array(Image.open(io.BytesIO(JPEGS[name])).convert("RGB")).astype(int)
    pixels = preprocess_bytes(JPEGS[name], image_size=24, channels=3).numpy()
    assert np.abs(pixels - expected).max() <= 1


def test_cmyk_jpeg_is_read_as_rgb():
    data = encode(Image.fromarray(smooth(24, 24)).convert("CMYK"), "JPEG", quality=95)
    pixels = preprocess_bytes(data, image_size=24, channels=3).numpy()
    assert np.abs(pixels.astype(int) - smooth(24, 24)).mean() < 8


@pytest.mark.parametrize("name", [name for name in FILES if name != "png_grey_alpha"])
def test_grey_is_pillows_luma(name):
    data, rgb = FILES[name]
    expected = np.array(Image.fromarray(rgb).convert("L"))[..., np.newaxis]
    np.testing.assert_array_equal(preprocess_bytes(data, image_size=24, channels=1), expected)


def test_grey_jpeg_keeps_its_values():
    expected = np.array(Image.open(io.BytesIO(JPEGS["jpeg_grey"]))).astype(int)
    pixels = preprocess_bytes(JPEGS["jpeg_grey"], image_size=24, channels=1).numpy()[..., 0]
    assert np.abs(pixels - expected).max() <= 1


def test_exif_orientation_is_not_applied():
    image, exif = Image.fromarray(smooth(24, 24)), Image.Exif()
    exif[0x0112] = 6  # turn a quarter
    turned = encode(image, "JPEG", quality=90, exif=exif)
    np.testing.assert_array_equal(
        preprocess_bytes(turned, image_size=24, channels=3),
        preprocess_bytes(JPEGS["jpeg"], image_size=24, channels=3),
    )


def bilinear_loop(image, size):
    """Half-pixel bilinear, one output pixel at a time, float64."""
    height, width, _ = image.shape
    out = np.zeros((size, size, image.shape[2]))
    for i in range(size):
        for j in range(size):
            y = min(max((i + 0.5) * height / size - 0.5, 0), height - 1)
            x = min(max((j + 0.5) * width / size - 0.5, 0), width - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            top = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
            bottom = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
            out[i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out


@pytest.mark.parametrize("height, width, size", [(20, 32, 16), (7, 9, 16), (1, 1, 8), (31, 17, 17)])
def test_small_changes_of_size_are_plain_bilinear_squashed(height, width, size):
    image = smooth(height, width)
    expected = bilinear_loop(image.astype(np.float64), size)
    for pixels in (
        preprocess_bytes(encode(image), image_size=size, channels=3).numpy(),
        preprocess_images(image[np.newaxis], image_size=size)[0].numpy(),
    ):
        assert np.abs(pixels - expected).max() <= 0.5001


@pytest.mark.parametrize("height, width", [(70, 50), (33, 20), (20, 100)])
def test_large_reductions_are_antialiased_like_pillows(height, width):
    image = smooth(height, width)
    expected = np.array(Image.fromarray(image).resize((16, 16), Image.BILINEAR)).astype(int)
    pixels = preprocess_bytes(encode(image), image_size=16, channels=3).numpy()
    assert np.abs(pixels - expected).max() <= 1
    np.testing.assert_array_equal(preprocess_images(image[np.newaxis], image_size=16)[0], pixels)


@pytest.mark.parametrize("side", [130, 260, 520, 1100])
def test_jpegs_at_reduced_scale_stay_close_to_a_full_decode(side):
    data = encode(smooth(side, side + 31), "JPEG", quality=92)
    full = np.array(Image.open(io.BytesIO(data)).resize((64, 64), Image.BILINEAR)).astype(int)
    pixels = preprocess_bytes(data, image_size=64, channels=3).numpy()
    assert np.abs(pixels - full).mean() < 3


@pytest.mark.parametrize("channels", [1, 3])
def test_same_bits_eagerly_mapped_in_a_batch_and_exported(channels, tmp_path):
    def one(data):
        return preprocess_bytes(data, image_size=16, channels=channels)

    def many(data):
        return dict(
            zip(("images", "valid"), preprocess_many(data, image_size=16, channels=channels))
        )

    files = list(ALL.values())
    eager = np.stack([one(data) for data in files])
    mapped = list(tf.data.Dataset.from_tensor_slices(files).map(one, num_parallel_calls=2))
    np.testing.assert_array_equal(np.stack(mapped), eager)
    np.testing.assert_array_equal(many(files)["images"], eager)
    in_map = tf.data.Dataset.from_tensors(files).map(many).get_single_element()
    np.testing.assert_array_equal(in_map["images"], eager)

    module = tf.Module()
    module.many = tf.function(many, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path), signatures=module.many)
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    answer = loaded(tf.constant(files))
    np.testing.assert_array_equal(answer["images"], eager)
    assert answer["valid"].numpy().all()
    with tf.compat.v1.Session(graph=tf.Graph()) as session:  # the path TF Serving takes
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        signature = graph.signature_def["serving_default"]
        images = session.run(
            signature.outputs["images"].name, {next(iter(signature.inputs.values())).name: files}
        )
    np.testing.assert_array_equal(images, eager)


BAD = {
    "empty": b"",
    "short": b"\xff\xd8",
    "text": b"no image at all, but long enough for any header of any format",
    "cut_jpeg": JPEGS["jpeg_large"][:200],
    "cut_png": FILES["png"][0][:60],
    "cut_bmp": FILES["bmp_24"][0][:100],
    # TensorFlow 2.21 reads WebP.
    **({} if stacks.KERAS_3 else {"webp": encode(PIL_RGB, "WEBP")}),
    "png_bomb": png_header(12_000, 12_000),
    "png_overflow": png_header(2**31 - 1, 2**31 - 1),
    "jpeg_bomb": jpeg_declaring(65_000, 65_000),
    "gif_bomb": b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + bytes(40),
    "bmp_bomb": b"BM" + bytes(16) + struct.pack("<ii", 60_000, -60_000) + bytes(40),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_are_refused(name):
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess_bytes(BAD[name], image_size=16, channels=3)


@pytest.mark.parametrize("name", [name for name in BAD if name.endswith(("bomb", "overflow"))])
def test_bombs_are_refused_by_their_header(name):
    with pytest.raises(tf.errors.InvalidArgumentError, match="image refused: more than"):
        preprocess_bytes(BAD[name], image_size=16, channels=3)


@pytest.mark.parametrize("caps", [{"max_bytes": 300}, {"max_pixels": 24 * 24 - 1}])
@pytest.mark.parametrize("name", ["png", "bmp_24", "gif_animated", "jpeg"])
def test_caps_can_be_lowered(name, caps):
    preprocess_bytes(ALL[name], image_size=16, channels=3, max_pixels=24 * 24)
    with pytest.raises(tf.errors.InvalidArgumentError, match="image refused: more than"):
        preprocess_bytes(ALL[name], image_size=16, channels=3, **caps)


def test_bad_images_of_a_batch_do_not_fail_their_neighbours():
    files = [BAD["empty"], ALL["png"], BAD["png_bomb"], ALL["jpeg"], BAD["cut_jpeg"]]
    for parallel_calls in (None, 3):
        images, valid = preprocess_many(
            tf.constant(files), image_size=16, channels=3, parallel_calls=parallel_calls
        )
        assert valid.numpy().tolist() == [False, True, False, True, False]
        for slot in (1, 3):
            np.testing.assert_array_equal(
                images[slot], preprocess_bytes(files[slot], image_size=16, channels=3)
            )
        assert not images.numpy()[[0, 2, 4]].any()


@pytest.mark.parametrize("files", [[], [b"x"], [b"", b"BM"]])
def test_a_batch_without_a_good_image(files):
    images, valid = preprocess_many(tf.constant(files, tf.string), image_size=8, channels=1)
    assert images.shape == (len(files), 8, 8, 1)
    assert not valid.numpy().any() and valid.shape == (len(files),)


def test_images_of_the_right_size_pass_untouched(rng):
    images = tf.constant(rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8))
    np.testing.assert_array_equal(preprocess_images(images, image_size=8), images)
    floats = preprocess_images(tf.cast(images, tf.float64) + 0.25, image_size=8)
    assert floats.dtype == tf.float32
    np.testing.assert_array_equal(floats, images.numpy() + 0.25)


@pytest.mark.parametrize("height, width", [(16, 16), (20, 31), (33, 4), (90, 40)])
def test_unknown_sizes_give_the_bits_of_known_ones(height, width):
    images = np.stack([smooth(height, width, seed=seed) for seed in range(2)])
    resize = tf.function(
        lambda x: preprocess_images(x, image_size=16),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
    )
    np.testing.assert_array_equal(resize(images), preprocess_images(images, image_size=16))


def test_channels_of_arrays_are_converted():
    grey, rgb = smooth(8, 8, 1)[np.newaxis], smooth(8, 8)[np.newaxis]
    np.testing.assert_array_equal(
        preprocess_images(grey, image_size=8, channels=3), np.repeat(grey, 3, -1)
    )
    expected = np.array(Image.fromarray(rgb[0]).convert("L"))[np.newaxis, ..., np.newaxis]
    np.testing.assert_array_equal(preprocess_images(rgb, image_size=8, channels=1), expected)
    exact = rgb @ np.array([0.299, 0.587, 0.114])
    floats = preprocess_images(rgb.astype(np.float32), image_size=8, channels=1)
    np.testing.assert_allclose(floats[..., 0], exact, rtol=1e-5)


@pytest.mark.parametrize("image_size, channels", [(0, 3), (-4, 1), (16, 2), (16, 4)])
def test_impossible_settings_are_refused(image_size, channels):
    with pytest.raises(UserError, match="must be 1 px or more and channels 1 .grey. or 3"):
        preprocess_bytes(ALL["png"], image_size=image_size, channels=channels)
