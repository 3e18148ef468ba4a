"""The one preprocessing: encoded bytes or pixels to a square uint8 image.

Training, evaluation, prototypes and every exported artefact call these functions, so a picture
means the same pixels everywhere. All of it is built-in TensorFlow operations, which TF Serving
runs without our code. The rule, in order:

1. Decode JPEG, PNG, BMP or the first frame of a GIF to 8 bits a channel. Alpha is dropped, not
   blended. EXIF orientation is NOT applied (no built-in operation reads it): rotate such files
   once, before training and before serving.
2. A JPEG is decoded at 1/2, 1/4 or 1/8 scale where both sides stay at least `image_size`: the
   decoder's own low-pass filter, at a fraction of the time.
3. The whole picture is resized ("squashed") to `image_size` x `image_size`, bilinear, with
   antialiasing where a side still shrinks by more than 2 (below that each output pixel already
   sees its whole neighbourhood, and the plain kernel is three times faster). Squashed rather
   than centre-cropped: nothing at the border of a product or animal photo is lost, and it is
   what on-device image classifiers do to a camera frame.
4. Round to uint8, so that a client who sends pixels (`predict_images`, TFLite) can send exactly
   what the network was trained on.

Normalisation is not here: it is the first layer of the network.
"""

from __future__ import annotations

import functools

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.images.window import cut_window, pixel_window, window_shares

# Decompression bombs: a 140 kB PNG can hold 144 megapixels and cost seconds of CPU.
MAX_IMAGE_BYTES = 64 * 2**20
MAX_IMAGE_PIXELS = 2**26

_JPEG_SCALES = (1, 2, 4, 8)


