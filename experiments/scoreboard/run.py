"""Runs {method} x {data set} x {seed} at equal images seen, then writes tables and plots.

    python experiments/scoreboard/run.py --data=digits,fashion --seeds=3
    python experiments/scoreboard/run.py --data=digits --methods=ce,crt,longtail --jobs=2
    python experiments/scoreboard/run.py --data=digits --table_only

A data set is a flagfile in data/. A method is a flagfile in methods/, or else the name of a
--method preset. A finished run is not run again, and one that was stopped goes on from its
checkpoint. Methods that train alike and differ in the inference rule alone share a training: each
run is evaluated by every rule that applies. The tables go into experiments/RESULTS.md between the
markers of their data set, the plots into plots/.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import table

from longtail_tf.config import Config
from longtail_tf.datasets import DatasetIndex
from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.resolve import index_of, resolve_for
from longtail_tf.settings import cli, methods, setting

HERE = pathlib.Path(__file__).resolve().parent
# Images seen by every method, repeats included.
IMAGES = {
    "digits": 43_200,
    "fashion": 48_000,
    "fashion10": 48_000,
    "clothing": 48_000,
    "grocery": 40_000,
    "omniglot": 64_000,
    "cifar10": 347_200,
    "cifar100": 307_200,
}
METHODS = (
    *("longtail", "longtail_plus", "logit_adjusted", "ce", "head_ce", "triplet"),
    *("ce_triplet", "supcon_ce", "balanced_sampling", "class_balanced", "focal", "ldam_drw"),
    *("posthoc_adjusted", "crt", "tau_norm", "lws", "ncm"),  # rules of the ce trainings
)


@dataclasses.dataclass(frozen=True)
class ScoreboardConfig:
    """Settings of one call."""

    data: str = setting("digits", "Data sets, comma-separated: " + ", ".join(IMAGES) + ".")
    methods: str = setting(
        ",".join(METHODS), "Methods, comma-separated: flagfiles in methods/ or --method presets."
    )
    seeds: int = setting(3, "Seeds 0 .. seeds - 1 of each.")
    images: int = setting(
        0,
        "Images seen by every method; 0: each data set's own number. Another number wants "
        "another --runs.",
        unit="images",
    )
    flags: str = setting("", "Further flags of every training, separated by blanks.")
    jobs: int = setting(1, "Trainings at a time, of one thread each.")
    runs: str = setting("runs/scoreboard", "Where the run folders go.")
    results: str = setting("experiments/RESULTS.md", "The file that the tables go into.")
    table_only: bool = setting(False, "Train nothing: write the tables from the runs there are.")


def run(config: ScoreboardConfig) -> None:
    """Trains what is missing, then writes the tables.

    Raises:
      UserError: an unknown data set or method; trainings that failed, after all others are done.
    """
    failed = []
    for data in config.data.split(","):
        if data not in IMAGES:
            raise UserError(f"--data={data}: expected some of {', '.join(IMAGES)}.")
        rows = [
            table.Method(name, trained_as(name), rule_of(name))
            for name in dict.fromkeys(config.methods.split(","))
        ]
        names = list(dict.fromkeys(row.trained_as for row in rows))
        folders = {
            (name, seed): pathlib.Path(config.runs) / data / name / str(seed)
            for seed in range(config.seeds)
            for name in names
        }
        if not config.table_only:
            failed += train_all(config, data, folders)
        command = f"python experiments/scoreboard/run.py --data={data} --seeds={config.seeds}"
        given = (("methods", ",".join(METHODS)), ("flags", ""), ("images", 0))
        for flag, usual in given:
            if getattr(config, flag) != usual:
                command += f" --{flag}={getattr(config, flag)}"
        results = pathlib.Path(config.results)
        text = table.write(data, rows, folders, results=results, command=command)
        print(text)
    if failed:
        raise UserError(
            f"{len(failed)} trainings failed ({', '.join(failed)}): the .log beside each says why; "
            "run this again to go on."
        )


def train_all(config: ScoreboardConfig, data: str, folders: dict) -> list[str]:
    """Trains what is missing of one data set, `jobs` at a time; returns the folders that failed."""
    flags = {key: flags_of(config, data, *key, folder) for key, folder in folders.items()}
    index = index_of(cli.parse(Config, next(iter(flags.values()))))  # the same for all its runs

    def one(key: tuple[str, int]) -> bool:
        name, seed = key
        images = config.images or IMAGES[data]
        return train(f"{data} {name} seed {seed}", flags[key], index, images, folders[key])

    with concurrent.futures.ThreadPoolExecutor(config.jobs) as pool:
        done = pool.map(one, folders)
        return [str(folders[key]) for key, fine in zip(folders, done) if not fine]


def method_flags(name: str) -> list[str]:
    """The flags of a method.

    Raises:
      UserError: neither a flagfile nor a preset has this name.
    """
    file = HERE / "methods" / f"{name}.flags"
    if file.exists():
        return [f"--flagfile={file}"]
    if name not in methods.METHODS:
        files = sorted(path.stem for path in (HERE / "methods").glob("*.flags"))
        known = dict.fromkeys([*files, *methods.METHODS])
        raise UserError(f"--methods={name}: expected some of {', '.join(known)}.")
    return [f"--method={name}"]


def rule_of(name: str) -> str:
    """The rule that a method names classes by."""
    return cli.parse(
        Config, ["--data=digits_lt", "--run_dir=x", *method_flags(name)]
    ).inference_rule


def trained_as(name: str) -> str:
    """The method whose training serves for `name`: the first that differs in the rule alone."""
    method_flags(name)
    if (HERE / "methods" / f"{name}.flags").exists():
        return name

    def training(preset: str) -> dict:
        return {**methods.preset(preset), "inference_rule": None}

    files = {path.stem for path in (HERE / "methods").glob("*.flags")}
    alike = [
        other
        for other in methods.METHODS
        if other not in files and training(other) == training(name)
    ]
    return alike[0]


def flags_of(
    config: ScoreboardConfig, data: str, name: str, seed: int, folder: pathlib.Path
) -> list[str]:
    """The flags of one training, but for its number of steps."""
    return [
        f"--flagfile={HERE / 'data' / data}.flags",
        *method_flags(name),
        f"--seed={seed}",
        "--eval_every=0",
        "--threads=1",
        f"--run_dir={folder}",
        *config.flags.split(),
    ]


def train(
    title: str, flags: list[str], index: DatasetIndex, images: int, folder: pathlib.Path
) -> bool:
    """One run in a process of its own; its CPU seconds go beside it. Returns whether it is done."""
    settings = cli.parse(Config, flags)
    settings = resolve_for(settings, index)  # the data set decides on batches too
    steps = steps_for(images, settings)
    if (folder / "config.json").exists():
        check_is_of(folder, dataclasses.replace(settings, steps=steps))
    if (folder / "evaluation.json").exists():
        return True
    print(title, flush=True)
    command = [sys.executable, "-m", "longtail_tf.train", *flags, f"--steps={steps}"]
    if (folder / "config.json").exists():
        command.append("--resume")
    elif folder.exists():  # stopped before it wrote its settings: nothing to go on from
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".log"), "a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        # The usage of this child alone, whatever runs beside it.
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if folder.exists():
        _add_seconds(folder / "cpu_seconds.json", usage.ru_utime + usage.ru_stime)
    return process.returncode == 0


def check_is_of(folder: pathlib.Path, settings: Config) -> None:
    """Refuses a run of other settings, as of a method whose recipe has changed since.

    Raises:
      UserError: it was trained with other values of settings that make the weights.
    """
    from longtail_tf.runs.records import weights_settings
    from longtail_tf.runs.trained_run import load_settings

    saved, wanted = weights_settings(load_settings(RunFolder(folder))), weights_settings(settings)
    if not settings.has_head_stream:  # then the head is but named in the report
        wanted.update({name: saved[name] for name in methods.HEAD_RULES})
    other = [name for name, value in wanted.items() if saved[name] != value]
    if other:
        shown = ", ".join(f"{name} {saved[name]}, now {wanted[name]}" for name in other[:3])
        raise UserError(
            f"{folder} was trained with other settings ({shown}): remove it, or name another "
            "--runs."
        )


def steps_for(images: int, settings: Config) -> int:
    """Train steps of resolved settings that see about so many images, both streams together."""
    alone = settings.head_only_steps
    return alone + round((images - alone * settings.head_batch_size) / settings.images_per_step)


def _add_seconds(path: pathlib.Path, seconds: float) -> None:
    """Adds to what earlier parts of a resumed run took."""
    before = json.loads(path.read_text()) if path.exists() else 0.0
    write_atomically(path, json.dumps(round(before + seconds, 1)))


if __name__ == "__main__":
    cli.launch(run, ScoreboardConfig, __doc__)
