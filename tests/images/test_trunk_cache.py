"""What a frozen trunk makes of each image, computed once, is what it makes of it every time."""

from __future__ import annotations

import errno
import io
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from longtail_tf.datasets.split import Split
from longtail_tf.errors import UserError
from longtail_tf.images import trunk_cache
from longtail_tf.images.pipeline import training_streams
from longtail_tf.images.trunk_cache import TrunkCache, cache_bytes, cached_outputs
from longtail_tf.models import networks
from tests import rounding

SIZE, CLASSES = 8, 5
N = 150  # two whole batches of the filling, and a part of one
LABELS = (np.arange(N) % CLASSES).astype(np.int32)
PIXELS = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)


class Store:
    """PNG files, of which some are broken."""

    encoded = True

    def __init__(self, bad=()):
        self.bad = frozenset(bad)

    def read(self, rows):
        files = np.empty(len(rows), object)
        files[:] = [b"broken" if row in self.bad else png(int(row)) for row in rows]
        return files

    def describe(self, row):
        return f"photos/{row}.png"


def png(row):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[row]).save(buffer, "PNG")
    return buffer.getvalue()


def build_trunk(seed=0, cut="stage2"):
    tf.keras.utils.set_random_seed(seed)
    embedder = networks.build_embedder(
        backbone="resnet8", image_size=SIZE, channels=3, embedding_dim=4, width=2
    )
    return networks.split_embedder(embedder, cut)[0]


@pytest.fixture(scope="module")
def trunk():
    return build_trunk()


def fill(trunk, folder, *, bad=(), **changes):
    settings = dict(
        data_digest="d" * 64,
        split_name="train",
        image_size=SIZE,
        channels=3,
        views=2,
        augment="crop_flip",
        seed=3,
        max_bad_share=0.05,
    )
    split = Split(LABELS, Store(bad))
    return cached_outputs(trunk, split, folder=folder, **{**settings, **changes})


@pytest.fixture(scope="module")
def filled(trunk, tmp_path_factory):
    """One whole cache, for the tests that only look."""
    folder = tmp_path_factory.mktemp("cache")
    return fill(trunk, folder), folder


def half_rounded(expected):
    """How far float16 may lie from `expected`, computed in batches of another size."""
    half = np.abs(expected) * np.finfo(np.float16).eps / 2 + np.finfo(np.float16).tiny
    return half + rounding.NETWORK * max(1, np.abs(expected).max())


def assert_half(found, expected):
    assert found.dtype == np.float16
    assert (np.abs(found.astype(np.float64) - expected) <= half_rounded(expected)).all()


def files_of(folder):
    [place] = [path for path in folder.iterdir() if path.is_dir()]
    return place


def bytes_of(cache):
    return np.asarray(cache.outputs).tobytes(), np.asarray(cache.sources).tobytes()


def test_view_0_is_the_trunk_run_on_each_picture_as_it_is(trunk, filled):
    cache, _ = filled
    assert cache.views == 2 and cache.shape == trunk.output_shape[1:] == (8, 8, 2)
    expected = trunk(PIXELS.astype(np.float32), training=False).numpy()
    assert expected.std() > 0.05
    assert_half(np.asarray(cache.outputs[0]), expected)
    np.testing.assert_array_equal(cache.sources, np.tile(np.arange(N), (3, 1)))
    np.testing.assert_array_equal(cache.labels, LABELS)


