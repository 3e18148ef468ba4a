"""A good call of every entry point, which a case spoils in one place."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from tests.sweep.case import Place
from tests.sweep.world import TRAIN

RUN_RECORDS = ("evaluation.json", "per_class.csv", "embeddings.npz", "digests.json")
# What each entry point may write anew in a working folder whose run lies in `run`.
MAY_CHANGE = {
    "train": ("run/*",),
    "evaluate": tuple(f"run/{name}" for name in RUN_RECORDS),
    "report": ("run/report.html",),
    "export": ("run/export/serving/*",),
    "enroll": ("run/export/serving/*",),
}


def run_call(entry: str, place: Place, run: pathlib.Path) -> list[str]:
    """A call of an entry point that reads a run folder."""
    image = str(place.world.image)
    return {
        "train": [f"--run_dir={run}", "--resume"],
        "evaluate": [f"--run_dir={run}"],
        "classify": [f"--run_dir={run}", image],
        "report": [f"--run_dir={run}"],
        "compare": [f"--runs={run},{place.world.twin}"],
        "export": [f"--run_dir={run}", "--tflite=none"],
        "enroll": [f"--run_dir={run}", "--add=more", "--export=false", "--force", image],
    }[entry]


def data_call(entry: str, place: Place, spec: str) -> list[str]:
    """A call of an entry point that reads a data set."""
    run = place.world.run
    return {
        "train": [f"--data={spec}", "--run_dir=run", *TRAIN],
        "inspect": [f"--data={spec}", "--json"],
        "convert": [f"--data={spec}", "--out=shards", "--workers=1"],
        "evaluate": [f"--run_dir={run}", f"--data={spec}", "--out=out"],
        "export": [f"--run_dir={run}", f"--data={spec}", "--export_dir=out", "--tflite=none"],
        "report": [f"--run_dir={run}", f"--data={spec}", "--out=out.html"],
    }[entry]


def good_call(entry: str, place: Place) -> list[str]:
    """A call of any entry point that works and writes nothing outside its working folder."""
    world = place.world
    spec = f"npz:{world.npz}"
    if entry in ("train", "inspect", "convert"):
        return data_call(entry, place, spec)
    return {
        "evaluate": [f"--run_dir={world.run}", "--out=out"],
        "classify": [f"--run_dir={world.run}", str(world.image)],
        "report": [f"--run_dir={world.run}", "--out=out.html"],
        "compare": [f"--runs={world.run},{world.twin}", "--out=out.html"],
        "export": [f"--run_dir={world.run}", "--export_dir=out", "--tflite=none"],
        "serve": [f"--model_base_path={world.export}", "--port=0"],
        "enroll": [
            f"--run_dir={world.run}", "--add=more", "--export=false", "--force", "--out_dir=out",
            str(world.image),
        ],
    }[entry]  # fmt: skip


def replaced(arguments: Sequence[str], option: str, value: str) -> list[str]:
    """The arguments with another value of one option."""
    others = [each for each in arguments if not each.startswith(f"--{option}=")]
    return [f"--{option}={value}", *others]
