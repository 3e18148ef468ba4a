"""Our triplet losses against pytorch-metric-learning's and open-metric-learning's, in turn.

    python experiments/benchmarks/bench_losses_torch.py --pml_python=PML_ENV/bin/python
        [--oml_python=OML_ENV/bin/python] [--sizes 64,256,512,1024] [--rounds 5] [--json FILE]

PML_ENV holds `torch==2.13.0 pytorch-metric-learning==2.9.0 "numpy<2"`, OML_ENV the same torch and
open-metric-learning. Each library runs in a process of its own, started once; in every round each
in turn is asked for the CPU time of forward and gradient of the same PK batch (bench_losses.batch:
K = 4, 128 numbers) on one thread, and ratios are taken inside a round.

The definitions differ under one name: ours (tensorflow-addons') takes every positive pair;
pytorch-metric-learning keeps the triplets inside the margin. Batch-hard is the same in all three.
On AMD processors PyTorch's float32 products are slower than TensorFlow's; of the semi-hard times
they are below 1 %. Claim (DESIGN section 7): 20 times at 256.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
HERE = pathlib.Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parent)]

from bench_losses import MARGIN, batch, cpu_ms  # noqa: E402

K = 4


def ours(size: int) -> dict:
    import bench_losses
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    found = bench_losses.steps(size, K, tfa_most=0)
    return {"ours semi-hard": found["semi-hard"], "ours hard": found["hard"]}


def torch_step(loss, size: int):
    import torch

    labels, points = batch(size, K)
    labels = torch.from_numpy(labels).long()
    points = torch.from_numpy(points).requires_grad_(True)

    def step():
        points.grad = None
        value = loss(points, labels)
        value.backward()
        return value

    return step


def pml(size: int) -> dict:
    import torch
    from pytorch_metric_learning import losses, miners

    torch.set_num_threads(1)
    loss = losses.TripletMarginLoss(margin=MARGIN)
    semihard = miners.TripletMarginMiner(margin=MARGIN, type_of_triplets="semihard")
    hard = miners.BatchHardMiner()
    return {
        "PML semi-hard": torch_step(lambda e, y: loss(e, y, semihard(e, y)), size),
        "PML hard": torch_step(lambda e, y: loss(e, y, hard(e, y)), size),
    }


def stand_in_for_torchvision() -> None:
    """open-metric-learning imports torchvision for networks alone. Where only a build for another
    torch is to be had, its import fails: then empty modules stand in for it."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):

        class Empty(types.ModuleType):
            __path__: list = []

            def __getattr__(self, name):
                if name.startswith("__"):
                    raise AttributeError(name)
                return type(name, (), {})

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("torchvision", "torchvision.ops", "torchvision.transforms"):
            sys.modules[name] = Empty(name)


def oml(size: int) -> dict:
    stand_in_for_torchvision()
    import torch
    from oml.losses.triplet import TripletLossWithMiner
    from oml.miners.inbatch_hard_tri import HardTripletsMiner

    torch.set_num_threads(1)
    loss = TripletLossWithMiner(margin=MARGIN, miner=HardTripletsMiner())
    return {"OML hard": torch_step(lambda e, y: loss(e, y.tolist()), size)}


def serve(library: str) -> None:
    """Answers lines `SIZE SECONDS NAME` with milliseconds, and `SIZE names -` with the names."""
    steps: dict = {}
    print("ready", flush=True)
    for line in sys.stdin:
        size_text, what, name = line.strip().split(" ", 2)
        size = int(size_text)
        if size not in steps:
            steps[size] = {"ours": ours, "pml": pml, "oml": oml}[library](size)
            for step in steps[size].values():
                step()
                step()
        if what == "names":
            print(json.dumps(list(steps[size])), flush=True)
        else:
            print(cpu_ms(steps[size][name], float(what)), flush=True)


class Library:
    """A process that measures one library."""

    def __init__(self, name: str, python: str) -> None:
        command = [python, str(HERE), "--serve", name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer("ready")

    def ask(self, size: int, what: str, name: str = "-"):
        self._process.stdin.write(f"{size} {what} {name}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self, expected: str = ""):
        while True:  # a library may print when it is imported
            line = self._process.stdout.readline()
            if not line:
                raise SystemExit("a peer's process ended: see its message above.")
            if expected:
                if line.strip() == expected:
                    return None
                continue
            try:
                return json.loads(line)
            except ValueError:
                continue

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pml_python", default="")
    parser.add_argument("--oml_python", default="")
    parser.add_argument("--sizes", default="64,256,512,1024")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each loss in a round")
    parser.add_argument("--json", default="", help="also write the rows here")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    pythons = {"ours": sys.executable, "pml": options.pml_python, "oml": options.oml_python}
    libraries = {name: Library(name, python) for name, python in pythons.items() if python}
    rows = []
    for size in map(int, options.sizes.split(",")):
        asked = [(one, name) for one in libraries.values() for name in one.ask(size, "names")]
        times: dict = {name: [] for _, name in asked}
        for _ in range(options.rounds):
            for one, name in asked:
                times[name].append(one.ask(size, str(options.seconds), name))
        print(f"\nB = {size}{'ms':>20}   times ours of that name [smallest, largest]")
        for _, name in asked:
            base = times["ours " + name.split(" ", 1)[1]]
            ratios = [a / b for a, b in zip(times[name], base)]
            row = {"size": size, "loss": name, "ms": statistics.median(times[name]),
                   "ratio": statistics.median(ratios), "smallest": min(ratios),
                   "largest": max(ratios)}  # fmt: skip
            rows.append(row)
            print(f"  {name:<16}{row['ms']:>12.3g}   {row['ratio']:.3g} "
                  f"[{min(ratios):.3g}, {max(ratios):.3g}]", flush=True)  # fmt: skip
        if options.json:
            pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    for one in libraries.values():
        one.close()


if __name__ == "__main__":
    main()
