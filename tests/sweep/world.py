"""The good things that cases make bad copies of: data sets, runs, exports, built once."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal

import numpy as np

from tests import fakes
from tests.sweep.fork_server import Job
from tests.sweep.runner import ForkServer

STEPS = 4
TRAIN = (
    "--head_ratio=0.5",
    f"--steps={STEPS}",
    "--warmup_steps=0",
    "--checkpoint_every=1",
    "--eval_every=2",
    "--log_every=1",
    "--head_batch_size=6",
    "--classes_per_batch=4",
    "--images_per_class=2",
    "--backbone=resnet8",
    "--width=4",
    "--embedding_dim=8",
    "--threads=1",
)
CLASS = "bär {}"  # not ASCII, so that every table and name is read in the right encoding


@dataclasses.dataclass(frozen=True)
class World:
    """Paths of the good things.

    Attributes:
      folder: holds everything.
      npz: arrays with all five members.
      photos: train/ and test/ folders of class folders of PNG files.
      table: a CSV file of `photos` with path, label and split.
      shards: TFRecord shards of `photos`; None in a small world.
      run: a finished run on `npz`, evaluated; exported in a whole world.
      twin: the same run with another seed, as far as its records go.
      stopped: the same run, killed after its second checkpoint.
      enrolled: the run with a class added; None in a small world.
      image: a PNG file of the first class.
    """

    folder: pathlib.Path
    npz: pathlib.Path
    photos: pathlib.Path
    table: pathlib.Path
    shards: pathlib.Path | None
    run: pathlib.Path
    twin: pathlib.Path
    stopped: pathlib.Path
    enrolled: pathlib.Path | None
    image: pathlib.Path

    @property
    def export(self) -> pathlib.Path:
        """The folder above the exported versions."""
        return self.run / "export" / "longtail"

    @property
    def device_model(self) -> pathlib.Path:
        """An exported .tflite file."""
        return self.run / "export" / "tflite" / "classifier_float32.tflite"


def build(folder: pathlib.Path, server: ForkServer, *, whole: bool = True) -> World:
    """Builds the world in a new `folder`; a small one has neither shards nor exports."""
    folder.mkdir(parents=True)
    npz, photos, table = folder / "data.npz", folder / "photos", folder / "photos.csv"
    write_npz(npz)
    write_photos(photos)
    write_table(table, photos)
    run, stopped, twin = folder / "run", folder / "stopped", folder / "twin"
    images = sorted((photos / "test" / CLASS.format(0)).iterdir())
    _do(server, folder, "train", f"--data=npz:{npz}", f"--run_dir={stopped}", *TRAIN, killed=True)
    shutil.copytree(stopped, run)
    _do(server, folder, "train", f"--run_dir={run}", "--resume")
    shutil.copytree(run, twin)
    change_settings(twin, seed=1)
    shards = enrolled = None
    if whole:
        shards, enrolled = folder / "shards", run / "enrolled" / "1"
        _do(server, folder, "convert", f"--data=folder:{photos}", f"--out={shards}")
        _do(server, folder, "export", f"--run_dir={run}", "--tflite=float32")
        _do(server, folder, "enroll", f"--run_dir={run}", "--add=new", "--export=false",
            *map(str, images[:2]))  # fmt: skip
    return World(
        folder=folder,
        npz=npz,
        photos=photos,
        table=table,
        shards=shards,
        run=run,
        twin=twin,
        stopped=stopped,
        enrolled=enrolled,
        image=images[0],
    )


def write_npz(path: pathlib.Path, **changes: object) -> None:
    """Writes the arrays, some of them replaced; None leaves one out."""
    images, labels, split = fakes.make_arrays()
    arrays: dict = {
        "images": images,
        "labels": labels,
        "split": split.astype(np.uint8),
        "split_names": np.array(["train", "val", "test"]),
        "class_names": np.array([CLASS.format(label) for label in range(int(labels.max()) + 1)]),
        **changes,
    }
    with open(path, "wb") as file:
        np.savez(file, **{name: array for name, array in arrays.items() if array is not None})


def write_photos(folder: pathlib.Path) -> None:
    """Writes train/ and test/ folders of class folders of PNG files."""
    images, labels, split = fakes.make_arrays(channels=3)
    for row, (image, label, code) in enumerate(zip(images, labels, split)):
        place = folder / ("train", "val", "test")[code] / CLASS.format(label)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{row}.png").write_bytes(fakes.png_bytes(image))


def write_table(path: pathlib.Path, photos: pathlib.Path) -> None:
    """Writes the table of the photos, with paths relative to it."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for image in sorted(photos.glob("*/*/*.png")):
            split, label, _ = image.relative_to(photos).parts
            writer.writerow((os.path.relpath(image, path.parent), label, split))


def change_settings(run: pathlib.Path, **settings: object) -> None:
    """Gives a run folder other settings, and takes out the digest that would tell."""
    for name, change in (
        ("config.json", lambda content: content["settings"].update(settings)),
        ("digests.json", lambda content: content["sha256"].pop("config.json", None)),
    ):
        content = json.loads((run / name).read_text(encoding="utf-8"))
        change(content)
        (run / name).write_text(json.dumps(content), encoding="utf-8")


def kill_after_second_checkpoint() -> None:
    """A hook for a child: it is killed as soon as the checkpoint of step 2 is whole."""
    from longtail_tf.training.checkpoints import Checkpoints

    save = Checkpoints.save

    def save_and_die(self: Checkpoints) -> None:
        save(self)
        if self.step >= STEPS // 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = save_and_die  # type: ignore[method-assign]


def _do(
    server: ForkServer, folder: pathlib.Path, entry: str, *arguments: str, killed: bool = False
) -> None:
    stdout, stderr = folder / "stdout", folder / "stderr"
    hook = f"{__name__}:{kill_after_second_checkpoint.__name__}" if killed else None
    job = Job(entry, list(arguments), str(folder), str(stdout), str(stderr), hook=hook)
    outcome = server.run(job, stall_s=120)
    if outcome.signal != signal.SIGKILL if killed else outcome.exit_code != 0:
        raise RuntimeError(f"{entry} {' '.join(arguments)}: {outcome}")
