"""Every setting of a training reaches the part that it steers.

Ten of them were once ignored at a time, and no test saw it. Here `train.run` runs as it is, but
what is slow (the network, the steps, the evaluation) is stubbed, and spies note what each part is
called with. The table below names, for each field of `Config`, a changed value and where it must
arrive; a field that it lacks fails the test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import report, train
from longtail_tf.config import Config
from longtail_tf.images import inputs
from longtail_tf.images.trunk_cache import TrunkCache
from longtail_tf.models import networks
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.recognition.embedded import Embedded
from longtail_tf.recognition.recognizer import Predictions
from longtail_tf.recognition.rule_choice import RuleChoice
from longtail_tf.runs import evaluation, records, resolve, streams, trained_run, training_losses
from longtail_tf.runs.folder import RunFolder
from longtail_tf.settings import methods
from longtail_tf.training import choice, finish, loop, monitoring, plan, start, workers
from tests import fakes
from tests.spies import MISSING, Spies

CLASSES, DIM = len(fakes.COUNTS), 8

RANDOM = dict(head_num_classes=3, steps=40, warmup_steps=1, eval_every=10, **fakes.TINY_NET)
# From weights that others learned; the file is never read, as the network is a stub.
PRETRAINED = dict(
    head_num_classes=3, steps=40, warmup_steps=1, weights="others.h5", train_from="stage3",
    cached_views=2, **fakes.TINY_NET,
)  # fmt: skip
JOINT = dict(RANDOM, schedule="joint")
NO_RULE = {name: value for name, value in RANDOM.items() if name != "head_num_classes"}
NO_LENGTH = {name: value for name, value in RANDOM.items() if name not in ("steps", "warmup_steps")}


class Row(NamedTuple):
    """A changed setting and where it must be seen.

    Attributes:
      value: of the field.
      seen: "function.parameter", or several; each must get `expected` and got something else
        before the change.
      expected: what is seen there; by default the value itself.
      base: the settings beside it.
      beside: further settings that it needs, before and after the change.
    """

    value: Any
    seen: Any
    expected: Any = MISSING
    base: dict = RANDOM
    beside: dict = {}


def path_ends(text):
    """Whatever ends so: an argument that is a path."""
    return EndsWith(text)


class EndsWith:
    """Equal to what, as text, ends so."""

    def __init__(self, end):
        self.end = end

    def __eq__(self, other):
        return str(other).endswith(self.end)

    def __repr__(self):
        return f"...{self.end}"


class Close:
    """Equal to a number that is this one but for rounding."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return isinstance(other, float) and abs(other - self.number) < 1e-9

    def __repr__(self):
        return f"about {self.number}"


class Something:
    """Equal to whatever came."""

    def __eq__(self, other):
        return other is not MISSING and other is not None

    def __repr__(self):
        return "something"


