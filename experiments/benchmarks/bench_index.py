"""An index of a million classes and ten million images: time and memory to the first batch.

    python experiments/benchmarks/bench_index.py [--classes 1000000] [--images 10000000]

Claim (issue 3, item 4): from cached shard indices to the first PK batch in 10 s and 400 MB.
The shards are sparse files (no image is stored), their indices are real files, and everything
after them is the code path of training: load_index, select_head, PKSampler, Split.read.
The measured part runs in a process of its own; memory is its peak resident set above the
interpreter with numpy imported.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np


def write_shards(folder: pathlib.Path, *, classes: int, images: int, shards: int) -> None:
    """Sparse shards with index files: every class once, the rest Zipf-distributed."""
    from longtail_tf.datasets.shards.shard_index import (
        ShardIndex,
        hash_texts,
        index_paths,
        save_shard_index,
    )
    from longtail_tf.datasets.sources.tfrecord import KEY_OPTIONS
    from longtail_tf.datasets.string_table import StringTable

    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, classes + 1)
    tail = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(images - classes))
    labels = np.concatenate([np.arange(classes), tail]).astype(np.int32)
    rng.shuffle(labels)
    keys = {name: option.default for name, option in KEY_OPTIONS.items()}
    for number, own in enumerate(np.array_split(labels, shards)):
        path = folder / f"train-{number:05d}-of-{shards:05d}.tfrecord"
        lengths = rng.integers(4_000, 30_000, len(own)).astype(np.uint32)
        offsets = np.cumsum(lengths + np.uint64(100)) - lengths
        with open(path, "wb") as file:
            file.truncate(int(offsets[-1]) + 30_000)
        present, text_ids = np.unique(own, return_inverse=True)
        texts = StringTable.from_strings(f"class {label:07d}" for label in present)
        index = ShardIndex(
            offsets, lengths, own, text_ids.astype(np.int32), texts, hash_texts(texts), bytes(32)
        )
        save_shard_index(index_paths(str(path))[0], index, shard=str(path), keys=keys)


def peak_mb() -> float:
    # Not ru_maxrss: that counts what the parent held when it forked this process.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(folder: str) -> None:
    """Prints time and memory of each step, in this process."""
    from longtail_tf.datasets import load_index
    from longtail_tf.head_set import select_head
    from longtail_tf.sampling import PKSampler

    base, start, cpu = peak_mb(), time.perf_counter(), time.process_time()

    def report(step: str) -> None:
        wall, busy = time.perf_counter() - start, time.process_time() - cpu
        print(f"{step:<28}{wall:8.2f} s wall{busy:8.2f} s CPU{peak_mb() - base:8.0f} MB")

    print(f"peak memory above the {base:.0f} MB of the interpreter with numpy")
    index = load_index(f"tfrecord:{folder}/*.tfrecord?test_fraction=0")
    report("load_index")
    head = select_head(index.class_counts, ratio=0.2)
    report(f"select_head ({len(head)} classes)")
    sampler = PKSampler(index.train.labels, classes_per_batch=32, images_per_class=4, seed=0)
    rows = sampler.batch(0)
    report("PKSampler, first batch")
    images = index.train.read(rows)
    report(f"{len(images)} images read")
    print(f"{len(index.train):,} training images, {index.num_classes:,} classes, {index.notes}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_shards(
            pathlib.Path(folder),
            classes=arguments.classes,
            images=arguments.images,
            shards=arguments.shards,
        )
        subprocess.run([sys.executable, os.path.abspath(__file__), "--measure", folder], check=True)


if __name__ == "__main__":
    main()
