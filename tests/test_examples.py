"""The example scripts run."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
import types

import numpy as np
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
        inference_rule=rule,
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
    assert rows[0] == "trained_with,rule,seed,balanced,all,many,medium,few,named_by,commit"
    assert rows[1] == "longtail,knn,0,0.1000,0.5000,0.5000,,0.1000,0,abc"
    assert len(rows) == 11  # a header, two rules of five runs
    assert (tmp_path / "scoreboard" / "plots" / "digits.png").stat().st_size > 1000


def test_scoreboard_table_of_rules_that_validation_chose(tmp_path, board):
    folders = {}
    for seed, (chosen, accuracies) in enumerate(
        [("ncm", dict(ncm=0.6, lda=0.7)), ("lda", dict(ncm=0.4, lda=0.7))]
    ):
        folders["ce", seed] = tmp_path / "ce" / str(seed)
        finished(folders["ce", seed], rule="ncm", balanced=0.5)
        path = folders["ce", seed] / "evaluation.json"
        content = json.loads(path.read_text())
        row = content["rules"]["ncm"]
        content["rules"] = {rule: dict(row, balanced=b) for rule, b in accuracies.items()}
        path.write_text(json.dumps(dict(content, inference_rule=chosen)))
        bands = ["0,many"] * 6 + ["6,few"]
        (folders["ce", seed] / "classes.csv").write_text("\n".join(["id,band", *bands]))
    folders["logreg", 0] = tmp_path / "logreg" / "0"
    finished(folders["logreg", 0], rule="logreg", balanced=0.65)
    path = folders["logreg", 0] / "evaluation.json"
    content = json.loads(path.read_text())
    del content["rules"]["knn"]
    path.write_text(json.dumps(dict(content, inference_rule="logreg")))
    methods = [
        board.table.Method("ce", "ce", "auto"),
        board.table.Method("logreg", "logreg", "logreg"),
    ]
    results = tmp_path / "RESULTS.md"
    board.table.write("photos", methods, folders, results=results, command="x.py")
    text = results.read_text()
    assert "| all | many | medium | few (1 class!) | seeds |" in text
    # Chosen: 60 and 70, mean 65, half = 12.706 * 7.07 / sqrt(2); the best single rule: 70 twice.
    assert "| ce | auto: ncm, lda | 65.0 ± 63.5 | 70.0 (lda) | - | 50.0 ± 0.0 |" in text
    assert "| logreg | logreg | 65.0 | 65.0 (logreg) | - | 65.0 |" in text
    assert "| trained with | ncm | lda |" in text and "| ce | 50.0 | 70.0 |" in text
    rows = (tmp_path / "scoreboard" / "tables" / "photos.csv").read_text().splitlines()
    assert "ce,ncm,0,0.6000,0.5000,0.5000,,0.1000,1,abc" in rows
    assert "ce,ncm,1,0.4000,0.5000,0.5000,,0.1000,0,abc" in rows
    assert any(row.startswith("logreg,logreg,0,0.6500") for row in rows)


def test_scoreboard_takes_any_data_spec(board):
    from longtail_tf.errors import UserError

    spec = "folder:../photos?imbalance_factor=10"
    assert board.data_flags(spec) == [f"--data={spec}"]
    assert board.name_of(spec) == "folder_photos_imbalance_factor_10"
    assert board.data_flags("grocery")[0].endswith("data/grocery.flags")
    with pytest.raises(UserError, match=r"expected some of .*clothing.*, or a spec as folder:PATH"):
        board.data_flags("grocry")
    config = board.ScoreboardConfig(methods="ce,crt,ldam_drw,logreg", flags="--passes=1")
    assert board.rows_of(config, spec) == [
        board.table.Method("ce", "ce", "head_only"),
        board.table.Method("crt", "ce", "crt"),
        board.table.Method("ldam_drw", "ldam_drw", "head_only"),
        board.table.Method("logreg", "logreg", "logreg"),
    ]
    assert [row.name for row in board.rows_of(config, "grocery_photos")] == [
        *("ce", "ldam_drw", "logreg")  # cRT is ce where validation chooses the rule
    ]


def test_scoreboard_fills_the_views_of_a_seed_once_for_all_methods(tmp_path, board, monkeypatch):
    from longtail_tf.datasets import load_index

    calls = []

    def popen(command, **_):
        calls.append(command)
        if "fill_cache.py" not in command[1]:
            folder = next(word.split("=", 1)[1] for word in command if word.startswith("--run_dir"))
            finished(board.pathlib.Path(folder), rule="lda", balanced=0.5)
        return subprocess.Popen([sys.executable, "-c", "pass"])

    monkeypatch.setattr(board, "subprocess", types.SimpleNamespace(Popen=popen))
    monkeypatch.setattr(board, "check_is_of", lambda *_: None)
    monkeypatch.setattr(board, "index_of", lambda _: load_index("digits_lt"))
    config = board.ScoreboardConfig(
        data="npz:digits",
        methods="ce,longtail_plus",
        seeds=2,
        flags="--backbone=efficientnet_lite0 --weights=imagenet --train_from=head --passes=3",
        runs=str(tmp_path / "runs"),
        results=str(tmp_path / "RESULTS.md"),
    )
    for _ in range(2):
        board.run(config)
    fills = [call for call in calls if "fill_cache.py" in call[1]]
    assert len(fills) == 2 and len(calls) == 6  # a finished one is not done again
    assert {word for call in calls for word in call if word.startswith("--cache_dir")} == {
        f"--cache_dir={tmp_path / 'runs' / 'npz_digits' / 'views'}"
    }
    assert calls[0] in fills and calls[1] in fills  # before any training
    assert not any(word.startswith("--steps") for call in calls for word in call)
    assert isinstance(json.loads((tmp_path / "runs/npz_digits/views-1.json").read_text()), float)


def test_filling_views_that_no_training_needs_is_refused(tmp_path):
    from longtail_tf.config import Config
    from longtail_tf.errors import UserError

    fill = load("scoreboard/fill_cache")
    with pytest.raises(UserError, match="there is nothing to fill: give --cache_dir, and"):
        fill.run(Config(data="digits_lt", run_dir=str(tmp_path)))


def test_frozen_features_are_read_as_scikit_learn_reads_them(board):
    frozen = load("scoreboard/frozen")
    draws = np.random.default_rng(0)
    means = 2.0 * draws.normal(size=(5, 12))
    train, val = (
        frozen.Features((means[labels] + draws.normal(size=(len(labels), 12))), labels)
        for labels in (np.repeat(np.arange(5), [40, 20, 10, 5, 3]), np.repeat(np.arange(5), 20))
    )
    for name, fit in frozen.READINGS.items():
        chosen, predict = fit(train, val)
        assert np.mean(predict(val.vectors) == val.labels) > 0.8, name
        assert chosen.startswith({"logreg": "C=", "shrunk_lda": "shrinkage="}.get(name, "nothing"))
    # By hand: the nearest of the class means.
    centres = np.stack([train.vectors[train.labels == each].mean(0) for each in range(5)])
    nearest = ((val.vectors[:, None] - centres) ** 2).sum(-1).argmin(1)
    assert (frozen.class_means(train, val)[1](val.vectors) == nearest).all()
    # Validation decides: the labels of a model's own predictions make it the best.
    from sklearn.linear_model import LogisticRegression

    weak = LogisticRegression(C=1, class_weight="balanced", max_iter=200)
    own = weak.fit(train.vectors, train.labels).predict(val.vectors)
    assert frozen.logreg(train, frozen.Features(val.vectors, own))[0] == "C=1"


def test_stages_do_not_count_each_other():
    stages = load("scoreboard/stages").Stages()

    def burn(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    stages.turn()
    inner = stages.timing("inner", burn)
    with stages.stage("outer"):
        burn(0.05)
        inner(0.2)
        kept = np.ones(200 << 20, np.uint8)  # 200 MB
        burn(0.05)
    del kept
    inner(0.1)
    assert stages.seconds["inner"] == pytest.approx(0.3, abs=0.06)
    assert stages.seconds["outer"] > 0.09  # and what it takes to fill the array
    assert sum(stages.seconds.values()) == pytest.approx(time.process_time(), abs=0.1)
    assert stages.peak_megabytes["outer"] > stages.peak_megabytes["inner"] + 150


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


def test_scoreboard_knows_a_run_that_decided_how_much_it_trains(tmp_path, board):
    from longtail_tf.config import Config
    from longtail_tf.errors import UserError
    from longtail_tf.runs.resolve import resolve, without_training

    given = Config(data="folder:x", run_dir="x", method="longtail_plus", cache_dir="views")
    facts = dict(num_images=900, num_classes=30, side=200, is_files=True, flip_is_valid=True)
    settings = resolve(given, **facts)
    assert settings.train_from == "auto"
    trained = dataclasses.replace(settings, train_from="stage6", cache_dir="elsewhere")
    for saved in (trained, without_training(settings)):
        content = dict(settings=dataclasses.asdict(saved))
        (tmp_path / "config.json").write_text(json.dumps(content))
        board.check_is_of(tmp_path, settings)
    content["settings"] = dataclasses.asdict(dataclasses.replace(trained, clip_norm=9.0))
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"other settings \(clip_norm 9.0, now"):
        board.check_is_of(tmp_path, settings)


def test_scoreboard_tells_what_failed_and_what_is_unknown(tmp_path, board, monkeypatch):
    from longtail_tf.errors import UserError

    def popen(command, **_):
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])

    monkeypatch.setattr(board, "subprocess", types.SimpleNamespace(Popen=popen))
    config = board.ScoreboardConfig(methods="ce", seeds=1, runs=str(tmp_path))
    with pytest.raises(UserError, match="1 trainings failed .*ce/0.*: the .log beside each"):
        board.run(config)
    with pytest.raises(UserError, match="--data=x: expected some of .*digits"):
        board.run(dataclasses.replace(config, data="x"))
    with pytest.raises(UserError, match="--methods=x: expected some of head_ce, .*logit_adjusted"):
        board.run(dataclasses.replace(config, methods="x"))
