from __future__ import annotations

import csv
import json
import os
import shutil
import signal

import numpy as np
import pytest

from longtail_tf import classify, evaluate, report, train
from longtail_tf.config import Config
from longtail_tf.errors import UserError
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.trained_run import load_run
from longtail_tf.settings import cli
from tests import fakes

TINY = dict(
    head_num_classes=3,
    steps=4,
    warmup_steps=1,
    eval_every=2,
    checkpoint_every=2,
    log_every=1,
    **fakes.TINY_NET,
)
RULES = {"ncm", "knn", "gated", "linear", "lda", "head_only", "gated_lda"}


def tiny(tmp_path, name="run", **changes):
    spec = f"npz:{tmp_path / 'bars.npz'}"
    if not (tmp_path / "bars.npz").exists():
        fakes.write_npz(tmp_path / "bars.npz")
    return Config(**{**TINY, "data": spec, "run_dir": str(tmp_path / name), **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One finished run, shared by the tests that only look."""
    folder = tmp_path_factory.mktemp("done")
    return train.run(tiny(folder))


def test_a_run_leaves_every_promised_file(done):
    left = set(os.listdir(done.run_dir))
    assert left >= {
        "config.flags",
        "config.json",
        "classes.csv",
        "head_set.json",
        "metrics.jsonl",
        "checkpoints",
        "model.weights.h5",
        "prototypes.npz",
        "evaluation.json",
        "per_class.csv",
        "embeddings.npz",
        "report.html",
        "digests.json",
    }
    assert not [name for name in left if name.startswith(".") and name != ".lock"]


def test_every_rule_is_evaluated_on_every_test_image(done):
    evaluation = json.loads((done.run_dir / "evaluation.json").read_text())
    assert set(evaluation["rules"]) == set(done.metrics) == RULES
    assert evaluation["split"] == "test" and evaluation["step"] == 4
    assert evaluation["images_seen"] == 4 * (6 + 4 * 2)
    for row in evaluation["rules"].values():
        assert row["many"] is None and 0 <= row["few"] <= 1
    with np.load(done.run_dir / "embeddings.npz") as arrays:
        assert len(arrays["labels"]) == 6 * len(fakes.COUNTS)
        np.testing.assert_allclose(np.linalg.norm(arrays["embeddings"], axis=1), 1, atol=1e-5)


def test_every_json_names_commit_versions_data_and_seed(done):
    for name in ("config.json", "head_set.json", "evaluation.json"):
        provenance = json.loads((done.run_dir / name).read_text())["provenance"]
        assert provenance["packages"]["tensorflow"] and len(provenance["data_digest"]) == 64
        assert provenance["seed"] == 0 and "commit" in provenance


def test_classes_are_numbered_by_falling_count_and_the_head_comes_first(done):
    with open(done.run_dir / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = [int(row["train_count"]) for row in rows]
    assert counts == sorted(counts, reverse=True) and counts[-1] == 1
    assert [row["head"] for row in rows] == ["1"] * 3 + ["0"] * 5
    assert rows[0]["name"] == "bar 0"


def test_metrics_have_both_streams_and_validation(done):
    records = [
        json.loads(line) for line in (done.run_dir / "metrics.jsonl").read_text().splitlines()
    ]
    training = [record for record in records if "val" not in record]
    assert [record["step"] for record in training] == [1, 2, 3, 4]
    assert {
        "head_loss",
        "head_accuracy",
        "whole_loss",
        "active_share",
        "spread",
        "learning_rate",
        "images_per_s",
    } <= set(training[0])
    (validation,) = (record for record in records if "val" in record)
    assert validation["step"] == 2 and "gated" in validation["val"]


def test_config_flags_repeats_the_run(done, tmp_path):
    flags = [f"--flagfile={done.run_dir / 'config.flags'}", f"--run_dir={tmp_path / 'again'}"]
    again = train.run(cli.parse(Config, flags))
    for name in ("prototypes.npz",):
        with np.load(done.run_dir / name) as ours, np.load(again.run_dir / name) as theirs:
            np.testing.assert_array_equal(ours["prototypes"], theirs["prototypes"])
    assert again.metrics == done.metrics


def test_another_seed_gives_another_run(done, tmp_path):
    other = train.run(tiny(tmp_path, seed=1))
    with (
        np.load(done.run_dir / "prototypes.npz") as a,
        np.load(other.run_dir / "prototypes.npz") as b,
    ):
        assert (a["prototypes"] != b["prototypes"]).any()


def test_evaluate_repeats_the_numbers(done):
    before = json.loads((done.run_dir / "evaluation.json").read_text())
    results = evaluate.run(evaluate.EvaluateConfig(run_dir=str(done.run_dir)))
    assert results["rules"] == before["rules"]


def test_evaluate_another_set_writes_elsewhere(done, tmp_path):
    spec = fakes.write_npz(tmp_path / "other.npz", seed=5)
    with pytest.raises(UserError, match="would overwrite the run's own evaluation"):
        evaluate.run(evaluate.EvaluateConfig(run_dir=str(done.run_dir), data=spec))
    before = (done.run_dir / "evaluation.json").read_text()
    out = tmp_path / "out"
    evaluate.run(evaluate.EvaluateConfig(run_dir=str(done.run_dir), data=spec, out=str(out)))
    assert (out / "evaluation.json").exists() and (out / "per_class.csv").exists()
    assert (done.run_dir / "evaluation.json").read_text() == before


def test_a_test_prior_changes_the_numbers_and_needs_out(done, tmp_path):
    settings = dict(run_dir=str(done.run_dir), test_prior="train")
    with pytest.raises(UserError, match="--test_prior=train without --out"):
        evaluate.run(evaluate.EvaluateConfig(**settings))
    plain = json.loads((done.run_dir / "evaluation.json").read_text())
    shifted = evaluate.run(evaluate.EvaluateConfig(**settings, out=str(tmp_path)))
    assert shifted["rules"]["ncm"] != plain["rules"]["ncm"]


def test_evaluate_refuses_other_classes_and_channels(done, tmp_path):
    fewer = fakes.write_npz(tmp_path / "fewer.npz", counts=(9, 5, 2))
    colour = fakes.write_npz(tmp_path / "colour.npz", channels=3)
    for spec, message in ((fewer, "has other classes than the run"), (colour, "3-channel images")):
        with pytest.raises(UserError, match=message):
            evaluate.run(
                evaluate.EvaluateConfig(run_dir=str(done.run_dir), data=spec, out=str(tmp_path))
            )


def test_classify_names_the_class_of_files(done, tmp_path, capsys):
    rng = np.random.default_rng(3)
    paths = []
    for label in (0, 4):
        paths.append(tmp_path / f"{label}.png")
        paths[-1].write_bytes(fakes.png_bytes(fakes.draw(label, rng)))
    config = classify.ClassifyConfig(
        images=tuple(map(str, paths)), run_dir=str(done.run_dir), json=True, k_top=3
    )
    results = classify.run(config)
    assert json.loads(capsys.readouterr().out) == results
    assert [len(result["classes"]) for result in results] == [3, 3]
    scores = [each["score"] for each in results[0]["classes"]]
    assert scores == sorted(scores, reverse=True) and sum(scores) <= 1 + 1e-6


def test_classify_reports_bad_files_and_still_answers_the_rest(done, tmp_path, capsys):
    good = tmp_path / "good.png"
    good.write_bytes(fakes.png_bytes(fakes.draw(1, np.random.default_rng(0))))
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:60])
    images = (str(cut), str(good), str(tmp_path / "none.png"))
    with pytest.raises(UserError, match="2 of 3 images could not be classified"):
        classify.run(classify.ClassifyConfig(images=images, run_dir=str(done.run_dir)))
    lines = capsys.readouterr().out.splitlines()
    assert "cannot be read" in lines[2] and "bar" in lines[1] and "not a whole" in lines[0]


def spoiled(done, tmp_path, name):
    """A copy of the run with one digit of the file `name` turned: text stays readable."""
    copy = tmp_path / "copy"
    shutil.copytree(done.run_dir, copy)
    raw = bytearray((copy / name).read_bytes())
    place = next(i for i in range(len(raw) // 2, len(raw)) if chr(raw[i]).isdigit())
    raw[place] ^= 1
    (copy / name).write_bytes(raw)
    return str(copy)


@pytest.mark.parametrize(
    "name", ["config.json", "classes.csv", "head_set.json", "prototypes.npz", "model.weights.h5"]
)
def test_a_changed_file_is_told_before_the_run_is_used(done, tmp_path, name):
    with pytest.raises(UserError, match=f"{name} was changed after the run wrote it"):
        load_run(spoiled(done, tmp_path, name))


@pytest.mark.parametrize("name", ["evaluation.json", "per_class.csv", "embeddings.npz"])
def test_a_changed_evaluation_is_told_and_can_be_made_anew(done, tmp_path, name):
    copy = spoiled(done, tmp_path, name)
    with pytest.raises(UserError, match="changed after the run wrote it.*longtail_tf.evaluate"):
        report.run(report.ReportConfig(run_dir=copy))
    evaluate.run(evaluate.EvaluateConfig(run_dir=copy))
    report.run(report.ReportConfig(run_dir=copy))


def test_resume_refuses_changed_records_and_mends_a_changed_network(done, tmp_path):
    copy = spoiled(done, tmp_path, "classes.csv")
    data = load_run(str(done.run_dir)).config.data
    again = tiny(tmp_path, data=data, run_dir=copy, resume=True)
    with pytest.raises(UserError, match="classes.csv was changed"):
        train.run(again)
    shutil.rmtree(copy)
    spoiled(done, tmp_path, "model.weights.h5")
    assert train.run(again).metrics == done.metrics
    load_run(copy)


def test_resume_refuses_a_damaged_checkpoint(done, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(done.run_dir, copy)
    for path in (copy / "checkpoints").glob("*.data-*"):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    data = load_run(str(done.run_dir)).config.data
    with pytest.raises(UserError, match="has no whole checkpoint"):
        train.run(tiny(tmp_path, data=data, run_dir=str(copy), resume=True))


def test_each_rules_predictions_are_kept_for_compare(done):
    kept = np.load(done.run_dir / "embeddings.npz")
    right = {rule: (kept[f"predictions_{rule}"] == kept["labels"]).mean() for rule in RULES}
    assert right == pytest.approx({rule: done.metrics[rule]["all"] for rule in RULES})


def stop_at(step, monkeypatch):
    """Sends SIGTERM to this process when the record of `step` is written."""
    append = RunFolder.append_metrics

    def append_and_stop(self, record):
        append(self, record)
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunFolder, "append_metrics", append_and_stop)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of two steps that was stopped after the first."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as context:
        stop_at(1, context)
        result = train.run(tiny(folder, steps=2))
    assert result.metrics is None
    assert not (result.run_dir / "evaluation.json").exists()
    return result.run_dir


@pytest.mark.parametrize(
    ("flags", "lost"),
    [
        (["--run_dir=RUN", "--resume"], None),
        (["--run_dir", "RUN", "--resume"], None),
        (["--run_dir=RUN", "--resume=True"], None),
        (["-run_dir=RUN", "-resume"], None),
        (["--resume", "--run_dir=RUN"], "config.flags"),
    ],
)
def test_resume_takes_the_settings_from_the_run_folder_however_it_is_written(
    stopped, tmp_path, monkeypatch, flags, lost
):
    run = shutil.copytree(stopped, tmp_path / "run")
    if lost:
        (run / lost).unlink()
    argv = ["train", *(flag.replace("RUN", str(run)) for flag in flags)]
    monkeypatch.setattr("sys.argv", argv)
    train.main()
    assert (run / "evaluation.json").exists()


def test_resume_refuses_other_settings_and_changed_data(tmp_path, monkeypatch):
    config = tiny(tmp_path, steps=3)
    with monkeypatch.context() as context:
        stop_at(1, context)
        train.run(config)
    with pytest.raises(UserError, match=r"but --learning_rate=0.5 \(was 0.1\)"):
        train.run(tiny(tmp_path, steps=3, learning_rate=0.5, resume=True))
    fakes.write_npz(tmp_path / "bars.npz", seed=9)
    with pytest.raises(UserError, match="has changed since the run began"):
        train.run(tiny(tmp_path, steps=3, resume=True))


def test_a_folder_that_is_not_empty_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty"):
        train.run(tiny(tmp_path))
    assert os.listdir(tmp_path / "run") == ["mine.txt"]


def test_image_files_train_like_arrays(tmp_path):
    spec = fakes.write_folder(tmp_path / "bars", channels=3)
    result = train.run(tiny(tmp_path, data=spec, image_size=8, steps=2))
    assert set(result.metrics) == RULES


def test_a_bad_training_file_is_counted_and_does_not_end_the_run(tmp_path):
    spec = fakes.write_folder(tmp_path / "bars", channels=3)
    bad = sorted((tmp_path / "bars" / "train" / "bar 1").iterdir())[0]
    bad.write_bytes(bad.read_bytes()[:50])
    result = train.run(tiny(tmp_path, data=spec, image_size=8, steps=2, max_bad_share=0.1))
    assert set(result.metrics) == RULES
    with np.load(result.run_dir / "prototypes.npz") as arrays:
        assert len(arrays["prototypes"]) == len(fakes.COUNTS)


def test_a_diverging_run_stops_with_cause_and_remedy(tmp_path):
    with pytest.raises(UserError, match="diverged: lower --learning_rate"):
        train.run(tiny(tmp_path, learning_rate=1e30, warmup_steps=0, steps=20))


def test_weights_of_another_run_start_the_backbone(done, tmp_path):
    result = train.run(tiny(tmp_path, weights=str(done.run_dir), steps=1, learning_rate=1e-9))
    ours, theirs = load_run(str(result.run_dir)), load_run(str(done.run_dir))
    a = ours.model.embedder.get_layer("backbone").get_weights()[0]
    b = theirs.model.embedder.get_layer("backbone").get_weights()[0]
    np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(UserError, match="of width 4, which does not fit resnet8 of width 8"):
        train.run(tiny(tmp_path, "wide", weights=str(done.run_dir), width=8, steps=1))


@pytest.mark.slow
def test_learning_few_shot_classes(tmp_path):
    """Chance is 1/8 = 12.5 %; classes with 8 or fewer images must pass 50 %."""
    config = tiny(
        tmp_path,
        steps=150,
        eval_every=0,
        checkpoint_every=150,
        log_every=50,
        warmup_steps=20,
        head_batch_size=16,
        classes_per_batch=8,
        width=8,
        embedding_dim=16,
    )
    result = train.run(config)
    assert result.metrics["gated"]["few"] > 0.5
    assert result.metrics["head_only"]["few"] < result.metrics["gated"]["few"]
