"""Each operation against a plain loop; the whole as a pure function of (seed, stream, step)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.images import augment as augmentation
from longtail_tf.images import random_augment
from longtail_tf.images.augment import (
    HEAD_STREAM,
    WHOLE_STREAM,
    augment,
    crop,
    cutout,
    mix,
    parts_of,
)
from longtail_tf.settings.choices import AUGMENTATIONS, MIXING_AUGMENTATIONS

BUSY = [name for name in AUGMENTATIONS if name != "none"]


def images_of(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def run(images, name, *, seed=1, stream=WHOLE_STREAM, step=5, shard=None):
    return augment(
        tf.constant(images), name=name, seed=seed, stream=stream,
        step=tf.constant(step, tf.int64), shard=shard,
    ).numpy()  # fmt: skip


def test_names_need_no_tensorflow_and_are_distinct():
    names = AUGMENTATIONS + MIXING_AUGMENTATIONS
    assert len(set(names)) == len(names)
    assert {"none", "crop", "crop_flip"} <= set(AUGMENTATIONS)
    assert not set(AUGMENTATIONS) & set(MIXING_AUGMENTATIONS)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'crop_flop' does not exist: choose one of none, crop,"):
        parts_of("crop_flop")


@pytest.mark.parametrize("name", BUSY)
@pytest.mark.parametrize("shape", [(6, 16, 16, 3), (4, 8, 8, 1), (3, 9, 9, 3)])
def test_pure_in_seed_stream_and_step(name, shape):
    images = images_of(shape)
    first = run(images, name)
    assert first.shape == shape and first.dtype == np.uint8
    assert not np.array_equal(first, images)
    np.testing.assert_array_equal(first, run(images, name))
    for other in ({"seed": 2}, {"stream": HEAD_STREAM}, {"step": 6}, {"step": 5 + 2**32}):
        assert not np.array_equal(first, run(images, name, **other))


@pytest.mark.parametrize("name", BUSY)
def test_same_bits_in_a_graph_and_in_a_parallel_map(name):
    images = images_of((5, 12, 12, 3))
    steps = np.arange(6, dtype=np.int64)
    eager = [run(images, name, step=step) for step in steps]
    dataset = tf.data.Dataset.from_tensor_slices(steps).map(
        lambda step: augment(
            tf.constant(images), name=name, seed=1, stream=WHOLE_STREAM, step=step
        ),
        num_parallel_calls=4,
    )
    for expected, actual in zip(eager, dataset):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", BUSY)
def test_copies_of_one_image_look_different(name):
    copies = np.repeat(images_of((1, 24, 24, 3)), 8, axis=0)
    looks = {image.tobytes() for image in run(copies, name)}
    assert len(looks) >= 7


@pytest.mark.parametrize("name", BUSY)
def test_replicas_make_their_slices_of_the_batch(name):
    images = images_of((12, 8, 8, 3))
    whole = run(images, name)
    parts = [run(images[4 * i : 4 * i + 4], name, shard=(i, 3)) for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_none_changes_nothing():
    images = images_of((2, 8, 8, 1))
    np.testing.assert_array_equal(run(images, "none"), images)


@pytest.mark.parametrize("size, reach", [(32, 4), (28, 4), (8, 1), (3, 1), (2, 1), (1, 0)])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_is_a_window_of_the_image_with_its_border_repeated(size, reach, flip, rng):
    images = images_of((40, size, size, 3))
    draws = rng.random((3, 40)).astype(np.float32)
    draws[:2, 0], draws[:2, 1] = 0, 0.99999
    actual = crop(tf.constant(images), tf.constant(draws), flip=flip).numpy()
    padded = np.pad(images, [(0, 0), (reach, reach), (reach, reach), (0, 0)], mode="edge")
    seen = set()
    for i in range(40):
        down, right = (math.floor(d * (2 * reach + 1)) for d in draws[:2, i])
        window = padded[i, down : down + size]
        if flip and draws[2, i] < 0.5:
            window = window[:, ::-1]
            right = 2 * reach - right
        seen.add((down, right))
        np.testing.assert_array_equal(actual[i], window[:, right : right + size])
    assert len(seen) == 1 if reach == 0 else len(seen) > 5


def test_names_without_flip_never_mirror():
    ramp = np.arange(32, dtype=np.uint8)[:, np.newaxis] * 7
    sideways = np.ascontiguousarray(np.broadcast_to(ramp, (64, 32, 32, 1)))
    rises = run(sideways, "crop")[:, 16, 20].astype(int) - run(sideways, "crop")[:, 16, 12]
    assert (rises > 0).all()
    flipped = run(sideways, "crop_flip")
    share = (flipped[:, 16, 20].astype(int) < flipped[:, 16, 12]).mean()
    assert 0.25 < share < 0.75


@pytest.mark.parametrize("shape", [(20, 16, 16, 3), (20, 9, 9, 1)])
def test_cutout_covers_one_square_with_the_mean(shape, rng):
    images = images_of(shape)
    draws = rng.random((3, 20)).astype(np.float32)
    actual = cutout(tf.constant(images), tf.constant(draws)).numpy()
    size = shape[1]
    for i in range(20):
        half = (0.125 + 0.125 * draws[2, i]) * size
        expected = images[i].copy()
        mean = images[i].astype(int).sum((0, 1)) // size**2
        for y in range(size):
            for x in range(size):
                down, right = math.floor(draws[0, i] * size), math.floor(draws[1, i] * size)
                if abs(y - down) < half and abs(x - right) < half:
                    expected[y, x] = mean
        np.testing.assert_array_equal(actual[i], expected)


ZERO = np.zeros(4, np.float32)


def test_operations_not_drawn_change_nothing():
    images = tf.constant(images_of((4, 11, 11, 3)))
    still = {name: ZERO for name in ("rotate", "shear_x", "shear_y", "shift_x", "shift_y")}
    np.testing.assert_array_equal(random_augment.warp(images, **still), images)
    plain = {name: ZERO for name in ("brightness", "contrast", "autocontrast", "posterize")}
    np.testing.assert_array_equal(random_augment.recolour(images, **plain), images)
    np.testing.assert_array_equal(random_augment.saturate(images, tf.constant(ZERO)), images)


def recoloured(images, **strengths):
    names = ("brightness", "contrast", "autocontrast", "posterize")
    settings = {name: np.full(len(images), strengths.get(name, 0), np.float32) for name in names}
    return random_augment.recolour(tf.constant(images), **settings).numpy()


def test_colour_operations_against_their_formulas():
    images = images_of((3, 6, 6, 3)) // 2 + 30
    x = images.astype(np.float64)
    each = (1, 2, 3)
    mean = x.mean(each, keepdims=True)
    low, high = x.min(each, keepdims=True), x.max(each, keepdims=True)
    for name, strength, expected in [
        ("brightness", 0.5, x + 32),
        ("brightness", -1.0, x - 64),
        ("contrast", 1.0, mean + 1.6 * (x - mean)),
        ("contrast", -0.5, mean + 0.7 * (x - mean)),
        ("autocontrast", -1.0, (x - low) * 255 / (high - low)),
        ("autocontrast", 0.5, (x + (x - low) * 255 / (high - low)) / 2),
    ]:
        actual = recoloured(images, **{name: strength})
        assert np.abs(actual - np.clip(expected, 0, 255)).max() <= 0.501, name
    np.testing.assert_array_equal(recoloured(images, posterize=0.5), images // 4 * 4)
    np.testing.assert_array_equal(recoloured(images, posterize=-1.0), images // 16 * 16)


def test_saturation_moves_colours_from_and_to_grey():
    images = images_of((2, 5, 5, 3)) // 3 + 80
    x = images.astype(np.float64)
    grey = (x @ [0.299, 0.587, 0.114])[..., np.newaxis]
    strengths = np.array([1.0, -0.5], np.float32)
    factors = np.array([1.6, 0.7]).reshape(2, 1, 1, 1)
    actual = random_augment.saturate(tf.constant(images), tf.constant(strengths)).numpy()
    expected = np.clip(grey + factors * (x - grey), 0, 255)
    assert np.abs(actual - expected).max() <= 0.51


def test_warp_moves_and_turns_about_the_centre():
    images = np.zeros((4, 25, 25, 1), np.uint8)
    images[:, 12, 12] = 200  # the centre stays under rotation and shear
    images[:, 12, 20] = 100
    one = np.ones(1, np.float32)
    settings = {"rotate": [1, 0, 0, 0], "shear_x": [0, 1, 0, 0], "shear_y": [0, 0, 1, 0],
                "shift_x": [0, 0, 0, 1], "shift_y": ZERO}  # fmt: skip
    warped = random_augment.warp(
        tf.constant(images), **{k: np.float32(v) * one for k, v in settings.items()}
    ).numpy()[..., 0]
    assert warped[:3, 12, 12].min() >= 199
    assert warped[3, 12, 12 - 3] == 200  # 0.12 * 25 = 3 px: what lies right comes left
    angle = 0.35  # the right-hand point, 8 px out, turns by it
    y, x = (int(round(12 + s * 8 * f(angle))) for s, f in ((-1, math.sin), (1, math.cos)))
    assert warped[0, y - 1 : y + 2, x - 1 : x + 2].max() > 30 and warped[0, 12, 20] < 30


def test_each_image_draws_two_operations(monkeypatch):
    seen = {}
    real = {name: getattr(random_augment, name) for name in ("warp", "recolour", "saturate")}
    monkeypatch.setattr(
        random_augment, "warp", lambda x, **kw: seen.update(kw) or real["warp"](x, **kw)
    )
    monkeypatch.setattr(
        random_augment, "recolour", lambda x, **kw: seen.update(kw) or real["recolour"](x, **kw)
    )
    monkeypatch.setattr(
        random_augment, "saturate", lambda x, s: seen.update(sat=s) or real["saturate"](x, s)
    )
    run(images_of((500, 4, 4, 3)), "crop_randaugment")
    drawn = np.stack([np.asarray(strength) != 0 for strength in seen.values()])
    assert len(drawn) == 10
    assert (drawn.sum(0) == 2).all()
    assert (drawn.mean(1) > 0.1).all() and (drawn.mean(1) < 0.3).all()


def mixed(images, labels, name, step=3):
    parts = mix(
        tf.constant(images),
        tf.constant(labels),
        name=name,
        seed=0,
        step=tf.constant(step, tf.int64),
    )
    return [part.numpy() for part in parts]


@pytest.mark.parametrize("name", MIXING_AUGMENTATIONS)
@pytest.mark.parametrize("step", range(12))
def test_mixing_pairs_each_image_with_another_and_weighs_them(name, step):
    images = images_of((7, 8, 8, 3))
    labels = np.arange(7, dtype=np.int32)
    result, mixed_labels, weight = mixed(images, labels, name, step)
    assert result.dtype == np.uint8 and mixed_labels.dtype == np.int32
    assert (mixed_labels != labels).all() and sorted(mixed_labels) == list(range(7))
    assert 0 <= weight <= 1
    others = images[mixed_labels]
    if name.endswith("mixup"):
        expected = weight * images + (1 - weight) * others.astype(np.float64)
        assert np.abs(result - expected).max() <= 0.501
    else:
        own = (result == images).all(-1)
        pasted = (result == others).all(-1) & ~own
        assert (own | pasted).all()
        assert (own == own[:1]).all(), "one rectangle a batch"
        assert weight == pytest.approx(own[0].mean(), abs=1e-6)
        assert len(np.unique(pasted[0].sum(0))) <= 2, "a rectangle"


def test_mixing_is_pure_in_the_step_and_changes_with_it():
    images, labels = images_of((4, 8, 8, 1)), np.arange(4, dtype=np.int32)
    for name in MIXING_AUGMENTATIONS:
        np.testing.assert_array_equal(
            mixed(images, labels, name)[0], mixed(images, labels, name)[0]
        )
        weights = {float(mixed(images, labels, name, step)[2]) for step in range(10)}
        assert len(weights) > 5


def test_a_batch_of_one_mixes_with_itself():
    images, labels = images_of((1, 8, 8, 1)), np.zeros(1, np.int32)
    result, mixed_labels, _ = mixed(images, labels, "crop_mixup")
    np.testing.assert_array_equal(result, images)
    assert mixed_labels.tolist() == [0]


def test_no_two_kinds_of_draw_share_a_key():
    keys = {
        augmentation._key(seed, stream, purpose, tf.constant(0, tf.int64)).numpy().tobytes()
        for seed in range(50)
        for stream in (HEAD_STREAM, WHOLE_STREAM)
        for purpose in range(4)
    }
    assert len(keys) == 50 * 2 * 4