ROWS: dict[str, Row] = {
    "method": Row("focal", "classification_loss.name", base=dict(NO_RULE)),
    # data
    "data": Row("other.npz", "load_index.spec", path_ends("other.npz")),
    "exclude": Row("left_out.txt", "load_index.exclude", path_ends("left_out.txt")),
    "val_per_class": Row(1, "load_index.val_per_class"),
    "split_seed": Row(5, "load_index.split_seed"),
    "image_size": Row(12, ("build_embedder.image_size", "training_streams.image_size")),
    "cache_megabytes": Row(3, "training_streams.cache_bytes", 3 * 2**20),
    "max_bad_share": Row(0.25, "training_streams.max_bad_share"),
    # run
    "run_dir": Row("elsewhere", "claim.path", path_ends("elsewhere")),
    "resume": Row(True, "claim.resume"),
    "seed": Row(
        7,
        (
            "PKSampler.seed",
            "RandomSampler.seed",
            "training_streams.seed",
            "set_random_seed.seed",
            "refresh_batch_norm.seed",
            "fit_recognizer.seed",
        ),
    ),
    "steps": Row(9, ("fit.steps_per_epoch", "learning_rate_schedule.steps", "TrainingLog.steps")),
    # A step looks at 6 + 4 * 2 images.
    "passes": Row(2.0, "fit.steps_per_epoch", None, base=NO_LENGTH),
    "time_budget": Row("2m30s", "within_budget.seconds", 150.0, base=NO_LENGTH),
    "eval_every": Row(4, "Validation.every"),
    "checkpoint_every": Row(6, "Checkpointing.every"),
    "log_every": Row(3, "TrainingLog.every"),
    "tensorboard": Row(True, "TensorBoardScalars.folder", path_ends("tensorboard")),
    "threads": Row(5, "set_intra_op_parallelism_threads.num_threads"),
    # head set
    "head_min_count": Row(7, "select_head.min_count", base=NO_RULE),
    "head_ratio": Row(0.5, "select_head.ratio", base=NO_RULE),
    "head_num_classes": Row(4, ("select_head.num_classes", "TwoStreamModel.num_head_classes")),
    "head_all": Row(True, "TwoStreamModel.num_head_classes", CLASSES, base=NO_RULE),
    "head_auto": Row(True, "TwoStreamModel.num_head_classes", CLASSES, base=NO_RULE),
    # streams
    "schedule": Row("joint", "compile.schedule"),
    "head_sampling": Row("balanced", "BalancedSampler.batch_size", 6),
    "head_batch_size": Row(10, ("RandomSampler.batch_size", "TrainingLog.images_per_step"), None),
    "classes_per_batch": Row(5, "PKSampler.classes_per_batch"),
    "images_per_class": Row(3, ("PKSampler.images_per_class", "metric_loss.images_per_class")),
    "class_power": Row(0.5, "PKSampler.class_power"),
    "classify_whole": Row(True, "compile.classify_whole", base=JOINT),
    "compare_head": Row(True, "compile.compare_head", base=JOINT),
    "head_augment": Row("crop_cutout", "training_streams.head_augment"),
    "whole_augment": Row("crop_cutout", "training_streams.whole_augment"),
    # losses
    "classification_loss": Row("focal", "classification_loss.name"),
    "classification_weight": Row(0.3, "compile.classification_weight"),
    "head_sampled_classes": Row(2, "SampledCrossEntropy.num_sampled"),
    "reweight_from": Row(0.5, "classification_loss.reweight_from", 20),
    "label_smoothing": Row(0.2, "classification_loss.label_smoothing"),
    "metric_loss": Row("triplet_hard", "metric_loss.name"),
    "metric_weight": Row(0.7, "compile.metric_weight"),
    "margin": Row(0.4, ("metric_loss.margin", "compile.margin", "CollapseSentinel.margin")),
    "distance_metric": Row("angular", ("metric_loss.distance_metric", "compile.distance_metric")),
    "metric_temperature": Row(0.05, "metric_loss.temperature"),
    "memory_size": Row(24, "RememberingLoss.size"),
    "unit_features": Row(False, ("compile.unit_features", "CollapseSentinel.unit_features")),
    # network
    "backbone": Row("resnet20", "build_embedder.backbone"),
    "pixel_range": Row("caffe", "build_embedder.pixel_range"),
    "width": Row(6, "build_embedder.width"),
    "embedding_dim": Row(5, ("build_embedder.embedding_dim", "metric_loss.embedding_dim")),
    "neck": Row(False, "TwoStreamModel.neck"),
    "cosine_head": Row(True, "TwoStreamModel.cosine_head"),
    "weights": Row("others.h5", "build_embedder.weights"),
    "train_from": Row("head", "split_embedder.cut", base=PRETRAINED),
    "backbone_norms": Row("kept", "TwoStreamModel.keep_norms", True),
    "embedding_start": Row(
        "whitened",
        ("build_embedder.whitened", "start_where_features_compare_best.seed"),
        Something(),
    ),
    "cached_views": Row(3, "cached_outputs.views", None, base=PRETRAINED),
    "cache_dir": Row("shared", "cached_outputs.folder", path_ends("shared"), base=PRETRAINED),
    "cache_disk_megabytes": Row(99, "fitting_views.megabytes", base=PRETRAINED),
    "precision": Row("bfloat16", "build_embedder.precision", None),
    "replicas": Row("devices", "strategy_of.replicas"),
    "mine": Row("replica", "compile.mine"),
    "jit_compile": Row(True, "compile.jit_compile"),
    # optimiser
    "optimizer": Row("adamw", "build_optimizer.name"),
    "learning_rate": Row(0.01, "learning_rate_schedule.peak"),
    "backbone_rate": Row(0.5, "learning_rate_schedule.peak", Close(0.05)),
    "clip_norm": Row(3.0, "build_optimizer.clip_norm"),
    "stay_near": Row(0.2, "compile.stay_near"),
    "momentum": Row(0.5, "build_optimizer.momentum"),
    "weight_decay": Row(0.01, "build_optimizer.weight_decay"),
    "lr_schedule": Row("constant", "learning_rate_schedule.shape"),
    "warmup_steps": Row(4, "learning_rate_schedule.warmup_steps"),
    # recognition
    "inference_rule": Row("ncm", "evaluate_test.rule"),
    "k_top": Row(2, "save_run.k_top"),
    "false_accept_rate": Row(0.2, "fit_recognizer.false_accept_rate"),
}
# What the value does not say by itself.
EXPECTED = {
    "passes": {"fit.steps_per_epoch": 10},  # of 67 training images, twice, 14 at a step
    "head_batch_size": {"RandomSampler.batch_size": 10, "TrainingLog.images_per_step": 18},
    "cached_views": {"cached_outputs.views": 3},
    "precision": {"build_embedder.precision": "bfloat16"},
}


