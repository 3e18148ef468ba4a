"""Images per CPU second of the input pipeline.

    python experiments/benchmarks/bench_input.py [--rounds 9]

1. Arrays, 32 x 32 x 3: the whole stream with each augmentation. Goal: crop_flip >= 30,000/s.
2. JPEG files, 250 x 250, quality 85, about 18 kB, drawn by a PK sampler, read from disk, decoded,
   resized (nothing kept in memory), against
   - a bare fused decode-and-crop (160 x 160 window) of the same files from memory, no resize;
   - the same with the resize that makes it an input of the network;
   - a Pillow loader (open, convert, resize) of the same files.
   Goals: >= 0.85 of the bare decode with its resize, >= 1.3 times Pillow.
   And once the decoded images are kept in memory (`cache_bytes`).
3. The same files through `resized_crop_flip`: only the random window is decoded; files from disk,
   kept in memory, and against a Pillow loader that decodes all and resizes the same kind of window.
   `bench_input_torch.py` puts it beside PyTorch's DataLoader.

Process CPU time, one TensorFlow thread, rounds interleaved, median and spread of the rounds.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
from PIL import Image

from longtail_tf.datasets import load_index
from longtail_tf.datasets.split import Split
from longtail_tf.images.pipeline import training_streams
from longtail_tf.sampling import PKSampler
from longtail_tf.settings.choices import AUGMENTATIONS

P, K = 32, 4
CLASSES, EACH = 64, 8


class Arrays:
    encoded = False

    def __init__(self, images):
        self.images = images

    def read(self, rows):
        return self.images[rows]


def write_photos(root: pathlib.Path) -> None:
    """Class folders of JPEGs with gradients and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:250, :250]
    for c in range(CLASSES):
        (root / f"class {c:02d}").mkdir(parents=True)
        for i in range(EACH):
            layers = [y * (c % 3 + 1) / 3 % 256, (x + 7 * i) % 256, (x + y) / 2]
            pixels = np.stack(layers, -1) + rng.normal(0, 12, (250, 250, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(root / f"class {c:02d}" / f"{i}.jpg", quality=85)


def stream(split: Split, size: int, **settings) -> tf.data.Dataset:
    sampler = PKSampler(split.labels, classes_per_batch=P, images_per_class=K, seed=0)
    return training_streams(
        split, whole_sampler=sampler, image_size=size, channels=3, seed=0, **settings
    ).map(lambda batch: batch["whole"][0])


def rates(contestants: dict, rounds: int, batches: int) -> dict[str, list[float]]:
    """Images per CPU second of each contestant, in interleaved rounds."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            # A new iterator each time: one left waiting would fill its buffers at the expense of
            # the next contestant. What it makes ahead and nobody takes counts against it.
            iterator = iter(contestant() if callable(contestant) else contestant)
            next(iterator)
            start = time.process_time()
            for _ in range(batches):
                next(iterator)
            found[name].append(batches * P * K / (time.process_time() - start))
            del iterator
    return found


def show(found: dict[str, list[float]], base: str | None = None) -> None:
    for name, values in found.items():
        line = (
            f"{name:44s}{statistics.median(values):9.0f}/s  [{min(values):.0f}-{max(values):.0f}]"
        )
        if base:
            ratio = statistics.median(a / b for a, b in zip(found[base], values))
            line += "" if name == base else f"  ours is {ratio:.2f} x this"
        print(line, flush=True)


def bench_arrays(rounds: int) -> None:
    print("\narrays 32 x 32 x 3, whole stream, P x K = 32 x 4")
    images = np.random.default_rng(0).integers(0, 256, (4096, 32, 32, 3), dtype=np.uint8)
    split = Split((np.arange(4096) // 8).astype(np.int32), Arrays(images))
    for name in AUGMENTATIONS:
        show(rates({name: stream(split, 32, whole_augment=name)}, rounds, 200))


def bench_files(root: pathlib.Path, rounds: int, size: int) -> None:
    print(f"\nJPEG files 250 x 250 to {size} x {size}")
    train = load_index(f"folder:{root}", val_per_class=0).train
    paths = [train.describe(row) for row in range(len(train))]
    contents = [pathlib.Path(path).read_bytes() for path in paths]
    order = np.random.default_rng(1).integers(0, len(paths), 10**6)

    def fused(data):
        return tf.io.decode_and_crop_jpeg(data, [45, 45, 160, 160], channels=3)

    def resized(data):
        return tf.cast(tf.round(tf.image.resize(fused(data), [size, size])), tf.uint8)

    def bare(function):
        table = tf.constant(contents)
        rows = tf.data.Dataset.from_tensor_slices(order).repeat()
        return rows.map(lambda row: function(table[row]), num_parallel_calls=1).batch(P * K)

    def pillow():
        for start in range(0, len(order), P * K):
            batch = [Image.open(paths[row]) for row in order[start : start + P * K]]
            yield np.stack(
                [np.asarray(im.convert("RGB").resize((size, size), Image.BILINEAR)) for im in batch]
            )

    ours = "ours: PK rows, file, decode, resize"
    contestants = {
        ours: stream(train, size, cache_bytes=0),
        "bare fused decode-and-crop 160": bare(fused),
        "bare fused decode-and-crop 160, resize": bare(resized),
        "Pillow open, convert, resize": pillow,
    }
    show(rates(contestants, rounds, 25), base=ours)
    show(rates({"ours, images kept in memory": stream(train, size)}, rounds, 200))
    show(
        rates(
            {"ours, kept, crop_flip": stream(train, size, whole_augment="crop_flip")}, rounds, 100
        )
    )


def bench_windows(root: pathlib.Path, rounds: int, size: int) -> None:
    print(f"\nrandom windows of JPEG files 250 x 250 to {size} x {size}")
    train = load_index(f"folder:{root}", val_per_class=0).train
    paths = [train.describe(row) for row in range(len(train))]

    def pillow():
        rng = np.random.default_rng(1)
        while True:
            batch = []
            for row in rng.integers(0, len(paths), P * K):
                side = round(250 * rng.uniform(0.3, 1) ** 0.5)
                left, top = rng.integers(0, 251 - side, 2)
                box = (left, top, left + side, top + side)
                image = Image.open(paths[row]).convert("RGB")
                batch.append(np.asarray(image.resize((size, size), Image.BILINEAR, box=box)))
            yield np.stack(batch)

    ours = "ours: PK rows, file, fused window, flip"
    crop = {"whole_augment": "resized_crop_flip"}
    contestants = {
        ours: stream(train, size, cache_bytes=0, **crop),
        "ours, files kept in memory": stream(train, size, **crop),
        "ours, whole picture, crop_flip": stream(
            train, size, cache_bytes=0, whole_augment="crop_flip"
        ),
        "Pillow open, convert, resize a window": pillow,
    }
    show(rates(contestants, rounds, 25), base=ours)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write_photos(root)
        for size in (32, 64, 112):
            bench_files(root, rounds, size)
            bench_windows(root, rounds, size)
    bench_arrays(rounds)


if __name__ == "__main__":
    main()
