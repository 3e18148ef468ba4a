"""Checkpoints: whole or not there; the newest whole one is used, nothing starts over unasked."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.training import checkpoints as module
from longtail_tf.training.checkpoints import Checkpoints


class Toy(tf.Module):
    """As much of a model as checkpoints know."""

    head_optimizer = whole_optimizer = metric_loss = None

    def __init__(self, size=1000):
        super().__init__()
        self.step = tf.Variable(0, dtype=tf.int64)
        self.weights = tf.Variable(tf.zeros(size))

    def train(self, steps=1):
        self.step.assign_add(steps)
        self.weights.assign(tf.fill(self.weights.shape, float(self.step)))


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of steps 1 to 5, of which two are kept."""
    model = Toy()
    checkpoints = Checkpoints(model, tmp_path / "checkpoints")
    for _ in range(5):
        model.train()
        checkpoints.save()
    return tmp_path / "checkpoints"


def restored(folder, **arguments):
    """(step that `restore` gives, the weights)."""
    model = Toy()
    step = Checkpoints(model, folder).restore(**arguments)
    return step, model.weights.numpy()


def newest(folder, ending):
    return folder / f"step-5{ending}"


def test_the_two_newest_are_kept_and_nothing_else_lies_about(saved):
    assert sorted(os.listdir(saved)) == [
        "checkpoint",
        "step-4.data-00000-of-00001", "step-4.index",
        "step-5.data-00000-of-00001", "step-5.index",
    ]  # fmt: skip
    step, weights = restored(saved)
    assert step == 5 and (weights == 5).all()


def test_tensorflows_own_tools_find_the_newest(saved):
    assert tf.train.latest_checkpoint(str(saved)) == str(saved / "step-5")


def test_a_run_that_saved_none_begins_at_nought(tmp_path):
    step, weights = restored(tmp_path / "none")
    assert step == 0 and (weights == 0).all()


def _half(path):
    os.truncate(path, path.stat().st_size // 2)


def _turned(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "gone": pathlib.Path.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "half": _half,
    "a byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "a bit turned": _turned,
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(3000)),
    "a pipe": _pipe,
    "a folder": _folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("ending", [".index", ".data-00000-of-00001"])
def test_the_newest_whole_checkpoint_is_used_and_said(saved, caplog, ending, damage):
    DAMAGES[damage](newest(saved, ending))
    with caplog.at_level("WARNING", logger="absl"):
        step, weights = restored(saved)
    assert step == 4 and (weights == 4).all(), "all of the older one"
    has_index = not (ending == ".index" and damage == "gone")
    assert ("the training goes on from the older" in caplog.text) == has_index


@pytest.mark.parametrize("content", [None, b"", b"junk \xff\0", b'model_checkpoint_path: "step-1"'])
def test_the_state_file_is_not_needed(saved, content):
    (saved / "checkpoint").unlink()
    if content is not None:
        (saved / "checkpoint").write_bytes(content)
    assert restored(saved)[0] == 5


@pytest.mark.parametrize("damage", ["half", "gone"])
def test_without_a_whole_one_it_is_said_and_nothing_starts_over(saved, damage):
    for path in saved.glob("step-*.index"):
        DAMAGES[damage](path)
    with pytest.raises(
        UserError, match="has no whole checkpoint .*start over in a new folder with"
    ):
        restored(saved)


def test_lost_checkpoints_of_a_run_that_had_some_are_not_a_new_start(tmp_path):
    with pytest.raises(UserError, match="no whole checkpoint .none is left."):
        restored(tmp_path / "none", first_at=500)


def test_a_checkpoint_of_another_network_is_told_as_that(saved):
    model = Toy(size=7)
    with pytest.raises(UserError, match="step-5 does not fit this network"):
        Checkpoints(model, saved).restore()


def test_the_litter_of_kills_is_removed_by_the_next_save(saved):
    (saved / "step-6_temp").mkdir()
    (saved / "step-6_temp" / "part-00000-of-00001.index").touch()
    (saved / ".saving.index").touch()
    (saved / "mine.txt").touch()
    model = Toy()
    checkpoints = Checkpoints(model, saved)
    checkpoints.restore()
    model.train()
    checkpoints.save()
    assert sorted(os.listdir(saved)) == [
        "checkpoint", "mine.txt",
        "step-5.data-00000-of-00001", "step-5.index",
        "step-6.data-00000-of-00001", "step-6.index",
    ]  # fmt: skip


@pytest.mark.parametrize("event", ["write", "replace", "fsync"])
def test_a_full_disk_leaves_the_older_ones_and_names_the_place(saved, monkeypatch, event):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = Toy()
    checkpoints = Checkpoints(model, saved)
    checkpoints.restore()
    model.train()
    if event == "write":
        fault = tf.errors.ResourceExhaustedError(None, None, ".saving; No space left on device")
        monkeypatch.setattr(tf.train.Checkpoint, "write", lambda *_: _raise(fault))
    else:
        fault = OSError(28, "No space left on device")
        monkeypatch.setattr(module.os, event, lambda *_: _raise(fault))
    with pytest.raises(OSError, match="No space left on device") as told:
        checkpoints.save()
    assert told.value.filename == str(saved / "step-6")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def _raise(error):
    raise error


def test_the_index_comes_last_so_a_kill_leaves_no_half_checkpoint(saved, monkeypatch):
    order = []
    real = os.replace
    monkeypatch.setattr(
        module.os, "replace", lambda a, b: (order.append(pathlib.Path(b).name), real(a, b))
    )
    model = Toy()
    checkpoints = Checkpoints(model, saved)
    checkpoints.restore()
    model.train()
    checkpoints.save()
    assert order[:2] == ["step-6.data-00000-of-00001", "step-6.index"]
