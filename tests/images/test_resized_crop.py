"""The random window: its size and place, and that every way of cutting it gives the same window."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from longtail_tf.datasets.split import Split
from longtail_tf.errors import UserError
from longtail_tf.images.augment import HEAD_STREAM, WHOLE_STREAM, resized_crop, window_draws
from longtail_tf.images.decoders import window_decoder
from longtail_tf.images.kept_files import Budget, KeptFiles
from longtail_tf.images.pipeline import training_streams
from longtail_tf.images.preprocess import preprocess_bytes
from longtail_tf.images.reader import ImageReader
from longtail_tf.images.window import pixel_window, window_shares
from longtail_tf.sampling import PKSampler, RandomSampler

S = 16
LABELS = np.repeat(np.arange(6, dtype=np.int32), 4)


def draws_of(count, seed=0):
    return np.random.default_rng(seed).random((4, count), dtype=np.float32)


def photo(seed=0, height=150, width=201):
    """Smooth colours, so that JPEG is nearly exact and places can be told apart."""
    y, x = np.mgrid[:height, :width]
    layers = [y * 255 / height, x * 255 / width, 128 + 100 * np.sin((x + y) / 40 + seed)]
    return np.stack(layers, -1).astype(np.uint8)


def encoded(pixels, kind="JPEG", **settings):
    buffer = io.BytesIO()
    settings = {"quality": 95, "subsampling": 0, **settings} if kind == "JPEG" else settings
    Image.fromarray(pixels).save(buffer, kind, **settings)
    return buffer.getvalue()


class Store:
    """Files, or arrays; counts what is read."""

    def __init__(self, images):
        self.encoded = isinstance(images, list)
        self.images = images
        self.reads = []

    def read(self, rows):
        self.reads.extend(np.asarray(rows).tolist())
        if not self.encoded:
            return self.images[rows]
        files = np.empty(len(rows), object)
        files[:] = [self.images[row] for row in rows]
        return files

    def describe(self, row):
        return f"photos/{row}.jpg"


def jpegs():
    return Store([encoded(photo(i, 60 + 7 * i, 90 - 2 * i)) for i in range(len(LABELS))])


def large_arrays():
    return Store(np.stack([photo(i, 40, 52) for i in range(len(LABELS))]))


def ready_arrays():
    return Store(np.stack([photo(i, S, S) for i in range(len(LABELS))]))


def streams(store, **settings):
    settings = {"head_augment": "resized_crop_flip_cutout", "whole_augment": "resized_crop_flip",
                **settings}  # fmt: skip
    return training_streams(
        Split(LABELS, store),
        head_sampler=RandomSampler(np.arange(12), batch_size=4, seed=1),
        whole_sampler=PKSampler(LABELS, classes_per_batch=4, images_per_class=6, seed=1),
        image_size=S,
        channels=3,
        seed=7,
        **settings,
    )


def take(dataset, count):
    return [tf.nest.flatten(batch) for batch in dataset.take(count).as_numpy_iterator()]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("height, width", [(100, 100), (300, 200), (100, 1000), (32, 31)])
def test_windows_have_the_drawn_area_and_lie_inside(height, width):
    draws = draws_of(2000)
    draws[:, 0], draws[:, 1] = 0, np.float32(1 - 2**-24)
    size = tf.constant([height, width])
    shares = window_shares(tf.constant(draws), size)
    np.testing.assert_allclose(shares[0] * shares[1], 0.3 + 0.7 * draws[0], rtol=1e-5)
    top, left, h, w = pixel_window(shares, tf.constant(draws), size).numpy()
    assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    for i in range(0, 2000, 50):
        area = 0.3 + 0.7 * float(draws[0, i])
        shape = (4 / 3) ** (2 * float(draws[1, i]) - 1)
        expected_h = math.sqrt(area * height * width / shape)
        expected_w = math.sqrt(area * height * width * shape)
        if expected_h > height or expected_w > width:  # the shape gives way, the area does not
            expected_h = height if expected_h > height else area * height
            expected_w = width if expected_w > width else area * width
        assert abs(h[i] - expected_h) <= 0.51 and abs(w[i] - expected_w) <= 0.51
    free = w < width
    assert free.sum() > 100 and (left + w == width)[free].any() and (left == 0)[free].any()


@pytest.mark.parametrize("size", [1, 2, 9, 16, 31])
def test_cutting_a_batch_is_bilinear_from_corner_to_corner(size):
    images = np.random.default_rng(1).integers(0, 256, (30, size, size, 3), dtype=np.uint8)
    draws = draws_of(30)
    sides = tf.constant([size, size])
    windows = pixel_window(window_shares(tf.constant(draws), sides), tf.constant(draws), sides)
    actual = resized_crop(tf.constant(images), tf.constant(draws)).numpy()
    for i, (top, left, h, w) in enumerate(windows.numpy().T):
        ys, xs = np.linspace(top, top + h - 1, size), np.linspace(left, left + w - 1, size)
        if size == 1:
            ys, xs = np.zeros(1), np.zeros(1)
        for a, y in enumerate(ys):
            for b, x in enumerate(xs):
                y0, x0 = min(int(y), size - 1), min(int(x), size - 1)
                y1, x1 = min(y0 + 1, size - 1), min(x0 + 1, size - 1)
                fy, fx = y - y0, x - x0
                pixels = images[i].astype(np.float64)
                up = pixels[y0, x0] * (1 - fx) + pixels[y0, x1] * fx
                down = pixels[y1, x0] * (1 - fx) + pixels[y1, x1] * fx
                expected = up * (1 - fy) + down * fy
                assert np.abs(actual[i, a, b] - expected).max() <= 1.05


@pytest.mark.parametrize("size", [3, 7, 28, 32, 33, 64, 97, 112, 224])
def test_no_line_is_black_and_the_whole_window_changes_nothing(size):
    draws = draws_of(40, seed=size)
    white = tf.fill([40, size, size, 1], tf.constant(255, tf.uint8))
    assert (resized_crop(white, tf.constant(draws)).numpy() == 255).all()
    draws[0], draws[1] = np.float32(1 - 2**-24), 0.5
    images = np.random.default_rng(0).integers(0, 256, (40, size, size, 1), dtype=np.uint8)
    np.testing.assert_array_equal(resized_crop(tf.constant(images), tf.constant(draws)), images)


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"subsampling": 2}])
@pytest.mark.parametrize("size", [8, 16, 37, 70, 150])
def test_a_fused_window_is_that_window_of_the_decoded_picture(settings, size):
    """At the scale at which the window stays no smaller than the result: all four occur."""
    data = encoded(photo(), **settings)
    height, width = photo().shape[:2]
    draws = draws_of(12, seed=size)
    for i in range(12):
        one = tf.constant(draws[:, i])
        actual = preprocess_bytes(
            tf.constant(data), image_size=size, channels=3, window_draws=one
        ).numpy()
        shares = window_shares(one, tf.constant([height, width]))
        extent = pixel_window(shares, one, tf.constant([height, width])).numpy()[2:]
        scale = max(scale for scale in (1, 2, 4, 8) if scale == 1 or min(extent) >= scale * size)
        picture = Image.open(io.BytesIO(data))
        scaled = math.ceil(width / scale), math.ceil(height / scale)
        # The decoder's own scaling, as Pillow reaches it.
        picture.draft("RGB", (width // scale, height // scale))
        assert picture.size == scaled
        top, left, h, w = pixel_window(shares, one, tf.constant(scaled[::-1])).numpy()
        assert min(h, w) >= size or scale == 1
        window = picture.convert("RGB").crop((left, top, left + w, top + h))
        expected = np.asarray(window.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
        error = np.abs(actual.astype(int) - expected)
        assert error.mean() < 3 and np.percentile(error, 95) <= 10


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
def test_other_files_are_cut_after_decoding(kind):
    pixels = photo(height=S * 2, width=S * 2)
    data = encoded(pixels, kind)
    draws = draws_of(6)
    for i in range(6):
        one = tf.constant(draws[:, i])
        cut = preprocess_bytes(tf.constant(data), image_size=S, channels=3, window_draws=one)
        jpeg = preprocess_bytes(
            tf.constant(encoded(pixels)), image_size=S, channels=3, window_draws=one
        )
        limit = 25 if kind == "GIF" else 6  # 256 colours
        assert np.abs(cut.numpy().astype(int) - jpeg.numpy()).mean() < limit


def test_traced_and_eager_windows_have_the_same_bits():
    """A batch with a bad image is read one by one, eagerly; a resumed run may not differ."""
    data, draws = [encoded(photo(i, 61 + i, 83)) for i in range(40)], draws_of(40)
    traced = window_decoder((S, S, 3))(tf.constant(data), tf.constant(draws.T)).numpy()
    for i in range(40):
        eager = preprocess_bytes(
            tf.constant(data[i]), image_size=S, channels=3, window_draws=tf.constant(draws[:, i])
        )
        np.testing.assert_array_equal(eager, traced[i])


def test_grey_and_colour():
    data = encoded(photo())
    one = tf.constant(draws_of(1)[:, 0])
    grey = preprocess_bytes(tf.constant(data), image_size=S, channels=1, window_draws=one)
    assert grey.shape == (S, S, 1)


def test_draws_are_stateless_and_slices_are_those_of_the_batch():
    def draws(**change):
        settings = dict(seed=3, stream=WHOLE_STREAM, step=tf.constant(5, tf.int64),
                        batch_size=12, shard=None)  # fmt: skip
        return window_draws(**{**settings, **change}).numpy()

    assert draws().shape == (4, 12)
    np.testing.assert_array_equal(draws(), draws())
    for change in ({"seed": 4}, {"stream": HEAD_STREAM}, {"step": tf.constant(6, tf.int64)}):
        assert (draws() != draws(**change)).mean() > 0.9
    parts = [draws(batch_size=4, shard=(i, 3)) for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts, 1), draws())


@pytest.mark.parametrize("store", [jpegs, large_arrays, ready_arrays])
@pytest.mark.parametrize("cache_bytes", [0, 9000, 2**20])
def test_streams_resume_exactly_whatever_is_kept(store, cache_bytes):
    whole = take(streams(store()), 7)
    resumed = take(streams(store(), start_step=4, cache_bytes=cache_bytes), 3)
    assert_same(resumed, whole[4:])


@pytest.mark.parametrize("store", [jpegs, large_arrays, ready_arrays])
def test_slices_of_a_sharded_batch_are_the_batch(store):
    whole = take(streams(store()), 3)
    parts = [take(streams(store(), shard=(i, 2)), 3) for i in range(2)]
    assert_same([[np.concatenate(p) for p in zip(*pair)] for pair in zip(*parts)], whole)


@pytest.mark.parametrize("store", [jpegs, large_arrays, ready_arrays])
def test_repeats_of_one_image_get_different_windows(store):
    batches = streams(store(), whole_augment="resized_crop").as_numpy_iterator()
    images, _, rows = next(batches)["whole"]
    for row in np.unique(rows):  # K = 6 of classes of 4
        copies = images[rows == row]
        assert len({image.tobytes() for image in copies}) == len(copies)


def test_the_flip_is_drawn_apart_from_the_window():
    plain = next(iter(streams(jpegs(), whole_augment="resized_crop")))["whole"][0].numpy()
    flipped = next(iter(streams(jpegs(), whole_augment="resized_crop_flip")))["whole"][0].numpy()
    same = [np.array_equal(a, b) for a, b in zip(plain, flipped)]
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(plain, flipped)]
    assert all(s or m for s, m in zip(same, mirrored))
    assert 0 < sum(mirrored) < len(mirrored)


def test_a_stream_of_windows_beside_one_of_whole_pictures():
    mixed = take(streams(jpegs(), head_augment="none"), 3)
    alone = take(streams(jpegs(), head_augment="none", whole_augment="none"), 3)
    pairs = take(streams(jpegs()), 3)
    for both, whole_pictures, windows in zip(mixed, alone, pairs):
        assert_same([both[:3]], [whole_pictures[:3]])
        assert_same([both[3:]], [windows[3:]])


@pytest.mark.parametrize("damaged", [b"broken", "cut"])
def test_bad_images_are_replaced_the_same_after_a_resume(damaged):
    def store():
        made = jpegs()
        for row in (1, 5):
            data = made.images[row]
            made.images[row] = data[: len(data) * 17 // 20] if damaged == "cut" else damaged
        return made

    whole = take(streams(store(), max_bad_share=0.5), 8)
    for start in (3, 6):
        resumed = take(streams(store(), max_bad_share=0.5, start_step=start), 8 - start)
        assert_same(resumed, whole[start:])
    rows = np.concatenate([batch[5] for batch in whole])
    assert (1 in rows) == (damaged == "cut"), "the good windows of a damaged file are used"


def reader_of(store, **settings):
    return ImageReader(Split(LABELS, store), image_size=S, channels=3, **settings)


def test_files_of_windows_are_kept_and_read_once():
    store = jpegs()
    reader = reader_of(store)
    rows = np.array([3, 3, 0, 9])
    for seed in range(4):
        images, read = reader.read(rows, window_draws=draws_of(4, seed))
        assert read.tolist() == rows.tolist() and images.shape == (4, S, S, 3)
    assert sorted(store.reads) == [0, 3, 9]
    unkept = jpegs()
    reader = reader_of(unkept, cache_bytes=0)
    for seed in range(4):
        reader.read(rows, window_draws=draws_of(4, seed))
    assert sorted(unkept.reads) == sorted([0, 3, 9] * 4)


def test_files_and_decoded_images_share_one_budget():
    budget = Budget(1000)
    assert budget.take(600) and not budget.take(500)
    assert budget.take_up_to(9, size=150) == 2
    assert not budget.take(101) and budget.take(100) and budget.take_up_to(3, size=1) == 0
    store = jpegs()
    size = len(store.images[0])
    files = KeptFiles(Split(LABELS, store), budget=Budget(2 * size + 500))
    for _ in range(3):
        assert files.read(np.array([0, 0, 0]))[2] == store.images[0]
    assert store.reads == [0]
    for _ in range(2):
        assert files.read(np.arange(12)).tolist() == store.images[:12]
    assert store.reads.count(11) == 2, "the budget is spent"


def test_a_bad_window_is_named_where_none_is_replaced():
    store = jpegs()
    store.images[2] = b"broken"
    with pytest.raises(UserError, match=r"^photos/2.jpg is not a readable image \(Unknown image"):
        reader_of(store).read(np.array([1, 2]), window_draws=draws_of(2))
