"""The example scripts run."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys
import types

import pytest

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[1] / "experiments"


def load(path):
    """A script as a module; dataclasses look themselves up in sys.modules."""
    name = "example_" + path.replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_python_use_runs_and_learns(capsys):
    example = load("python_use")
    balanced = example.run(example.ExampleConfig(steps=40))
    out = capsys.readouterr().out
    assert "gated" in out and "nearest prototype by hand" in out
    assert balanced > 0.4  # chance is 0.1


def test_every_flagfile_parses():
    from longtail_tf.config import Config
    from longtail_tf.settings import cli
    from longtail_tf.settings.methods import METHODS

    files = sorted(EXPERIMENTS.glob("*.flags"))
    assert files
    for path in files:
        cli.parse(Config, [f"--flagfile={path}", "--run_dir=x"])
    methods = [
        f"--flagfile={path}" for path in (EXPERIMENTS / "scoreboard" / "methods").glob("*.flags")
    ]
    methods += [f"--method={name}" for name in METHODS if "head" not in name]
    for data in sorted((EXPERIMENTS / "scoreboard" / "data").glob("*.flags")):
        for method in methods:
            rule = [] if "flagfile" in method else ["--head_ratio=0.3"] * ("longtail" in method)
            cli.parse(Config, [f"--flagfile={data}", method, *rule, "--run_dir=x"])


@pytest.fixture
def board(monkeypatch):
    """The scoreboard's scripts import each other as a script's neighbours do."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "scoreboard"))
    return load("scoreboard/run")


def finished(folder, *, rule, balanced, few=0.1, images=100, bytes_of=(3, "cross_entropy")):
    """A run folder as a finished training leaves it."""
    folder.mkdir(parents=True)
    row = dict(all=balanced, balanced=balanced, many=balanced, medium=None, few=few)
    evaluation = dict(
        rules={"knn": dict(row, balanced=0.1), rule: row},
        images_seen=images,
        provenance=dict(commit="abc", data_digest="d" * 64),
    )
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    settings = dict(classification_loss=bytes_of[1], embedding_dim=8)
    (folder / "config.json").write_text(json.dumps(dict(num_head=bytes_of[0], settings=settings)))
    (folder / "cpu_seconds.json").write_text("12.5")


def test_scoreboard_table(tmp_path, board, capsys):
    folders = {}
    for seed, (ours, theirs) in enumerate([(0.50, 0.40), (0.70, 0.66)]):
        for name, value in (("longtail", ours), ("logit_adjusted", theirs)):
            folders[name, seed] = tmp_path / name / str(seed)
            rule = "gated" if name == "longtail" else "head_only"
            finished(folders[name, seed], rule=rule, balanced=value)
    folders["triplet", 0] = tmp_path / "triplet" / "0"
    finished(
        folders["triplet", 0], rule="ncm", balanced=0.2, images=96, bytes_of=(3, "none"), few=None
    )
    folders["triplet", 1] = tmp_path / "not yet"
    results = tmp_path / "RESULTS.md"
    methods = [
        board.table.Method("longtail", "longtail", "gated"),
        board.table.Method("logit_adjusted", "logit_adjusted", "head_only"),
        board.table.Method("voting", "logit_adjusted", "knn"),  # a method that is a rule
        board.table.Method("triplet", "triplet", "ncm"),
        board.table.Method("focal", "focal", "head_only"),  # no runs
        board.table.Method("lws", "logit_adjusted", "lws"),  # a rule that was not fitted
    ]
    (folders["longtail", 1] / "cpu_seconds.json").unlink()  # as of a run made by hand
    for _ in range(2):  # writing again replaces
        board.table.write("digits", methods, folders, results=results, command="x.py")
    text = results.read_text()
    # Two seeds: t = 12.706, s = 0.1 * sqrt(2), half = t * s / sqrt(2) = 127.06 points.
    assert text.count("| longtail | gated | 60.0 ± 127.1 |") == 1
    # Differences 10 and 4: mean 7, half = 12.706 * 3.
    assert "| 60.0 ± 127.1 | +7.0 (-31.1 to +45.1) | 60.0 ± 127.1 |" in text
    assert "| logit_adjusted | head_only | 53.0 ± 165.2 | - |" in text
    assert "| voting | knn | 10.0 ± 0.0 | -43.0 (-208.2 to +122.2) |" in text
    assert "| triplet | ncm | 20.0 | -20.0 | 20.0 | 20.0 | - | - | 1 | 96 | 12 | 0 |" in text
    assert "| - | 10.0 ± 0.0 | 2 | 100 | 12 | 96 | dddddddd |" in text and "commit abc" in text
    assert "focal" not in text and "lws" not in text
    assert "digits lws: not every seed has rule lws; refit.py may" in capsys.readouterr().out
    assert "| trained with | ncm | knn | gated | head_only |" in text
    assert "| longtail | - | 10.0 | 60.0 | - |" in text
    assert text.count("`x.py`") == 1
    rows = (tmp_path / "scoreboard" / "tables" / "digits.csv").read_text().splitlines()
    assert rows[0] == "trained_with,rule,seed,balanced,all,many,medium,few,commit"
    assert rows[1] == "longtail,knn,0,0.1000,0.5000,0.5000,,0.1000,abc"
    assert len(rows) == 11  # a header, two rules of five runs
    assert (tmp_path / "scoreboard" / "plots" / "digits.png").stat().st_size > 1000


