from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from longtail_tf import compare
from longtail_tf.errors import UserError
from longtail_tf.reporting import differences
from longtail_tf.reporting.comparison import compare_runs
from longtail_tf.reporting.run_data import read_run
from tests import report_fixtures
from tests.report_fixtures import Outline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two settings at three seeds, a third at one seed."""
    root = tmp_path_factory.mktemp("compare")
    for seed in range(3):
        report_fixtures.make_run(root / f"alternate-{seed}", seed=seed, test_per_class=6)
        report_fixtures.make_run(
            root / f"joint-{seed}", seed=seed, test_per_class=6, skill=0.8,
            config={"schedule": "<joint>"},
        )  # fmt: skip
    report_fixtures.make_run(
        root / "wide", seed=7, test_per_class=6, skill=1.3, config={"width": 32}
    )
    return root


def _runs(folder, *names):
    return ",".join(str(folder / name) for name in names)


SIX = ("alternate-0", "alternate-1", "alternate-2", "joint-0", "joint-1", "joint-2")


def test_seeds_are_paired(folder):
    found = compare.run(compare.CompareConfig(runs=_runs(folder, *SIX)))
    assert [(g.name, sorted(g.runs)) for g in found.groups] == [
        ("alternate-0", [0, 1, 2]), ("joint-0", [0, 1, 2]),
    ]  # fmt: skip
    assert [row.rule for row in found.rows] == ["gated", "ncm", "knn", "linear", "head_only"]
    for row in found.rows:
        for group, difference in row.differences.items():
            values = [
                [json.loads((folder / f"{name}-{seed}" / "evaluation.json").read_text())["rules"]
                 [row.rule][group] for seed in range(3)]
                for name in ("alternate", "joint")
            ]  # fmt: skip
            change = np.subtract(values[1], values[0])
            assert difference.over == "seeds" and difference.pairs == 3
            assert difference.mean == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
            if np.ptp(change) > 1e-9:
                interval = stats.t.interval(0.95, 2, change.mean(), stats.sem(change))
                assert difference[1:3] == pytest.approx(tuple(interval), abs=1e-9)


def test_single_runs_are_paired_by_image(folder):
    found = compare_runs([read_run(folder / name) for name in ("alternate-0", "joint-0", "wide")])
    assert [(row.name, row.rule) for row in found.rows] == [("joint-0", "gated"), ("wide", "gated")]
    worse, better = (row.differences["all"] for row in found.rows)
    kept = [np.load(folder / name / "embeddings.npz") for name in ("alternate-0", "joint-0")]
    right = [file["predictions"] == file["labels"] for file in kept]
    assert worse.over == "images" and worse.pairs == 360
    assert worse.mean == pytest.approx(right[1].mean() - right[0].mean())
    assert worse.verdict == "worse" and better.verdict == "better"
    # As wide as a plain bootstrap that resamples within classes, image by image.
    rng = np.random.default_rng(1)
    change = (right[1].astype(float) - right[0]).reshape(60, 6)
    draws = [
        np.take_along_axis(change, rng.integers(0, 6, (60, 6)), axis=1).mean() for _ in range(2000)
    ]
    assert [worse.low, worse.high] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.012)


def test_single_runs_are_paired_by_image_in_every_rule_that_both_keep(tmp_path):
    named = []
    for number, kept in enumerate((("gated", "ncm", "linear"), ("gated", "ncm", "knn"))):
        folder = tmp_path / str(number)
        report_fixtures.make_run(folder, seed=number, config={"width": 8 + number})
        arrays = dict(np.load(folder / "embeddings.npz"))
        rng = np.random.default_rng(number)
        wrong = (arrays["labels"] + 1) % 60
        for rule in kept:
            arrays[f"predictions_{rule}"] = np.where(
                rng.random(len(wrong)) < 0.5 + 0.2 * number, arrays["labels"], wrong
            )
        order = rng.permutation(len(wrong))  # rows tell which image, not the place
        arrays = {
            name: array[order] if array.shape[:1] == wrong.shape else array
            for name, array in arrays.items()
        }
        np.savez(folder / "embeddings.npz", **arrays)
        back = np.argsort(arrays["rows"])
        named.append({name: array[back] for name, array in arrays.items()})
    found = compare_runs([read_run(tmp_path / "0"), read_run(tmp_path / "1")])
    assert [(row.name, row.rule) for row in found.rows] == [("1", "gated"), ("1", "ncm")]
    change = [(run["predictions_ncm"] == run["labels"]).mean() for run in named]
    ncm = found.rows[1].differences["all"]
    assert ncm.mean == pytest.approx(change[1] - change[0]) and ncm.low > 0
    default = [(run["predictions"] == run["labels"]).mean() for run in named]
    assert found.rows[0].differences["all"].mean == pytest.approx(default[1] - default[0])


def test_the_headline_is_of_the_default_rule(tmp_path):
    for number in range(2):
        folder = tmp_path / str(number)
        report_fixtures.make_run(folder, seed=0, config={"width": 8 + number})
        arrays = dict(np.load(folder / "embeddings.npz"))
        good = arrays["labels"] if number else (arrays["labels"] + 1) % 60
        np.savez(folder / "embeddings.npz", **arrays, predictions_ncm=good)
    runs = f"{tmp_path / '0'},{tmp_path / '1'}"
    found = compare.run(compare.CompareConfig(runs=runs, out=str(tmp_path / "c.html")))
    assert found.rows[1].differences["all"].mean == 1
    assert "No clear lead over 0" in Outline((tmp_path / "c.html").read_text()).words


def test_seeds_of_one_setting_are_named_as_such(folder):
    found = compare_runs([read_run(folder / name) for name in ("alternate-0", "alternate-1")])
    assert len(found.groups) == 1 and found.rows[0].name == "alternate-1"
    assert "differ by seed only" in found.notes[0]


def test_text_and_page_hold_the_numbers(folder, tmp_path, capsys):
    found = compare.run(
        compare.CompareConfig(
            runs=_runs(folder, *SIX, "wide"), out=str(tmp_path / "c.html"),
            projector=str(tmp_path / "projector"),
        )
    )  # fmt: skip
    text = capsys.readouterr().out
    page = (tmp_path / "c.html").read_text()
    outline = Outline(page)
    assert outline.open == [] and "<joint>" in outline.words and "<joint>" not in page
    assert outline.ids == ["differences", "settings", "accuracies", "commands"]
    for row in found.rows:
        difference = row.differences["all"]
        mean, low, high = (100 * value for value in difference[:3])
        assert f"{mean:+.2f} [{low:+.2f} {high:+.2f}]" in text
        assert f"{low:+.1f} to {high:+.1f}".replace("-", "\u2212") in outline.words
        assert difference.verdict in outline.words
    defaults = [row for row in found.rows if row.rule == "gated"]
    best = max(defaults, key=lambda row: row.differences["all"].mean)
    assert f"{best.name} is {100 * best.differences['all'].mean:.1f} points ahead" in outline.words
    assert "schedule" in outline.words and "width" in outline.words
    assert sorted(path.name for path in (tmp_path / "projector").iterdir()) == sorted(
        (*SIX, "wide")
    )


def test_headline_without_a_lead(folder, tmp_path):
    out = str(tmp_path / "c.html")
    compare.run(compare.CompareConfig(runs=_runs(folder, "wide", *SIX), out=out))
    assert "wide is ahead of everything" in Outline((tmp_path / "c.html").read_text()).words
    compare.run(compare.CompareConfig(runs=_runs(folder, "alternate-0", "alternate-1"), out=out))
    assert "No clear lead over alternate-0" in Outline((tmp_path / "c.html").read_text()).words


def test_runs_that_cannot_be_paired_are_still_shown(folder, tmp_path):
    report_fixtures.make_run(
        tmp_path / "bare", test_per_class=6, config={"width": 8}, missing=("embeddings.npz",)
    )
    report_fixtures.make_run(tmp_path / "short", test_per_class=5, config={"width": 9})
    runs = [folder / "alternate-0", tmp_path / "bare", tmp_path / "short"]
    out = tmp_path / "c.html"
    found = compare.run(compare.CompareConfig(runs=",".join(map(str, runs)), out=str(out)))
    assert found.rows == [] and len(found.notes) == 2
    assert "keeps no predictions" in found.notes[0] and "same test images" in found.notes[1]
    assert "keeps no predictions" in Outline(out.read_text()).words


def test_bad_input(folder, tmp_path):
    with pytest.raises(UserError, match="--runs is missing"):
        compare.run(compare.CompareConfig())
    with pytest.raises(UserError, match="1 run folder came"):
        compare.run(compare.CompareConfig(runs=_runs(folder, "wide")))
    with pytest.raises(UserError, match="is not a run folder"):
        compare.run(compare.CompareConfig(runs=_runs(folder, "wide", "nothing")))
    with pytest.raises(UserError, match="the same seed 7: name each run once"):
        compare.run(compare.CompareConfig(runs=_runs(folder, "wide", "wide")))
    report_fixtures.make_run(tmp_path / "other", test_per_class=2, digest="a" * 64)
    with pytest.raises(UserError, match="was evaluated on other data"):
        compare.run(compare.CompareConfig(runs=f"{folder / 'wide'},{tmp_path / 'other'}"))
    report_fixtures.make_run(tmp_path / "young", test_per_class=2, missing=("evaluation.json",))
    with pytest.raises(UserError, match="has no evaluation.json with accuracies"):
        compare.run(compare.CompareConfig(runs=f"{folder / 'wide'},{tmp_path / 'young'}"))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 30, 101])
def test_t_quantile_against_scipy(degrees):
    assert differences.t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


def test_image_bootstrap_covers_the_truth():
    """95 % intervals over repeated experiments hold the true difference about 95 % of the time."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 15)
    counts = np.full(20, 50)
    held = []
    for seed in range(60):
        named = [np.where(rng.random(300) < share, labels, (labels + 1) % 20)
                 for share in (0.6, 0.7)]  # fmt: skip
        found = differences.over_images(labels, *named, counts, seed=seed)["all"]
        held.append(found.low <= 0.1 <= found.high)
    assert 0.85 <= np.mean(held) <= 1.0