def test_further_views_are_the_trunk_run_on_the_augmented_pictures(trunk, filled):
    """The pictures of the training streams at those steps: the filling makes view v of the images
    of its batch b at step 2 b + v."""
    cache, _ = filled

    class Rows:
        batch_size = 64

        def batch(self, step, *, shard=None):
            return np.arange(step // 2 * 64, step // 2 * 64 + 64) % N

    stream = training_streams(
        Split(LABELS, Store()), whole_sampler=Rows(), image_size=SIZE, channels=3, seed=3,
        whole_augment="crop_flip", cache_bytes=0,
    )  # fmt: skip
    for step, batch in enumerate(stream.take(6).as_numpy_iterator()):
        images, _, rows = batch["whole"]
        size = min(64, N - step // 2 * 64)
        expected = trunk(images.astype(np.float32), training=False).numpy()[:size]
        assert_half(np.asarray(cache.outputs[1 + step % 2, rows[:size]]), expected)


def test_views_differ_and_follow_from_the_seed_alone(trunk, filled, tmp_path):
    cache, _ = filled
    views = np.asarray(cache.outputs, np.float32).reshape(3, N, -1)
    # A shift may be none and a flip may be none: one view in 18 is the picture as it is.
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (np.abs(views[a] - views[b]).max(axis=1) > 0.01).mean() > 0.8
    assert bytes_of(fill(trunk, tmp_path / "again")) == bytes_of(cache)
    other = np.asarray(fill(trunk, tmp_path / "other", seed=4).outputs, np.float32)
    np.testing.assert_array_equal(other[0].reshape(N, -1), views[0])
    assert (np.abs(other[1].reshape(N, -1) - views[1]).max(axis=1) > 0.01).mean() > 0.8


def test_bad_images_are_replaced_by_one_of_their_class_and_sources_say_by_which(trunk, tmp_path):
    bad = (7, 149)
    cache = fill(trunk, tmp_path, bad=bad)
    sources = np.asarray(cache.sources)
    assert not np.isin(sources, bad).any()
    np.testing.assert_array_equal(LABELS[sources], np.tile(LABELS, (3, 1)))
    good = np.setdiff1d(np.arange(N), bad)
    np.testing.assert_array_equal(sources[:, good], np.tile(good, (3, 1)))
    expected = trunk(PIXELS[sources[0]].astype(np.float32), training=False).numpy()
    assert_half(np.asarray(cache.outputs[0]), expected)
    outputs, labels = zip(*cache.plain_batches(40))
    np.testing.assert_array_equal(np.concatenate(labels), LABELS)
    assert_half(np.concatenate(outputs), expected)


def test_too_many_bad_images_stop_the_filling_with_a_sentence(trunk, tmp_path):
    with pytest.raises(UserError, match="images cannot be read") as error:
        fill(trunk, tmp_path, bad=range(0, N, 3))
    assert "\n" not in str(error.value)


class Kill(BaseException):
    """What ends a process in the middle; no handler for errors catches it."""


@pytest.mark.parametrize("batches", [1, 3, 4, 8])
def test_an_interrupted_filling_goes_on_to_the_same_bytes(
    trunk, filled, tmp_path, monkeypatch, batches
):
    """Of 9 batches: 3 of pictures as they are, 6 of views."""
    monkeypatch.setattr(trunk_cache, "FLUSH_SECONDS", -1.0)
    calls = []

    def stop(done, total):
        calls.append(done)
        if len(calls) == batches:
            raise Kill

    with pytest.raises(Kill):
        fill(trunk, tmp_path, show_progress=stop)
    # The batch at which it was killed was computed, but not yet noted.
    shown = []
    cache = fill(trunk, tmp_path, show_progress=lambda *told: shown.append(told))
    assert len(shown) == 9 - (batches - 1)
    assert [total for _, total in shown] == [3 * N] * len(shown) and shown[-1][0] == 3 * N
    assert bytes_of(cache) == bytes_of(filled[0])
    again = []
    fill(trunk, tmp_path, show_progress=lambda *told: again.append(told))
    assert not again


def test_what_a_kill_left_half_written_is_computed_again(trunk, filled, tmp_path, monkeypatch):
    """The arrays are of the right size from the start, so only the note tells what is in them."""
    with pytest.raises(Kill):
        fill(trunk, tmp_path, show_progress=kill_at_once)
    place = files_of(tmp_path)
    assert not (place / "done.json").exists()
    raw = bytearray((place / "outputs.f16").read_bytes())
    raw[:64] = os.urandom(64)
    (place / "outputs.f16").write_bytes(raw)
    assert bytes_of(fill(trunk, tmp_path)) == bytes_of(filled[0])


def kill_at_once(done, total):
    raise Kill


@pytest.mark.parametrize("damage", ["[1]", "{", '{"plain": "x"}', '{"plain": -5}'])
def test_a_damaged_note_means_that_nothing_is_done(trunk, filled, tmp_path, damage):
    fill(trunk, tmp_path)
    place = files_of(tmp_path)
    (place / "done.json").write_text(damage)
    shown = []
    cache = fill(trunk, tmp_path, show_progress=lambda *told: shown.append(told))
    assert len(shown) == 9
    assert bytes_of(cache) == bytes_of(filled[0])


def test_a_file_of_another_length_is_made_again(trunk, filled, tmp_path):
    fill(trunk, tmp_path)
    path = files_of(tmp_path) / "outputs.f16"
    path.write_bytes(path.read_bytes()[:-2])
    assert bytes_of(fill(trunk, tmp_path)) == bytes_of(filled[0])


@pytest.mark.parametrize(
    "change",
    [
        dict(data_digest="e" * 64),
        dict(split_name="val"),
        dict(views=1),
        dict(augment="crop"),
        dict(seed=4),
        dict(trunk=build_trunk(seed=1)),
        dict(trunk=build_trunk(cut="stage3")),
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_it_is_of_has_a_folder_of_its_own(trunk, filled, tmp_path, change):
    fill(trunk, tmp_path)
    before = bytes_of(filled[0])
    other = {"trunk": trunk, **change}
    fill(other.pop("trunk"), tmp_path, **other)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2
    shown = []
    cache = fill(trunk, tmp_path, show_progress=lambda *told: shown.append(told))
    assert not shown and bytes_of(cache) == before


def test_another_image_size_has_a_folder_of_its_own(trunk, tmp_path):
    fill(trunk, tmp_path)
    tf.keras.utils.set_random_seed(0)
    larger = networks.build_embedder(
        backbone="resnet8", image_size=2 * SIZE, channels=3, embedding_dim=4, width=2
    )
    larger = networks.split_embedder(larger, "stage2")[0]
    larger.set_weights(trunk.get_weights())
    assert fill(larger, tmp_path, image_size=2 * SIZE).shape == (16, 16, 2)
    assert len(list(tmp_path.iterdir())) == 2


def test_without_views_seed_and_augmentation_make_no_difference(trunk, filled, tmp_path):
    cache = fill(trunk, tmp_path, views=0)
    assert cache.views == 0
    np.testing.assert_array_equal(cache.outputs[0], filled[0].outputs[0])
    fill(trunk, tmp_path, views=0, seed=9, augment="crop")
    assert len(list(tmp_path.iterdir())) == 1


def test_facts_that_are_not_what_the_name_says_are_refused(trunk, tmp_path):
    fill(trunk, tmp_path)
    path = files_of(tmp_path) / "facts.json"
    facts = json.loads(path.read_text())
    assert facts["images"] == N and facts["views"] == 2 and facts["data_digest"] == "d" * 64
    others = [{**facts, "data_digest": "e" * 64}, {**facts, "of_a_picture": None}, [1], {}]
    for text in ("{", *map(json.dumps, others)):
        path.write_text(text)
        with pytest.raises(
            UserError, match="holds trunk outputs of other data .*delete that folder"
        ):
            fill(trunk, tmp_path)


@pytest.mark.parametrize("change", [dict(pixel_range="0..1"), dict(activation="sigmoid")])
def test_another_network_of_the_same_weights_is_refused(trunk, tmp_path, change):
    """Its name is that of the weights; what it makes of a picture tells it apart."""
    fill(trunk, tmp_path)
    path = files_of(tmp_path) / "facts.json"
    facts = json.loads(path.read_text())
    # Last bits differ between machines.
    near = [1.001 * value + 1e-4 for value in facts["of_a_picture"]]
    path.write_text(json.dumps({**facts, "of_a_picture": near}))
    fill(trunk, tmp_path)
    activation = change.pop("activation", None)
    tf.keras.utils.set_random_seed(0)
    embedder = networks.build_embedder(
        backbone="resnet8", image_size=SIZE, channels=3, embedding_dim=4, width=2, **change
    )
    other = networks.split_embedder(embedder, "stage2")[0]
    if activation:
        other = tf.keras.Model(other.inputs[0], tf.keras.activations.sigmoid(other.outputs[0]))
    with pytest.raises(UserError, match="or of another network, than its name says"):
        fill(other, tmp_path)


def test_a_cache_that_is_being_filled_is_refused_to_others(trunk, tmp_path):
    def meanwhile(done, total):
        with pytest.raises(UserError, match="is being filled by another training: wait for it"):
            fill(trunk, tmp_path)
        raise Kill

    with pytest.raises(Kill):
        fill(trunk, tmp_path, show_progress=meanwhile)
    fill(trunk, tmp_path)  # whoever held it is gone


@pytest.mark.parametrize("room_for", [0, 1])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    trunk, tmp_path, monkeypatch, room_for, number
):
    """There is room for neither file, or for the first alone."""
    reserve, taken = os.posix_fallocate, []

    def fallocate(*arguments):
        if len(taken) == room_for:
            raise OSError(number, os.strerror(number))
        taken.append(reserve(*arguments))

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    with pytest.raises(UserError, match="MB in .* no room for them .*--cache_dir.*cached_views"):
        fill(trunk, tmp_path)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in left) == 0, left


def test_other_faults_of_the_disk_pass_as_they_are(trunk, tmp_path, monkeypatch):
    def fallocate(*arguments):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    with pytest.raises(OSError, match="broken"):
        fill(trunk, tmp_path)


def test_room_is_what_the_files_take(filled):
    cache, folder = filled
    place = files_of(folder)
    size = sum((place / name).stat().st_size for name in ("outputs.f16", "sources.i64"))
    assert size == cache_bytes(N, 2, cache.shape) == 3 * N * (2 * 8 * 8 * 2 + 8)


def small_cache(rng, *, views=2, images=7, shape=(3,)):
    """Made up: each number tells the view and the image."""
    outputs = rng.normal(size=(1 + views, images, *shape)).astype(np.float16)
    sources = np.tile(np.arange(images), (1 + views, 1))
    sources[:, 2] = 5
    return TrunkCache(outputs, sources, (np.arange(images) % 3).astype(np.int32))


def test_read_gives_the_views_of_the_rows_asked_for(rng):
    cache = small_cache(rng)
    outputs, sources = cache.read(np.array([6, 2, 6]), np.array([0, 1, 2]))
    np.testing.assert_array_equal(
        outputs, [cache.outputs[0, 6], cache.outputs[1, 2], cache.outputs[2, 6]]
    )
    np.testing.assert_array_equal(sources, [6, 5, 6])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_plain_batches_give_every_picture_once_in_order(rng, batch_size):
    cache = small_cache(rng)
    batches = list(cache.plain_batches(batch_size))
    assert [len(labels) for _, labels in batches[:-1]] == [batch_size] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate([part for part, _ in batches]), cache.outputs[0])
    labels = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(labels, cache.labels[cache.sources[0]])
    chosen = np.array([5, 0, 0])
    batches = list(cache.plain_batches(batch_size, chosen))
    found = np.concatenate([part for part, _ in batches])
    np.testing.assert_array_equal(found, cache.outputs[0, chosen])


def test_the_cache_of_some_images_counts_them_alone(rng):
    cache = small_cache(rng)
    some = cache.of(np.array([6, 1, 3]))
    outputs, sources = some.read(np.array([0, 2]), np.array([1, 0]))
    np.testing.assert_array_equal(outputs, [cache.outputs[1, 6], cache.outputs[0, 3]])
    np.testing.assert_array_equal(sources, [6, 3])
    [(outputs, labels)] = some.plain_batches(10)
    np.testing.assert_array_equal(outputs, cache.outputs[0, [6, 1, 3]])
    np.testing.assert_array_equal(labels, [0, 1, 0])
    fewer = some.of(np.array([2, 0]))
    outputs, _ = fewer.read(np.array([0, 1]), np.zeros(2, int))
    np.testing.assert_array_equal(outputs, cache.outputs[0, [3, 6]])


def test_through_is_the_function_of_each_output(rng):
    """More outputs than a batch of it, and of another shape than they were."""
    cache = small_cache(rng, images=50, shape=(2, 2, 3)).of(np.array([4, 9]))
    kernel = rng.normal(size=(3, 5)).astype(np.float32)
    made = cache.through(lambda maps: tf.reduce_mean(maps, axis=(1, 2)) @ kernel)
    assert made.shape == (5,) and made.views == 2
    maps = np.asarray(cache.outputs, np.float64)
    expected = maps.mean(axis=(2, 3)) @ kernel.astype(np.float64)
    assert_half(made.outputs, expected)
    np.testing.assert_array_equal(made.sources, cache.sources)
    np.testing.assert_array_equal(made.rows, [4, 9])


def test_numbers_beyond_float16_are_its_largest(rng):
    cache = small_cache(rng)
    made = cache.through(lambda vectors: tf.ones_like(vectors) * [1e30, -1e30, 1.0])
    np.testing.assert_array_equal(made.outputs[1, 3], np.array([65504, -65504, 1], np.float16))
