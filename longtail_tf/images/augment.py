"""Augmentation of a batch, a pure function of (seed, stream, step) and the slot in the batch.

Each image has its own draw, so that repeats of one image in a PK batch look different. No state,
so a resumed run sees the same pictures; no dependence on threads or on how many batches are made
at once; a replica that makes only its slice of a batch makes the same pictures. Integers and
per-pixel arithmetic only, so the bits are the same everywhere.

keras-cv's layers take no seed per step and are four times slower, hence our own
(`experiments/benchmarks/bench_augment.py`).
"""

from __future__ import annotations

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.images.preprocess import round_to_uint8
from longtail_tf.images.random_augment import random_augment
from longtail_tf.images.window import WINDOW_DRAWS, pixel_window, window_shares
from longtail_tf.settings.choices import AUGMENTATIONS, MIXING_AUGMENTATIONS

HEAD_STREAM, WHOLE_STREAM = 1, 2
_CROP, _CUTOUT, _RANDAUGMENT, _MIX = range(4)


def augment(
    images: tf.Tensor,
    *,
    name: str,
    seed: int,
    stream: int,
    step: tf.Tensor,
    shard: tuple[int, int] | None = None,
    windows_are_cut: bool = False,
) -> tf.Tensor:
    """Augments a batch; every image by its own draw.

    Args:
      images: uint8 [B, S, S, C]; B, S and C static.
      name: one of AUGMENTATIONS, or of MIXING_AUGMENTATIONS, whose mixing is left to `mix`.
      seed: seed of the run, 0 to 2^31 - 1.
      stream: HEAD_STREAM or WHOLE_STREAM: two streams of one run draw differently.
      step: int64 [].
      shard: (index, count): these images are slice `index` of `count` equal ones of the batch.
      windows_are_cut: these images are already the windows `window_draws` gives (a reader that
        decodes only the window cut them), and are but flipped here.

    Returns:
      uint8 [B, S, S, C].
    """
    parts = parts_of(name)

    def draws(purpose: int, number: int) -> tf.Tensor:
        key = _key(seed, stream, purpose, step)
        return _slice_of_draws(key, number, images.shape[0], shard)

    if "resized" in parts:
        window_and_flip = draws(_CROP, WINDOW_DRAWS + 1)
        if not windows_are_cut:
            images = resized_crop(images, window_and_flip[:WINDOW_DRAWS])
        if "flip" in parts:
            flipped = window_and_flip[WINDOW_DRAWS] < 0.5
            images = tf.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    elif "crop" in parts:
        images = crop(images, draws(_CROP, 3), flip="flip" in parts)
    if "randaugment" in parts:
        images = random_augment(images, lambda number: draws(_RANDAUGMENT, number))
    if "cutout" in parts:
        images = cutout(images, draws(_CUTOUT, 3))
    return images


def window_draws(
    *, seed: int, stream: int, step: tf.Tensor, batch_size: int, shard: tuple[int, int] | None
) -> tf.Tensor:
    """The draws float32 [4, B] of the windows `augment` cuts, for who cuts them itself.

    Args:
      seed, stream, step, shard: as in `augment`.
      batch_size: B, images of this slice.
    """
    key = _key(seed, stream, _CROP, step)
    return _slice_of_draws(key, WINDOW_DRAWS + 1, batch_size, shard)[:WINDOW_DRAWS]


def cuts_windows(name: str) -> bool:
    """Whether the augmentation enlarges a random window (see `window_draws`)."""
    return "resized" in parts_of(name)


def parts_of(name: str) -> tuple[str, ...]:
    """The parts of an augmentation's name.

    Raises:
      UserError: there is no such augmentation.
    """
    if name not in AUGMENTATIONS + MIXING_AUGMENTATIONS:
        raise UserError(
            f"augmentation {name!r} does not exist: choose one of "
            f"{', '.join(AUGMENTATIONS)}, or for the head stream also of "
            f"{', '.join(MIXING_AUGMENTATIONS)}."
        )
    return tuple(name.split("_"))


def crop(images: tf.Tensor, draws: tf.Tensor, *, flip: bool) -> tf.Tensor:
    """Shifts each image by up to an eighth of its side, mirrors it sideways half the time.

    The outermost line is repeated into the gap. Zeros would put black bars into photos, and a
    reflection would put strokes twice into small digits and characters.

    Args:
      images: uint8 [B, S, S, C].
      draws: uniform [3, B]: shift down, shift right, whether to flip.
      flip: False shifts only.
    """
    batch_size, size, _, channels = images.shape
    reach = min(max(1, round(size / 8)), size - 1)
    shift = tf.cast(tf.floor(draws[:2] * (2 * reach + 1)), tf.int32) - reach
    line = tf.range(size)

    rows = tf.clip_by_value(line + shift[0][:, tf.newaxis], 0, size - 1)
    columns = tf.clip_by_value(line + shift[1][:, tf.newaxis], 0, size - 1)
    if flip:
        columns = tf.where((draws[2] < 0.5)[:, tf.newaxis], columns[:, ::-1], columns)
    rows += (tf.range(batch_size) * size)[:, tf.newaxis]
    pixels = rows[:, :, tf.newaxis] * size + columns[:, tf.newaxis, :]
    return tf.gather(tf.reshape(images, [batch_size * size * size, channels]), pixels)


