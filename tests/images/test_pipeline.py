"""Streams are pure functions of (seed, step); evaluation sees every image once."""

from __future__ import annotations

import io
import itertools
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from longtail_tf.datasets.split import Split
from longtail_tf.errors import UserError
from longtail_tf.images.pipeline import evaluation_batches, plain_errors, training_streams
from longtail_tf.sampling import PKSampler, RandomSampler
from longtail_tf.settings.choices import MIXING_AUGMENTATIONS
from tests import waiting

CLASSES, EACH, SIZE = 6, 5, 12
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), EACH)
N = len(LABELS)


class Arrays:
    encoded = False

    def __init__(self, images):
        self.images = images

    def read(self, rows):
        return self.images[rows]

    def describe(self, row):
        return f"row {row}"


class Files:
    encoded = True

    def __init__(self, images, bad=()):
        self.files = np.empty(len(images), object)
        for row, image in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            self.files[row] = b"broken" if row in bad else buffer.getvalue()

    def read(self, rows):
        return self.files[rows]

    def describe(self, row):
        return f"photos/{row}.png"


PIXELS = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)


def split_of(kind="arrays", bad=()):
    return Split(LABELS, Arrays(PIXELS) if kind == "arrays" else Files(PIXELS, bad))


def streams(split=None, *, head=True, whole=True, **settings):
    settings = {"image_size": SIZE, "channels": 3, "seed": 7, "head_augment": "crop_flip",
                "whole_augment": "crop_cutout", **settings}  # fmt: skip
    return training_streams(
        split or split_of(),
        head_sampler=RandomSampler(np.arange(12), batch_size=4, seed=1) if head else None,
        whole_sampler=PKSampler(LABELS, classes_per_batch=4, images_per_class=3, seed=1)
        if whole
        else None,
        **settings,
    )


def take(dataset, count):
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        tf.nest.assert_same_structure(a, b)
        for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b)):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_batches_hold_the_rows_of_the_samplers(kind):
    dataset = streams(split_of(kind), head_augment="none", whole_augment="none")
    samplers = {
        "head": RandomSampler(np.arange(12), batch_size=4, seed=1),
        "whole": PKSampler(LABELS, classes_per_batch=4, images_per_class=3, seed=1),
    }
    for step, batch in enumerate(take(dataset, 6)):
        assert set(batch) == {"head", "whole"}
        for key, (images, labels, rows) in batch.items():
            np.testing.assert_array_equal(rows, samplers[key].batch(step))
            np.testing.assert_array_equal(labels, LABELS[rows])
            np.testing.assert_array_equal(images, PIXELS[rows])


def test_shapes_and_types_are_static():
    spec = streams().element_spec
    assert spec["head"][0] == tf.TensorSpec([4, SIZE, SIZE, 3], tf.uint8)
    assert spec["whole"] == (
        tf.TensorSpec([12, SIZE, SIZE, 3], tf.uint8),
        tf.TensorSpec([12], tf.int32),
        tf.TensorSpec([12], tf.int64),
    )
    assert streams().cardinality() == tf.data.INFINITE_CARDINALITY


@pytest.mark.parametrize("head, whole, keys", [(True, False, {"head"}), (False, True, {"whole"})])
def test_a_stream_without_sampler_is_left_out(head, whole, keys):
    both = take(streams(), 3)
    alone = take(streams(head=head, whole=whole), 3)
    assert all(set(batch) == keys for batch in alone)
    assert_equal_batches(alone, [{key: batch[key] for key in keys} for batch in both])


@pytest.mark.parametrize("kind, bad", [("arrays", ()), ("files", ()), ("files", (3, 7))])
@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_a_resumed_stream_gives_the_same_bits(kind, bad, cache_bytes):
    settings = {"cache_bytes": cache_bytes, "max_bad_share": 0.2, "head_augment": "crop_cutmix",
                "whole_augment": "crop_flip_randaugment_cutout"}  # fmt: skip
    whole_run = take(streams(split_of(kind, bad), **settings), 9)
    for start in (4, 8):
        resumed = streams(split_of(kind, bad), start_step=start, **settings)
        assert_equal_batches(take(resumed, 9 - start), whole_run[start:])


def test_the_seed_and_the_stream_change_the_augmentation():
    one, other = take(streams(), 1)[0], take(streams(seed=8), 1)[0]
    np.testing.assert_array_equal(one["whole"][2], other["whole"][2])
    assert not np.array_equal(one["whole"][0], other["whole"][0])


def test_repeats_of_an_image_look_different():
    labels = np.arange(8, dtype=np.int32)  # one image a class: every slot but one is a repeat
    split = Split(labels, Arrays(PIXELS[:8]))
    sampler = PKSampler(labels, classes_per_batch=4, images_per_class=4, seed=0)
    dataset = training_streams(
        split, whole_sampler=sampler, image_size=SIZE, channels=3, seed=0,
        whole_augment="crop_flip_cutout",
    )  # fmt: skip
    images, _, rows = take(dataset, 1)[0]["whole"]
    for row in np.unique(rows):
        assert len({image.tobytes() for image in images[rows == row]}) >= 3


