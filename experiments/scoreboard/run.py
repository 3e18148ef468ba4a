"""Runs {method} x {data set} x {seed} at equal images seen and writes the table.

    python experiments/scoreboard/run.py --data=digits,fashion --seeds=3
    python experiments/scoreboard/run.py --data=digits --table_only

Methods and data sets are flagfiles beside this script. A finished run is not run again, and one
that was stopped goes on from its checkpoint. The table goes into experiments/RESULTS.md between the
markers of its data set.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pathlib
import resource
import subprocess
import sys

import numpy as np

from longtail_tf import cli
from longtail_tf.config import Config
from longtail_tf.errors import UserError
from longtail_tf.run_folder import write_atomically
from longtail_tf.settings import setting

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE.parent / "RESULTS.md"
IMAGES = {"digits": 43_200, "fashion": 144_000, "clothing": 72_000, "omniglot": 96_000}
METHODS = ("alternate", "joint", "head_ce", "all_ce", "triplet")
RULES = ("gated", "ncm", "knn", "linear", "head_only")
BANDS = ("all", "balanced", "many", "medium", "few")


@dataclasses.dataclass(frozen=True)
class ScoreboardConfig:
    """Settings of one call."""

    data: str = setting("digits", "Data sets, comma-separated: " + ", ".join(IMAGES) + ".")
    methods: str = setting(",".join(METHODS), "Methods, comma-separated.")
    seeds: int = setting(3, "Seeds 0 .. seeds - 1 of each.")
    runs: str = setting("runs/scoreboard", "Where the run folders go.")
    table_only: bool = setting(False, "Train nothing: write the table from the runs there are.")


def run(config: ScoreboardConfig) -> None:
    """Trains what is missing, then writes the tables."""
    for data in config.data.split(","):
        if data not in IMAGES:
            raise UserError(f"--data={data}: expected some of {', '.join(IMAGES)}.")
        folders = {
            (method, seed): pathlib.Path(config.runs) / data / method / str(seed)
            for method in config.methods.split(",")
            for seed in range(config.seeds)
        }
        if not config.table_only:
            for place, ((method, seed), folder) in enumerate(folders.items()):
                print(f"[{place + 1}/{len(folders)}] {data} {method} seed {seed}", flush=True)
                train(data, method, seed, folder)
        write_table(data, folders)


def train(data: str, method: str, seed: int, folder: pathlib.Path) -> None:
    """One run in a process of its own; its CPU seconds go beside its evaluation."""
    if (folder / "cpu_seconds.json").exists():
        return
    flags = [
        f"--flagfile={HERE / 'data' / data}.flags",
        f"--flagfile={HERE / 'methods' / method}.flags",
        f"--seed={seed}",
        "--eval_every=0",
        "--threads=1",
        f"--run_dir={folder}",
    ]
    images_per_step = cli.parse(Config, flags).images_per_step
    command = [
        sys.executable,
        "-m",
        "longtail_tf.train",
        *flags,
        f"--steps={round(IMAGES[data] / images_per_step)}",
    ]
    command += ["--resume"] * (folder / "config.json").exists()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".log"), "a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    write_atomically(folder / "cpu_seconds.json", json.dumps(round(seconds, 1)))


def write_table(data: str, folders: dict) -> None:
    """The Markdown table of one data set, into RESULTS.md between its markers."""
    evaluations = {
        key: json.loads((folder / "evaluation.json").read_text())
        for key, folder in folders.items()
        if (folder / "evaluation.json").exists()
    }
    if not evaluations:
        return
    seeds = sorted({seed for _, seed in evaluations})
    first = next(iter(evaluations.values()))
    lines = [
        "| trained with | rule | " + " | ".join(BANDS) + " | head outputs | CPU s |",
        "|---|---|" + "---|" * (len(BANDS) + 2),
    ]
    for method in dict.fromkeys(method for method, _ in evaluations):
        mine = {seed: evaluations[method, seed] for seed in seeds if (method, seed) in evaluations}
        cpu = [
            json.loads((folders[method, seed] / "cpu_seconds.json").read_text())
            for seed in mine
            if (folders[method, seed] / "cpu_seconds.json").exists()
        ]
        head = json.loads((folders[method, min(mine)] / "config.json").read_text())
        outputs = head["num_head"] * (head["settings"]["classification_loss"] != "none")
        for rule in RULES:
            rows = [each["rules"][rule] for each in mine.values() if rule in each["rules"]]
            if rows:
                cells = [spread([row[band] for row in rows]) for band in BANDS]
                lines.append(
                    f"| {method} | {rule} | {' | '.join(cells)} | {outputs} | "
                    f"{np.mean(cpu) if cpu else 0:.0f} |"
                )
    commits = sorted({each["provenance"]["commit"] for each in evaluations.values()})
    digest = first["provenance"]["data_digest"][:12]
    seen = sorted({each["images_seen"] for each in evaluations.values()})
    images = f"{seen[0]:,}" if len(seen) == 1 else f"{seen[0]:,} to {seen[-1]:,}"
    head = (
        f"{datetime.date.today()}, commit {', '.join(commits)}, data digest {digest}, seeds "
        f"{', '.join(map(str, seeds))}, {images} images seen, one thread of "
        f"{os.cpu_count()} cores (shared), last step. Percent, mean ± standard deviation over "
        "seeds.\n\n"
        f"`python experiments/scoreboard/run.py --data={data} --seeds={len(seeds)}`\n\n"
    )
    start, end = f"<!-- scoreboard {data} -->", f"<!-- end {data} -->"
    text = RESULTS.read_text()
    if start not in text:
        text += f"\n### {data}\n\n{start}\n{end}\n"
    before, rest = text.split(start)
    write_atomically(
        RESULTS, f"{before}{start}\n{head}" + "\n".join(lines) + f"\n{end}{rest.split(end)[1]}"
    )
    print("\n".join(lines))


def spread(values: list) -> str:
    """mean ± standard deviation, in percent; - for an empty band."""
    if any(value is None for value in values):
        return "-"
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{deviation}"


if __name__ == "__main__":
    cli.launch(run, ScoreboardConfig, __doc__)
