"""Training streams of cached outputs: pure functions of (seed, step), as those of pixels are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.datasets import load_index
from longtail_tf.errors import UserError
from longtail_tf.images.inputs import PixelInputs, TrunkInputs
from longtail_tf.images.trunk_cache import TrunkCache
from longtail_tf.sampling import PKSampler, RandomSampler
from tests import fakes

VIEWS, SHAPE = 3, (2, 2, 4)
COUNTS = (9, 6, 4, 3, 1, 1)
LABELS = np.repeat(np.arange(6), COUNTS).astype(np.int32)
N = len(LABELS)


def cache_of(views=VIEWS):
    """Each output says which view of which image it is."""
    outputs = np.zeros((1 + views, N, *SHAPE), np.float16)
    outputs[..., 0] = np.arange(1 + views)[:, None, None, None]
    outputs[..., 1] = np.arange(N)[None, :, None, None]
    return TrunkCache(outputs, np.tile(np.arange(N), (1 + views, 1)), LABELS)


def views_and_rows(outputs):
    return outputs[:, 0, 0, 0].astype(int), outputs[:, 0, 0, 1].astype(int)


def samplers(seed=1):
    return {
        "head": RandomSampler(np.flatnonzero(LABELS < 2), batch_size=4, seed=seed),
        "whole": PKSampler(LABELS, classes_per_batch=4, images_per_class=3, seed=seed),
    }


def take(cache, count, *, seed=5, start_step=0, drawn=None, **settings):
    inputs = TrunkInputs({"train": cache}, seed=seed)
    drawn = samplers() if drawn is None else drawn
    dataset = inputs.streams(
        head=drawn.get("head"), whole=drawn.get("whole"), start_step=start_step, **settings
    )
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        tf.nest.assert_same_structure(a, b)
        for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b)):
            np.testing.assert_array_equal(x, y)


def test_batches_hold_views_of_the_rows_of_the_samplers():
    for step, batch in enumerate(take(cache_of(), 8)):
        assert set(batch) == {"head", "whole"}
        for name, (outputs, labels, rows) in batch.items():
            expected = samplers()[name].batch(step)
            assert (outputs.dtype, labels.dtype, rows.dtype) == (np.float16, np.int32, np.int64)
            views, images = views_and_rows(outputs)
            np.testing.assert_array_equal(images, expected)
            np.testing.assert_array_equal(rows, expected)
            np.testing.assert_array_equal(labels, LABELS[expected])
            assert ((views >= 0) & (views <= VIEWS)).all()


def test_shapes_and_types_are_static_and_the_streams_endless():
    drawn = samplers()
    dataset = TrunkInputs({"train": cache_of()}, seed=0).streams(**drawn, start_step=0)
    assert dataset.element_spec["whole"] == (
        tf.TensorSpec([12, *SHAPE], tf.float16),
        tf.TensorSpec([12], tf.int32),
        tf.TensorSpec([12], tf.int64),
    )
    assert dataset.element_spec["head"][0] == tf.TensorSpec([4, *SHAPE], tf.float16)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY


def test_every_view_is_drawn_about_as_often():
    """Of 600 draws of 12 slots a view has 1,800 expected and 37 as standard deviation."""
    views = np.concatenate(
        [views_and_rows(batch["whole"][0])[0] for batch in take(cache_of(), 600)]
    )
    assert np.abs(np.bincount(views, minlength=4) - 1800).max() < 5 * 37


def test_views_of_one_image_have_one_source_row():
    """A class of one image fills its slots with views of it, which must not be taken for pairs."""
    differ = 0
    for batch in take(cache_of(), 20):
        outputs, labels, rows = batch["whole"]
        views, _ = views_and_rows(outputs)
        for label in (4, 5):  # of one image each
            slots = labels == label
            assert len(set(rows[slots])) <= 1
            differ += len(set(views[slots])) > 1
    assert differ > 5


def test_the_source_row_is_that_of_the_replacement():
    cache = cache_of()
    cache.sources[2, 3] = 8
    seen = 0
    for batch in take(cache, 40):
        outputs, labels, rows = batch["whole"]
        views, images = views_and_rows(outputs)
        replaced = (views == 2) & (images == 3)
        seen += replaced.sum()
        np.testing.assert_array_equal(rows, np.where(replaced, 8, images))
        np.testing.assert_array_equal(labels, LABELS[rows])
    assert seen


@pytest.mark.parametrize("start", [1, 4, 8])
def test_a_resumed_stream_gives_the_same_batches(start):
    whole_run = take(cache_of(), 9)
    assert_equal_batches(take(cache_of(), 9 - start, start_step=start), whole_run[start:])


def test_the_seed_chooses_the_views_and_the_samplers_the_images():
    first, other = (take(cache_of(), 6, seed=seed) for seed in (5, 6))
    for a, b in zip(first, other):
        for name in a:
            np.testing.assert_array_equal(a[name][2], b[name][2])
    drawn = [
        [views_and_rows(batch["whole"][0])[0].tolist() for batch in batches]
        for batches in (first, other)
    ]
    assert drawn[0] != drawn[1]
    assert len(set(map(tuple, drawn[0]))) == 6  # nor are those of two steps alike


def test_the_two_streams_draw_their_views_apart():
    drawn = {"head": samplers()["whole"], "whole": samplers()["whole"]}
    batches = take(cache_of(), 4, drawn=drawn)
    assert any(
        (views_and_rows(b["head"][0])[0] != views_and_rows(b["whole"][0])[0]).any() for b in batches
    )


@pytest.mark.parametrize("count", [1, 2])
def test_shards_add_up_to_the_whole_batch(count):
    whole = take(cache_of(), 5)
    parts = [take(cache_of(), 5, shard=(index, count)) for index in range(count)]
    for step in range(5):
        for name in ("head", "whole"):
            for expected, *pieces in zip(whole[step][name], *(part[step][name] for part in parts)):
                assert all(len(piece) == len(expected) // count for piece in pieces)
                np.testing.assert_array_equal(np.concatenate(pieces), expected)


@pytest.mark.parametrize("name", ["head", "whole"])
def test_a_stream_without_sampler_is_left_out(name):
    alone = take(cache_of(), 3, drawn={name: samplers()[name]})
    assert all(set(batch) == {name} for batch in alone)
    assert_equal_batches(alone, [{name: batch[name]} for batch in take(cache_of(), 3)])


def test_a_training_without_a_stream_is_refused():
    with pytest.raises(UserError, match="has no stream: give a head rule, a metric loss, or both"):
        take(cache_of(), 1, drawn={"head": None})


def test_without_views_pictures_come_as_they_are():
    for batch in take(cache_of(views=0), 4):
        assert not views_and_rows(batch["whole"][0])[0].any()


def test_plain_streams_are_the_rows_of_the_sampler_as_they_are():
    inputs = TrunkInputs({"train": cache_of()}, seed=5)
    dataset = inputs.plain_streams(samplers()["whole"], seed=9)
    for step, batch in enumerate(itertools.islice(dataset.as_numpy_iterator(), 5)):
        outputs, labels, rows = batch
        views, images = views_and_rows(outputs)
        assert not views.any()
        np.testing.assert_array_equal(images, samplers()["whole"].batch(step))
        np.testing.assert_array_equal(rows, images)
        np.testing.assert_array_equal(labels, LABELS[images])


def test_plain_batches_are_of_the_split_asked_for():
    val = TrunkCache(cache_of(0).outputs[:, :5] + 100, np.arange(5)[None], LABELS[:5])
    inputs = TrunkInputs({"train": cache_of(), "val": val}, seed=0)
    [(outputs, labels)] = inputs.plain_batches("val", batch_size=50)
    np.testing.assert_array_equal(outputs, val.outputs[0])
    np.testing.assert_array_equal(labels, LABELS[:5])
    [(outputs, _)] = inputs.plain_batches("train", batch_size=50, rows=np.array([7, 2]))
    np.testing.assert_array_equal(views_and_rows(outputs)[1], [7, 2])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return load_index(fakes.write_npz(tmp_path_factory.mktemp("data") / "bars.npz"))


def test_pixels_have_the_same_three_ways_in(index):
    """Streams, every picture once, and batches as they are: of pixels, for the same callers."""
    inputs = PixelInputs(
        index, image_size=8, head_augment="none", whole_augment="none", seed=0,
        cache_bytes=0, max_bad_share=0.0,
    )  # fmt: skip
    assert (inputs.dtype, TrunkInputs.dtype) == ("uint8", "float16")
    labels = index.train.labels
    sampler = PKSampler(labels, classes_per_batch=4, images_per_class=2, seed=0)
    pixels = index.train.read(np.arange(len(labels)))
    [batch] = itertools.islice(
        inputs.streams(head=None, whole=sampler, start_step=2).as_numpy_iterator(), 1
    )
    np.testing.assert_array_equal(batch["whole"][0], pixels[sampler.batch(2)])
    [plain] = itertools.islice(inputs.plain_streams(sampler, seed=0).as_numpy_iterator(), 1)
    np.testing.assert_array_equal(plain[0], pixels[sampler.batch(0)])
    [(images, found)] = list(inputs.plain_batches("train", batch_size=1000))
    np.testing.assert_array_equal(images, pixels)
    np.testing.assert_array_equal(found, labels)
