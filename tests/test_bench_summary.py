"""The table and plots of `make bench`, from made-up figures."""

from __future__ import annotations

import importlib.util
import json
import pathlib

import pytest

PATH = pathlib.Path(__file__).resolve().parents[1] / "experiments" / "benchmarks" / "summary.py"


@pytest.fixture(scope="module")
def summary():
    spec = importlib.util.spec_from_file_location("bench_summary", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    figures = {
        "losses": {
            "times_ms": {
                "128": {"products": [1.0, 2.0, 1.0], "semi-hard": [1.5, 5.0, 2.5],
                        "ResNet-20": [100.0, 200.0, 250.0]},
                "512": {"products": [1.0, 2.0, 1.0], "semi-hard": [1.5, 5.0, 2.5],
                        "TFA semi-hard": [300.0, 400.0, 500.0]},
            },
            "first_s": {"128": [0.5, 1.5, 0.6]},
            "memory_mb": {"1024": 10.3, "4096": 300.0},
        },
        "classifier": [
            {"classes": 10**6, "subject": name, "ms": ms, "ratio": ms / 10, "smallest": 0.1,
             "largest": 1.0, "memory_bytes": memory}
            for name, ms, memory in (("full", 10.0, 100), ("head 20 %", 2.0, 30))
        ],
        "step": [{"subject": "joint", "peer": "plain", "ratio": 1.04, "smallest_ratio": 1.0,
                  "largest_ratio": 1.1}],
    }  # fmt: skip
    for name, content in figures.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_ratios_are_medians_within_rounds_and_misses_are_said(summary, folder):
    lines = summary.table(folder).splitlines()
    assert lines[2:] == [
        "| semi-hard loss, B=128 | % of a ResNet-20's step | 1.5 [1, 2.5] | <= 1 % | **missed** |",
        "| semi-hard loss, B=512 | TFA semi-hard (times slower) | 200 [80, 200] | >= 100x |  |",
        "| semi-hard loss, B=128 | first call, CPU seconds | 0.6 [0.5, 1.5] | <= 1 s |  |",
        "| semi-hard loss, B=1024 | memory of a call, MB | 10.3 | - |  |",
        "| semi-hard loss, B=4096 | memory of a call, MB | 300.0 | <= 256 MB | **missed** |",
        "| head 20 %, 1,000,000 classes | full softmax, time | 0.2 [0.1, 1] | <= 0.25x |  |",
        "| head 20 %, 1,000,000 classes | full softmax, memory | 0.30 | <= 0.25x | **missed** |",
        "| step, joint | plain, time | 1.040 [1.000, 1.100] | <= 1.05x |  |",
    ]


def test_only_what_is_between_the_markers_changes(summary, tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    assert summary.write_between_markers(path, "new")
    assert path.read_text() == "before\n<!-- bench -->\n\nnew\n<!-- /bench -->\nafter\n"
    path.write_text("no markers")
    assert not summary.write_between_markers(path, "new")
    assert path.read_text() == "no markers"


def test_plots_are_small_and_of_what_there_is(summary, folder):
    drawn = summary.plots(folder, folder / "plots")
    assert [path.name for path in drawn] == ["losses.png", "classifier.png"]
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 60_000
