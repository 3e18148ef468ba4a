"""Our stateless augmentation against keras-cv's layers: images per CPU second, one thread.

    python experiments/benchmarks/bench_augment.py [--rounds 5] [--size 32]

Batches of 128 uint8 images through one traced call each: our `randaugment` part alone (two
operations an image), keras-cv's RandAugment (two augmentations an image, its other defaults), and
`crop_flip` beside keras-cv's RandomCrop + RandomFlip. Rounds interleaved; process CPU time; median
and range; a ratio is the median of the rounds' ratios. Beside speed, only ours repeats: keras-cv
keeps generator state, so a run resumed at a step would see other pictures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf

from longtail_tf.compat.quiet_imports import keras_cv
from longtail_tf.images.augment import HEAD_STREAM, augment
from longtail_tf.images.random_augment import random_augment

BATCH = 128


def contestants(size: int) -> dict:
    """Name -> a traced function of (images, step)."""
    layers = keras_cv().layers
    rand_augment = layers.RandAugment(value_range=(0, 255), augmentations_per_image=2)
    moves = [layers.RandomCrop(size, size), layers.RandomFlip("horizontal")]
    padding = max(1, size // 8)

    def ours_rand(images, step):
        def draws(number):
            return tf.random.stateless_uniform([number, BATCH], tf.stack([step, 7]))

        return random_augment(images, draws)

    def ours_move(images, step):
        return augment(images, name="crop_flip", seed=0, stream=HEAD_STREAM, step=step)

    def theirs_rand(images, step):
        return tf.cast(rand_augment(tf.cast(images, tf.float32), training=True), tf.uint8)

    def theirs_move(images, step):
        images = tf.pad(images, [[0, 0], [padding] * 2, [padding] * 2, [0, 0]], "SYMMETRIC")
        for layer in moves:
            images = layer(images, training=True)
        return tf.cast(images, tf.uint8)

    spec = [tf.TensorSpec([BATCH, size, size, 3], tf.uint8), tf.TensorSpec([], tf.int64)]
    return {
        name: tf.function(function, input_signature=spec)  # keras-cv needs autograph
        for name, function in (
            ("ours, randaugment", ours_rand),
            ("keras-cv RandAugment", theirs_rand),
            ("ours, crop_flip", ours_move),
            ("keras-cv RandomCrop + RandomFlip", theirs_move),
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=32)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    shape = (BATCH, arguments.size, arguments.size, 3)
    images = tf.constant(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    functions = contestants(arguments.size)
    rates: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function(images, tf.constant(0, tf.int64))
    for _ in range(arguments.rounds):
        for name, function in functions.items():
            start, batches = time.process_time(), 0
            while time.process_time() - start < 0.5:
                function(images, tf.constant(batches, tf.int64))
                batches += 1
            rates[name].append(batches * BATCH / (time.process_time() - start))
    names = list(rates)
    for ours, theirs in zip(names[::2], names[1::2]):
        ratio = statistics.median(a / b for a, b in zip(rates[ours], rates[theirs]))
        for name in (ours, theirs):
            middle = statistics.median(rates[name])
            spread = f"[{min(rates[name]):,.0f}-{max(rates[name]):,.0f}]"
            print(f"{name:36s}{middle:10,.0f} images/s {spread}")
        print(f"  ours is {ratio:.1f} x keras-cv's", flush=True)


if __name__ == "__main__":
    main()
