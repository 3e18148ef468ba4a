"""Shows how long the tail of a data set is and what each head setting would cost, before training.

    python -m longtail_tf.inspect --data=digits_lt
    python -m longtail_tf.inspect --data=folder:photos --png=tail.png
    python -m longtail_tf.inspect --data=csv:photos.csv --json > tail.json

Reads labels only, no pixels. Prints the count curve, shot bands, what the two batch streams would
do (steps for one pass, repeats), head sets by each rule with their share of the images and the
bytes of their classifier, and a head setting to start from.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any, Optional

from longtail_tf import cli
from longtail_tf.count_curve import count_curve_png
from longtail_tf.datasets import DatasetIndex, load_index
from longtail_tf.errors import UserError
from longtail_tf.run_folder import provenance, write_atomically
from longtail_tf.settings import setting
from longtail_tf.tail_report import tail_facts
from longtail_tf.tail_text import tail_text


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Settings of `python -m longtail_tf.inspect`; those of training have the same names."""

    data: str = setting(
        "", "Data set: folder:PATH, csv:PATH, npz:PATH, tfrecord:GLOB, tfds:NAME or a built-in "
        "(digits_lt, fashion_mnist_lt, cifar10_lt, cifar100_lt), options as ?name=value&...",
    )  # fmt: skip
    exclude: str = setting("", "File that lists images to leave out, one path or row a line.")
    val_per_class: int = setting(
        20, "Where the set has no validation split, at most this many training images of each "
        "class are carved out for it; 0 carves none.", unit="images")  # fmt: skip
    split_seed: int = setting(0, "Seed of the splits we cut ourselves.")
    classes_per_batch: Optional[int] = setting(
        None, "P: classes in a whole batch; unset: 16, or every class of a smaller set.",
        unit="classes")  # fmt: skip
    images_per_class: int = setting(4, "K: images of each class in a whole batch.", unit="images")
    head_batch_size: int = setting(64, "Images in a head batch.", unit="images")
    embedding_dim: int = setting(128, "Length of an embedding.", unit="numbers")
    png: str = setting("", "Draw the count curve and the head settings into this file.")
    json: bool = setting(False, "Print JSON instead of text.")


def run(config: InspectConfig) -> dict[str, Any]:
    """Prints the report on the data, draws it where asked, and returns its numbers."""
    index = load_index(
        config.data,
        val_per_class=config.val_per_class,
        split_seed=config.split_seed,
        exclude=config.exclude,
    )
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
        _write_png(config.png, count_curve_png(index.class_counts, facts))
    if config.json:
        print(json.dumps(facts, indent=2))
    else:
        text = tail_text(facts, index.class_counts, notes=index.notes, unicode=_shows_blocks())
        print(text, end="")
        if config.png:
            print(f"\nwrote {config.png}")
    return facts


def _split_sizes(index: DatasetIndex) -> dict[str, int | None]:
    splits = {"train": index.train, "val": index.val, "test": index.test}
    return {name: None if split is None else len(split) for name, split in splits.items()}


def _write_png(path: str, image: bytes) -> None:
    try:
        write_atomically(pathlib.Path(path), image)
    except OSError as error:
        raise UserError(
            f"--png={path} cannot be written ({error.strerror}); name a file in a folder where you "
            "may write."
        ) from error


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
