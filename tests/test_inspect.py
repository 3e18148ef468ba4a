"""`python -m longtail_tf.inspect` on the real code path: text, JSON, PNG, refusals."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from longtail_tf import inspect
from longtail_tf.errors import UserError
from longtail_tf.settings import cli


@pytest.fixture
def spec(tmp_path):
    """A set of 5 classes with 60, 30, 9, 2 and 1 training images and a test split."""
    counts = [2, 60, 1, 30, 9]
    labels = np.concatenate([np.repeat(np.arange(5), counts), np.arange(5)])
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 4, 4, 1)).astype(np.uint8)
    split = np.repeat([0, 2], [sum(counts), 5]).astype(np.uint8)
    path = tmp_path / "tiny.npz"
    np.savez(path, images=images, labels=labels, split=split, split_names=["train", "val", "test"])
    return f"npz:{path}"


def test_run_prints_the_report_and_writes_the_picture(spec, tmp_path, capsys):
    png = tmp_path / "new" / "tail.png"
    facts = inspect.run(
        inspect.InspectConfig(data=spec, val_per_class=0, images_per_class=3, png=str(png))
    )
    text = capsys.readouterr().out
    assert facts["classes"] == 5 and facts["images"] == 102
    assert facts["splits"] == {"train": 102, "val": None, "test": 5}
    assert facts["whole_stream"]["singletons"] == 1
    assert facts["whole_stream"]["classes_under_k"] == 2
    assert "5 classes, 102 training images" in text and "5 classes x 3 images = 15" in text
    assert "Start from --head_min_count=20: 2 classes with 88.2 % of the images" in text
    assert text.endswith(f"wrote {png}\n") and png.read_bytes().startswith(b"\x89PNG")


def test_counts_are_those_after_the_validation_carve_out(spec, capsys):
    facts = inspect.run(inspect.InspectConfig(data=spec))
    assert facts["splits"]["val"] and sum(facts["splits"].values()) == 107
    assert facts["images"] == facts["splits"]["train"] == 102 - facts["splits"]["val"]
    assert all(note.split()[0] in capsys.readouterr().out for note in facts["notes"][:1])


def test_json_is_all_that_is_printed(spec, tmp_path, capsys):
    png = tmp_path / "tail.png"
    config = inspect.InspectConfig(data=spec, json=True, png=str(png))
    facts = inspect.run(config)
    assert json.loads(capsys.readouterr().out) == facts
    assert png.exists() and len(facts["provenance"]["data_digest"]) == 64


def test_text_is_ascii_where_the_terminal_is(spec, capsys, monkeypatch):
    monkeypatch.setattr(inspect, "_shows_blocks", lambda: False)
    inspect.run(inspect.InspectConfig(data=spec))
    assert capsys.readouterr().out.isascii()


def test_blocks_are_shown_only_where_they_can_be(monkeypatch):
    for encoding, shown in (("utf-8", True), ("ascii", False), ("latin-1", False), (None, False)):
        monkeypatch.setattr(sys, "stdout", type("Out", (), {"encoding": encoding})())
        assert inspect._shows_blocks() is shown


def test_a_picture_that_cannot_be_written_is_refused(spec, tmp_path):
    with pytest.raises(IsADirectoryError) as told:
        inspect.run(inspect.InspectConfig(data=spec, png=str(tmp_path)))
    assert told.value.filename == str(tmp_path)


def test_bad_settings_exit_with_a_sentence(spec, capsys):
    arguments = ["inspect", f"--data={spec}", "--classes_per_batch=6"]
    with pytest.raises(SystemExit) as stop:
        cli.launch(inspect.run, inspect.InspectConfig, inspect.__doc__, argv=arguments)
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.out == ""
    assert "classes_per_batch is 6, but the data has only 5 classes" in captured.err


def test_the_real_command_reads_no_tensorflow(spec):
    code = (
        "import sys; sys.argv = ['inspect', '--json', sys.argv[1]]\n"
        "from longtail_tf import inspect; inspect.main()\n"
        "assert not {'tensorflow', 'matplotlib', 'keras'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"--data={spec}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classes"] == 5


def test_real_tails(real_data, capsys):
    facts = inspect.run(inspect.InspectConfig(data=f"npz:{real_data / 'omniglot_lt_28.npz'}"))
    assert facts["classes"] == 964 and facts["counts"]["largest"] <= 14
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) < 80
    assert facts["recommended_head"]["class_share"] <= 0.5


def test_show_batch_draws_both_streams(tmp_path, capsys):
    from PIL import Image

    inspect.run(
        inspect.InspectConfig(data="digits_lt", show_batch=str(tmp_path / "seen.png"), json=True)
    )
    with Image.open(tmp_path / "seen.png") as picture:
        assert picture.width > 300 and picture.height > picture.width / 2
    assert "seen.png" in capsys.readouterr().err


def test_show_batch_with_a_head_that_does_not_work_prints_nothing(spec, tmp_path, capsys):
    picture = tmp_path / "seen.png"
    with pytest.raises(UserError, match="leaves no head class"):
        inspect.run(inspect.InspectConfig(data=spec, show_batch=str(picture), head_ratio=0.01))
    assert capsys.readouterr().out == "" and not picture.exists()


def bad_folder(tmp_path):
    from tests import fakes

    spec = fakes.write_folder(tmp_path / "bars")
    broken = next((tmp_path / "bars" / "train" / "bar 0").iterdir())
    broken.write_bytes(broken.read_bytes()[:40])
    return spec, broken


def test_check_reports_faults_and_exits_2(tmp_path, capsys):
    spec, broken = bad_folder(tmp_path)
    with pytest.raises(UserError, match="has 1 fault: repair them, or list the images"):
        inspect.run(inspect.InspectConfig(data=spec, check=True))
    assert broken.name in capsys.readouterr().out


def test_quarantine_lists_what_exclude_leaves_out(tmp_path, capsys):
    spec, broken = bad_folder(tmp_path)
    bad, table = tmp_path / "bad.txt", tmp_path / "found.csv"
    inspect.run(
        inspect.InspectConfig(
            data=spec, check=True, quarantine=str(bad), check_csv=str(table), json=True
        )
    )
    assert broken.name in bad.read_text() and broken.name in table.read_text()
    assert json.loads(capsys.readouterr().out)["num_errors"] == 1
    inspect.run(inspect.InspectConfig(data=spec, check=True, exclude=str(bad)))
    assert "Nothing found" in capsys.readouterr().out
