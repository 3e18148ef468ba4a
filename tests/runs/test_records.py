"""What a run writes before it starts, however often and wherever it was killed."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal

import pytest

from longtail_tf import train
from longtail_tf.config import Config
from longtail_tf.errors import UserError
from longtail_tf.runs import records
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.resolve import index_of, resolve_for
from longtail_tf.runs.saved_settings import load_settings, saved_settings
from longtail_tf.runs.streams import head_size
from tests import fakes

WRITTEN = ("config.json", "config.flags", "classes.csv", "head_set.json")


class Begun:
    """A run that has been begun in a new folder, and can be resumed."""

    def __init__(self, tmp_path, **changes):
        spec = fakes.write_npz(tmp_path / "data.npz")
        arguments = dict(data=spec, run_dir=str(tmp_path / "run"), head_ratio=0.5, warmup_steps=0)
        config = Config(**{**arguments, "steps": 4, **fakes.TINY_NET, **changes})
        self.index = index_of(config)
        self.config = resolve_for(config, self.index)
        self.folder = RunFolder(self.config.run_dir)
        self.folder.path.mkdir(exist_ok=True)
        self.begin(self.config)

    def begin(self, config):
        num_head = head_size(config, self.index.class_counts)
        records.begin(self.folder, config, self.index, num_head=num_head)

    def resume(self, **changes):
        self.begin(dataclasses.replace(self.config, resume=True, **changes))

    def contents(self):
        return {name: (self.folder.path / name).read_bytes() for name in WRITTEN}


@pytest.fixture
def begun(tmp_path):
    return Begun(tmp_path)


@pytest.mark.parametrize("written", range(1, len(WRITTEN)))
def test_what_a_kill_at_the_start_left_out_is_written_on_resume(begun, written):
    whole, digests = begun.contents(), begun.folder.digests.read_bytes()
    for name in WRITTEN[written:]:
        (begun.folder.path / name).unlink()
    begun.folder.digests.write_text('{"sha256": {}}')  # they are taken down last
    assert saved_settings(begun.folder.path)["data"] == begun.config.data
    begun.resume()
    assert begun.contents() == whole and begun.folder.digests.read_bytes() == digests


def test_a_record_that_was_never_taken_down_is_written_again(begun):
    whole = begun.contents()
    begun.folder.classes.write_text("id,name\n0,ha")  # cut, and no digest tells
    begun.folder.digests.write_text('{"sha256": {}}')
    begun.resume()
    assert begun.contents() == whole


def test_a_resumed_run_keeps_the_records_it_has(begun):
    before = {name: (begun.folder.path / name).stat().st_mtime_ns for name in WRITTEN}
    begun.resume()
    after = {name: (begun.folder.path / name).stat().st_mtime_ns for name in WRITTEN}
    assert after == before


def test_settings_that_decide_the_weights_cannot_change(begun):
    with pytest.raises(UserError, match=r"--threads=3 \(was 0\), --learning_rate=0.5 \(was 0"):
        begun.resume(learning_rate=0.5, threads=3)


def test_settings_that_can_change_are_said_and_kept(begun, caplog):
    config = dataclasses.replace(
        begun.config, resume=True, checkpoint_every=7, k_top=2, inference_rule="lda"
    )
    with caplog.at_level("INFO", logger="absl"):
        begun.begin(config)
    assert "from here on with --checkpoint_every=7 (was 500), " in caplog.text
    assert "--inference_rule=lda (was gated), --k_top=2 (was 5)" in caplog.text
    num_head = head_size(config, begun.index.class_counts)
    records.settle(begun.folder, config, begun.index, num_head=num_head)
    loaded = load_settings(begun.folder)
    assert (loaded.checkpoint_every, loaded.k_top, loaded.inference_rule) == (7, 2, "lda")
    RunFolder.open(begun.folder.path)


def test_what_is_checked_of_the_data_is_said(begun, tmp_path, caplog):
    with caplog.at_level("INFO", logger="absl"):
        begun.resume()
    assert "so are the contents of the images" in caplog.text


def test_images_that_were_written_anew_are_told_with_the_way_on(tmp_path):
    spec = fakes.write_folder(tmp_path / "photos", channels=3)
    begun = Begun(tmp_path, data=spec, image_size=8)
    begun.resume()
    image = next((tmp_path / "photos").rglob("*.png"))
    image.write_bytes(image.read_bytes())  # as if painted white: path and size are the same
    index = index_of(begun.config)
    assert index.digest == begun.index.digest
    begun.index = index
    with pytest.raises(
        UserError, match="were written anew since the run began: .* take data_times"
    ):
        begun.resume()
    for path, table in ((begun.folder.config, None), (begun.folder.digests, "sha256")):
        content = json.loads(path.read_text())
        content.pop("data_times", None)
        content.get(table, {}).pop("config.json", None)
        path.write_text(json.dumps(content))
    begun.resume()


def test_a_run_that_got_beyond_a_checkpoint_has_one(begun):
    config = dataclasses.replace(begun.config, checkpoint_every=2)
    found = []
    for step in (1, 2, 3):
        begun.folder.append_metrics({"step": step})
        found.append(records.first_checkpoint(config, begun.folder))
    assert found == [0, 0, 2]


def test_relative_paths_are_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    begun = Begun(tmp_path, data="npz:data.npz", run_dir="run")
    assert load_settings(begun.folder).data == "npz:data.npz"
    monkeypatch.chdir(tmp_path / "there")
    folder = RunFolder("../run")
    assert load_settings(folder).data == f"npz:{tmp_path}/data.npz"
    (tmp_path / "data.npz").unlink()
    assert load_settings(folder).data == f"npz:{tmp_path}/data.npz", "told as a whole path"
    (tmp_path / "there" / "data.npz").touch()
    assert load_settings(folder).data == "npz:data.npz", "what is here goes first"


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", "4"), ("steps", 10**20), ("resume", 1), ("data", None), ("schedule", "x"),
     ("margin", True), ("seed", 1.5)],
)  # fmt: skip
def test_settings_of_the_wrong_type_are_told(begun, name, value):
    content = json.loads(begun.folder.config.read_text())
    content["settings"][name] = value
    begun.folder.config.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"config.json is damaged .its setting {name} is"):
        load_settings(begun.folder)


def test_commands_to_type_are_quoted(tmp_path, caplog):
    begun = Begun(tmp_path, run_dir=str(tmp_path / "my 'own' $run"))
    with caplog.at_level("INFO", logger="absl"):
        records.show_stop(begun.config, 3)
    command = caplog.text.split("continue with\n")[1].split("\n")[0]
    assert shlex.split(command)[3:] == [f"--run_dir={begun.folder.path}", "--resume"]
    [comment] = [line for line in begun.folder.flagfile.read_text().splitlines() if "#" in line]
    assert f"--flagfile={begun.folder.flagfile}" in shlex.split(comment, comments=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_was_stopped_ends_with_a_code_of_its_own(monkeypatch, tmp_path, number):
    monkeypatch.setattr(train, "run", lambda config: train.RunResult(tmp_path, None, number))
    monkeypatch.setattr(
        "sys.argv", ["train.py", "--data=digits_lt", f"--run_dir={tmp_path}", "--head_ratio=0.5"]
    )
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 128 + number
    monkeypatch.setattr(train, "run", lambda config: train.RunResult(tmp_path, {}))
    train.main()
    assert os.path.exists(tmp_path)