def preprocess_bytes(
    image_bytes: tf.Tensor,
    *,
    image_size: int,
    channels: int,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_IMAGE_PIXELS,
    window_draws: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decodes and resizes one encoded image. Works eagerly, in `Dataset.map` and when exported.

    Args:
      image_bytes: string [], the bytes of a JPEG, PNG, BMP or GIF file.
      image_size: side S of the square result, px.
      channels: 1 (grey) or 3 (RGB).
      max_bytes: longer files are refused before anything is decoded.
      max_pixels: images whose header declares more pixels are refused before they are decoded.
      window_draws: uniform float32 [4]: only the window they draw (see `window`) is resized, and of
        a JPEG only it is decoded. None, as everywhere but in augmentation: the whole picture.

    Returns:
      uint8 [S, S, C], 0..255.

    Raises:
      tf.errors.InvalidArgumentError: not such an image, damaged, or over a cap.
    """
    _check_settings(image_size, channels)
    image_bytes = tf.ensure_shape(tf.convert_to_tensor(image_bytes, tf.string), [])

    def refuse_over_caps(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        length = tf.strings.length(image_bytes)
        within = (length <= max_bytes) & (height <= max_pixels // tf.maximum(width, 1))
        reason = f"image refused: more than {max_pixels} pixels or {max_bytes} bytes"
        with tf.control_dependencies([tf.debugging.Assert(within, [reason, height, width])]):
            return tf.identity(image_bytes)

    def from_jpeg() -> tf.Tensor:
        shape = tf.image.extract_jpeg_shape(image_bytes)
        checked = refuse_over_caps(shape[0], shape[1])
        sides = shape[:2]
        if window_draws is not None:
            shares = window_shares(window_draws, shape)
            sides = pixel_window(shares, window_draws, shape[:2])[2:]
        larger = tf.reduce_min(sides) // image_size >= tf.constant(_JPEG_SCALES[1:])

        def decode(scale: int) -> tf.Tensor:
            settings = {"channels": channels, "ratio": scale, "dct_method": "INTEGER_ACCURATE"}
            if window_draws is None:
                return tf.io.decode_jpeg(checked, **settings)
            scaled = -(-shape[:2] // scale)  # the window is in pixels of the scaled picture
            window = pixel_window(shares, window_draws, scaled)
            return tf.io.decode_and_crop_jpeg(checked, window, **settings)

        return tf.switch_case(
            tf.reduce_sum(tf.cast(larger, tf.int32)),
            [functools.partial(decode, scale) for scale in _JPEG_SCALES],
        )

    def from_other() -> tf.Tensor:
        is_bmp, height, width = read_header(image_bytes)
        checked = refuse_over_caps(height, width)

        def decode_bmp() -> tf.Tensor:
            # channels=3 would refuse 8- and 32-bit files: take what there is and make it RGB.
            pixels = tf.io.decode_bmp(checked, channels=0)
            return tf.broadcast_to(pixels[:, :, :3], tf.concat([tf.shape(pixels)[:2], [3]], 0))

        def decode_any() -> tf.Tensor:
            return tf.io.decode_image(checked, channels=3, expand_animations=False)

        rgb = tf.cond(is_bmp, decode_bmp, decode_any)
        pixels = _to_channels(tf.ensure_shape(rgb, [None, None, 3]), channels)
        return pixels if window_draws is None else cut_window(pixels, window_draws)

    with tf.device("/CPU:0"):  # decoders run nowhere else, and a GPU would resize to other bits
        is_jpeg = tf.equal(tf.strings.substr(image_bytes, 0, 3), b"\xff\xd8\xff")
        pixels = tf.ensure_shape(tf.cond(is_jpeg, from_jpeg, from_other), [None, None, channels])
        resized = tf.cond(
            tf.reduce_max(tf.shape(pixels)[:2]) > 2 * image_size,
            lambda: tf.image.resize(pixels, [image_size, image_size], antialias=True),
            lambda: tf.image.resize(pixels, [image_size, image_size]),
        )
        return round_to_uint8(resized)


def preprocess_images(
    images: tf.Tensor, *, image_size: int, channels: int | None = None
) -> tf.Tensor:
    """Resizes a batch of decoded images by the same rule; square images of that size pass as is.

    Args:
      images: uint8 or float [N, H, W, C], 0..255. C is static; H and W may be unknown in a graph.
      image_size: side S of the square result, px.
      channels: 1 or 3 converts grey to RGB or back; None keeps C.

    Returns:
      [N, S, S, channels], 0..255: uint8 for uint8 input, float32 (not rounded) for float input.
    """
    _check_settings(image_size, channels or 1)
    images = tf.convert_to_tensor(images)
    if images.dtype != tf.uint8:
        images = tf.cast(images, tf.float32)
    if channels is not None:
        images = _to_channels(images, channels)

    def resize(antialias: bool) -> tf.Tensor:
        resized = tf.image.resize(images, [image_size, image_size], antialias=antialias)
        return round_to_uint8(resized) if images.dtype == tf.uint8 else resized

    with tf.device("/CPU:0"):
        sides = images.shape[1:3]
        if sides.is_fully_defined():  # no branch in the graph: TFLite and XLA like it so
            if sides == [image_size, image_size]:
                return images
            return resize(antialias=max(sides) > 2 * image_size)
        actual = tf.shape(images)[1:3]
        resized = tf.case(
            [
                (tf.reduce_all(actual == image_size), lambda: images),
                (tf.reduce_max(actual) > 2 * image_size, lambda: resize(True)),
            ],
            default=lambda: resize(False),
        )
        return tf.ensure_shape(resized, [None, image_size, image_size, images.shape[-1]])


def preprocess_many(
    image_bytes: tf.Tensor,
    *,
    image_size: int,
    channels: int,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_IMAGE_PIXELS,
    parallel_calls: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Preprocesses a batch in which any image may be bad, without failing its neighbours.

    Each image gives the bits `preprocess_bytes` gives. A failing one is dropped by tf.data's
    `ignore_errors`, the only built-in way to catch an error inside a graph.

    Args:
      image_bytes: string [N]; N may be 0.
      image_size, channels, max_bytes, max_pixels: as in `preprocess_bytes`.
      parallel_calls: images decoded at the same time; None is one after the other.

    Returns:
      images uint8 [N, S, S, C] (zeros where invalid) and valid bool [N].
    """
    image_bytes = tf.ensure_shape(tf.convert_to_tensor(image_bytes, tf.string), [None])
    count = tf.size(image_bytes, out_type=tf.int64)

    def preprocess_one(slot: tf.Tensor, one: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return slot, preprocess_bytes(
            one,
            image_size=image_size,
            channels=channels,
            max_bytes=max_bytes,
            max_pixels=max_pixels,
        )

    blank = tf.zeros([image_size, image_size, channels], tf.uint8)
    # The blank at the end is what invalid slots point at, and keeps the dataset from being empty.
    slots, images = (
        tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
        .map(preprocess_one, num_parallel_calls=parallel_calls)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors((count, blank)))
        .batch(count + 1)
        .get_single_element()
    )
    last = tf.size(slots) - 1
    place = tf.tensor_scatter_nd_update(
        tf.fill([count + 1], last), slots[:, None], tf.range(last + 1)
    )[:-1]
    return tf.gather(images, place), place < last


def _check_settings(image_size: int, channels: int) -> None:
    if image_size < 1 or channels not in (1, 3):
        raise UserError(
            f"images of size {image_size} with {channels} channels were asked for: image_size "
            "must be 1 px or more and channels 1 (grey) or 3 (RGB)."
        )


def _to_channels(images: tf.Tensor, channels: int) -> tf.Tensor:
    """Grey to RGB or RGB to grey, of uint8 or float32 [..., C]; exact where all are equal."""
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return tf.repeat(images, 3, axis=-1)
    if images.dtype == tf.uint8:  # ITU-R 601 luma in integers, as Pillow's convert("L")
        luma = tf.reduce_sum(tf.cast(images, tf.int32) * [19595, 38470, 7471], -1, keepdims=True)
        return tf.cast(tf.bitwise.right_shift(luma + 2**15, 16), tf.uint8)
    return tf.reduce_sum(images * [0.299, 0.587, 0.114], -1, keepdims=True)


def round_to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """The nearest uint8, 0..255.

    Not `tf.saturate_cast`: it asks NumPy for the limits of float32, and in TensorFlow's own
    threads, which flush subnormals to zero, NumPy warns.
    """
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0.0, 255.0), tf.uint8)


