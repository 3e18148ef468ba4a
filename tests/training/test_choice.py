"""How much of a pretrained network is trained: what is tried on held-out images, and who wins."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import tensorflow as tf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from longtail_tf import train
from longtail_tf.config import Config
from longtail_tf.datasets import load_index
from longtail_tf.recognition.rule_choice import RuleChoice
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.resolve import resolve_for
from longtail_tf.runs.trained_run import load_run
from longtail_tf.settings import cli
from longtail_tf.training import choice
from longtail_tf.training.choice import HELD_SHARE, Trial, decided, held_out_rows
from tests import fakes, pretrained

COUNTS = (60, 50, 40, 40, 30, 30, 20, 12)


def features_of(kind, seed=0):
    """Eight classes by the signs of three numbers, beside 13 numbers of noise; and labels.

    Perfect: each class lies in its own corner, far from the others. Weak: the three are a seventh
    of the noise, whose variance the shrinkage of lda blends into them, so that it cannot see them;
    within the classes they hardly vary, so that a training can.
    """
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(8), COUNTS), np.repeat(np.arange(8), 10)])
    features = rng.normal(0, 1, (len(labels), 16))
    size = {"perfect": 2.8, "weak": 0.15}[kind]
    signs = 1 - 2 * ((labels[:, None] >> np.arange(3)) & 1)
    features[:, :3] = size * signs + rng.normal(0, 0.12 * size, (len(labels), 3))
    return features, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("choice")
    for kind in ("perfect", "weak"):
        features, labels = features_of(kind)
        pretrained.write_features(path / f"{kind}.npz", features, labels, num_test=80)
    pretrained.write_pixel_network(path)
    return path


def config_of(folder, kind, run_dir="x", **changes):
    settings = dict(
        method="longtail_plus",
        data=f"npz:{folder / kind}.npz",
        run_dir=str(run_dir),
        backbone=str(folder / "pixels.keras"),
        embedding_dim=16,
        steps=60,
        learning_rate=0.1,
        cached_views=1,
        head_augment="none",
        whole_augment="none",
        inference_rule="auto",
        eval_every=0,
    )
    return Config(**{**settings, **changes})


def resolved(folder, kind, **changes):
    config = config_of(folder, kind, **changes)
    index = load_index(config.data)
    return resolve_for(config, index), index


# What is held out.


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.99])
def test_a_share_of_each_class_is_held_out_and_never_its_last_image(seed, share):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 30, 12)
    counts[:3] = (1, 2, 3)
    labels = rng.permutation(np.repeat(np.arange(12), counts))
    held = held_out_rows(labels, share=share, seed=seed)
    assert held.dtype == np.int64 and (np.diff(held) > 0).all()
    for c, count in enumerate(counts):
        taken = (labels[held] == c).sum()
        if count == 1:
            assert taken == 0
        else:
            assert 1 <= taken <= count - 1
            assert abs(taken - share * count) <= 1 or taken in (1, count - 1)


def test_the_seed_chooses_what_is_held_out():
    labels = np.repeat(np.arange(4), 20)
    first, again, other = (held_out_rows(labels, share=0.25, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(first) == len(other) == 20 and (first != other).any()


def test_classes_of_one_image_hold_nothing_out():
    assert len(held_out_rows(np.array([0, 1, 1, 2]), share=0.25, seed=0)) == 1


# Settings that leave nothing open.


def no_start(*arguments, **settings):
    raise AssertionError("no network was to be built")


@pytest.mark.parametrize("changes", [dict(train_from="all"), dict(train_from="none", steps=None)])
def test_all_and_nothing_are_taken_as_they_are(folder, monkeypatch, changes):
    monkeypatch.setattr(choice, "starting_network", no_start)
    config, index = resolved(folder, "perfect", **changes)
    assert decided(config, index, folder=RunFolder("nowhere")) == (config, None)


@pytest.mark.parametrize("views", [0, 1])
def test_a_part_that_is_named_stays(folder, tmp_path, views):
    """With a cache the features below it are read too, to compare with; nothing is trained."""
    config, index = resolved(folder, "weak", train_from="head", cached_views=views)
    settings, trials = decided(config, index, folder=RunFolder(tmp_path))
    assert settings == config
    if not views:
        assert trials is None
        return
    assert trials["chosen"] is None
    assert [trial["train_from"] for trial in trials["trials"]] == ["none"]


def test_what_is_never_tried_trains_the_part_of_the_table(tmp_path):
    spec = fakes.write_npz(tmp_path / "bars.npz")
    weights = pretrained.write_resnet8(tmp_path)
    config = Config(
        data=spec, run_dir="x", weights=weights, head_num_classes=3, cached_views=0,
        **{**fakes.TINY_NET, "embedding_dim": 6},
    )  # fmt: skip
    index = load_index(spec)
    settings, trials = decided(resolve_for(config, index), index, folder=RunFolder(tmp_path))
    assert (settings.train_from, trials) == ("stage3", None)


# Who wins.


def made_up(monkeypatch, folder, accuracies, *, part="head", wrong_rule="lda"):
    """Trials whose predictions have so many of 64 held-out images wrong, from the first on."""
    config, index = resolved(folder, "perfect", train_from="auto")
    held = held_out_rows(index.train.labels, share=HELD_SHARE, seed=config.seed)
    labels = index.train.labels[held]

    def trial(train_from):
        found = labels.copy()
        wrong = accuracies[train_from]
        found[wrong] = (found[wrong] + 1) % 8
        accuracy = balanced_accuracy_score(labels, found)
        chosen = RuleChoice(wrong_rule, {}, "")
        return Trial(train_from, chosen, found, accuracy, {}, 1.0)

    tried = []

    def trained(config, *arguments):
        tried.append(config.train_from)
        return trial(config.train_from)

    monkeypatch.setattr(choice, "_untrained", lambda *_: trial("none"))
    monkeypatch.setattr(choice, "_trained", trained)
    monkeypatch.setattr(
        choice, "_without_auto", lambda config: dataclasses.replace(config, train_from=part)
    )
    return config, index, labels, tried


def of_class(labels, c, count):
    return np.flatnonzero(labels == c)[:count].tolist()


def test_more_training_must_win_by_more_than_a_standard_error(folder, tmp_path, monkeypatch):
    """Images of one class: of n more right the gain is n w and its error sqrt(n) w, alike at 1."""
    wrong = dict(none=[], head=[])
    config, index, labels, tried = made_up(monkeypatch, folder, wrong)
    for gained, expected in ((0, "none"), (1, "none"), (2, "head"), (5, "head")):
        wrong["none"] = of_class(labels, 0, 6)
        wrong["head"] = of_class(labels, 0, 6 - gained)
        settings, record = decided(config, index, folder=RunFolder(tmp_path))
        assert settings.train_from == record["chosen"] == expected, gained
    assert tried == ["head"] * 4  # a backbone that is cut at its head has no third candidate


def test_worse_with_more_training_is_never_chosen(folder, tmp_path, monkeypatch):
    wrong = dict(none=[], head=[])
    config, index, labels, _ = made_up(monkeypatch, folder, wrong)
    wrong["head"] = of_class(labels, 0, 5)
    assert decided(config, index, folder=RunFolder(tmp_path))[0].train_from == "none"


@pytest.mark.parametrize(
    ("right", "expected"),
    [((0, 4, 8), "flat"), ((0, 4, 5), "head"), ((0, 0, 4), "flat"), ((4, 4, 4), "none"),
     ((0, 4, 3), "head"), ((0, 1, 2), "flat"), ((5, 0, 6), "none")],
)  # fmt: skip
def test_each_candidate_must_beat_the_best_of_less_training(
    folder, tmp_path, monkeypatch, right, expected
):
    """Right of ten images of one class by nothing, the embedding, and a part of the backbone."""
    wrong = {}
    config, index, labels, tried = made_up(monkeypatch, folder, wrong, part="flat")
    for name, count in zip(("none", "head", "flat"), right):
        wrong[name] = of_class(labels, 0, 10 - count)
    settings, record = decided(config, index, folder=RunFolder(tmp_path))
    assert tried == ["head", "flat"]
    assert [trial["train_from"] for trial in record["trials"]] == ["none", "head", "flat"]
    assert settings.train_from == record["chosen"] == expected


@pytest.mark.parametrize(("given", "expected"), [("auto", "ncm"), ("lda", "lda")])
def test_an_open_rule_is_that_of_the_trial(folder, tmp_path, monkeypatch, given, expected):
    config, index, labels, _ = made_up(
        monkeypatch, folder, dict(none=[], head=[]), wrong_rule="ncm"
    )
    config = dataclasses.replace(config, inference_rule=given)
    settings, _ = decided(config, index, folder=RunFolder(tmp_path))
    assert (settings.train_from, settings.inference_rule) == ("none", expected)
    # Nothing is trained: no step, no projection, no cache of views.
    assert (settings.steps, settings.embedding_dim, settings.cached_views) == (0, 0, 0)


# The trials themselves, on made-up sets.


def test_features_that_are_right_already_are_left_alone(folder, tmp_path):
    config, index = resolved(folder, "perfect")
    assert config.train_from == "auto"
    settings, record = decided(config, index, folder=RunFolder(tmp_path))
    assert settings.train_from == "none"
    assert [trial["train_from"] for trial in record["trials"]] == ["none", "head"]
    assert [trial["balanced"] for trial in record["trials"]] == [1.0, 1.0]


def test_features_whose_telling_direction_is_weak_are_trained(folder, tmp_path):
    """Without shrinkage, lda in closed form shows that they do tell the classes apart."""
    config, index = resolved(folder, "weak")
    settings, record = decided(config, index, folder=RunFolder(tmp_path))
    assert settings.train_from == "head"
    nothing, embedding = record["trials"]
    assert nothing["balanced"] < 0.5 and embedding["balanced"] > 0.9
    features, labels = features_of("weak")
    train_rows, test_rows = np.arange(sum(COUNTS)), np.arange(sum(COUNTS), len(labels))
    fit = LinearDiscriminantAnalysis().fit(features[train_rows], labels[train_rows])
    assert fit.score(features[test_rows], labels[test_rows]) > 0.9


def test_the_trial_of_nothing_is_the_features_of_the_pictures_by_each_rule(folder, tmp_path):
    """Against nearest class means written out."""
    config, index = resolved(folder, "weak", train_from="head")
    _, record = decided(config, index, folder=RunFolder(tmp_path))
    held = held_out_rows(index.train.labels, share=HELD_SHARE, seed=config.seed)
    fitted = np.setdiff1d(np.arange(len(index.train)), held)
    pixels = index.train.read(np.arange(len(index.train))).astype(np.float64)
    features = (pixels[:, 2:6, 2:6, 0].reshape(-1, 16) - 128) / 32
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    labels = index.train.labels
    means = np.stack([unit[fitted][labels[fitted] == c].mean(axis=0) for c in range(8)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    found = (unit[held] @ means.T).argmax(axis=1)
    [trial] = record["trials"]
    assert record["held_out_images"] == len(held)
    # float16 outputs may turn a close call or two.
    expected = balanced_accuracy_score(labels[held], found)
    assert trial["rules"]["ncm"] == pytest.approx(expected, abs=0.05)
    assert set(trial["rules"]) == {"lda", "ncm"}  # there is no head classifier to ask
    assert trial["balanced"] == trial["rules"][trial["rule"]]


def test_a_trial_never_trains_on_what_is_held_out(folder, tmp_path, monkeypatch):
    drawn, held = [], {}
    streams = choice.TrunkInputs.streams

    def seen(self, **settings):
        for sampler in (settings["head"], settings["whole"]):
            drawn.extend(sampler.batch(step).max() for step in range(20))
        held["rows"] = self.caches["train"].rows
        return streams(self, **settings)

    monkeypatch.setattr(choice.TrunkInputs, "streams", seen)
    config, index = resolved(folder, "perfect", steps=2, train_from="auto")
    decided(config, index, folder=RunFolder(tmp_path))
    out = held_out_rows(index.train.labels, share=HELD_SHARE, seed=config.seed)
    assert not np.intersect1d(held["rows"], out).size
    assert len(held["rows"]) == len(index.train) - len(out)
    assert drawn and max(drawn) < len(held["rows"])


# Whole runs.


@pytest.fixture(scope="module")
def done(folder):
    """A run in which the trials chose the embedding."""
    return train.run(config_of(folder, "weak", folder / "run"))


def test_start_json_tells_what_was_tried(done):
    content = json.loads((done.run_dir / "start.json").read_text())
    assert content["chosen"] == "head" and content["held_out_images"] > 50
    assert content["provenance"]["seed"] == 0 and len(content["provenance"]["data_digest"]) == 64
    for trial in content["trials"]:
        assert set(trial) == {"train_from", "rule", "balanced", "bands", "rules", "seconds"}
        assert set(trial["bands"]) == {"all", "many", "medium", "few"}
        assert trial["seconds"] >= 0 and 0 <= trial["balanced"] <= 1


def test_the_run_folder_keeps_what_was_decided(done):
    settings = json.loads((done.run_dir / "config.json").read_text())["settings"]
    assert settings["train_from"] == "head" and settings["inference_rule"] == "lda"
    assert json.loads((done.run_dir / "config.json").read_text())["num_head"] == 8
    run = load_run(str(done.run_dir))
    assert run.config.train_from == "head" and run.num_head == 8
    assert done.metrics["lda"]["balanced"] > 0.9
    assert f"--train_from={run.config.train_from}" in (done.run_dir / "config.flags").read_text()


def test_its_flagfile_repeats_it(done, tmp_path):
    flags = [f"--flagfile={done.run_dir / 'config.flags'}", f"--run_dir={tmp_path / 'again'}"]
    again = train.run(cli.parse(Config, flags))
    assert again.metrics == done.metrics
    ours, theirs = (load_run(str(each.run_dir)).model.get_weights() for each in (done, again))
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_trains_nothing_says_so_everywhere(folder, tmp_path):
    result = train.run(config_of(folder, "perfect", tmp_path / "run"))
    assert result.metrics["lda"]["balanced"] == 1.0
    content = json.loads((result.run_dir / "config.json").read_text())
    settings = content["settings"]
    assert (settings["train_from"], settings["steps"], content["num_head"]) == ("none", 0, 0)
    with open(result.run_dir / "classes.csv", newline="") as file:
        assert {row["head"] for row in csv.DictReader(file)} == {"0"}
    assert json.loads((result.run_dir / "head_set.json").read_text())["num_head"] == 0
    assert json.loads((result.run_dir / "start.json").read_text())["chosen"] == "none"
    run = load_run(str(result.run_dir))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    embedding = run.model.embed_images(tf.constant(images))[0].numpy()
    middle = (images[:, 2:6, 2:6, 0].reshape(3, 16).astype(np.float64) - 128) / 32
    expected = middle / np.linalg.norm(middle, axis=1, keepdims=True)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    again = train.run(
        cli.parse(Config, [f"--flagfile={result.run_dir / 'config.flags'}",
                           f"--run_dir={tmp_path / 'again'}"])
    )  # fmt: skip
    assert again.metrics == result.metrics


@pytest.mark.parametrize("flags", [["--run_dir=RUN"], ["--flagfile=RUN/config.flags"]])
def test_a_resumed_run_keeps_the_record_of_its_trials(done, folder, tmp_path, monkeypatch, flags):
    config = config_of(folder, "weak", tmp_path / "run", log_every=1)
    append = RunFolder.append_metrics

    def append_and_stop(self, record):
        append(self, record)
        if record["step"] == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as context:
        context.setattr(RunFolder, "append_metrics", append_and_stop)
        assert train.run(config).metrics is None
    before = json.loads((tmp_path / "run" / "start.json").read_text())
    assert [trial["train_from"] for trial in before["trials"]] == ["none", "head"]
    flags = [flag.replace("RUN", config.run_dir) for flag in flags]
    monkeypatch.setattr("sys.argv", ["train", *flags, "--resume"])
    train.main()
    after = json.loads((tmp_path / "run" / "start.json").read_text())
    assert after["trials"] == before["trials"] and after["chosen"] == "head"
    ours, theirs = (load_run(str(each)).model.get_weights() for each in (
        tmp_path / "run", done.run_dir))  # fmt: skip
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)
