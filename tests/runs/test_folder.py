from __future__ import annotations

import hashlib
import json
import os

import pytest

from longtail_tf import files
from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically, write_csv, write_json
from longtail_tf.runs.folder import RunFolder, provenance


def test_provenance_names_commit_versions_data_and_seed():
    record = provenance(data_digest="abc", seed=3)
    assert record["data_digest"] == "abc" and record["seed"] == 3
    assert record["packages"]["numpy"] and record["commit"]


def test_claim_refuses_a_folder_that_holds_something(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty: name a new folder, or continue"):
        with RunFolder.claim(tmp_path, resume=False):
            pass
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_claim_refuses_to_resume_where_no_run_is(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        with RunFolder.claim(tmp_path / "none", resume=True):
            pass
    assert not (tmp_path / "none").exists()


def test_claim_refuses_a_folder_in_use(tmp_path):
    with RunFolder.claim(tmp_path / "run", resume=False) as folder:
        write_json(folder.config, {"format_version": 1})
        with pytest.raises(UserError, match="is in use by another training"):
            with RunFolder.claim(tmp_path / "run", resume=True):
                pass
    with RunFolder.claim(tmp_path / "run", resume=True):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format_version": 99}, "is of run format 99"),
        ("{", "is damaged"),
    ],
)
def test_open_refuses_what_it_cannot_read(tmp_path, content, message):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        RunFolder.open(tmp_path)


def test_open_refuses_an_empty_path():
    with pytest.raises(UserError, match="--run_dir is missing"):
        RunFolder.open("")


def test_missing_files_are_reported(tmp_path):
    write_json(tmp_path / "config.json", {"format_version": 1})
    folder = RunFolder.open(tmp_path)
    with pytest.raises(UserError, match="prototypes.npz is missing"):
        folder.require(folder.prototypes)
    with pytest.raises(UserError, match="evaluation.json is missing"):
        folder.read_json(folder.evaluation)


def _recorded_run(path):
    folder = RunFolder(path)
    with folder.recording(folder.config, folder.classes, folder.weights):
        write_json(folder.config, {"format_version": 2})
        write_csv(folder.classes, ("id", "name"), [(0, "a")])
        write_atomically(folder.weights, b"weights")
    return folder


def test_digests_are_those_of_the_files(tmp_path):
    folder = _recorded_run(tmp_path)
    assert json.loads(folder.digests.read_text())["sha256"] == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("classes.csv", "config.json", "model.weights.h5")
    }
    folder.check_digests(folder.config, folder.weights, folder.prototypes)
    assert RunFolder.open(tmp_path).path == tmp_path


@pytest.mark.parametrize("name", ["config.json", "classes.csv"])
def test_open_refuses_changed_records(tmp_path, name):
    folder = _recorded_run(tmp_path)
    with open(tmp_path / name, "a") as file:
        file.write(" ")
    with pytest.raises(UserError, match=f"{name} was changed after the run wrote it.*restore it"):
        RunFolder.open(tmp_path)
    folder.record_digests(tmp_path / name)
    RunFolder.open(tmp_path)


def test_a_changed_file_is_reported_with_its_remedy(tmp_path):
    folder = _recorded_run(tmp_path)
    write_atomically(folder.weights, b"weighty")
    with pytest.raises(UserError, match="restore it from a copy, or do this. If you changed it"):
        folder.check_digests(folder.weights, remedy="do this")


def test_open_refuses_missing_or_damaged_digests(tmp_path):
    folder = _recorded_run(tmp_path)
    for text in ("{", "[]", '{"sha256": 3}', "{}"):
        folder.digests.write_text(text)
        with pytest.raises(UserError, match="digests.json is damaged"):
            RunFolder.open(tmp_path)
    folder.digests.unlink()
    with pytest.raises(UserError, match="digests.json is missing: copy the whole run folder"):
        RunFolder.open(tmp_path)
    write_json(folder.config, {"format_version": 1})  # a run from before there were digests
    RunFolder.open(tmp_path)


def test_a_kill_while_files_are_written_again_leaves_a_folder_that_opens(tmp_path):
    folder = _recorded_run(tmp_path)
    with pytest.raises(KeyboardInterrupt), folder.recording(folder.weights):
        write_atomically(folder.weights, b"other")
        raise KeyboardInterrupt
    assert "model.weights.h5" not in folder.digests.read_text()
    RunFolder.open(tmp_path).check_digests(folder.weights)


def test_trim_metrics_drops_later_and_broken_lines(tmp_path):
    folder = RunFolder(tmp_path)
    folder.trim_metrics(5)  # no file: nothing to do
    for step in (1, 5, 6):
        folder.append_metrics({"step": step})
    with open(folder.metrics, "a") as file:
        file.write('{"step": 2, "los')
    folder.trim_metrics(5)
    steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert steps == [1, 5]


def test_a_file_of_another_size_is_told_before_it_is_read(tmp_path):
    folder = _recorded_run(tmp_path)
    os.truncate(folder.weights, 20 << 30)  # reading it would take a minute
    with pytest.raises(UserError, match="21,474,836,480 bytes, digests.json says 7"):
        folder.check_digests(folder.weights)


def test_digests_of_a_version_without_sizes_are_checked(tmp_path):
    folder = _recorded_run(tmp_path)
    content = json.loads(folder.digests.read_text())
    del content["bytes"]
    folder.digests.write_text(json.dumps(content))
    folder.check_digests(folder.weights)
    folder.weights.write_bytes(b"changed")
    with pytest.raises(UserError, match="was changed after the run wrote it .sha256"):
        folder.check_digests(folder.weights)


@pytest.mark.parametrize(
    "left", [[".lock"], [".lock", "digests.json", f".config.json.{files._machine()}89abcdef.part"]]
)
def test_what_a_kill_leaves_before_the_settings_counts_as_nothing(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="stopped before it wrote its settings"):
        with RunFolder.claim(tmp_path, resume=True):
            pass
    with RunFolder.claim(tmp_path, resume=False):
        assert sorted(os.listdir(tmp_path)) == [name for name in left if "part" not in name]
