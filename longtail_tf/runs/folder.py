"""The run folder: what one training run leaves, complete, and movable as a whole.

| file | holds |
|---|---|
| config.flags, config.json | the settings; `--flagfile=config.flags` repeats the run |
| classes.csv | id, name, train_count, head, band: class ids by falling training count |
| head_set.json | the rule, the cut, the head's share of images, classifier bytes |
| start.json | pretrained runs: what each amount of training gave on held-out images |
| metrics.jsonl | one JSON object a line: training and validation numbers by step |
| checkpoints/ | everything needed to resume to the same bits |
| model.weights.h5, prototypes.npz | the trained network; what turns an embedding into a class |
| evaluation.json, per_class.csv, embeddings.npz | the test set, read once at the last step |
| digests.json | the SHA-256 of the files above that are read again, checked when they are |
| report.html, export/ | what people and servers get |
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import pathlib
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from longtail_tf import __version__
from longtail_tf.errors import UserError
from longtail_tf.files import Path, clean_litter, is_litter, named, write_atomically
from longtail_tf.runs import digests
from longtail_tf.runs.record_shapes import check_record
from longtail_tf.text_files import read_json, read_text

FORMAT_VERSION = 2  # 1 had no digests.json


def provenance(*, data_digest: str, seed: int) -> dict[str, Any]:
    """Where numbers come from: code, packages, data, seed. Part of every JSON a run leaves."""
    return {
        "longtail_tf": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": _package_versions(),
        "data_digest": data_digest,
        "seed": seed,
    }


@functools.cache
def _package_versions() -> dict[str, str]:
    versions = {}
    for name in ("tensorflow", "keras", "tensorflow-addons", "keras-cv", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@functools.cache
def _commit() -> str:
    """The commit of the source checkout, "unknown" for an installed package."""
    source = pathlib.Path(__file__).resolve().parents[1]
    if not (source.parent / ".git").exists():
        return "unknown"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()
    return "unknown"


class RunFolder:
    """Paths and records of one run folder."""

    def __init__(self, path: Path) -> None:
        self.path = pathlib.Path(path)
        self.config = self.path / "config.json"
        self.flagfile = self.path / "config.flags"
        self.classes = self.path / "classes.csv"
        self.head_set = self.path / "head_set.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "model.weights.h5"
        self.prototypes = self.path / "prototypes.npz"
        self.evaluation = self.path / "evaluation.json"
        self.per_class = self.path / "per_class.csv"
        self.embeddings = self.path / "embeddings.npz"
        self.report = self.path / "report.html"
        self.enrollment = self.path / "enrollment.json"
        self.digests = self.path / digests.FILE
        self.export = self.path / "export"
        self.start = self.path / "start.json"
        self.trunk_cache = self.path / "trunk_cache"

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder.

        Raises:
          UserError: there is no run in `path`, a newer longtail_tf wrote it, or its records were
            changed.
        """
        if not str(path):
            raise UserError("--run_dir is missing: give the folder that longtail_tf.train wrote.")
        folder = cls(path)
        with named(folder.config):
            is_run = folder.config.exists()
        if not is_run:
            raise UserError(
                f"{path} is not a run folder (it has no config.json): give the folder that "
                "longtail_tf.train wrote with --run_dir."
            )
        # Before its shape: that of a newer version may be another.
        version = read_json(folder.config).get("format_version", 0)
        if type(version) is not int or version > FORMAT_VERSION:
            raise UserError(
                f"{folder.config} is of run format {version!r}, this longtail_tf {__version__} "
                f"reads up to {FORMAT_VERSION}: install the longtail_tf that trained it, or a "
                "newer one."
            )
        if version >= 2 and not folder.digests.exists():
            raise UserError(
                f"{folder.digests} is missing: copy the whole run folder, or train again in a new "
                "one."
            )
        folder.check_digests(folder.config, folder.classes, folder.head_set, folder.enrollment)
        return folder

    @classmethod
    @contextlib.contextmanager
    def claim(cls, path: Path, *, resume: bool) -> Iterator[RunFolder]:
        """A run folder to write into, held for this process alone until the context ends.

        What a training left that was killed before it wrote its settings counts as nothing.

        Raises:
          UserError: the folder holds something and `resume` is off; it holds no run and `resume`
            is on; or another process is writing into it.
          OSError: it cannot be written into.
        """
        folder = cls(path)
        if resume:
            if folder.path.is_dir() and not folder.foreign_entries() and not folder.config.exists():
                raise UserError(
                    f"the training in {path} was stopped before it wrote its settings, so there is "
                    "nothing to resume: give the command that started it again, without --resume."
                )
            cls.open(path)
        elif folder.path.exists() and (not folder.path.is_dir() or folder.foreign_entries()):
            raise UserError(
                f"--run_dir={path} is not empty: name a new folder, or continue the run in it with "
                "--resume."
            )
        with named(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        with named(folder.path / ".lock"), open(folder.path / ".lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"--run_dir={path} is in use by another training: wait for it, or name another "
                    "folder."
                ) from None
            clean_litter(folder.path)
            yield folder

    def foreign_entries(self) -> list[str]:
        """Names in the folder that a training which was killed at its very start did not leave."""
        with named(self.path):
            names = sorted(entry.name for entry in self.path.iterdir())
        own = (".lock", self.digests.name)
        return [name for name in names if name not in own and not is_litter(name)]

    def read_json(self, path: pathlib.Path) -> dict[str, Any]:
        """A JSON record of this run, whose values are of the types that readers rely on.

        Raises:
          UserError: the file is missing or damaged.
          OSError: it cannot be read.
        """
        try:
            return check_record(path, path.name, read_json(path))
        except FileNotFoundError:
            raise UserError(
                f"{path} is missing: copy the whole run folder, or finish its training with "
                "--resume."
            ) from None

    def require(self, path: pathlib.Path) -> pathlib.Path:
        """`path`, which must exist.

        Raises:
          UserError: it does not.
        """
        with named(path):
            is_there = path.exists()
        if not is_there:
            raise UserError(
                f"{path} is missing: this run has not finished, or the folder was not copied "
                "whole; finish it with --resume or copy it again."
            )
        return path

    @contextlib.contextmanager
    def recording(self, *paths: pathlib.Path) -> Iterator[None]:
        """Takes down the digests of `paths`, files that the body writes.

        While it runs they have none, so that a kill in between leaves nothing that contradicts.
        """
        names = [path.name for path in paths]
        write_atomically(self.digests, digests.without(self.path, names))
        yield
        self.record_digests(*paths)

    def record_digests(self, *paths: pathlib.Path) -> None:
        """Takes down the digests of `paths` as they are now."""
        names = [path.name for path in paths]
        write_atomically(self.digests, digests.updated(self.path, names))

    def check_digests(
        self, *paths: pathlib.Path, remedy: str = "train again in a new folder"
    ) -> None:
        """Raises a UserError where one of `paths` is not as the run wrote it."""
        digests.check(self.path, [path.name for path in paths], remedy=remedy)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl."""
        with named(self.metrics), open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def last_step(self) -> int:
        """The last step that metrics.jsonl tells of; 0 where it tells of none."""
        return max((step for step, _ in self._steps_of_metrics()), default=0)

    def trim_metrics(self, step: int) -> None:
        """Drops the lines after `step`, and what is no record: a resumed run writes them again.

        Raises:
          OSError: metrics.jsonl cannot be read or written.
        """
        if not self.metrics.exists():
            return
        kept = "".join(line + "\n" for at, line in self._steps_of_metrics() if at <= step)
        if kept != read_text(self.metrics, errors="replace"):
            write_atomically(self.metrics, kept)

    def _steps_of_metrics(self) -> Iterator[tuple[int, str]]:
        """(step, line) of each record of metrics.jsonl; a line cut by a kill is none."""
        if not self.metrics.exists():
            return
        for line in read_text(self.metrics, errors="replace").split("\n"):
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line)
                step = record.get("step") if isinstance(record, dict) else None
                if type(step) is int:
                    yield step, line
