"""Every benchmark, the peers in environments of their own, one table of ratios, three plots.

    make bench
    python experiments/benchmarks/run_all.py [--only losses,step] [--envs DIR] [--quick]

Runs one benchmark after the other (each may be run alone: see its docstring), makes the peers'
environments under --envs if they are not there, and goes on with a sentence where one cannot be
made or a benchmark fails. What they print and their figures go to --out; `ratios.md`, written there
and between the markers `<!-- bench -->` of --results if it has them, is the table; the plots go to
`experiments/benchmarks/plots/`. With `--only` the table and plots take what is left of earlier
runs in --out. All times are process CPU time on one core (--cpu pins it; -1: not pinned).
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

import summary

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# What an environment needs beside pip. torch is the CPU build where the package index offers it.
ENVIRONMENTS = {
    "pml": ("torch==2.13.0", "pytorch-metric-learning==2.9.0", "numpy<2"),
    "oml": ("torch==2.13.0", "open-metric-learning==4.0.0", "omegaconf", "numpy<2"),
    "torch": ("torch==2.13.0", "pillow", "numpy"),
}
# Name -> environment it runs in ("" for this one), environments whose Python it gets, arguments,
# arguments of --quick. {pml} and {oml} become Pythons.
BENCHES: dict = {
    "losses": ("bench_losses.py", "", {}, [], ["--rounds", "5", "--sizes", "64,256,512"]),
    "losses_torch": (
        "bench_losses_torch.py",
        "",
        {"--pml_python": "pml", "--oml_python": "oml"},
        [],
        ["--sizes", "64,256"],
    ),
    "samplers": ("bench_samplers.py", "", {}, [], ["--rounds", "5", "--classes", "1000,100000"]),
    "samplers_pml": (
        "bench_samplers.py",
        "pml",
        {},
        ["--rounds", "5"],
        ["--rounds", "5", "--classes", "1000,10000"],
    ),
    "samplers_oml": (
        "bench_samplers.py",
        "oml",
        {},
        ["--rounds", "5", "--classes", "1000,10000"],
        ["--rounds", "5", "--classes", "1000"],
    ),
    "classifier": ("bench_classifier.py", "", {}, [], ["--classes", "1000,10000,100000"]),
    "step": ("bench_step.py", "", {}, [], ["--rounds", "5", "--only", "alternate,joint"]),
    "startup": ("bench_startup.py", "", {}, [], ["--rounds", "5"]),
    "data": ("bench_data.py", "", {}, [], ["--rounds", "5", "--images", "1000"]),
    "index": ("bench_index.py", "", {}, [], ["--classes", "100000", "--images", "1000000"]),
    "input": ("bench_input.py", "", {}, [], ["--rounds", "5"]),
    "input_torch": (
        "bench_input_torch.py",
        "",
        {"--torch_python": "torch"},
        [],
        ["--size", "64", "--batches", "6"],
    ),
    "serving": ("bench_serving.py", "", {}, [], ["--rounds", "5"]),
    "tflite": ("bench_tflite.py", "", {}, [], []),
}
WRITES_JSON = ("losses", "losses_torch", "samplers", "samplers_pml", "samplers_oml", "classifier",
               "step", "startup")  # fmt: skip


def python_of(name: str, folder: pathlib.Path) -> str:
    """The Python of an environment, made if it is not there; "" where it cannot be made."""
    home = folder / name
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        print(f"making the environment {home} with {', '.join(ENVIRONMENTS[name])}", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        commands = (
            [sys.executable, "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "-q", *ENVIRONMENTS[name]],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                print(f"the environment {name} cannot be made ({reason}): its peer is left out.")
                return ""
        (home / "complete").write_text("\n".join(ENVIRONMENTS[name]) + "\n")
    return str(python)


def run(name: str, options: argparse.Namespace) -> None:
    script, environment, given, arguments, quick = BENCHES[name]
    pythons = {}
    for needed in {environment, *given.values()} - {""}:
        pythons[needed] = python_of(needed, options.envs)
    if environment and not pythons[environment]:
        return
    if given and not any(pythons.values()):
        print(f"{name}: none of its peers is here, left out.")
        return
    command = [pythons[environment] if environment else sys.executable, str(HERE / script)]
    command += quick if options.quick else arguments
    for flag, needed in given.items():
        if pythons[needed]:
            command += [flag, pythons[needed]]
    if name in WRITES_JSON:
        command += ["--json", str(options.out / f"{name}.json")]
    if options.cpu >= 0 and shutil.which("taskset"):
        command = ["taskset", "-c", str(options.cpu), *command]
    print(f"\n== {name}: {' '.join(command)}", flush=True)
    started = time.perf_counter()
    output = options.out / f"{name}.txt"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with open(output, "w") as file:
        try:
            code = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environ,
                timeout=options.limit_s, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = f"{options.limit_s:.0f} s were over"
    print("\n".join(output.read_text(errors="replace").splitlines()[-60:]))
    print(f"== {name}: {time.perf_counter() - started:.0f} s", flush=True)
    if code:
        print(f"{name} did not end well ({code}): see {output}; going on.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"some of: {','.join(BENCHES)}; none: table")
    parser.add_argument("--envs", type=pathlib.Path, default=ROOT / "runs" / "bench" / "envs")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs" / "bench")
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "experiments" / "RESULTS.md")
    parser.add_argument("--plots", type=pathlib.Path, default=HERE / "plots")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    parser.add_argument("--cpu", type=int, default=(os.cpu_count() or 1) - 1)
    parser.add_argument("--limit_s", type=float, default=3600.0, help="longest one may take")
    options = parser.parse_args()
    names = list(BENCHES) if not options.only else options.only.split(",")
    unknown = [name for name in names if name not in (*BENCHES, "none")]
    if unknown:
        raise SystemExit(f"--only={unknown[0]} is unknown: choose from {', '.join(BENCHES)}.")
    options.out.mkdir(parents=True, exist_ok=True)
    options.envs.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name != "none":
            run(name, options)
    table = summary.table(options.out)
    (options.out / "ratios.md").write_text(table)
    print(f"\n{table}")
    if summary.write_between_markers(options.results, table):
        print(f"the table is in {options.results}")
    for path in summary.plots(options.out, options.plots):
        print(f"plot {path}")


if __name__ == "__main__":
    main()
