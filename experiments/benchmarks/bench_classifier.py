"""The classifier's cost against the number of classes: full, head only, sampled.

    taskset -c 1 python experiments/benchmarks/bench_classifier.py
    python experiments/benchmarks/bench_classifier.py --classes 1000,10000 --rounds 9 --no_memory

One step is forward, gradient and update of the classifier alone on 128 embeddings of 128 numbers:
the same batch and the same optimizer (SGD with Nesterov momentum and weight decay) for each.
- full: softmax cross entropy over all C classes.
- head 20 %: over C / 5 classes, what `--head_ratio=0.2` trains.
- head 20 % sampled: `losses.partial_cross_entropy` of the head with 8,192 classes drawn, what
  `--head_sampled_classes=8192` trains (left out where the head is smaller).
- sampled softmax: `tf.nn.sampled_softmax_loss` over all C with 8,192 drawn, kernel [C, D], plain
  SGD on the rows drawn alone: another objective and no momentum, the floor of such methods.

Claim (DESIGN section 7): head 20 % <= 0.25x of full at 1,000,000 classes, in time and memory.
Times are CPU time of one TensorFlow thread, subjects in turn in every round, ratios within a round,
median [smallest, largest]. Memory is the peak resident size of a fresh process during three steps
above that before the classifier was made: kernel, momentum, gradient and logits.
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

BATCH, DIM, SAMPLED, HEAD_SHARE = 128, 128, 8192, 5
SUBJECTS = (
    "full",
    "head 20 %",
    "head 20 % sampled",
    "sampled softmax",
)


def fits(name: str, classes: int) -> bool:
    """Whether there are enough classes to sample from."""
    if name == "head 20 % sampled":
        return classes // HEAD_SHARE > SAMPLED
    return name != "sampled softmax" or classes > SAMPLED


def step_of(name: str, classes: int):
    """One training step of the classifier, a function of no argument."""
    import tensorflow as tf

    from longtail_tf import losses
    from longtail_tf.training.learning_rate import build_optimizer, learning_rate_schedule

    width = classes // HEAD_SHARE if name.startswith("head") else classes
    points = tf.random.stateless_normal([BATCH, DIM], [0, 1])
    labels = tf.random.stateless_uniform([BATCH], [0, 2], 0, width, tf.int32)
    shape = [width, DIM] if name == "sampled softmax" else [DIM, width]
    kernel = tf.Variable(lambda: 0.05 * tf.random.stateless_normal(shape, [0, 3]), name="kernel")
    count = tf.Variable(0, dtype=tf.int64, trainable=False)

    if name == "sampled softmax":
        bias = tf.zeros([classes])

        @tf.function(autograph=False, jit_compile=False)
        def sampled():
            with tf.GradientTape() as tape:
                tape.watch(points)
                loss = tf.reduce_mean(
                    tf.nn.sampled_softmax_loss(
                        kernel, bias, labels[:, tf.newaxis], points, SAMPLED, classes
                    )
                )
            rows, by_points = tape.gradient(loss, [kernel, points])
            kernel.scatter_sub(tf.IndexedSlices(0.01 * rows.values, rows.indices))
            return loss, by_points

        return sampled

    def loss_of():
        if name.endswith("sampled"):
            return losses.partial_cross_entropy(
                labels, points, kernel, num_sampled=SAMPLED, seed=0, step=count
            )
        logits = tf.matmul(points, kernel)
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        )

    schedule = learning_rate_schedule(0.01, steps=10**6, warmup_steps=10, shape="cosine")
    optimizer = build_optimizer("sgd", schedule, momentum=0.9, weight_decay=5e-4)
    optimizer.build([kernel])

    @tf.function(autograph=False, jit_compile=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch(points)
            loss = loss_of()
        by_kernel, by_points = tape.gradient(loss, [kernel, points])
        optimizer.apply_gradients([(by_kernel, kernel)])
        count.assign_add(1)
        return loss, by_points

    return step


def resident(field: str) -> int:
    """Bytes of resident memory: VmRSS now, VmHWM at most."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", status)[1])


def print_own_memory(name: str, classes: int) -> None:
    import tensorflow as tf

    tf.linalg.matmul(tf.ones([64, 64]), tf.ones([64, 64]))  # what TensorFlow itself takes
    before = resident("VmRSS")
    step = step_of(name, classes)
    for _ in range(3):
        step()
    print(resident("VmHWM") - before)


def memory_of(name: str, classes: int) -> int:
    command = [sys.executable, __file__, "--memory_of", name, "--classes", str(classes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def times_of(classes: int, rounds: int) -> dict:
    """CPU milliseconds a step by subject, one number a round."""
    names = [name for name in SUBJECTS if fits(name, classes)]
    steps = {name: step_of(name, classes) for name in names}
    calls = {}
    for name, step in steps.items():
        step()
        start = time.process_time()
        step()
        calls[name] = max(1, int(0.1 / max(time.process_time() - start, 1e-4)))
    times: dict = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            for _ in range(calls[name]):
                step()
            times[name].append(1e3 * (time.process_time() - start) / calls[name])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", default="1000,10000,100000,1000000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--json", default="", help="also write the rows here")
    parser.add_argument("--memory_of", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()

    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it takes one traced step a subject for retracing
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if options.memory_of:
        print_own_memory(options.memory_of, int(options.classes))
        return
    rows = []
    for classes in map(int, options.classes.split(",")):
        print(f"\n{classes:,} classes, batch {BATCH}, {DIM} numbers, median of {options.rounds}")
        print(f"  {'':<20}{'CPU ms':>9}{'of full':>9} {'[smallest, largest]':<22}"
              f"{'MB':>7}  of full")  # fmt: skip
        times = times_of(classes, options.rounds)
        taken: dict = {}
        for name, values in times.items():
            ratios = [a / b for a, b in zip(values, times["full"])]
            taken[name] = None if options.no_memory else memory_of(name, classes)
            row = {"classes": classes, "subject": name, "ms": statistics.median(values),
                   "ratio": statistics.median(ratios), "smallest": min(ratios),
                   "largest": max(ratios), "memory_bytes": taken[name]}  # fmt: skip
            rows.append(row)
            line = f"  {name:<20}{row['ms']:>9.2f}{row['ratio']:>9.3f} "
            line += f"{f'[{min(ratios):.3f}, {max(ratios):.3f}]':<22}"
            if taken[name] is not None:
                line += f"{taken[name] / 1e6:>7.0f}  {taken[name] / taken['full']:.2f}"
            print(line, flush=True)
        if options.json:
            pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
