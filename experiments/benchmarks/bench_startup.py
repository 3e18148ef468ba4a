"""Start-up: imports, --help, a mistyped flag, the first train step, the first evaluation.

    python experiments/benchmarks/bench_startup.py [--rounds 5] [--json FILE]

Claims: `--help` and a mistyped flag answer within 1 s of CPU, without TensorFlow. Each row is a
fresh process, CPU time (its own and the system's for it) and wall time, median of --rounds; rows
take turns in every round. The floors, a bare Python and a bare `import tensorflow`, are rows too.
The training is of the bundled digits with ResNet-8 on one thread; its parts are clocked inside one
process: until `run` begins to work, until the first step is done (its graph is traced by then),
then the pass that fits the rules, then the first evaluation of the test set. The last line names
heavy modules that a training loaded without using them; it should name none.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENTRIES = ("train", "evaluate", "classify", "inspect", "report", "compare", "export", "serve")
HEAVY = ("tensorflow_addons", "keras_cv", "matplotlib", "grpc", "tensorflow_datasets")
TRAINING = """
import json, sys, time
clock = {"start": time.process_time()}
from longtail_tf import train
from longtail_tf.config import Config
config = Config(data="digits_lt", run_dir=sys.argv[1], head_ratio=0.3, backbone="resnet8", steps=1,
                warmup_steps=0, eval_every=0, threads=1)
clock["settings"] = time.process_time()
from longtail_tf import evaluation, training

def clocked(module, name):
    function = getattr(module, name)
    def call(*args, **settings):
        clock[name + " begins"] = time.process_time()
        result = function(*args, **settings)
        clock[name + " ends"] = time.process_time()
        return result
    setattr(module, name, call)

clock["imports"] = time.process_time()
clocked(training, "fit")
clocked(evaluation, "recognizer_from")
clocked(evaluation, "evaluate_test")
train.run(config)
clock["end"] = time.process_time()
print(json.dumps({"clock": clock, "loaded": [m for m in %r if m in sys.modules]}))
"""


def process(*command: str) -> tuple:
    """CPU and wall seconds of a fresh process, and what it printed."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1",
                   "PYTHONPATH": str(ROOT)}  # fmt: skip
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True, text=True, env=environment, cwd=ROOT, check=False,
    )  # fmt: skip
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall, done.stdout


def rows() -> dict:
    found = {
        "bare Python": ("-c", "pass"),
        "import tensorflow": ("-c", "import tensorflow"),
        "import longtail_tf": ("-c", "import longtail_tf"),
        "import longtail_tf.losses.triplet": ("-c", "import longtail_tf.losses.triplet"),
        "mistyped flag": ("-m", "longtail_tf.train", "--stepz=3"),
    }
    for entry in ENTRIES:
        found[f"{entry} --help"] = ("-m", f"longtail_tf.{entry}", "--help")
    return found


def training_parts() -> dict:
    """CPU seconds of the parts of a training of one step, and the heavy modules it loaded."""
    with tempfile.TemporaryDirectory() as folder:
        _, _, printed = process("-c", TRAINING % (HEAVY,), f"{folder}/run")
    content = json.loads(printed.splitlines()[-1])
    clock = content["clock"]

    def between(first: str, last: str) -> float:
        return clock[last] - clock[first]

    return {
        "loaded": content["loaded"],
        "settings checked": between("start", "settings"),
        "TensorFlow and training imported": between("settings", "imports"),
        "data, network, optimizers": between("imports", "fit begins"),
        "first step": between("fit begins", "fit ends"),
        "embedding pass and rules": between("fit ends", "recognizer_from ends"),
        "first evaluation": between("recognizer_from ends", "evaluate_test ends"),
        "report": between("evaluate_test ends", "end"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", default="", help="also write the rows here")
    options = parser.parse_args()
    commands = rows()
    figures: dict = {name: [] for name in commands}
    parts: dict = {}
    for _ in range(options.rounds):
        for name, command in commands.items():
            figures[name].append(process(*command)[:2])
        for name, seconds in training_parts().items():
            parts.setdefault(name, []).append(seconds)
    loaded = parts.pop("loaded")[0]
    results: dict = {"processes": {}, "training": {}, "loaded": loaded}
    print(f"{'a fresh process':<36}{'CPU s':>8} {'[smallest, largest]':<22}{'wall s':>7}")
    for name, pairs in figures.items():
        cpu, wall = ([pair[i] for pair in pairs] for i in range(2))
        results["processes"][name] = {"cpu_s": cpu, "wall_s": wall}
        spread = f"[{min(cpu):.2f}, {max(cpu):.2f}]"
        print(f"{name:<36}{statistics.median(cpu):>8.2f} {spread:<22}"
              f"{statistics.median(wall):>7.2f}")  # fmt: skip
    print(f"\n{'parts of a training of one step':<36}{'CPU s':>8} [smallest, largest]")
    for name, seconds in parts.items():
        results["training"][name] = seconds
        spread = f"[{min(seconds):.2f}, {max(seconds):.2f}]"
        print(f"{name:<36}{statistics.median(seconds):>8.2f} {spread}")
    print(f"\nheavy modules loaded without use: {', '.join(loaded) or 'none'}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
