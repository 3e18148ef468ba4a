"""CPU time and memory of the triplet losses against TFA's, their products and a network's step.

    taskset -c 1 python experiments/benchmarks/bench_losses.py [--sizes 64,128,256,512,1024]
        [--rounds 9] [--images_per_class 4] [--tfa_most 512] [--memory_sizes 512,...,4096]
        [--first_sizes 128,512] [--json FILE]

Each figure is forward and gradient of one batch of B embeddings of 128 numbers in a traced
function, process CPU time of one TensorFlow thread. The losses take turns in every round, ratios
are taken inside a round, and the median and the range over the rounds are shown.

`products` is E E^T and S E alone, in float32. TFA's semi-hard loss is O(B^3); `--tfa_most 1024`
costs 14 GB and minutes. At B = 128 a ResNet-20 takes its turn: forward and gradient of 128 images
of 32 px. The first call (tracing, compiling) and memory are measured in a process of its own for
each size; memory is how far a call raises the resident set after warm calls, under an allocator
that gives freed blocks back.
Goals (DESIGN section 7): TFA / ours >= 100 at B = 512; the loss <= 1 % of the ResNet-20's step;
the first call < 1 s; memory < 256 MB at 4096.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np

WIDTH = 128
MARGIN = 0.3


def batch(size: int, images_per_class: int) -> tuple:
    """A PK batch of unit embeddings, classes somewhat apart; int32 labels."""
    rng = np.random.default_rng(size)
    labels = (np.arange(size) // images_per_class).astype(np.int32)
    centres = rng.normal(size=(labels[-1] + 1, WIDTH))
    points = centres[labels] + 1.2 * rng.normal(size=(size, WIDTH))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return labels, points.astype(np.float32)


def steps(size: int, images_per_class: int, tfa_most: int, alone: bool = False) -> dict:
    """Functions of no argument by name, each a traced forward and gradient on the same batch.

    `alone`: our semi-hard loss only, nothing of size B^2 beside it.
    """
    import tensorflow as tf

    from longtail_tf import losses
    from longtail_tf.compat import quiet_imports

    labels, points = (tf.constant(array) for array in batch(size, images_per_class))

    def step(loss):
        @tf.function(autograph=False)
        def traced(labels, points):
            with tf.GradientTape() as tape:
                tape.watch(points)
                value = loss(labels, points)
            return value, tape.gradient(value, points)

        return lambda: traced(labels, points)

    ours = losses.triplet_semihard_loss
    semihard = step(lambda y, e: ours(y, e, margin=MARGIN))
    if alone:
        return {"semi-hard": semihard}
    weights = tf.random.stateless_normal([size, size], [0, 0])

    @tf.function(autograph=False)
    def products(points):
        return tf.matmul(points, points, transpose_b=True), tf.matmul(weights, points)

    found = {
        "products": lambda: products(points),
        "semi-hard": semihard,
        "hard": step(lambda y, e: losses.triplet_hard_loss(y, e, margin=MARGIN)),
    }
    if size == 128:
        found["ResNet-20"] = network_step()
    if tfa_most:
        addons = quiet_imports.tensorflow_addons().losses
        found["TFA hard"] = step(lambda y, e: addons.triplet_hard_loss(y, e, MARGIN))
        if size <= tfa_most:
            found["TFA semi-hard"] = step(lambda y, e: addons.triplet_semihard_loss(y, e, MARGIN))
    return found


def network_step():
    """Forward and gradient of a ResNet-20 on 128 images, a function of no argument."""
    import tensorflow as tf

    from longtail_tf.models import networks

    network = networks.build_embedder(
        backbone="resnet20", image_size=32, channels=3, embedding_dim=WIDTH
    )
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (128, 32, 32, 3), np.uint8))

    @tf.function(autograph=False, jit_compile=False)
    def step():
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(tf.square(network(images, training=True)))
        return tape.gradient(value, network.trainable_variables)

    return step


def cpu_ms(function, target_s: float) -> float:
    """Milliseconds of CPU time of one call, from as many calls as last about `target_s`."""
    start = time.process_time()
    function()
    once = max(time.process_time() - start, 1e-5)
    calls = int(min(max(target_s / once, 1), 400))
    start = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - start) / calls * 1e3


def measure(size: int, options: argparse.Namespace) -> dict:
    """Times by name: a list of milliseconds, one a round."""
    functions = steps(size, options.images_per_class, options.tfa_most)
    for function in functions.values():
        function()
        function()
    times: dict = {name: [] for name in functions}
    for _ in range(options.rounds):
        for name, function in functions.items():
            times[name].append(cpu_ms(function, options.seconds))
    return times


def spread(values: list) -> str:
    return f"{np.median(values):8.3g} [{min(values):.3g}-{max(values):.3g}]"


def show_times(size: int, times: dict) -> None:
    floor = np.array(times["products"])
    own = np.array(times["semi-hard"])
    print(
        f"\nB = {size}" + " " * 17 + "ms a step              / products           / our semi-hard"
    )
    for name, values in times.items():
        ratios = [spread(list(np.array(values) / base)) for base in (floor, own)]
        print(f"  {name:20s} {spread(values):24s} {ratios[0]:24s} {ratios[1]}", flush=True)


def resident(what: str) -> float:
    """MB by its name in /proc/self/status: VmRSS now, VmHWM the peak."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


