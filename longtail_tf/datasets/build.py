"""From a source to an index: held-out images, the long-tailed cut, class numbers, the digest."""

from __future__ import annotations

import hashlib

import numpy as np

from longtail_tf.datasets.class_names import with_plain_names
from longtail_tf.datasets.file_store import FileStore
from longtail_tf.datasets.index import (
    SPLIT_NAMES,
    TEST,
    TRAIN,
    UNUSED,
    VAL,
    DatasetIndex,
    Source,
    array_digest,
)
from longtail_tf.datasets.long_tail import (
    count_classes,
    draw_per_class,
    long_tailed_rows,
    rows_where,
)
from longtail_tf.datasets.split import Split
from longtail_tf.datasets.string_table import StringTable
from longtail_tf.datasets.wording import listing, plural
from longtail_tf.errors import UserError


def build_index(
    source: Source,
    *,
    val_per_class: int = 20,
    split_seed: int = 0,
    test_fraction: float = 0.2,
    imbalance_factor: float = 1.0,
    seed: int = 0,
    untrained: str = "error",
) -> DatasetIndex:
    """Completes the splits of a source and numbers its classes by falling training count.

    Args:
      source: the data set as read.
      val_per_class: validation images to take from each training class at most, where the source
        has no validation split; 0 takes none.
      split_seed: chooses the held-out test and validation images.
      test_fraction: share of each class held out where the source has no test split; 0 holds out
        none.
      imbalance_factor: cuts the training split long-tailed by this factor; 1 leaves it.
      seed: chooses the images of the long-tailed cut.
      untrained: what becomes of classes without training images: `error` or `drop`.

    Raises:
      UserError: the data cannot be trained on, or a setting is out of range.
    """
    if val_per_class < 0:
        raise UserError(f"val_per_class={val_per_class} is negative; give 0 for no validation set")
    if not 0 <= test_fraction < 1:
        raise UserError(
            f"test_fraction={test_fraction:g} is no share; give 0 (no test set) to less than 1"
        )
    source = with_plain_names(source)
    labels, num_classes = source.labels, len(source.class_names)
    split, notes = source.split.copy(), list(source.notes)
    if not (split != UNUSED).any():
        raise UserError(f"the data set {source.name} has no image; look at its path and its splits")
    if not (split == TRAIN).any():
        names = [SPLIT_NAMES[code] for code in np.unique(split[split != UNUSED])]
        raise UserError(
            f"the data set {source.name} has no training image, only images for "
            f"{' and '.join(names)}; give training images too, and look at how its splits are named"
        )
    if test_fraction and not (split == TEST).any():
        notes += _hold_out_test(labels, split, num_classes, test_fraction, split_seed)
    if imbalance_factor != 1:
        rows = rows_where(split, TRAIN)
        kept = long_tailed_rows(
            labels,
            num_classes=num_classes,
            imbalance_factor=imbalance_factor,
            seed=seed,
            rows=rows,
            by_count=True,
        )
        split[rows] = UNUSED
        split[kept] = TRAIN
        left = count_classes(labels, rows=kept, num_classes=num_classes)
        left = left[left > 0]
        notes.append(
            f"The training split is cut long-tailed by {imbalance_factor:g} (seed {seed}): "
            f"{plural(len(kept), 'image')} of {len(rows):,} stay, {left.max():,} to "
            f"{left.min():,} a class."
        )
    counts = count_classes(labels, rows=rows_where(split, TRAIN), num_classes=num_classes)
    notes += _handle_untrained(source, split, counts, untrained)
    if val_per_class and not (split == VAL).any():
        notes += _carve_validation(labels, split, counts, val_per_class, split_seed)
        counts = count_classes(labels, rows=rows_where(split, TRAIN), num_classes=num_classes)
    _check_trainable(source, counts)
    return _number(source, split, counts, tuple(notes))


def _hold_out_test(
    labels: np.ndarray, split: np.ndarray, num_classes: int, fraction: float, seed: int
) -> list[str]:
    rows = rows_where(split, TRAIN)
    counts = count_classes(labels, rows=rows, num_classes=num_classes)
    wanted = np.minimum(np.floor(fraction * counts + 0.5), np.maximum(counts - 1, 0))
    # A seed of its own, so that test and validation images are not drawn by one random order.
    chosen = draw_per_class(labels, wanted.astype(np.int64), seed=seed + 2**32, rows=rows)
    split[chosen] = TEST
    without = int(np.sum((counts > 0) & (wanted == 0)))
    if not len(chosen):
        return ["There is no test split, and no class has enough images to hold any out."]
    return [
        f"There is no test split: {plural(len(chosen), 'image')} ({fraction:.0%} of each class, "
        f"split_seed {seed}) are held out as one; {plural(without, 'class', 'classes')} too small "
        "for that have no test image."
    ]


