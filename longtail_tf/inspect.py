"""Shows how long the tail of a data set is and what each head setting would cost, before training.

    python -m longtail_tf.inspect --data=digits_lt
    python -m longtail_tf.inspect --data=folder:photos --png=tail.png
    python -m longtail_tf.inspect --data=csv:photos.csv --json > tail.json
    python -m longtail_tf.inspect --data=folder:photos --check --quarantine=bad.txt
    python -m longtail_tf.inspect --data=folder:photos --show_batch=batch.png

Reads labels only, no pixels, unless asked to check or show images. Prints the count curve, shot
bands, what the two batch streams would do (steps for one pass, repeats), head sets by each rule
with their share of the images and the bytes of their classifier, and a head setting to start from.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any, Optional

from longtail_tf.datasets import DatasetIndex, load_index
from longtail_tf.datasets.wording import plural
from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically
from longtail_tf.head_set import select_head
from longtail_tf.inspection.count_curve import count_curve_png
from longtail_tf.inspection.tail_report import tail_facts
from longtail_tf.inspection.tail_text import tail_text
from longtail_tf.runs.folder import provenance
from longtail_tf.runs.resolve import (
    SMALL_IMAGE_PX,
    usual_augment,
    usual_image_size,
    usual_side,
    usual_whole_batch,
)
from longtail_tf.settings import cli, setting
from longtail_tf.settings.choices import AUGMENTATIONS, MIXING_AUGMENTATIONS
from longtail_tf.settings.terminal import plain, plain_name, quoted


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Settings of `python -m longtail_tf.inspect`; those of training have the same names."""

    data: str = setting(
        "",
        "Data set: folder:PATH, csv:PATH, npz:PATH, tfrecord:GLOB, tfds:NAME or a built-in "
        "(digits_lt, fashion_mnist_lt, cifar10_lt, cifar100_lt), options as ?name=value&...",
    )
    exclude: str = setting("", "File that lists images to leave out, one path or row a line.")
    val_per_class: int = setting(
        20,
        "Where the set has no validation split, at most this many training images of each "
        "class are carved out for it; 0 carves none.",
        unit="images",
    )
    split_seed: int = setting(0, "Seed of the splits we cut ourselves.")
    classes_per_batch: Optional[int] = setting(
        None,
        "P: classes in a whole batch; unset: 16, or every class of a smaller set.",
        unit="classes",
    )
    images_per_class: int = setting(4, "K: images of each class in a whole batch.", unit="images")
    head_batch_size: int = setting(64, "Images in a head batch.", unit="images")
    embedding_dim: int = setting(128, "Length of an embedding.", unit="numbers")
    png: str = setting("", "Draw the count curve and the head settings into this file.")
    json: bool = setting(False, "Print JSON instead of text.")
    check: bool = setting(
        False,
        "Instead, read every image and report what ruins training: unreadable or odd files, "
        "duplicates, mixed-up labels.",
    )
    check_csv: str = setting("", "With --check, also write one line a finding into this CSV file.")
    quarantine: str = setting(
        "", "With --check, write the images to leave out into this file, for --exclude."
    )
    show_batch: str = setting(
        "", "Also draw one batch of each stream, as it is augmented, into this PNG file."
    )
    head_ratio: float = setting(0.2, "Head classes of --show_batch, a share of all.", unit="0..1")
    image_size: int = setting(
        0,
        "Side of the images of --show_batch; 0: the size of array data, 128 for files.",
        unit="px",
    )
    head_augment: str = setting(
        "auto",
        "Augmentation of the head stream in --show_batch.",
        choices=("auto", *AUGMENTATIONS, *MIXING_AUGMENTATIONS),
    )
    whole_augment: str = setting(
        "auto",
        "Augmentation of the whole stream in --show_batch.",
        choices=("auto", *AUGMENTATIONS),
    )