def measure_memory(size: int, images_per_class: int) -> float:
    """MB by which a call of the semi-hard loss raises the resident set after warm calls."""
    function = steps(size, images_per_class, 0, alone=True)["semi-hard"]
    for _ in range(3):
        function()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def measure_first_call(size: int, images_per_class: int) -> float:
    """CPU seconds of the first call of the semi-hard loss in a process that runs TensorFlow."""
    import tensorflow as tf

    tf.function(lambda x: tf.matmul(x, x))(tf.ones([8, 8]))
    function = steps(size, images_per_class, 0, alone=True)["semi-hard"]
    start = time.process_time()
    function()
    return time.process_time() - start


def in_a_process(what: str, size: int, options: argparse.Namespace) -> float:
    """The answer of this script to `what` in a process of its own."""
    command = [sys.executable, __file__, what, str(size)]
    command += ["--images_per_class", str(options.images_per_class)]
    # oneDNN's allocator and glibc keep freed blocks, which would hide what the next call takes.
    kept = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    environment = {**os.environ, **kept, "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def sizes(text: str) -> list:
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=sizes, default=sizes("64,128,256,512,1024"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each loss in a round")
    parser.add_argument("--images_per_class", type=int, default=4)
    parser.add_argument("--tfa_most", type=int, default=512, help="largest B for TFA; 0: without")
    parser.add_argument("--memory_sizes", type=sizes, default=sizes("512,1024,2048,4096"))
    parser.add_argument("--first_sizes", type=sizes, default=sizes("128,512"))
    parser.add_argument("--memory_of", type=int, help="print the memory of one size and end")
    parser.add_argument("--first_of", type=int, help="print the first call's time and end")
    parser.add_argument("--json", help="file to write all figures to")
    options = parser.parse_args()

    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it takes one traced step a loss for retracing
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if options.memory_of:
        print(measure_memory(options.memory_of, options.images_per_class))
        return
    if options.first_of:
        print(measure_first_call(options.first_of, options.images_per_class))
        return
    results: dict = {"times_ms": {}, "memory_mb": {}, "first_s": {}}
    results["images_per_class"] = options.images_per_class
    for size in options.sizes:
        times = measure(size, options)
        show_times(size, times)
        results["times_ms"][size] = times
    print("\nfirst call of the semi-hard loss, CPU seconds (goal: below 1)")
    for size in options.first_sizes:
        found = [in_a_process("--first_of", size, options) for _ in range(3)]
        print(f"  B = {size:5d}  {spread(found)}", flush=True)
        results["first_s"][size] = found
    print("\nmemory of a step of the semi-hard loss, MB (goal at 4096: below 256)")
    for size in options.memory_sizes:
        taken = in_a_process("--memory_of", size, options)
        print(f"  B = {size:5d}  {taken:7.1f}", flush=True)
        results["memory_mb"][size] = taken
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
