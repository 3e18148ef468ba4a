"""tfds: source on a tiny builder that the test prepares itself, without a network."""

from __future__ import annotations

import io
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from longtail_tf.datasets import load_index
from longtail_tf.errors import UserError

COUNTS = {"train": [9, 4, 2], "validation": [1, 1, 1], "test": [2, 2, 2], "extra": [1, 0, 0]}


def pixels(split, i):
    seed = list(COUNTS).index(split) * 1000 + i
    return np.random.default_rng(seed).integers(0, 256, (6, 5, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """{file format: folder}, each with the builder `tiny` prepared in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tfds = pytest.importorskip("tensorflow_datasets")

        class Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            code_path = None  # else TFDS wants importlib_resources, which it does not install

            def _info(self):
                features = tfds.features.FeaturesDict({
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["ant", "bee", "cow"]),
                })  # fmt: skip
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in COUNTS}

            def _generate_examples(self, split):
                labels = np.repeat(np.arange(3), COUNTS[split])
                for i, label in enumerate(labels):
                    yield i, {"image": pixels(split, i), "label": int(label)}

        folders = {}
        for file_format in ("tfrecord", "array_record"):
            folders[file_format] = str(tmp_path_factory.mktemp(file_format))
            builder = Tiny(data_dir=folders[file_format], file_format=file_format)
            builder.download_and_prepare()
    return folders


@pytest.fixture(autouse=True)
def quiet_tfds():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def images_by_label(split):
    images = split.read(np.arange(len(split)))
    return {
        int(label): {np.asarray(Image.open(io.BytesIO(images[i]))).tobytes()
                     for i in np.flatnonzero(split.labels == label)}
        for label in np.unique(split.labels)
    }  # fmt: skip


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_prepared_builder(prepared, file_format):
    index = load_index(f"tfds:tiny?data_dir={prepared[file_format]}")
    assert index.name == "tiny" and list(index.class_names) == ["ant", "bee", "cow"]
    assert list(index.class_counts) == [9, 4, 2] and index.channels == 3 and index.train.encoded
    for split, name in ((index.train, "train"), (index.val, "validation"), (index.test, "test")):
        labels = np.repeat(np.arange(3), COUNTS[name])
        wanted = {
            c: {pixels(name, i).tobytes() for i in np.flatnonzero(labels == c)} for c in range(3)
        }
        assert images_by_label(split) == wanted


def test_by_folder_and_with_named_splits(prepared):
    folder = prepared["tfrecord"]
    by_folder = load_index(f"tfds:{folder}/tiny/1.0.0")
    assert by_folder.digest == load_index(f"tfds:tiny:1.0.0?data_dir={folder}").digest
    index = load_index(f"tfds:tiny?data_dir={folder}&test=validation&val=test")
    assert len(index.test) == 3 and len(index.val) == 6


@pytest.mark.parametrize(
    "query, match",
    [
        ("&test=tset", "has no split 'tset', only"),
        ("&image_key=picture", "no feature 'picture', only image, label; name it with"),
        ("&label_key=kind", "no feature 'kind'"),
    ],
)
def test_wrong_options(prepared, query, match):
    with pytest.raises(UserError, match=match):
        load_index(f"tfds:tiny?data_dir={prepared['tfrecord']}{query}")


def test_training_split_of_another_name_has_no_training_class(prepared):
    with pytest.raises(UserError, match=r"2 classes \(bee, cow\) with only validation or test"):
        load_index(f"tfds:tiny?data_dir={prepared['tfrecord']}&train=extra")


def test_unknown_and_unprepared_names(prepared, tmp_path):
    with pytest.raises(UserError, match="TFDS finds no data set nonesuch_set in"):
        load_index(f"tfds:nonesuch_set?data_dir={tmp_path}")
    with pytest.raises(UserError, match="mnist is not prepared in .*; run `tfds build mnist`"):
        load_index(f"tfds:mnist?data_dir={tmp_path}")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="needs tensorflow-datasets, which cannot be imported"):
        load_index("tfds:mnist")
