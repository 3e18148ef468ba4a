"""The example scripts run."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import sys

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
    from longtail_tf import cli
    from longtail_tf.config import Config

    files = sorted(EXPERIMENTS.glob("*.flags"))
    assert files
    for path in files:
        cli.parse(Config, [f"--flagfile={path}", "--run_dir=x"])
    methods = sorted((EXPERIMENTS / "scoreboard" / "methods").glob("*.flags"))
    for data in sorted((EXPERIMENTS / "scoreboard" / "data").glob("*.flags")):
        for method in methods:
            cli.parse(Config, [f"--flagfile={data}", f"--flagfile={method}", "--run_dir=x"])


def test_scoreboard_table(tmp_path, monkeypatch):
    board = load("scoreboard/run")
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n")
    monkeypatch.setattr(board, "RESULTS", results)
    folders = {}
    for seed, accuracy in ((0, 0.5), (1, 0.7)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        row = dict(all=accuracy, balanced=accuracy, many=accuracy, medium=None, few=0.1)
        evaluation = dict(
            rules={"gated": row},
            images_seen=100,
            provenance=dict(commit="abc", data_digest="d" * 64),
        )
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
        settings = dict(classification_loss="cross_entropy")
        (folder / "config.json").write_text(json.dumps(dict(num_head=3, settings=settings)))
        (folder / "cpu_seconds.json").write_text("12.5")
        folders["alternate", seed] = folder
    for _ in range(2):  # writing again replaces
        board.write_table("digits", folders)
    text = results.read_text()
    assert text.count("| alternate | gated | 60.0 ± 14.1 |") == 1
    assert "| - | 10.0 ± 0.0 | 3 | 12 |" in text and "commit abc" in text