def test_every_field_of_config_has_its_row():
    fields = {field.name for field in dataclasses.fields(Config)}
    assert fields - set(ROWS) == set(), "say in ROWS where the new setting must arrive"
    assert set(ROWS) - fields == set()


def tiny_embedder(*, image_size, channels, embedding_dim, whitened=False, **others):
    """The parts of an embedder by their names, and hardly a weight."""
    layers = tf.keras.layers
    images = tf.keras.Input((image_size, image_size, channels), name="images")
    pixels = layers.Rescaling(1 / 255, name="normalise")(images)
    maps = layers.Conv2D(3, 1, name="backbone")(pixels)
    features = layers.GlobalAveragePooling2D(name="pool")(maps)
    if whitened:
        features = layers.Dense(embedding_dim, name="whitening", trainable=False)(features)
    features = layers.Dense(embedding_dim, use_bias=False, name="features")(features)
    return tf.keras.Model(images, features, name="embedder")


def split(embedder, cut):
    layers = tf.keras.layers
    trunk = tf.keras.Model(embedder.inputs[0], embedder.get_layer("pool").output)
    trunk.trainable = False
    vectors = tf.keras.Input((3,))
    features = layers.Dense(DIM, use_bias=False, name="features")(vectors)
    return trunk, tf.keras.Model(vectors, features)


def no_cache(trunk, split, *, views, **others):
    count = len(split)
    outputs = np.zeros((1 + views, count, 3), np.float16)
    return TrunkCache(outputs, np.zeros((1 + views, count), np.int64), split.labels)


def embedded(model, batches):
    draw = np.random.default_rng(0)
    labels = np.arange(CLASSES)
    vectors = draw.normal(size=(CLASSES, DIM)).astype(np.float32)
    return Embedded(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), None, labels)


def saved(folder, model, recognizer):
    """What `save_run` leaves, as the settings in the folder have it."""
    from longtail_tf.runs.saved_settings import load_settings

    return types.SimpleNamespace(folder=folder, config=load_settings(folder))


