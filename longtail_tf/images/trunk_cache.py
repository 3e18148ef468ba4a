"""What a frozen trunk makes of each image, computed once: several views an image, float16, on disk.

A trunk that stands still gives the same output for the same picture, so its part of every train
step can be done before the first one: view 0 of an image is the picture as it is, views 1 to V are
augmented, each by its own seeded draw. Training then draws images and views, and runs only the top.

    FOLDER/<key>/facts.json      what the outputs are of: data, weights, cut, size, views, seed
    FOLDER/<key>/outputs.f16     float16 [1 + V, N, ...], memory-mapped
    FOLDER/<key>/sources.i64     int64 [1 + V, N], the image each one shows (bad ones are replaced)
    FOLDER/<key>/done.json       batches that are whole, from which an interrupted filling goes on
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from longtail_tf.datasets import Split
from longtail_tf.errors import UserError
from longtail_tf.files import write_json
from longtail_tf.images.pipeline import plain_errors, training_streams

FORMAT_VERSION = 2
FILL_BATCH_SIZE = 64
FLUSH_SECONDS = 10.0
LARGEST = np.finfo(np.float16).max
_OUTPUTS_COMPARED = 32
_CLOSE = 0.01  # share of the largest: rounding leaves a hundredth of that

# (images done, images in all) -> None
ShowProgress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class TrunkCache:
    """Trunk outputs of one split.

    Attributes:
      outputs: float16 [1 + V, N, ...], memory-mapped; view 0 is not augmented.
      sources: int64 [1 + V, N], row of the image that each output shows.
      labels: int32 [N].
      rows: int64 [M], the images that count, in this order; None: all.
    """

    outputs: np.ndarray
    sources: np.ndarray
    labels: np.ndarray
    rows: np.ndarray | None = None

    @property
    def views(self) -> int:
        """V, augmented views of an image; 0: only the picture as it is."""
        return len(self.outputs) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one output: (h, w, c) or (D,)."""
        return self.outputs.shape[2:]

    def read(self, rows: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs float16 [B, ...] of images `rows` in `views`, and int64 [B] what they show."""
        rows = rows if self.rows is None else self.rows[rows]
        return self.outputs[views, rows], self.sources[views, rows]

    def plain_batches(
        self, batch_size: int, rows: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images as they are, all or `rows`, in order: (outputs [<= batch_size, ...], labels)."""
        if rows is None:
            rows = np.arange(len(self.labels if self.rows is None else self.rows))
        for begin in range(0, len(rows), batch_size):
            part = rows[begin : begin + batch_size]
            outputs, sources = self.read(part, np.zeros(len(part), np.int64))
            yield outputs, self.labels[sources]

    def of(self, rows: np.ndarray) -> TrunkCache:
        """The cache of images `rows` alone."""
        return dataclasses.replace(self, rows=rows if self.rows is None else self.rows[rows])

    def through(self, function: Callable[[tf.Tensor], tf.Tensor]) -> TrunkCache:
        """The cache of what `function` makes of each output, in memory: vectors of maps, say."""
        run = tf.function(
            lambda batch: _as_float16(function(tf.cast(batch, tf.float32))),
            input_signature=[tf.TensorSpec([None, *self.shape], tf.float16)],
        )
        flat = self.outputs.reshape(-1, *self.shape)
        parts = [
            run(flat[begin : begin + FILL_BATCH_SIZE]).numpy()
            for begin in range(0, len(flat), FILL_BATCH_SIZE)
        ]
        made = np.concatenate(parts)
        outputs = made.reshape(*self.outputs.shape[:2], *made.shape[1:])
        return dataclasses.replace(self, outputs=outputs)


def cache_bytes(num_images: int, views: int, shape: tuple[int, ...]) -> int:
    """Bytes on disk of the outputs of `num_images` images in 1 + `views` views."""
    return (1 + views) * num_images * (2 * int(np.prod(shape)) + 8)


def weights_digest(model: tf.keras.Model) -> str:
    """SHA-256 in hex of a network's weights, in order."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _of_a_picture(trunk: tf.keras.Model, *, image_size: int, channels: int) -> list[float]:
    """Some of the outputs for one picture of noise, float16."""
    noise = np.random.default_rng(0).integers(0, 256, (1, image_size, image_size, channels))
    outputs = _as_float16(trunk(tf.constant(noise, tf.float32), training=False)).numpy().ravel()
    some = outputs[:: max(1, outputs.size // _OUTPUTS_COMPARED)][:_OUTPUTS_COMPARED]
    return np.nan_to_num(some).tolist()  # JSON has no NaN


def cached_outputs(
    trunk: tf.keras.Model,
    split: Split,
    *,
    folder: pathlib.Path,
    data_digest: str,
    split_name: str,
    image_size: int,
    channels: int,
    views: int,
    augment: str,
    seed: int,
    max_bad_share: float,
    show_progress: ShowProgress | None = None,
) -> TrunkCache:
    """The outputs of `trunk` for a split: those in `folder` where they fit, else made there.

    Args:
      trunk: images [B, S, S, C] in 0..255 -> [B, ...]; stands still.
      split: the images.
      folder: where caches lie; each has a folder of its own named by what it is of.
      data_digest: of the data set.
      split_name: "train" or "val".
      image_size: S, px.
      channels: C.
      views: V, augmented views of each image beside the picture as it is.
      augment: name of the augmentation of the views.
      seed: of the views.
      max_bad_share: 0..1, stop when more of the images cannot be read; fewer are replaced by
        another of their class.
      show_progress: called with (images done, images in all) now and then.

    Raises:
      UserError: the disk is full, another process fills the same cache, or the files in its place
        are of something else.
    """
    shape = tuple(int(size) for size in trunk.output_shape[1:])
    facts = {
        "format_version": FORMAT_VERSION,
        "data_digest": data_digest,
        "split": split_name,
        "images": len(split),
        "trunk": weights_digest(trunk),
        "shape": list(shape),
        "image_size": image_size,
        "channels": channels,
        "views": views,
        "augment": augment if views else "none",
        "seed": seed if views else 0,
        "batch_size": FILL_BATCH_SIZE,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    # Not in the name, as other threads give other last bits. It tells networks apart whose weights
    # are the same: fed other pixels, of other layers, or a SavedModel, which shows no weights.
    facts["of_a_picture"] = _of_a_picture(trunk, image_size=image_size, channels=channels)
    place = pathlib.Path(folder) / f"{split_name}-{key}"
    place.mkdir(parents=True, exist_ok=True)
    with _held(place):
        _check_facts(place, facts)
        outputs, sources = _arrays(place, views=views, num_images=len(split), shape=shape)
        cache = TrunkCache(outputs, sources, split.labels.astype(np.int32))
        write_json(place / "facts.json", facts)
        _fill(
            cache,
            trunk,
            split,
            place=place,
            streams={"plain": "none", **({"views": augment} if views else {})},
            image_size=image_size,
            channels=channels,
            seed=seed,
            max_bad_share=max_bad_share,
            show_progress=show_progress or (lambda done, total: None),
        )
    return cache


class _Batches:
    """Rows of batch b of the filling: every image in order, `views` times; the last one wraps."""

    batch_size = FILL_BATCH_SIZE

    def __init__(self, num_images: int, views: int) -> None:
        self._num_images, self.views = num_images, views
        self.count = -(-num_images // self.batch_size) * views

    def place(self, batch: int) -> tuple[int, slice]:
        """Which of the views, from 0, and which images are in a batch."""
        begin = batch // self.views * self.batch_size
        return batch % self.views, slice(begin, min(begin + self.batch_size, self._num_images))

    def batch(self, step: int, *, shard: Any = None) -> np.ndarray:
        """Rows int64 [B]."""
        begin = step // self.views * self.batch_size
        return (np.arange(begin, begin + self.batch_size) % self._num_images).astype(np.int64)


def _fill(
    cache: TrunkCache,
    trunk: tf.keras.Model,
    split: Split,
    *,
    place: pathlib.Path,
    streams: dict[str, str],
    image_size: int,
    channels: int,
    seed: int,
    max_bad_share: float,
    show_progress: ShowProgress,
) -> None:
    """Computes what is not yet done: first every picture as it is, then its views."""
    done = _read_done(place)
    run = tf.function(
        lambda images: _as_float16(trunk(tf.cast(images, tf.float32), training=False)),
        input_signature=[tf.TensorSpec([None, image_size, image_size, channels], tf.uint8)],
    )
    todo = {name: _Batches(len(split), 1 if name == "plain" else cache.views) for name in streams}
    total = len(split) * (1 + cache.views)
    finished = sum(
        min(done.get(name, 0) * FILL_BATCH_SIZE, len(split) * batches.views)
        for name, batches in todo.items()
    )
    saved_at = time.monotonic()
    for name, batches in todo.items():
        begin = done.get(name, 0)
        if begin >= batches.count:
            continue
        stream = training_streams(
            split,
            whole_sampler=batches,
            image_size=image_size,
            channels=channels,
            whole_augment=streams[name],
            seed=seed,
            start_step=begin,
            cache_bytes=0,
            max_bad_share=max_bad_share,
        )
        first_view = 0 if name == "plain" else 1
        with plain_errors():
            for number, batch in enumerate(stream.take(batches.count - begin), begin):
                images, _, rows = batch["whole"]
                view, part = batches.place(number)
                size = part.stop - part.start
                cache.outputs[first_view + view, part] = run(images).numpy()[:size]
                cache.sources[first_view + view, part] = rows.numpy()[:size]
                done[name] = number + 1
                finished += size
                show_progress(finished, total)
                if time.monotonic() - saved_at > FLUSH_SECONDS:
                    _save_done(place, cache, done)
                    saved_at = time.monotonic()
        _save_done(place, cache, done)


def _as_float16(outputs: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.cast(outputs, tf.float32), -LARGEST, LARGEST), tf.float16)


def _read_done(place: pathlib.Path) -> dict[str, int]:
    """Whole batches of each stream; a damaged note means none."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        content = json.loads((place / "done.json").read_text(encoding="utf-8"))
        return {str(name): max(int(count), 0) for name, count in content.items()}
    return {}


def _save_done(place: pathlib.Path, cache: TrunkCache, done: dict[str, int]) -> None:
    for array in (cache.outputs, cache.sources):
        if isinstance(array, np.memmap):
            array.flush()
    write_json(place / "done.json", done)


def _arrays(
    place: pathlib.Path, *, views: int, num_images: int, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The two memory-mapped arrays; their room on the disk is taken before anything is computed."""
    parts: dict[pathlib.Path, tuple[np.dtype[Any], tuple[int, ...]]] = {
        place / "outputs.f16": (np.dtype(np.float16), (1 + views, num_images, *shape)),
        place / "sources.i64": (np.dtype(np.int64), (1 + views, num_images)),
    }
    try:
        for path, (dtype, whole) in parts.items():
            size = int(np.prod(whole)) * dtype.itemsize
            if not path.is_file() or path.stat().st_size != size:
                (place / "done.json").unlink(missing_ok=True)
                _reserve(path, size)
    except UserError:  # the room that one of them took is of no use without the other
        for path in parts:
            path.unlink(missing_ok=True)
        raise
    outputs, sources = (
        np.memmap(path, dtype, "r+", shape=whole) for path, (dtype, whole) in parts.items()
    )
    return outputs, sources


def _reserve(path: pathlib.Path, size: int) -> None:
    """A file of `size` bytes that the disk can hold: a sparse one would end the process later."""
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"the outputs of the frozen trunk need {size / 2**20:,.0f} MB in {path.parent}, and "
            f"the disk has no room for them ({error.strerror}): free some, name a folder on "
            "another disk with --cache_dir, or lower --cached_views."
        ) from error


def _check_facts(place: pathlib.Path, facts: dict[str, Any]) -> None:
    path = place / "facts.json"
    if not path.exists():
        return
    before: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    is_close = False
    with contextlib.suppress(ValueError, TypeError):
        wanted, found = (np.array(each.get("of_a_picture"), float) for each in (facts, before))
        is_close = np.allclose(found, wanted, rtol=0.0, atol=_CLOSE * np.abs(wanted).max())
    before["of_a_picture"] = facts["of_a_picture"]
    if not is_close or before != facts:
        raise UserError(
            f"{place} holds trunk outputs of other data or settings, or of another network, than "
            "its name says: delete that folder, or name another one with --cache_dir."
        )


@contextlib.contextmanager
def _held(place: pathlib.Path) -> Iterator[None]:
    """Holds the cache for this process while it is filled."""
    with open(place / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{place} is being filled by another training: wait for it, or name another folder "
                "with --cache_dir."
            ) from None
        yield