@pytest.mark.parametrize("bad", [(), (3, 7)])
def test_replicas_make_the_single_process_batch(bad):
    split = split_of("files", bad)
    whole = take(streams(split, max_bad_share=0.2), 4)
    parts = [take(streams(split, max_bad_share=0.2, shard=(i, 2)), 4) for i in range(2)]
    for step in range(4):
        for key in ("head", "whole"):
            for expected, *pieces in zip(whole[step][key], *(part[step][key] for part in parts)):
                np.testing.assert_array_equal(np.concatenate(pieces), expected)


@pytest.mark.parametrize("name", MIXING_AUGMENTATIONS)
def test_mixing_gives_second_labels_and_a_weight(name):
    images, labels, rows, mixed_labels, weight = take(streams(head_augment=name), 1)[0]["head"]
    np.testing.assert_array_equal(labels, LABELS[rows])
    assert sorted(mixed_labels) == sorted(labels)
    assert weight.shape == () and 0 <= weight <= 1
    assert images.dtype == np.uint8


def test_bad_images_are_replaced_and_their_rows_reported():
    for batch in take(streams(split_of("files", (3, 7)), max_bad_share=0.2), 8):
        for _, labels, rows in batch.values():
            assert not set(rows) & {3, 7}
            np.testing.assert_array_equal(labels, LABELS[rows])


def test_a_stop_over_bad_images_reaches_the_user_in_one_sentence():
    dataset = streams(split_of("files", range(0, N, 2)))
    said = r"of 30 training images cannot be read"
    with pytest.raises(UserError, match=said) as error, plain_errors():
        take(dataset, 20)
    assert "\n" not in str(error.value)


def test_other_errors_pass_as_they_are():
    with pytest.raises(tf.errors.InvalidArgumentError), plain_errors():
        tf.io.decode_png(b"")


@pytest.mark.parametrize("kind", ["arrays", "files"])
@pytest.mark.parametrize("batch_size", [1, 7, 10, 30, 64])
def test_evaluation_sees_every_image_once_in_order(kind, batch_size):
    dataset = evaluation_batches(split_of(kind), image_size=SIZE, channels=3, batch_size=batch_size)
    assert dataset.cardinality() == -(-N // batch_size)
    batches = list(dataset.as_numpy_iterator())
    assert [len(labels) for _, labels in batches[:-1]] == [batch_size] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate([images for images, _ in batches]), PIXELS)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), LABELS)
    assert dataset.element_spec == (
        tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8),
        tf.TensorSpec([None], tf.int32),
    )


def test_evaluation_of_chosen_rows():
    rows = np.array([29, 3, 3, 11])
    dataset = evaluation_batches(split_of(), image_size=SIZE, channels=3, batch_size=3, rows=rows)
    batches = list(dataset.as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate([images for images, _ in batches]), PIXELS[rows])
    assert not list(
        evaluation_batches(split_of(), image_size=SIZE, channels=3, batch_size=3, rows=rows[:0])
    )


def test_a_bad_image_in_evaluation_is_named():
    dataset = evaluation_batches(
        split_of("files", (17,)), image_size=SIZE, channels=3, batch_size=8
    )
    said = r"^photos/17.png is not a readable image .*--exclude\.$"
    with pytest.raises(UserError, match=said), plain_errors():
        list(dataset)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="got no sampler: give head_sampler, whole_sampler or both"):
        streams(head=False, whole=False)
    with pytest.raises(UserError, match="'flipflop' does not exist"):
        streams(whole_augment="flipflop")
    with pytest.raises(UserError, match="--whole_augment=crop_mixup mixes labels"):
        streams(whole_augment="crop_mixup")
    with pytest.raises(UserError, match="batch_size=0 for evaluation"):
        evaluation_batches(split_of(), image_size=SIZE, channels=3, batch_size=0)


LEFT_BEHIND = """
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.threading.set_intra_op_parallelism_threads(1)
from tests.images import test_pipeline as t
list(t.evaluation_batches(t.split_of("files"), image_size=t.SIZE, channels=3, batch_size=4))
left_behind = iter(t.streams(t.split_of("files"), cache_bytes=0))
for _ in range(30):
    next(left_behind)
raise SystemExit(3)
"""


@pytest.mark.slow
def test_one_thread_is_enough_and_an_open_stream_does_not_hold_up_the_exit():
    """Decoding calls TensorFlow from a dataset's thread; neither may wait for the other."""
    root = pathlib.Path(__file__).parents[2]
    result = waiting.run([sys.executable, "-c", LEFT_BEHIND], cwd=root)
    assert result.returncode == 3, result.stderr[-2000:]
