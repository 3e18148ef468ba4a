"""`load_index`: from a data spec to an index."""

from __future__ import annotations

import dataclasses
from typing import Any

from longtail_tf.datasets.build import build_index
from longtail_tf.datasets.exclusion import exclude as exclude_listed
from longtail_tf.datasets.index import DatasetIndex, Source
from longtail_tf.datasets.sources import (
    arrayrecord,
    builtin,
    csv_file,
    folder,
    npz_file,
    tfds,
    tfrecord,
)
from longtail_tf.datasets.spec import COMMON_OPTIONS, parse_spec

_SOURCES: dict[str, Any] = {
    "arrayrecord": arrayrecord,
    "csv": csv_file,
    "folder": folder,
    "npz": npz_file,
    "tfds": tfds,
    "tfrecord": tfrecord,
}


def load_source(spec: str) -> tuple[Source, dict[str, Any]]:
    """Reads the source that a data spec names, and the options of the spec.

    The source is as it comes: it may have one class only, or classes without training images.
    """
    parsed = parse_spec(spec, kinds=tuple(_SOURCES), names=builtin.NAMES)
    if parsed.path:
        module = _SOURCES[parsed.kind]
        options = parsed.options({**COMMON_OPTIONS, **module.OPTIONS})
        source = module.read(parsed.path, options)
    else:
        factor = COMMON_OPTIONS["imbalance_factor"]._replace(
            default=builtin.DEFAULT_IMBALANCE_FACTOR[parsed.kind]
        )
        options = parsed.options({**COMMON_OPTIONS, "imbalance_factor": factor, **builtin.OPTIONS})
        source = builtin.read(parsed.kind, options)
    if options["flip"] is not None:
        source = dataclasses.replace(source, flip_is_valid=options["flip"])
    return source, options


def load_index(
    spec: str, *, val_per_class: int = 20, split_seed: int = 0, exclude: str = ""
) -> DatasetIndex:
    """Reads the index of a data set; pixels are read later, row by row.

    Args:
      spec: `folder:PATH`, `csv:PATH`, `npz:PATH`, `tfrecord:GLOB`, `arrayrecord:GLOB`,
        `tfds:NAME`, or a built-in name, each with options as a query:
        `fashion_mnist_lt?imbalance_factor=100&seed=0`. Every spec understands imbalance_factor
        and seed (a long-tailed cut of the training split), test_fraction (held out where there
        is no test split, default 0.2), untrained=drop (leave out classes without training
        images) and flip (whether mirrored images are valid).
      val_per_class: where the source has no validation split, a tenth of each class but at most
        this many images become one; 0 takes none.
      split_seed: chooses the held-out images.
      exclude: path of a list of images to leave out.

    Raises:
      UserError: the spec, the files or the labels are wrong; the sentence says how to fix it.
    """
    source, options = load_source(spec)
    if exclude:
        source = exclude_listed(source, exclude)
    return build_index(
        source,
        val_per_class=val_per_class,
        split_seed=split_seed,
        test_fraction=options["test_fraction"],
        imbalance_factor=options["imbalance_factor"],
        seed=options["seed"],
        untrained=options["untrained"],
    )