def _carve_validation(
    labels: np.ndarray, split: np.ndarray, counts: np.ndarray, most: int, seed: int
) -> list[str]:
    # A class of one to four images gives none, so no class gives its last.
    wanted = np.minimum(np.floor(0.1 * counts + 0.5).astype(np.int64), most)
    chosen = draw_per_class(labels, wanted, seed=seed, rows=rows_where(split, TRAIN))
    split[chosen] = VAL
    if not len(chosen):
        return ["There is no validation split, and no class has enough images to take one from."]
    return [
        f"There is no validation split: {plural(len(chosen), 'training image')} (a tenth of each "
        f"class, {most} at most, split_seed {seed}) are taken as one."
    ]


def _handle_untrained(
    source: Source, split: np.ndarray, counts: np.ndarray, untrained: str
) -> list[str]:
    missing = np.flatnonzero(counts == 0)
    if not len(missing):
        return []
    elsewhere = np.bincount(source.labels[split != UNUSED], minlength=len(counts))[missing] > 0
    if untrained == "drop":
        dropped = np.isin(source.labels, missing) & (split != UNUSED)
        split[dropped] = UNUSED
        return [
            f"{plural(len(missing), 'class', 'classes')} without training images and their "
            f"{plural(int(dropped.sum()), 'validation or test image')} are left out: "
            f"{listing(source.class_names.take(missing))}."
        ]
    what = []
    for ids, where in (
        (missing[elsewhere], "only validation or test images"),
        (missing[~elsewhere], "no image at all"),
    ):
        if len(ids):
            names = listing([_with_skipped(source, name) for name in source.class_names.take(ids)])
            what.append(f"{plural(len(ids), 'class', 'classes')} ({names}) with {where}")
    raise UserError(
        f"the data set {source.name} has {' and '.join(what)}; add training images of them, "
        "or leave the classes out with the option untrained=drop in the data spec"
    )


def _with_skipped(source: Source, name: str) -> str:
    skipped = source.skipped.get(name)
    return f"{name}: {skipped} skipped" if skipped else name


def _check_trainable(source: Source, counts: np.ndarray) -> None:
    trained = counts > 0
    if trained.sum() < 2:
        raise UserError(
            f"the data set {source.name} has training images of one class only "
            f"({listing(source.class_names.take(np.flatnonzero(trained)))}); "
            "give images of at least two classes"
        )
    if counts.max() < 2:
        raise UserError(
            f"the data set {source.name} has {plural(int(counts.sum()), 'training image')}, one "
            f"in each class, so no two images show the same thing; give at least two images of "
            "some class"
        )


def _number(
    source: Source, split: np.ndarray, counts: np.ndarray, notes: tuple[str, ...]
) -> DatasetIndex:
    order = np.argsort(-counts, kind="stable")
    order = order[: int((counts > 0).sum())]
    new_ids = np.full(len(counts), -1, np.int32)
    new_ids[order] = np.arange(len(order), dtype=np.int32)
    class_names = source.class_names.take(order)
    return DatasetIndex(
        name=source.name,
        digest=_digest(source, split),
        class_names=class_names,
        class_counts=counts[order].astype(np.int64),
        train=_split_of(source, split, TRAIN, new_ids) or _empty(source),
        val=_split_of(source, split, VAL, new_ids),
        test=_split_of(source, split, TEST, new_ids),
        image_shape=source.image_shape,
        channels=source.channels,
        flip_is_valid=source.flip_is_valid,
        notes=notes,
        times=source.store.times.hex() if isinstance(source.store, FileStore) else "",
    )


def _split_of(source: Source, split: np.ndarray, code: int, new_ids: np.ndarray) -> Split | None:
    rows = rows_where(split, code)
    if not len(rows):
        return None
    if len(rows) == len(split):
        return Split(new_ids[source.labels], source.store)
    labels = np.empty(len(rows), np.int32)
    for part in range(0, len(rows), 1 << 20):  # in pieces, to need no second column
        labels[part : part + (1 << 20)] = new_ids[source.labels[rows[part : part + (1 << 20)]]]
    return Split(labels, source.store, rows)


def _empty(source: Source) -> Split:
    return Split(np.zeros(0, np.int32), source.store, np.zeros(0, np.int32))


def _digest(source: Source, split: np.ndarray) -> str:
    names: StringTable = source.class_names
    arrays = array_digest(names.offsets, names.data, source.labels, split)
    return hashlib.sha256(b"longtail_tf index 1\0" + source.content + arrays).hexdigest()