@contextlib.contextmanager
def trained_with_spies(monkeypatch):
    """Spies on every part of a training, and stubs for what is slow."""
    with monkeypatch.context() as patch:
        spies = Spies(patch)
        patch.setattr(tf.keras.utils, "set_random_seed", lambda seed: None)
        spies.watch(tf.keras.utils, "set_random_seed")
        spies.watch(
            tf.config.threading, "set_intra_op_parallelism_threads", instead=lambda *_: None
        )
        spies.watch(resolve, "load_index")
        spies.watch(workers, "strategy_of", instead=lambda replicas: tf.distribute.get_strategy())
        spies.watch(workers.Team, "claim")
        spies.watch(plan, "within_budget", instead=lambda config, *_, **__: dataclasses.replace(
            config, steps=40, warmup_steps=1))  # fmt: skip
        patch.setattr(choice, "decided", lambda config, *_, **__: (config, None))
        # The network.
        spies.watch(networks, "build_embedder", instead=tiny_embedder)
        spies.watch(networks, "split_embedder", instead=split)
        spies.watch(trained_run, "TwoStreamModel")
        spies.watch(start, "cached_outputs", instead=no_cache)
        spies.watch(start, "fitting_views", instead=lambda wanted, **_: wanted)
        spies.watch(start, "start_where_features_compare_best", instead=lambda *_, **__: None)
        # The streams.
        spies.watch(inputs, "training_streams", instead=lambda *_, **__: None)
        spies.watch(streams, "PKSampler", "RandomSampler", "BalancedSampler", "select_head")
        # The losses and the optimizers.
        spies.watch(training_losses.losses, "classification_loss", "metric_loss")
        spies.watch(training_losses, "RememberingLoss", "SampledCrossEntropy")
        spies.watch(loop, "learning_rate_schedule", "build_optimizer")
        spies.watch(TwoStreamModel, "compile")
        spies.watch(TwoStreamModel, "fit", instead=lambda *_, **__: None)
        # What happens between the steps.
        spies.watch(loop, "TrainingLog", "Validation", "Checkpointing")
        spies.watch(monitoring, "CollapseSentinel")
        spies.watch(monitoring, "TensorBoardScalars", instead=lambda folder: None)
        # The end.
        spies.watch(finish, "refresh_batch_norm", instead=lambda *_, **__: {})
        patch.setattr(evaluation, "embed_batches", embedded)
        patch.setattr(evaluation, "class_norms", lambda head: None)
        patch.setattr(evaluation, "_chosen_by", lambda *_: RuleChoice("lda", {}, ""))
        spies.watch(evaluation, "fit_recognizer", instead=lambda *_, **__: None)
        patch.setattr(finish, "inference_copy", lambda *_, **__: None)
        spies.watch(finish, "save_run", instead=saved)
        spies.watch(
            evaluation, "evaluate_test", instead=lambda *_, **__: {"rules": {}, "split": None}
        )
        patch.setattr(report, "write_report", lambda *_, **__: None)
        patch.setattr(records, "show_results", lambda *_: None)
        yield spies


def seen_in(monkeypatch, tmp_path, row, changes, *, again=False):
    """The spies after a training with `changes` to the base of a row."""
    for name in ("bars.npz", "other.npz"):
        if not (tmp_path / name).exists():
            fakes.write_npz(tmp_path / name)
    (tmp_path / "left_out.txt").write_text("")
    changes = dict(changes)
    for name in ("exclude", "run_dir"):
        if name in changes:
            changes[name] = str(tmp_path / changes[name])
    if "data" in changes:
        changes["data"] = f"npz:{tmp_path / changes['data']}"
    settings = {
        "data": f"npz:{tmp_path / 'bars.npz'}", "run_dir": str(tmp_path / "run"), **row.base,
        **row.beside, **changes,
    }  # fmt: skip
    with trained_with_spies(monkeypatch) as spies:
        train.run(Config(**settings))
    run = spies.calls["evaluate_test"][-1]["run"]
    spies.calls["evaluate_test"][-1]["rule"] = run.config.inference_rule
    spies.calls["save_run"][-1]["k_top"] = run.config.k_top
    return spies


