"""Checkpoints that resume to the same bits: model, both optimizers, and the step counter.

Samplers and augmentation are pure functions of (seed, step), so the step is all of their state.

A checkpoint is some files, `step-N.data-00000-of-00001` (of several devices more) and
`step-N.index`. TensorFlow writes them under a hidden name; they get theirs when they are on the
disk, the index last, so a checkpoint that has an index is whole unless the disk damaged it.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from longtail_tf.errors import UserError
from longtail_tf.files import check_file, foreign_errors, named, sync_folder, write_atomically
from longtail_tf.models.two_stream_model import TwoStreamModel

KEPT = 2  # the newest, and the one before it should the newest be damaged
_HIDDEN = ".saving"
_INDEX = re.compile(r"step-(\d+)\.index\Z")
# What kills have left: of this version, and of TensorFlow's own manager.
_LITTER = re.compile(r"\.saving|step-\d+_temp\Z")


class Checkpoints:
    """Saves and restores a compiled `TwoStreamModel` in `folder`."""

    def __init__(self, model: TwoStreamModel, folder: pathlib.Path) -> None:
        self._model, self._folder = model, pathlib.Path(folder)
        parts: dict[str, Any] = {"model": model}
        if model.head_optimizer is not None:
            parts["head_optimizer"] = model.head_optimizer
        if model.whole_optimizer is not None:
            parts["whole_optimizer"] = model.whole_optimizer
        memory = getattr(model.metric_loss, "state", None)
        if memory is not None:
            parts["metric_loss"] = memory
        self._checkpoint = tf.train.Checkpoint(**parts)

    def save(self) -> None:
        """Saves the present step, and deletes all but the newest `KEPT`.

        Raises:
          OSError: the disk is full, or the folder may not be written into; older ones stay.
        """
        prefix = self._folder / f"step-{self.step}"
        with foreign_errors(prefix):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_litter()
            try:
                self._checkpoint.write(str(self._folder / _HIDDEN))
                for hidden in (*_data_files(self._folder / _HIDDEN), f"{_HIDDEN}.index"):
                    self._publish(hidden, prefix.name)
            finally:
                self._remove_litter()
            steps = _steps_in(self._folder)
            for step in steps[KEPT:]:
                old = self._folder / f"step-{step}"
                for name in (f"{old.name}.index", *_data_files(old)):  # without an index it is none
                    (self._folder / name).unlink()
        self._write_state(steps[:KEPT])

    def restore(self, folder: pathlib.Path | None = None, *, first_at: int = 0) -> int:
        """Restores the newest checkpoint that is whole.

        Args:
          folder: where it is, if not in the folder that `save` writes to.
          first_at: the step after which the run has saved at least one; where there is none then,
            it was lost. 0: it may have none.

        Returns:
          The step it was saved at; 0, restoring nothing, where the run had not saved any.

        Raises:
          UserError: the checkpoint is of another network, or all are damaged or lost.
        """
        folder = pathlib.Path(folder or self._folder)
        damaged = []
        for step in _steps_in(folder):
            prefix = folder / f"step-{step}"
            fault = _fault(prefix)
            if fault:
                logging.warning("%s is damaged (%s)", prefix, fault)
                damaged.append(prefix.name)
                continue
            if damaged:
                logging.warning("the training goes on from the older %s", prefix)
            self._read(prefix)
            return self.step
        if damaged or first_at or any(folder.glob("step-*.data-*")):
            lost = f"{' and '.join(damaged)} damaged" if damaged else "none is left"
            raise UserError(
                f"{folder} has no whole checkpoint ({lost}), so there is nothing to go on from: "
                "restore it from a copy, or start over in a new folder with --flagfile="
                f"{folder.parent / 'config.flags'} --run_dir=NEW."
            )
        return 0

    @property
    def step(self) -> int:
        """Train steps done."""
        return int(tf.convert_to_tensor(self._model.step))

    def _read(self, prefix: pathlib.Path) -> None:
        try:
            status = self._checkpoint.read(str(prefix))
            status.assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise UserError(
                f"{prefix} does not fit this network: resume with the settings in config.flags and "
                "the same Keras, or start a new run."
            ) from error

    def _publish(self, hidden: str, name: str) -> None:
        """Gives a file that TensorFlow wrote its name, once it is on the disk."""
        with open(self._folder / hidden, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self._folder / hidden, self._folder / (name + hidden[len(_HIDDEN) :]))
        sync_folder(self._folder)

    def _remove_litter(self) -> None:
        for entry in list(self._folder.iterdir()):
            if _LITTER.match(entry.name):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()

    def _write_state(self, steps: list[int]) -> None:
        """The file by which TensorFlow's own tools find the newest; we go by the names."""
        lines = [f'model_checkpoint_path: "step-{steps[0]}"']
        lines += [f'all_model_checkpoint_paths: "step-{step}"' for step in reversed(steps)]
        write_atomically(self._folder / "checkpoint", "\n".join([*lines, ""]))


def _steps_in(folder: pathlib.Path) -> list[int]:
    """The steps of the checkpoints in a folder, newest first."""
    with named(folder):
        if not folder.exists():
            return []
        names = [entry.name for entry in folder.iterdir()]
    return sorted((int(match[1]) for match in map(_INDEX.match, names) if match), reverse=True)


def _data_files(prefix: pathlib.Path) -> list[str]:
    """Names of the data files of a checkpoint."""
    start = f"{prefix.name}.data-"
    return sorted(e.name for e in prefix.parent.iterdir() if e.name.startswith(start))


def _fault(prefix: pathlib.Path) -> str:
    """Why a checkpoint cannot be restored, by reading all of it; empty where it can."""
    try:
        for name in (f"{prefix.name}.index", *_data_files(prefix)):
            check_file(prefix.with_name(name))  # TensorFlow would wait for a pipe
        for _ in _tensors(prefix):
            pass
    except OSError as error:
        return error.strerror or str(error)
    except (tf.errors.OpError, ValueError, RuntimeError, SystemError) as error:
        return str(error).split("\n", 1)[0][:200]
    return ""


def _tensors(prefix: pathlib.Path) -> Iterator[Any]:
    """Every tensor of a checkpoint; reading checks the sums that stand beside it."""
    reader = tf.train.load_checkpoint(str(prefix))
    for name in reader.get_variable_to_shape_map():
        yield reader.get_tensor(name)
