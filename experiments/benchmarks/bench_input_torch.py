"""Images per CPU second: our input pipeline against PyTorch's DataLoader + Pillow, same files.

    python3.11 -m venv TORCH_ENV
    TORCH_ENV/bin/pip install torch==2.13.0 pillow numpy
    python experiments/benchmarks/bench_input_torch.py --torch_python=TORCH_ENV/bin/python

Both read 512 JPEG files (250 x 250, quality 85) in random order, cut Inception's random window
(area 0.3 to 1), resize it to S x S, flip half of them and make batches of 128. PyTorch with 0 and
with 2 worker processes, Pillow with and without its reduced-scale decoding (`draft`); ours from
disk, and with the files kept in memory. Process CPU time including children, so a pipeline gains
nothing by using more cores; the contestants take turns within a round, and a ratio is the median
of the rounds' ratios. Wall time a batch is shown beside.

This file is both: started with --torch_python it runs ours and starts itself under that Python.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

BATCH = 128
TORCH = [(workers, draft) for draft in (False, True) for workers in (0, 2)]


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(make_iterator, batches: int) -> str:
    """Images a CPU second and wall milliseconds a batch, the first batch and the start left out.

    The iterator is over within the measurement: children count only once they have ended.
    """
    make_iterator(2)  # imports, tracing, file cache
    cpu, wall = cpu_seconds(), time.perf_counter()
    make_iterator(2)
    start_cpu, start_wall = cpu_seconds() - cpu, time.perf_counter() - wall
    cpu, wall = cpu_seconds(), time.perf_counter()
    make_iterator(2 + batches)
    cpu, wall = cpu_seconds() - cpu - start_cpu, time.perf_counter() - wall - start_wall
    return f"{batches * BATCH / cpu} {wall / batches * 1000}"


def run_torch(root: str, size: int, batches: int, workers: int, draft: bool) -> None:
    """One measurement, in PyTorch's environment."""
    import numpy as np
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    paths = sorted(str(path) for path in pathlib.Path(root).rglob("*.jpg"))

    class Windows(torch.utils.data.Dataset):
        """RandomResizedCrop + RandomHorizontalFlip of Pillow images, as torchvision has them."""

        def __len__(self):
            return 10**6

        def __getitem__(self, item):
            rng = np.random.default_rng(item)
            image = Image.open(paths[rng.integers(len(paths))])
            if draft:
                image.draft("RGB", (2 * size, 2 * size))
            image = image.convert("RGB")
            box = window(rng, *image.size)
            image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
            if rng.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return torch.from_numpy(np.array(image)), item

    def window(rng, width, height):
        for _ in range(10):
            area = rng.uniform(0.3, 1) * width * height
            shape = math.exp(rng.uniform(-math.log(4 / 3), math.log(4 / 3)))
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
                return left, top, left + w, top + h
        return 0, 0, width, height

    def iterate(count):
        subset = torch.utils.data.Subset(Windows(), range(count * BATCH))
        for _ in torch.utils.data.DataLoader(subset, batch_size=BATCH, num_workers=workers):
            pass

    print(measure(iterate, batches), flush=True)


def run_ours(root: str, size: int, batches: int, kept: bool) -> None:
    """One measurement, in a process of its own like PyTorch's."""
    import tensorflow as tf

    from longtail_tf.datasets import load_index
    from longtail_tf.images.pipeline import training_streams
    from longtail_tf.sampling import PKSampler

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    train = load_index(f"folder:{root}", val_per_class=0).train
    dataset = training_streams(
        train,
        whole_sampler=PKSampler(train.labels, classes_per_batch=32, images_per_class=4, seed=0),
        image_size=size,
        channels=3,
        whole_augment="resized_crop_flip",
        seed=0,
        cache_bytes=2**30 if kept else 0,
    )

    def iterate(count):
        for _ in dataset.take(count):
            pass

    if kept:
        iterate(2 * len(train) // BATCH)
    print(measure(iterate, batches), flush=True)


def compare(torch_python: str, root: str, *, size: int, rounds: int, batches: int) -> None:
    """Contestants take turns, each in its own process; prints the table of one size."""
    contestants = {
        f"PyTorch + Pillow{', draft' if draft else ''}, {workers} workers": [
            torch_python, __file__, f"--torch={workers},{int(draft)}",
        ]
        for workers, draft in TORCH
    }  # fmt: skip
    ours = "ours, files from disk"
    contestants[ours] = [sys.executable, __file__, "--ours=0"]
    contestants["ours, files kept in memory"] = [sys.executable, __file__, "--ours=1"]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, command in contestants.items():
            settings = [f"--root={root}", f"--size={size}", f"--batches={batches}"]
            said = subprocess.run(
                [*command, *settings], check=True, stdout=subprocess.PIPE, text=True
            ).stdout.split()
            found[name].append((float(said[-2]), float(said[-1])))
    print(f"\n250 x 250 JPEG, random window to {size} x {size}, flip; {rounds} rounds")
    for name, values in found.items():
        rate = statistics.median(value[0] for value in values)
        wall = statistics.median(value[1] for value in values)
        ratio = statistics.median(a[0] / b[0] for a, b in zip(found[ours], values))
        line = f"{name:36s}{rate:8.0f} images / CPU s {wall:8.1f} ms a batch"
        print(line + ("" if name == ours else f"   ours from disk is {ratio:.2f} x"), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--torch_python", help="Python of an environment with torch and Pillow")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--size", type=int, help="one S only; else 32, 64 and 112")
    parser.add_argument("--torch", help=argparse.SUPPRESS)
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.torch:
        workers, draft = given.torch.split(",")
        return run_torch(given.root, given.size, given.batches, int(workers), draft == "1")
    if given.ours:
        return run_ours(given.root, given.size, given.batches, given.ours == "1")
    if not given.torch_python:
        parser.error("--torch_python is missing")
    from bench_input import write_photos

    with tempfile.TemporaryDirectory() as folder:
        write_photos(pathlib.Path(folder))
        for size in [given.size] if given.size else (32, 64, 112):
            compare(
                given.torch_python, folder,
                size=size, rounds=given.rounds, batches=given.batches,
            )  # fmt: skip
    return None


if __name__ == "__main__":
    main()