@pytest.mark.parametrize("name", ROWS)
def test_a_changed_setting_reaches_its_part(monkeypatch, tmp_path, name):
    row = ROWS[name]
    keys = (row.seen,) if isinstance(row.seen, str) else row.seen
    before = seen_in(monkeypatch, tmp_path / "before", row, {})
    if name == "resume":  # of the run that is there now
        changes = {"resume": True, "data": "bars.npz"}
        after = seen_in(monkeypatch, tmp_path / "before", row, changes)
    else:
        after = seen_in(monkeypatch, tmp_path / "after", row, {name: row.value})
    for key in keys:
        expected = row.value if row.expected is MISSING else row.expected
        expected = EXPECTED.get(name, {}).get(key, expected)
        found = [before.value(key), after.value(key)]
        if name == "precision":  # the copy that is saved is in float32
            found = [spies.calls["build_embedder"][0]["precision"] for spies in (before, after)]
        if name == "cached_views":  # those of the training images; of the others there are none
            found = [spies.calls["cached_outputs"][0]["views"] for spies in (before, after)]
        assert expected == found[1], f"{key} got {found[1]}"
        if isinstance(expected, Something) and found[0] is not MISSING:
            assert found[0] != found[1]
        else:
            assert expected != found[0], f"{key} got {found[0]} before the change too"


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    for name in ("before", "after"):
        (tmp_path / name).mkdir()


def test_a_backbone_of_another_rate_has_an_optimizer_of_its_own(monkeypatch, tmp_path):
    spies = seen_in(monkeypatch, tmp_path / "after", Row(0, ""), {"backbone_rate": 0.5})
    peaks = [call["peak"] for call in spies.calls["learning_rate_schedule"]]
    assert peaks == [0.1, 0.05] * 2  # of the head update and of the whole update


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name != "triplet"])
def test_every_value_of_a_method_is_a_setting(name):
    """And so reaches its part as the table above says."""
    assert set(methods.METHODS[name]) <= set(ROWS)


def test_the_rule_names_the_default_predictions(monkeypatch, tmp_path):
    """Of all the rules that are evaluated, the one whose answers are kept as the run's own."""
    labels = np.arange(4)
    found = {
        rule: Predictions(
            class_ids=(labels[:, None] + shift) % 4, probabilities=np.full((4, 1), 0.5)
        )
        for rule, shift in (("lda", 0), ("ncm", 1))
    }
    monkeypatch.setattr(
        evaluation,
        "embed_split",
        lambda *_, **__: Embedded(np.eye(4, dtype=np.float32), None, labels),
    )
    monkeypatch.setattr(evaluation, "predict_rules", lambda *_, **__: found)
    monkeypatch.setattr(evaluation, "evaluate_rules", lambda *_, **__: {})
    for rule, shift in (("lda", 0), ("ncm", 1)):
        config = types.SimpleNamespace(
            inference_rule=rule, steps=3, images_per_step=2, seed=0, image_size=8
        )
        run = types.SimpleNamespace(
            config=config, model=None, channels=1, class_names=list("abcd"), num_head=2,
            class_counts=np.array([4, 3, 2, 1]), recognizer=types.SimpleNamespace(threshold=None),
        )  # fmt: skip
        index = types.SimpleNamespace(test=range(4), val=None, digest="d")
        (tmp_path / rule).mkdir()
        evaluation.evaluate_test(run, index, step=3, out=tmp_path / rule)
        with np.load(RunFolder(tmp_path / rule).embeddings) as arrays:
            np.testing.assert_array_equal(arrays["predictions"], (labels + shift) % 4)