def test_scoreboard_refits_runs_that_lack_a_rule(tmp_path, board, monkeypatch):
    from longtail_tf.errors import UserError

    refit = load("scoreboard/refit")
    with pytest.raises(UserError, match=r"no finished runs \(DATA/METHOD/SEED\) are there"):
        refit.run(refit.RefitConfig(runs=str(tmp_path)))
    finished(tmp_path / "digits" / "ce" / "0", rule="ncm", balanced=0.5)
    finished(tmp_path / "fashion" / "ce" / "0", rule="ncm", balanced=0.5)
    done = []
    monkeypatch.setattr(refit, "refit", done.append)
    refit.run(refit.RefitConfig(runs=str(tmp_path), data="digits"))
    assert done == [tmp_path / "digits" / "ce" / "0"]
    assert refit.missing(dict.fromkeys(("ncm", "knn", "lda"))) == []
    assert refit.missing(dict.fromkeys(("ncm", "lda", "head_only"))) == ["gated_lda"]
    assert refit.missing({}) == []


def test_scoreboard_runs_what_is_missing_once(tmp_path, board, monkeypatch):
    calls = []

    def popen(command, **_):
        calls.append(command)
        folder = next(word.split("=", 1)[1] for word in command if word.startswith("--run_dir"))
        finished(board.pathlib.Path(folder), rule="head_only", balanced=0.5)
        return subprocess.Popen([sys.executable, "-c", "pass"])

    monkeypatch.setattr(board, "subprocess", types.SimpleNamespace(Popen=popen))
    checked = []
    monkeypatch.setattr(board, "check_is_of", lambda folder, _: checked.append(folder))
    config = board.ScoreboardConfig(
        methods="ce,crt,longtail",
        seeds=2,
        images=720,
        flags="--warmup_steps=1 --head_batch_size=32 --classes_per_batch=10 --images_per_class=4",
        runs=str(tmp_path / "runs"),
        results=str(tmp_path / "RESULTS.md"),
    )
    interrupted = tmp_path / "runs" / "digits" / "longtail" / "1"
    interrupted.mkdir(parents=True)  # stopped before it wrote its settings
    board.run(config)
    assert len(calls) == 4  # cRT is a rule of the ce runs
    assert {word for call in calls for word in call if word.startswith("--steps")} == {
        "--steps=22",  # of ce: 720 / 32
        "--steps=10",  # of both streams: 720 / (32 + 40)
    }
    assert all("--warmup_steps=1" in call for call in calls)
    assert not checked
    board.run(config)
    assert len(calls) == 4 and len(checked) == 4


def test_scoreboard_refuses_a_run_of_another_recipe(tmp_path, board):
    from longtail_tf.config import Config
    from longtail_tf.errors import UserError
    from longtail_tf.settings import cli

    settings = cli.parse(Config, ["--data=digits_lt", "--run_dir=x", "--method=triplet"])
    saved = dataclasses.replace(settings, run_dir="y", inference_rule="lda", head_ratio=0.3)
    content = dict(settings=dataclasses.asdict(saved))
    (tmp_path / "config.json").write_text(json.dumps(content))
    board.check_is_of(tmp_path, settings)  # the head of a metric loss alone is but a name
    content["settings"]["margin"] = 0.5
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"other settings \(margin 0.5, now None\): remove it, or"):
        board.check_is_of(tmp_path, settings)


def test_scoreboard_tells_what_failed_and_what_is_unknown(tmp_path, board, monkeypatch):
    from longtail_tf.errors import UserError

    def popen(command, **_):
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])

    monkeypatch.setattr(board, "subprocess", types.SimpleNamespace(Popen=popen))
    config = board.ScoreboardConfig(methods="ce", seeds=1, runs=str(tmp_path))
    with pytest.raises(UserError, match="1 trainings failed .*ce/0.*: the .log beside each"):
        board.run(config)
    with pytest.raises(UserError, match="--data=x: expected some of digits"):
        board.run(dataclasses.replace(config, data="x"))
    with pytest.raises(UserError, match="--methods=x: expected some of head_ce, .*logit_adjusted"):
        board.run(dataclasses.replace(config, methods="x"))
