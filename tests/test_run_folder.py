from __future__ import annotations

import json
import os
import stat

import pytest

from longtail_tf import run_folder
from longtail_tf.errors import UserError
from longtail_tf.run_folder import RunFolder, provenance, write_atomically, write_csv, write_json


def test_write_atomically_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_atomically(path, "one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.txt"]


def test_write_atomically_keeps_the_old_file_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomically(path, "one")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(run_folder.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "two")
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_written_files_have_the_users_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_write_csv_quotes(tmp_path):
    write_csv(tmp_path / "a.csv", ("id", "name"), [(0, 'a "b", c'), (1, None)])
    assert (tmp_path / "a.csv").read_text() == 'id,name\n0,"a ""b"", c"\n1,\n'


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


def test_missing_files_are_told(tmp_path):
    write_json(tmp_path / "config.json", {"format_version": 1})
    folder = RunFolder.open(tmp_path)
    with pytest.raises(UserError, match="prototypes.npz is missing"):
        folder.require(folder.prototypes)
    with pytest.raises(UserError, match="evaluation.json is missing"):
        folder.read_json(folder.evaluation)


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