def resized_crop(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Enlarges a random window of each image to the whole, bilinear (see `window`).

    Args:
      images: uint8 [B, S, S, C].
      draws: uniform [4, B], as `window.window_shares` takes them.
    """
    batch_size, size = images.shape[:2]
    sides = tf.constant([size, size])
    window = pixel_window(window_shares(draws, sides), draws, sides)
    first = tf.cast(window[:2], tf.float32)
    # The corner pixels of the window onto those of the image. A hair less: what rounding puts
    # beyond the last line of the image would come out black.
    last = tf.maximum(first + tf.cast(window[2:], tf.float32) - 1 - 1e-3, first)
    boxes = tf.transpose(tf.concat([first, last], 0)) / max(1, size - 1)
    with tf.device("/CPU:0"):  # to the same bits as elsewhere
        cut = tf.image.crop_and_resize(images, boxes, tf.range(batch_size), [size, size])
    return round_to_uint8(cut)


def cutout(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Covers a square of each image with the image's mean colour.

    DeVries and Taylor 2017, arXiv:1708.04552: there the cover is 0 after normalisation, which is
    the mean. The side is drawn from a quarter to half the image; the centre may lie anywhere, so
    part of the square can fall outside.

    Args:
      images: uint8 [B, S, S, C].
      draws: uniform [3, B]: centre down, centre right, side.
    """
    size = images.shape[1]
    centre = tf.floor(draws[:2] * size)
    half = (0.125 + 0.125 * draws[2]) * size
    line = tf.range(size, dtype=tf.float32)
    inside = tf.abs(line - centre[:, :, tf.newaxis]) < half[tf.newaxis, :, tf.newaxis]
    covered = tf.logical_and(inside[0][:, :, tf.newaxis], inside[1][:, tf.newaxis, :])
    total = tf.reduce_sum(tf.cast(images, tf.int32), axis=[1, 2], keepdims=True)
    return tf.where(covered[..., tf.newaxis], tf.cast(total // size**2, tf.uint8), images)


def mix(
    images: tf.Tensor,
    labels: tf.Tensor,
    *,
    name: str,
    seed: int,
    step: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """MixUp or CutMix of a head batch with itself, shifted by a drawn number of slots.

    MixUp (Zhang 2018, arXiv:1710.09412) blends two images, CutMix (Yun 2019, arXiv:1905.04899)
    pastes a rectangle of one into the other; one weight a batch, drawn uniformly (alpha = 1). The
    loss to take is `weight * loss(labels) + (1 - weight) * loss(mixed_labels)`.

    Args:
      images: uint8 [B, S, S, C].
      labels: int32 [B].
      name: one of MIXING_AUGMENTATIONS.
      seed, step: as in `augment`.

    Returns:
      images uint8 [B, S, S, C], mixed_labels int32 [B] and weight float32 [].
    """
    batch_size, size = images.shape[:2]
    draws = tf.random.stateless_uniform([4], _key(seed, HEAD_STREAM, _MIX, step), alg="philox")
    shift = 1 + tf.cast(draws[0] * (batch_size - 1), tf.int32)
    others, mixed_labels = tf.roll(images, shift, axis=0), tf.roll(labels, shift, axis=0)
    if "mixup" in parts_of(name):
        weight = draws[1]
        blend = weight * tf.cast(images, tf.float32) + (1 - weight) * tf.cast(others, tf.float32)
        return round_to_uint8(blend), mixed_labels, weight
    half = 0.5 * tf.sqrt(1 - draws[1]) * size
    line = tf.range(size, dtype=tf.float32) + 0.5
    rows, columns = (tf.abs(line - draw * size) < half for draw in (draws[2], draws[3]))
    pasted = tf.logical_and(rows[:, tf.newaxis], columns)
    # The rectangle is cut at the border, so the weight is what is left, not what was drawn.
    weight = 1 - tf.reduce_mean(tf.cast(pasted, tf.float32))
    return tf.where(pasted[tf.newaxis, :, :, tf.newaxis], others, images), mixed_labels, weight


def _key(seed: int, stream: int, purpose: int, step: tf.Tensor) -> tf.Tensor:
    """The seed int64 [2] of one kind of draw; no two of a run are equal."""
    return tf.stack([tf.constant((seed * 4 + stream) * 4 + purpose, tf.int64), step])


def _slice_of_draws(
    key: tf.Tensor, number: int, batch_size: int, shard: tuple[int, int] | None
) -> tf.Tensor:
    """Uniform [number, B] in [0, 1): this slice's columns of the whole batch's draws."""
    index, count = shard or (0, 1)
    uniform = tf.random.stateless_uniform([number, batch_size * count], key, alg="philox")
    return uniform[:, index * batch_size : (index + 1) * batch_size]
