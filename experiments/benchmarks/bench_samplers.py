"""PK samplers against the number of classes: batches/s, first batch, memory; and the peers.

    python experiments/benchmarks/bench_samplers.py
    TORCH_ENV/bin/python experiments/benchmarks/bench_samplers.py     # adds PyTorch's samplers

Claims (DESIGN section 7): at 1,000,000 classes and 8 to 10 million images, P=32, K=4: at least
100,000 batches/s of CPU in NumPy and 20,000 through tf.data, 1,000 times the MPerClassSampler of
pytorch-metric-learning; first batch within 0.5 s of CPU; 8 bytes an image and 16 a class.

Rates are per second of process CPU time, median of --rounds with their smallest and largest; the
subjects take turns in every round, so that ratios hold on a busy machine. Each peer is measured
where it can be imported: run once in an environment with TensorFlow, once in one with
`torch==2.13.0 pytorch-metric-learning==2.9.0 "numpy<2"`, which is all that this file needs there.
First batch counts building the sampler. Memory is that of NumPy and Python objects (tracemalloc):
the peak while building, and what is held after the first batch, both without the labels.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pathlib
import statistics
import sys
import time
import tracemalloc

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from longtail_tf.sampling import PKSampler, RandomSampler  # noqa: E402

P, K = 32, 4
ROUND_S = 0.15  # CPU time that a subject gets in one round


def zipf_labels(num_classes: int) -> np.ndarray:
    """About 8.5 images a class, every class at least one, the k-th in proportion to 1 / k^0.8."""
    weights = 1 / np.arange(1, num_classes + 1) ** 0.8
    counts = 1 + (7.5 * num_classes * weights / weights.sum()).astype(int)
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), counts)
    return np.random.default_rng(0).permutation(labels)


class Ours:
    """Single batches, as the input pipeline asks for them."""

    name = "PKSampler.batch"
    settings: dict = {}

    def __init__(self, labels):
        self.sampler = PKSampler(labels, classes_per_batch=P, images_per_class=K, seed=0,
                                 **self.settings)  # fmt: skip
        self.step = 0

    def draw(self, count):
        for step in range(self.step, self.step + count):
            self.sampler.batch(step)
        self.step += count


class OursInBlocks(Ours):
    name = "PKSampler.batches"

    def draw(self, count):
        for _ in range(-(-count // 256)):
            self.sampler.batches(self.step, 256)
            self.step += 256


class OursWeighted(Ours):
    name = "PKSampler class_power"
    settings = {"class_power": 0.5}


class OursRandom(Ours):
    name = "RandomSampler.batch"

    def __init__(self, labels):
        rows = np.flatnonzero(labels < len(labels) // 40)  # roughly the top fifth of the classes
        self.sampler = RandomSampler(rows, batch_size=P * K, seed=0)
        self.step = 0


class OursThroughTfData(Ours):
    """One element is one batch of rows, drawn in blocks; read in graph, on one thread."""

    name = "through tf.data"

    def __init__(self, labels):
        import tensorflow as tf

        super().__init__(labels)

        def block(step):
            draw = lambda s: self.sampler.batches(self.step + int(s), 256)  # noqa: E731
            rows = tf.numpy_function(draw, [step], tf.int64)
            return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(rows, [256, P * K]))

        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.autotune.enabled = False
        self.batches = tf.data.Dataset.range(0, 2**40, 256).flat_map(block).with_options(options)

    def draw(self, count):
        self.batches.take(count).reduce(np.int64(0), lambda total, rows: total + rows[0])
        self.step += count


class PyTorchMetricLearning:
    """Its iterator makes the rows of a whole 'epoch' at once; here the epoch is `count` batches."""

    name = "PML MPerClassSampler"

    def __init__(self, labels):
        from pytorch_metric_learning.samplers import MPerClassSampler

        self.sampler = MPerClassSampler(labels, m=K, batch_size=P * K, length_before_new_iter=P * K)

    def draw(self, count):
        self.sampler.list_size = count * P * K
        iter(self.sampler)


class OpenMetricLearning:
    """Its iterator makes the rows of a whole epoch at once; `count` epochs of L // P batches are
    drawn, so a rate here is of whole epochs. It refuses classes of one image: they get a copy."""

    name = "OML BalanceSampler"

    def __init__(self, labels):
        from oml.samplers.balance import BalanceSampler

        counts = np.bincount(labels)
        self.sampler = BalanceSampler(
            np.concatenate([labels, np.flatnonzero(counts == 1)]), n_labels=P, n_instances=K
        )

    def draw(self, count):
        """Whole epochs of at least `count` batches; counts them."""
        drawn = 0
        while drawn < count:
            drawn += sum(1 for _ in self.sampler)
        return drawn


def subjects():
    found = [Ours, OursInBlocks, OursWeighted, OursRandom]
    for module, subject in (
        ("tensorflow", OursThroughTfData),
        ("pytorch_metric_learning", PyTorchMetricLearning),
        ("oml", OpenMetricLearning),
    ):
        try:
            __import__(module)
            found.append(subject)
        except ImportError:
            print(f"({subject.name}: left out, {module} is not installed here)")
    return found


def first_batch(subject, labels):
    """CPU seconds to build and draw once, and bytes at the peak and held afterwards."""
    gc.collect()
    start = time.process_time()
    running = subject(labels)
    running.draw(1)
    seconds = time.process_time() - start
    if subject in (OursThroughTfData, PyTorchMetricLearning, OpenMetricLearning):
        return running, seconds, None, None  # memory outside Python, or minutes under tracemalloc
    del running
    gc.collect()
    tracemalloc.start()
    running = subject(labels)
    running.draw(1)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return running, seconds, peak, held


def calibrated(running) -> int:
    """How many batches take about ROUND_S."""
    count = 1
    while True:
        start = time.process_time()
        running.draw(count)
        spent = time.process_time() - start
        if spent > ROUND_S / 4 or count > 1_000_000:
            return max(1, int(count * ROUND_S / max(spent, 1e-9)))
        count *= 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", default="1000,10000,100000,1000000")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", default="", help="write the rows here as well")
    arguments = parser.parse_args()
    chosen, rows = subjects(), []
    for num_classes in map(int, arguments.classes.split(",")):
        labels = zipf_labels(num_classes)
        print(f"\n{num_classes:,} classes, {len(labels):,} images, P={P} K={K}, numpy "
              f"{np.__version__}")  # fmt: skip
        print(f"  {'sampler':<24}{'batches/s':>12}{'[smallest, largest]':>24}{'ratio':>9}"
              f"{'first, s':>10}{'peak MB':>9}{'held MB':>9}")  # fmt: skip
        running, counts, firsts = {}, {}, {}
        for subject in chosen:
            one, *firsts[subject.name] = first_batch(subject, labels)
            running[subject.name], counts[subject.name] = one, calibrated(one)
        rates: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(arguments.rounds):
            for name, one in running.items():
                start = time.process_time()
                drawn = one.draw(counts[name]) or counts[name]
                rates[name].append(drawn / (time.process_time() - start))
        for name, measured in rates.items():
            ratio = statistics.median(a / b for a, b in zip(rates["PKSampler.batch"], measured))
            first, peak, held = firsts[name]
            rows.append({
                "classes": num_classes, "images": len(labels), "sampler": name,
                "batches_per_s": statistics.median(measured), "smallest": min(measured),
                "largest": max(measured), "batch_over_this": ratio, "first_batch_s": first,
                "peak_bytes": peak, "held_bytes": held,
            })  # fmt: skip
            spread = f"[{min(measured):,.0f}, {max(measured):,.0f}]"
            memory = [f"{b / 1e6:.1f}" if b is not None else "-" for b in (peak, held)]
            print(f"  {name:<24}{statistics.median(measured):>12,.0f}{spread:>24}{ratio:>9,.2f}"
                  f"{first:>10.3f}{memory[0]:>9}{memory[1]:>9}")  # fmt: skip
        allowed = 8 * len(labels) + 16 * num_classes
        print(f"  ratio: PKSampler.batch over this sampler, median over the rounds; allowed memory "
              f"{allowed / 1e6:.1f} MB")  # fmt: skip
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