_HEADER_BYTES = 32


def read_header(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(is BMP, height, width) as a PNG, GIF or BMP declares them; 0 x 0 for anything else.

    Anything else goes on to the decoder, whose message names the formats it takes.
    """
    head = tf.strings.substr(image_bytes, 0, _HEADER_BYTES)
    head = tf.strings.substr(tf.strings.join([head, b"\0" * _HEADER_BYTES]), 0, _HEADER_BYTES)
    head = tf.cast(tf.ensure_shape(tf.io.decode_raw(head, tf.uint8), [_HEADER_BYTES]), tf.int64)

    def starts_with(magic: bytes) -> tf.Tensor:
        return tf.reduce_all(head[: len(magic)] == tf.constant(list(magic), tf.int64))

    def number(at: int, size: int, *, big_endian: bool) -> tf.Tensor:
        weights = [256**i for i in range(size)]
        return tf.reduce_sum(
            head[at : at + size] * tf.constant(weights[::-1] if big_endian else weights, tf.int64)
        )

    def bmp_side(at: int) -> tf.Tensor:  # signed: stored from the top, its height is negative
        value = number(at, 4, big_endian=False)
        return tf.abs(tf.where(value >= 2**31, value - 2**32, value))

    is_png, is_gif, is_bmp = starts_with(b"\x89PNG"), starts_with(b"GIF8"), starts_with(b"BM")
    sizes = [
        tf.stack([number(20, 4, big_endian=True), number(16, 4, big_endian=True)]),
        tf.stack([number(8, 2, big_endian=False), number(6, 2, big_endian=False)]),
        tf.stack([bmp_side(22), bmp_side(18)]),
    ]
    size = tf.add_n([tf.where(f, s, 0) for f, s in zip((is_png, is_gif, is_bmp), sizes)])
    return is_bmp, size[0], size[1]
