"""`tfds:NAME`: a prepared TensorFlow Datasets builder, read from its shards at random."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from longtail_tf.datasets.index import Source, split_code
from longtail_tf.datasets.sources import arrayrecord, tfrecord
from longtail_tf.datasets.spec import Option
from longtail_tf.datasets.string_table import StringTable
from longtail_tf.datasets.wording import listing
from longtail_tf.errors import UserError

OPTIONS: Mapping[str, Option] = {
    "data_dir": Option(""),
    "image_key": Option("image"),
    "label_key": Option("label"),
    "train": Option("", str),
    "val": Option("", str),
    "test": Option("", str),
}


def read(name: str, options: Mapping[str, Any]) -> Source:
    """Finds the shards of a prepared builder; nothing is downloaded.

    Args:
      name: as `tfds.builder` takes it (`cifar10`, `imagenet2012/subset:5.1.0`), or the folder of
        a prepared version.
      options: data_dir where the builders lie; image_key and label_key; and `train`, `val` and
        `test`, the names of the builder's splits where those are others (`val=validation_100`).
    """
    builder = _builder(name, options["data_dir"])
    splits = builder.info.splits
    paths: list[str] = []
    codes: list[int] = []
    for split_name, code in _split_codes(name, list(splits), options).items():
        split_paths = [os.fspath(path) for path in splits[split_name].filepaths]
        paths += split_paths
        codes += [code] * len(split_paths)
    features = builder.info.features
    _check_features(name, features, options)
    formats = {"tfrecord": tfrecord, "array_record": arrayrecord}
    file_format = builder.info.file_format.value
    if file_format not in formats:
        raise UserError(
            f"the TFDS data set {name} is stored as {file_format}, which cannot be read at random; "
            "prepare it with file_format tfrecord or array_record"
        )
    channels = int(features[options["image_key"]].shape[-1] or 3)
    if channels not in (1, 3):
        raise UserError(
            f"the TFDS data set {name} has images of {channels} channels; give a data set of grey "
            "or colour images"
        )
    source = formats[file_format].source_of_shards(
        paths,
        np.array(codes, np.uint8),
        keys={
            "image_key": options["image_key"],
            "label_key": options["label_key"],
            "text_key": "",
        },
        channels=channels,
        name=builder.info.name,
    )
    return _with_names(source, getattr(features[options["label_key"]], "names", None))


def _builder(name: str, data_dir: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"tfds:{name} needs tensorflow-datasets, which cannot be imported ({error}); "
            "install it with pip install tensorflow-datasets"
        ) from error
    where = data_dir or "the default folder of TFDS"
    try:
        if os.path.isdir(name):
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.builder(name, try_gcs=False, data_dir=data_dir or None)
    except Exception as error:  # TFDS has errors of many kinds for an unknown name
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"TFDS finds no data set {name} in {where} ({reason}); check the name with "
            "`tfds build --help`, or pass ?data_dir=DIR or the folder of a prepared version"
        ) from error
    if not os.path.isdir(os.fspath(builder.data_dir)) or not builder.info.splits:
        raise UserError(
            f"the TFDS data set {name} is not prepared in {where}; run "
            f"`tfds build {name}` once, and pass ?data_dir=DIR if it lies elsewhere"
        )
    return builder


def _split_codes(name: str, present: list[str], options: Mapping[str, Any]) -> dict[str, int]:
    """The code of each split of the builder that is used."""
    codes: dict[str, int] = {}
    for code, ours in enumerate(("train", "val", "test")):
        wanted = options[ours]
        if wanted:
            if wanted not in present:
                raise UserError(
                    f"the TFDS data set {name} has no split {wanted!r}, only {listing(present)}; "
                    f"correct {ours}={wanted} in the data spec"
                )
            codes[wanted] = code
            continue
        for split_name in present:
            if split_code(split_name) == code and split_name not in codes:
                codes[split_name] = code
    if not any(code == 0 for code in codes.values()):
        raise UserError(
            f"the TFDS data set {name} has no training split among {listing(present)}; "
            "name it with ?train=SPLIT in the data spec"
        )
    return codes


def _check_features(name: str, features: Any, options: Mapping[str, Any]) -> None:
    for option in ("image_key", "label_key"):
        if options[option] not in features:
            raise UserError(
                f"the TFDS data set {name} has no feature {options[option]!r}, only "
                f"{listing(list(features), 8)}; name it with ?{option}=NAME in the data spec"
            )


def _with_names(source: Source, names: list[str] | None) -> Source:
    """The source with the builder's class names; its class ids are the positions in `names`."""
    if not names:
        return source
    ids = np.array([int(label) for label in source.class_names], np.int32)
    return dataclasses.replace(
        source, class_names=StringTable.from_strings(names), labels=ids[source.labels]
    )
