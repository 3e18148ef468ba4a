"""Images on their way to a server: read when needed, in batches of bounded size."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, Union

from longtail_tf.errors import UserError

Image = Union[bytes, str, "os.PathLike[str]"]  # encoded bytes, or the path of a file with them
_MAX_BATCH_BYTES = 16 * 2**20


def image_batches(images: Iterable[Image], size: int) -> Iterator[list[bytes]]:
    """Encoded images in lists of at most `size` and about `_MAX_BATCH_BYTES`."""
    batch: list[bytes] = []
    num_bytes = 0
    for image in images:
        raw = image if isinstance(image, bytes) else _read(image)
        if batch and (len(batch) == size or num_bytes + len(raw) > _MAX_BATCH_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(raw)
        num_bytes += len(raw)
    if batch:
        yield batch


def _read(path: Any) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"the image {path} cannot be read: {error.strerror}.") from error
