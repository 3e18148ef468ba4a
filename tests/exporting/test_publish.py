"""Version folders appear whole, in order, and never over one another."""

from __future__ import annotations

import pytest

from longtail_tf.errors import UserError
from longtail_tf.exporting import publish


def publish_one(folder, **arguments):
    with publish.new_version(folder, model_name="m", **arguments) as (hidden, final):
        (hidden / "saved_model.pb").write_bytes(b"x")
        assert hidden.parent == final.parent
        assert not final.exists()
        assert hidden.name.startswith(".")
        assert not hidden.name.isdigit()
    return final


def test_versions_count_up_and_the_hidden_folder_is_gone(tmp_path):
    assert [publish_one(tmp_path).name for _ in range(3)] == ["1", "2", "3"]
    assert publish_one(tmp_path, version=12).name == "12"
    assert publish_one(tmp_path).name == "13"
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "12", "13", "2", "3"]
    assert publish.versions(tmp_path / "m") == [1, 2, 3, 12, 13]


def test_names_that_are_no_version_are_not_counted(tmp_path):
    for name in (".4.ab", "tmp", "²", "07x"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "9").write_text("a file")
    assert publish.versions(tmp_path / "m") == []
    assert publish.versions(tmp_path / "absent") == []


def test_a_failed_export_leaves_nothing(tmp_path):
    with (
        pytest.raises(RuntimeError, match="gate"),
        publish.new_version(tmp_path, model_name="m") as (hidden, _),
    ):
        (hidden / "saved_model.pb").write_bytes(b"x")
        raise RuntimeError("gate")
    assert not list(tmp_path.rglob("*.pb"))
    assert not (tmp_path / "m").exists()


def test_a_version_is_never_overwritten(tmp_path):
    first = publish_one(tmp_path)
    with pytest.raises(UserError, match="never overwritten: leave --version out for 2"):
        publish_one(tmp_path, version=1)
    with pytest.raises(UserError, match="--version=0: a version is a whole number from 1"):
        publish_one(tmp_path, version=0)
    assert (first / "saved_model.pb").read_bytes() == b"x"


def test_a_version_that_appears_meanwhile_wins(tmp_path):
    with (
        pytest.raises(UserError, match="appeared while this export was written"),
        publish.new_version(tmp_path, model_name="m") as (_, final),
    ):
        final.mkdir()
        (final / "other").write_text("theirs")
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]
    assert (tmp_path / "m" / "1" / "other").read_text() == "theirs"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_a_model_name_is_one_plain_word(tmp_path, name):
    with (
        pytest.raises(UserError, match="is part of a path and of requests"),
        publish.new_version(tmp_path, model_name=name),
    ):
        pass
