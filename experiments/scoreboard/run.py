"""Runs {method} x {data set} x {seed} at equal images seen, then writes tables and plots.

    python experiments/scoreboard/run.py --data=digits,fashion --seeds=3
    python experiments/scoreboard/run.py --data=digits --methods=ce,crt,longtail --jobs=2
    python experiments/scoreboard/run.py --data=digits --table_only
    python experiments/scoreboard/run.py --data=folder:photos --flags="--passes=6 --train_from=auto"

A data set is a flagfile in data/, or any --data spec of longtail_tf.train. A method is a flagfile
in methods/, or else the name of a --method preset. A finished run is not run again, and one that
was stopped goes on from its checkpoint. Methods that train alike and differ in the inference rule
alone share a training: each run is evaluated by every rule that applies. Where a trunk stands
still, its views are computed once for each seed and shared by all methods. The tables go into
experiments/RESULTS.md between the markers of their data set, the plots into plots/.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import table

from longtail_tf.config import Config, ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.resolve import index_of, resolve_for, without_training
from longtail_tf.settings import cli, methods, setting

HERE = pathlib.Path(__file__).resolve().parent
# Images seen by every method, repeats included; of other sets as many as their flags say.
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

    data: str = setting(
        "digits", "Data sets, comma-separated: flagfiles in data/, or --data specs as KIND:PATH."
    )
    methods: str = setting(
        ",".join(METHODS), "Methods, comma-separated: flagfiles in methods/ or --method presets."
    )
    seeds: int = setting(3, "Seeds 0 .. seeds - 1 of each.")
    images: int = setting(
        0,
        "Images seen by every method; 0: each data set's own number, or as its flags say. Another "
        "number wants another --runs.",
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
        rows = rows_of(config, data)
        names = list(dict.fromkeys(row.trained_as for row in rows))
        folders = {
            (name, seed): pathlib.Path(config.runs) / name_of(data) / name / str(seed)
            for seed in range(config.seeds)
            for name in names
        }
        if not config.table_only:
            of_ours = {key: at for key, at in folders.items() if key[0] not in table.TEN_LINES}
            failed += train_all(config, data, of_ours)
        command = f"python experiments/scoreboard/run.py --data={data} --seeds={config.seeds}"
        given = (("methods", ",".join(METHODS)), ("flags", ""), ("images", 0))
        for flag, usual in given:
            if getattr(config, flag) != usual:
                command += f" --{flag}={getattr(config, flag)}"
        results = pathlib.Path(config.results)
        text = table.write(name_of(data), rows, folders, results=results, command=command)
        print(text)
    if failed:
        raise UserError(
            f"{len(failed)} trainings failed ({', '.join(failed)}): the .log beside each says why; "
            "run this again to go on."
        )


def name_of(data: str) -> str:
    """What a data set is called in folders and markers: letters, digits and _ of its spec."""
    return re.sub(r"\W+", "_", data).strip("_")


def data_flags(data: str) -> list[str]:
    """The flags of a data set.

    Raises:
      UserError: neither a flagfile nor a spec.
    """
    file = HERE / "data" / f"{data}.flags"
    if file.exists():
        return [f"--flagfile={file}"]
    if ":" not in data and "?" not in data:
        known = sorted(path.stem for path in (HERE / "data").glob("*.flags"))
        raise UserError(
            f"--data={data}: expected some of {', '.join(known)}, or a spec as folder:PATH."
        )
    return [f"--data={data}"]


def rows_of(config: ScoreboardConfig, data: str) -> list[table.Method]:
    """The rows of the first table; methods that differ in the rule alone are one where the data
    set leaves the rule open."""
    found: dict[tuple[str, str], table.Method] = {}
    for name in dict.fromkeys(config.methods.split(",")):
        if name in table.TEN_LINES:
            row = table.Method(name, name, name)
        else:
            row = table.Method(name, trained_as(name), rule_of(config, data, name))
        found.setdefault((row.trained_as, row.rule), row)
    return list(found.values())


def train_all(config: ScoreboardConfig, data: str, folders: dict) -> list[str]:
    """Trains what is missing of one data set, `jobs` at a time; returns the folders that failed."""
    if not folders:
        return []
    flags = {key: flags_of(config, data, *key, folder) for key, folder in folders.items()}
    index = index_of(cli.parse(Config, next(iter(flags.values()))))  # the same for all its runs
    views = pathlib.Path(config.runs) / name_of(data) / "views"
    shared: dict[int, list[str]] = {}  # seed -> flags of a training that begins from its views
    for key, given in flags.items():
        if resolve_for(cli.parse(Config, given), index).cached_views:
            given.append(f"--cache_dir={views}")
            shared.setdefault(key[1], given)
    for seed, given in shared.items():
        fill(f"{data} views of seed {seed}", given, views.with_name(f"views-{seed}.json"))

    def one(key: tuple[str, int]) -> bool:
        name, seed = key
        images = config.images or IMAGES.get(data, 0)
        return train(f"{data} {name} seed {seed}", flags[key], index, images, folders[key])

    with concurrent.futures.ThreadPoolExecutor(config.jobs) as pool:
        done = pool.map(one, folders)
        return [str(folders[key]) for key, fine in zip(folders, done) if not fine]


def fill(title: str, flags: list[str], cost: pathlib.Path) -> None:
    """Computes the views of one seed in a process of its own; what it took goes into `cost`."""
    if cost.exists():
        return
    print(title, flush=True)
    cost.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "fill_cache.py"), *flags]
    code, seconds = timed(command, cost.with_suffix(".log"))
    if code == 0:
        write_atomically(cost, json.dumps(round(seconds, 1)))


def timed(command: list[str], log: pathlib.Path) -> tuple[int, float]:
    """Runs a command, its words into `log`; its exit code and CPU seconds."""
    with open(log, "a") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        # The usage of this child alone, whatever runs beside it.
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime


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


def rule_of(config: ScoreboardConfig, data: str, name: str) -> str:
    """The rule that a method names classes by on a data set; "auto" where validation chooses."""
    flags = [*data_flags(data), *method_flags(name), "--run_dir=x", *config.flags.split()]
    return cli.parse(Config, flags).inference_rule


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
        *data_flags(data),
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
    steps = steps_for(images, settings) if images else settings.steps
    if (folder / "config.json").exists():
        check_is_of(folder, dataclasses.replace(settings, steps=steps))
    if (folder / "evaluation.json").exists():
        return True
    print(title, flush=True)
    command = [sys.executable, "-m", "longtail_tf.train", *flags]
    command += [f"--steps={steps}"] * bool(images)
    if (folder / "config.json").exists():
        command.append("--resume")
    elif folder.exists():  # stopped before it wrote its settings: nothing to go on from
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    code, seconds = timed(command, folder.with_suffix(".log"))
    if folder.exists():
        _add_seconds(folder / "cpu_seconds.json", seconds)
    return code == 0


def check_is_of(folder: pathlib.Path, settings: ResolvedConfig) -> None:
    """Refuses a run of other settings, as of a method whose recipe has changed since.

    Raises:
      UserError: it was trained with other values of settings that make the weights.
    """
    from longtail_tf.runs.records import weights_settings
    from longtail_tf.runs.saved_settings import load_settings

    found = load_settings(RunFolder(folder))
    if settings.train_from == "auto":  # decided by the run itself
        settings = dataclasses.replace(settings, train_from=found.train_from)
        settings = without_training(settings) if found.train_from == "none" else settings
    saved, wanted = weights_settings(found), weights_settings(settings)
    wanted["cache_dir"] = saved["cache_dir"]  # wherever the same views lay
    if not settings.has_head_stream:  # then the head is but named in the report
        wanted.update({name: saved[name] for name in methods.HEAD_RULES})
    other = [name for name, value in wanted.items() if saved[name] != value]
    if other:
        shown = ", ".join(f"{name} {saved[name]}, now {wanted[name]}" for name in other[:3])
        raise UserError(
            f"{folder} was trained with other settings ({shown}): remove it, or name another "
            "--runs."
        )


def steps_for(images: int, settings: ResolvedConfig) -> int:
    """Train steps of resolved settings that see about so many images, both streams together."""
    return round(images / settings.images_per_step)


def _add_seconds(path: pathlib.Path, seconds: float) -> None:
    """Adds to what earlier parts of a resumed run took."""
    before = json.loads(path.read_text()) if path.exists() else 0.0
    write_atomically(path, json.dumps(round(before + seconds, 1)))


if __name__ == "__main__":
    cli.launch(run, ScoreboardConfig, __doc__)
