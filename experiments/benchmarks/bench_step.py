"""A two-stream train step against plain Keras `fit` of the same network on the same images.

    python experiments/benchmarks/bench_step.py
    python experiments/benchmarks/bench_step.py --only alternate,joint --rounds 9

Claims (DESIGN section 7): an alternating step costs at most 1.03 times two plain steps of its two
batches, a joint step at most 1.03 times one plain step of the joined batch, in CPU time and in
memory. Also shown: what bfloat16 and XLA (`--jit_compile`) change, with the same weights updated.

The network is the CIFAR ResNet-20 at 32 px (or --backbone and --image_size), D = 128; the batches
are 64 head images and 16 x 4 whole images that stay in memory, so no input pipeline is measured.
Plain `fit` trains the same embedder, neck and head classifier with the same optimizer, cross
entropy and accuracy. Times are CPU time of this process on --threads threads, median of --rounds
with their smallest and largest; subjects take turns in every round and ratios are medians of the
ratios within a round, so that they hold on a busy machine. Memory is the peak resident size of a
fresh process during 4 steps, above what it held before the first.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

NUM_CLASSES, NUM_HEAD, HEAD_BATCH, P, K, DIM = 100, 20, 64, 16, 4, 128
# Each subject with the plain one that sees the same images in as many updates.
SUBJECTS = {
    "plain 2 x 64": None,
    "plain 1 x 128": None,
    "alternate": "plain 2 x 64",
    "joint": "plain 1 x 128",
    "plain 2 x 64 bfloat16": "plain 2 x 64",
    "alternate bfloat16": "alternate",
    "alternate jit": "alternate",
}


def batches():
    """A head batch and a whole batch, as `training_streams` gives them."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (ARGUMENTS.image_size, ARGUMENTS.image_size, 3)

    def batch(labels):
        images = rng.integers(0, 256, (len(labels), *shape), np.uint8)
        return images, labels.astype(np.int32), rng.integers(0, 10**6, len(labels))

    head = batch(rng.integers(0, NUM_HEAD, HEAD_BATCH))
    whole = batch(np.repeat(rng.permutation(NUM_CLASSES)[:P], K))
    return {"head": head, "whole": whole}


def optimizer():
    from longtail_tf.training.learning_rate import build_optimizer, learning_rate_schedule

    schedule = learning_rate_schedule(0.01, steps=10**6, warmup_steps=10, shape="cosine")
    return build_optimizer("sgd", schedule, momentum=0.9, weight_decay=5e-4)


def two_streams(precision):
    import tensorflow as tf

    from longtail_tf.models import networks
    from longtail_tf.models.two_stream_model import TwoStreamModel

    tf.keras.utils.set_random_seed(0)
    embedder = networks.build_embedder(
        backbone=ARGUMENTS.backbone,
        image_size=ARGUMENTS.image_size,
        channels=3,
        embedding_dim=DIM,
        precision=precision,
    )
    return TwoStreamModel(embedder, num_head_classes=NUM_HEAD)


class Plain:
    """`fit` of a classifier, as anyone would write it."""

    def __init__(self, data, *, updates, precision="float32"):
        import numpy as np
        import tensorflow as tf

        parts = two_streams(precision)
        inputs = tf.keras.Input(parts.embedder.input_shape[1:])
        logits = parts.head(parts.neck(parts.embedder(inputs)))
        self.model = tf.keras.Model(inputs, logits)
        self.model.compile(
            optimizer=optimizer(),
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
        )
        images, labels = (np.concatenate([batch[i] for batch in data.values()]) for i in range(2))
        labels %= NUM_HEAD
        self.updates = updates
        self.dataset = tf.data.Dataset.from_tensor_slices(
            tuple(np.stack(np.split(each, updates)) for each in (images, labels))
        )
        self.dataset = self.dataset.repeat().prefetch(2)

    def run(self, steps):
        self.model.fit(self.dataset, steps_per_epoch=steps * self.updates, verbose=0)


class TwoStreams:
    """`fit` of a TwoStreamModel, compiled as `training.loop.compile_for` does."""

    def __init__(self, data, *, schedule, precision="float32", jit_compile=False):
        import tensorflow as tf

        from longtail_tf import losses

        self.model = two_streams(precision)
        self.model.compile(
            head_optimizer=optimizer(),
            whole_optimizer=optimizer() if schedule == "alternate" else None,
            classification_loss=losses.classification_loss(
                "cross_entropy", class_counts=[100] * NUM_HEAD
            ),
            metric_loss=losses.metric_loss("triplet_semihard", margin=0.2),
            schedule=schedule,
            jit_compile=jit_compile,
        )
        self.dataset = tf.data.Dataset.from_tensors(data).repeat().prefetch(2)

    def run(self, steps):
        self.model.fit(self.dataset, steps_per_epoch=steps, verbose=0)


