"""CPU time of a train step of the demo on two stacks: TensorFlow 2.15, and 2.21 with Keras 3.

    python experiments/benchmarks/bench_stacks.py .venv/bin/python .venv-keras3/bin/python

Each stack trains `experiments/digits_lt.flags` in a process of its own, with its input pipeline, on
one TensorFlow thread; the two take turns, a round of --steps steps each, so that ratios hold on a
busy machine. Printed: milliseconds of process CPU time a step, median and range over the rounds,
and the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def worker(steps: int) -> None:
    """Answers each line on stdin with the CPU milliseconds a step of one more round."""
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    sys.path.insert(0, str(ROOT))
    import tensorflow as tf

    from longtail_tf.config import Config
    from longtail_tf.runs.resolve import index_of, resolve_for
    from longtail_tf.runs.streams import head_sampler, head_size, pixel_inputs, whole_sampler
    from longtail_tf.runs.trained_run import build_model
    from longtail_tf.settings import cli
    from longtail_tf.training import loop

    loop.prepare_tensorflow(threads=1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    flagfile = ROOT / "experiments" / "digits_lt.flags"
    config = cli.parse(Config, [f"--flagfile={flagfile}", "--run_dir=unused"])
    index = index_of(config)
    config = resolve_for(config, index)
    num_head = head_size(config, index.class_counts)
    model = build_model(config, channels=index.channels, num_head=num_head)
    loop.compile_for(model, config, index, num_head=num_head)
    batches = pixel_inputs(config, index).streams(
        head=head_sampler(config, index.train, num_head=num_head),
        whole=whole_sampler(config, index.train),
        start_step=0,
    )
    model.fit(batches, steps_per_epoch=5, verbose=0, shuffle=False)
    print(f"ready {tf.__version__}", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        model.fit(batches, steps_per_epoch=steps, verbose=0, shuffle=False)
        print((time.process_time() - start) / steps * 1000, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="*")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--worker", action="store_true")
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.steps)
        return
    command = [__file__, "--worker", f"--steps={arguments.steps}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([each, *command], **pipes) for each in arguments.pythons]
    names = []
    for each in workers:
        line = ""
        while not line.startswith("ready"):
            line = each.stdout.readline() or sys.exit("a stack did not start")
        names.append(f"TensorFlow {line.split()[1]}")
    rounds = []
    for _ in range(arguments.rounds):
        times = []
        for each in workers:
            print("go", file=each.stdin, flush=True)
            times.append(float(each.stdout.readline()))
        rounds.append(times)
    for place, name in enumerate(names):
        times = [row[place] for row in rounds]
        middle = statistics.median(times)
        print(f"{name}: {middle:.1f} ms a step ({min(times):.1f} to {max(times):.1f})")
    ratios = [row[-1] / row[0] for row in rounds]
    print(
        f"{names[-1]} / {names[0]}: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    for each in workers:
        each.stdin.close()
        each.wait()


if __name__ == "__main__":
    main()
