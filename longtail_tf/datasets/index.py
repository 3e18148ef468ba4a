"""`DatasetIndex`: what training needs to know of a data set before it reads any pixel."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from longtail_tf.datasets.split import ImageStore, Split
from longtail_tf.datasets.string_table import StringTable

TRAIN, VAL, TEST, UNUSED = 0, 1, 2, 255
SPLIT_NAMES = ("train", "val", "test")
_SPLIT_ALIASES = {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}


def split_code(name: str) -> int | None:
    """The code of a split by any of its common names; None where the name is none of them."""
    name = name.strip().lower()
    name = _SPLIT_ALIASES.get(name, name)
    return SPLIT_NAMES.index(name) if name in SPLIT_NAMES else None


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A data set as its source gives it, before classes are renumbered and splits completed.

    Attributes:
      name: short name for reports.
      class_names: table of C names; class ids are positions in it. Sources whose labels are
        numbers keep their order, sources whose labels are names sort them.
      labels: int32 [N] class id of every row.
      split: uint8 [N] of TRAIN, VAL, TEST or UNUSED.
      store: where the images of the N rows lie.
      content: digest of the images (bytes, or relative paths and sizes).
      image_shape: (H, W, C) of arrays, None for encoded images.
      channels: 1 or 3.
      flip_is_valid: whether a mirrored image still shows its class.
      notes: sentences on what was skipped or assumed.
      skipped: class name -> what was skipped in its folder, for classes that have no image.
      faults: (kind, path) of entries that were skipped and should not be there; the kinds are
        those of a data set check.
    """

    name: str
    class_names: StringTable
    labels: np.ndarray
    split: np.ndarray
    store: ImageStore
    content: bytes
    image_shape: tuple[int, int, int] | None
    channels: int
    flip_is_valid: bool
    notes: tuple[str, ...] = ()
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    faults: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetIndex:
    """Labels and the place of every image; never the pixels of a data set that is not an array.

    Attributes:
      name: short name for reports.
      digest: sha256 in hex of labels, splits and content; the same wherever the data lies.
      class_names: class id -> name. Ids fall by training count, so that the head classes are
        0 .. num_head - 1; classes of equal count keep the order of the source.
      class_counts: int64 [C] training images of each class, without the validation images.
      train: training images.
      val: validation images, None where there are none.
      test: test images, None where there are none.
      image_shape: (H, W, C) of arrays, None for encoded images.
      channels: 1 or 3.
      flip_is_valid: False for digits, characters and grey arrays of unknown kind.
      notes: sentences on what was skipped, held out or assumed; entry points print them.
      times: digest in hex of when the files were last written; empty where `digest` is of their
        contents.
    """

    name: str
    digest: str
    class_names: StringTable
    class_counts: np.ndarray
    train: Split
    val: Split | None
    test: Split | None
    image_shape: tuple[int, int, int] | None
    channels: int
    flip_is_valid: bool
    notes: tuple[str, ...] = ()
    times: str = ""

    @property
    def quartile_count(self) -> int:
        """Training images that three quarters of the classes have at least."""
        return int(self.class_counts[3 * (self.num_classes - 1) // 4])

    @property
    def num_classes(self) -> int:
        """Number of classes, each with at least one training image."""
        return len(self.class_counts)


def array_digest(*arrays: np.ndarray) -> bytes:
    """The sha256 digest of the shapes and little-endian contents of `arrays`.

    Whole numbers count by value: int32 and int64 arrays of equal numbers have one digest.
    """
    digest = hashlib.sha256(repr([array.shape for array in arrays]).encode())
    for array in arrays:
        flat = array.reshape(-1)
        if array.dtype == np.uint8:
            digest.update(np.ascontiguousarray(flat).data)
            continue
        # In pieces: a 64-bit copy of ten million labels would be 80 MB.
        for begin in range(0, len(flat), 1 << 20):
            digest.update(flat[begin : begin + (1 << 20)].astype("<i8").data)
    return digest.digest()


def times_digest(times_ns: Sequence[int]) -> bytes:
    """The sha256 digest of when each file was last written, int64 [N] nanoseconds.

    Unlike the digest of an index it differs between copies of a data set, unless they keep times.
    """
    return hashlib.sha256(np.asarray(times_ns, "<i8").tobytes()).digest()