def subject(name):
    data = batches()
    precision = "bfloat16" if "bfloat16" in name else "float32"
    if name.startswith("plain"):
        return Plain(data, updates=2 if "2 x" in name else 1, precision=precision)
    return TwoStreams(
        data, schedule=name.split()[0], precision=precision, jit_compile="jit" in name
    )


def limit_threads():
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(ARGUMENTS.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1 if ARGUMENTS.threads == 1 else 0)


def resident(field):
    """Bytes of resident memory: VmRSS now, VmHWM at most."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", status)[1])


def step_memory(name):
    """Peak resident memory of 4 steps above that before the first, in a fresh process."""
    command = [sys.executable, __file__, "--memory_of", name, *sys.argv[1:]]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(result.stdout.split()[-1])


def print_own_memory(name):
    limit_threads()
    one = subject(name)
    before = resident("VmRSS")
    one.run(4)
    print(resident("VmHWM") - before)


def measure(names):
    limit_threads()
    running, first_s = {}, {}
    for name in names:
        start = time.process_time()
        running[name] = subject(name)
        running[name].run(1)
        first_s[name] = time.process_time() - start
        running[name].run(1)
    times = {name: [] for name in names}
    for _ in range(ARGUMENTS.rounds):
        for name, one in running.items():
            start = time.process_time()
            one.run(ARGUMENTS.steps)
            times[name].append((time.process_time() - start) / ARGUMENTS.steps)
    return times, first_s


def main():
    wanted = ARGUMENTS.only.split(",") if ARGUMENTS.only else list(SUBJECTS)
    names = [name for name in SUBJECTS if name in wanted or any(
        SUBJECTS[other] == name for other in wanted)]  # fmt: skip
    times, first_s = measure(names)
    memory = {name: None if ARGUMENTS.no_memory else step_memory(name) for name in names}
    images = HEAD_BATCH + P * K
    print(
        f"{ARGUMENTS.backbone}, {ARGUMENTS.image_size} px, {ARGUMENTS.threads} thread(s), "
        f"{images} images a step, median of {ARGUMENTS.rounds} rounds of {ARGUMENTS.steps} steps"
    )
    print(f"{'':<24}{'CPU ms':>9}{'smallest':>10}{'largest':>9}{'images/s':>10}{'first s':>9}"
          f"{'MB':>7}   ratio [smallest, largest] of time, of memory")  # fmt: skip
    rows = []
    for name in names:
        milliseconds = [1000 * seconds for seconds in times[name]]
        median = statistics.median(milliseconds)
        row = {"subject": name, "ms": median, "smallest_ms": min(milliseconds),
               "largest_ms": max(milliseconds), "images_per_s": 1000 * images / median,
               "first_step_s": first_s[name], "memory_bytes": memory[name]}  # fmt: skip
        line = (f"{name:<24}{median:>9.1f}{min(milliseconds):>10.1f}{max(milliseconds):>9.1f}"
                f"{row['images_per_s']:>10.0f}{first_s[name]:>9.1f}")  # fmt: skip
        line += f"{memory[name] / 1e6:>7.0f}" if memory[name] else f"{'-':>7}"
        peer = SUBJECTS[name]
        if peer in times:
            ratios = [a / b for a, b in zip(times[name], times[peer])]
            row.update(peer=peer, ratio=statistics.median(ratios),
                       smallest_ratio=min(ratios), largest_ratio=max(ratios))  # fmt: skip
            line += f"   {row['ratio']:.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"
            if memory[name]:
                row["memory_ratio"] = memory[name] / memory[peer]
                line += f", {row['memory_ratio']:.2f}"
            line += f" of {peer}"
        rows.append(row)
        print(line)
    if ARGUMENTS.json:
        pathlib.Path(ARGUMENTS.json).write_text(json.dumps(rows, indent=2) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="steps of each subject in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backbone", default="resnet20")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--only", default="", help=f"some of: {','.join(SUBJECTS)}")
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--json", default="", help="also write the numbers here")
    parser.add_argument("--memory_of", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    ARGUMENTS = arguments()
    if ARGUMENTS.memory_of:
        print_own_memory(ARGUMENTS.memory_of)
    else:
        main()