def run(config: InspectConfig) -> dict[str, Any]:
    """Prints the report on the data, draws it where asked, and returns its numbers.

    Raises:
      UserError: the data set cannot be read; with --check, also when it has faults that would stop
        or spoil a training, after the report.
    """
    if config.check:
        return _check(config)
    index = load_index(
        config.data,
        val_per_class=config.val_per_class,
        split_seed=config.split_seed,
        exclude=config.exclude,
    )
    # Before anything is printed: a head setting that does not work is no half a report.
    num_head = 0
    if config.show_batch:
        num_head = len(select_head(index.class_counts, ratio=config.head_ratio))
    facts = tail_facts(
        index.class_counts,
        name=index.name,
        splits=_split_sizes(index),
        classes_per_batch=config.classes_per_batch,
        images_per_class=config.images_per_class,
        head_batch_size=config.head_batch_size,
        embedding_dim=config.embedding_dim,
    )
    facts["notes"] = list(index.notes)
    facts["provenance"] = provenance(data_digest=index.digest, seed=config.split_seed)
    if config.png:
        write_atomically(config.png, count_curve_png(index.class_counts, facts))
    if config.json:
        print(json.dumps(facts, indent=2))
    else:
        text = tail_text(facts, index.class_counts, notes=index.notes, unicode=_shows_blocks())
        print(plain(text), end="")
        if config.png:
            print(f"\nwrote {plain_name(config.png)}")
    if config.show_batch:
        _show_batch(config, index, num_head)
        print(f"wrote {plain_name(config.show_batch)}", file=sys.stderr)
    return facts


def _check(config: InspectConfig) -> dict[str, Any]:
    from longtail_tf.inspection import check_report, dataset_check

    report = dataset_check.check_dataset(
        config.data, exclude=config.exclude, progress=_show_progress
    )
    content = check_report.report_json(report)
    print(json.dumps(content, indent=2) if config.json else plain(check_report.render_text(report)))
    if config.check_csv:
        check_report.write_csv(report, config.check_csv)
    if config.quarantine:
        count = check_report.write_quarantine(report, config.quarantine)
        print(
            f"{count:,} images listed in {plain_name(config.quarantine)}: train with "
            f"{quoted(f'--exclude={config.quarantine}')}",
            file=sys.stderr,
        )
    elif report.num_errors:
        raise UserError(
            f"{config.data} has {plural(report.num_errors, 'fault')}: repair them, or list the "
            "images to leave out with --quarantine=FILE and train with --exclude=FILE."
        )
    return content


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r\x1b[K{done:,} of {total:,} images read", end=end, file=sys.stderr, flush=True)


def _show_batch(config: InspectConfig, index: DatasetIndex, num_head: int) -> None:
    from longtail_tf.inspection.batch_preview import write_batch_preview

    is_files = index.image_shape is None
    side = usual_side(index)
    photos = is_files and side > SMALL_IMAGE_PX
    classes_per_batch, images_per_class = usual_whole_batch(
        config.classes_per_batch,
        config.images_per_class,
        num_classes=index.num_classes,
        quartile_count=index.quartile_count,
    )
    write_batch_preview(
        index,
        config.show_batch,
        num_head=num_head,
        image_size=usual_image_size(config.image_size, side, is_files=is_files),
        head_batch_size=config.head_batch_size,
        classes_per_batch=classes_per_batch,
        images_per_class=images_per_class,
        head_augment=usual_augment(config.head_augment, index.flip_is_valid, windows=photos),
        whole_augment=usual_augment(config.whole_augment, index.flip_is_valid, windows=photos),
    )


def _split_sizes(index: DatasetIndex) -> dict[str, int | None]:
    splits = {"train": index.train, "val": index.val, "test": index.test}
    return {name: None if split is None else len(split) for name, split in splits.items()}


def _shows_blocks() -> bool:
    """Whether standard output can encode block characters (a C locale cannot)."""
    try:
        "█┤".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def main() -> None:
    """Parses the command line and runs."""
    cli.launch(run, InspectConfig, __doc__)


if __name__ == "__main__":
    main()
