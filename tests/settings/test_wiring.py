"""Every setting of a training reaches the part it steers: none is parsed and then forgotten.

Two tiny trainings with every value changed, in which the parts are watched: where a setting is to
arrive is a row of a table, and a setting without a row fails the test.
"""

from __future__ import annotations

import collections
import dataclasses

import pytest

from longtail_tf import losses, train
from longtail_tf.config import Config
from longtail_tf.images import inputs as inputs_module
from longtail_tf.models import networks, two_stream_model
from longtail_tf.runs import evaluation, resolve, streams, trained_run, training_losses
from longtail_tf.training import loop, monitoring, start, workers
from tests import fakes

# What is watched: name -> where it is looked up when it is called.
WATCHED = {
    "load_index": (resolve, "load_index"),
    "select_head": (streams, "select_head"),
    "strategy_of": (workers, "strategy_of"),
    "prepare_tensorflow": (loop, "prepare_tensorflow"),
    "build_embedder": (networks, "build_embedder"),
    "TwoStreamModel": (trained_run, "TwoStreamModel"),
    "compile": (two_stream_model.TwoStreamModel, "compile"),
    "PixelInputs": (streams, "PixelInputs"),
    "training_streams": (inputs_module, "training_streams"),
    "RandomSampler": (streams, "RandomSampler"),
    "BalancedSampler": (streams, "BalancedSampler"),
    "PKSampler": (streams, "PKSampler"),
    "classification_loss": (losses, "classification_loss"),
    "metric_loss": (losses, "metric_loss"),
    "RememberingLoss": (training_losses, "RememberingLoss"),
    "SampledCrossEntropy": (training_losses, "SampledCrossEntropy"),
    "learning_rate_schedule": (loop, "learning_rate_schedule"),
    "build_optimizer": (loop, "build_optimizer"),
    "TwoRates": (loop, "TwoRates"),
    "TrainingLog": (loop, "TrainingLog"),
    "Validation": (loop, "Validation"),
    "Checkpointing": (loop, "Checkpointing"),
    "TensorBoardScalars": (monitoring, "TensorBoardScalars"),
    "CollapseSentinel": (monitoring, "CollapseSentinel"),
    "fit_recognizer": (evaluation, "fit_recognizer"),
    "split_embedder": (networks, "split_embedder"),
    "cached_outputs": (start, "cached_outputs"),
    "fitting_views": (start, "fitting_views"),
    "start_where_features_compare_best": (start, "start_where_features_compare_best"),
}

# Setting -> (its changed value, which part gets it, under which name or place, as what).
ALTERNATE = {
    "exclude": ("", "load_index", "exclude", ""),
    "val_per_class": (2, "load_index", "val_per_class", 2),
    "split_seed": (3, "load_index", "split_seed", 3),
    "image_size": (10, "build_embedder", "image_size", 10),
    "cache_megabytes": (3, "training_streams", "cache_bytes", 3 * 2**20),
    "max_bad_share": (0.25, "training_streams", "max_bad_share", 0.25),
    "seed": (5, "PKSampler", "seed", 5),
    "steps": (4, "learning_rate_schedule", "steps", 4),
    "eval_every": (2, "Validation", "every", 2),
    "checkpoint_every": (3, "Checkpointing", "every", 3),
    "log_every": (2, "TrainingLog", "every", 2),
    "tensorboard": (True, "TensorBoardScalars", 0, None),
    "head_min_count": (8, "select_head", "min_count", 8),
    "schedule": ("alternate", "compile", "schedule", "alternate"),
    "head_sampling": ("balanced", "BalancedSampler", "batch_size", 6),
    "head_batch_size": (6, "BalancedSampler", "batch_size", 6),
    "classes_per_batch": (3, "PKSampler", "classes_per_batch", 3),
    "images_per_class": (3, "PKSampler", "images_per_class", 3),
    "class_power": (0.5, "PKSampler", "class_power", 0.5),
    "head_augment": ("crop_cutout", "training_streams", "head_augment", "crop_cutout"),
    "whole_augment": ("crop_randaugment", "training_streams", "whole_augment", "crop_randaugment"),
    "classification_loss": ("cross_entropy", "classification_loss", 0, "cross_entropy"),
    "classification_weight": (0.5, "compile", "classification_weight", 0.5),
    "label_smoothing": (0.2, "classification_loss", "label_smoothing", 0.2),
    "metric_loss": ("triplet_hard", "metric_loss", 0, "triplet_hard"),
    "metric_weight": (0.75, "compile", "metric_weight", 0.75),
    "margin": (0.4, "metric_loss", "margin", 0.4),
    "distance_metric": ("squared-L2", "metric_loss", "distance_metric", "squared-L2"),
    "metric_temperature": (0.3, "metric_loss", "temperature", 0.3),
    "memory_size": (16, "RememberingLoss", "size", 16),
    "backbone": ("resnet8", "build_embedder", "backbone", "resnet8"),
    "width": (3, "build_embedder", "width", 3),
    "pixel_range": ("0..1", "build_embedder", "pixel_range", "0..1"),
    "embedding_dim": (7, "build_embedder", "embedding_dim", 7),
    "neck": (False, "TwoStreamModel", "neck", False),
    "cosine_head": (True, "TwoStreamModel", "cosine_head", True),
    "precision": ("bfloat16", "build_embedder", "precision", "bfloat16"),
    "replicas": ("one", "strategy_of", 0, "one"),
    "mine": ("replica", "compile", "mine", "replica"),
    "threads": (0, "prepare_tensorflow", "threads", 0),
    "jit_compile": (False, "compile", "jit_compile", False),
    "optimizer": ("adamw", "build_optimizer", 0, "adamw"),
    "learning_rate": (0.02, "learning_rate_schedule", 0, 0.02),
    "weight_decay": (0.01, "build_optimizer", "weight_decay", 0.01),
    "clip_norm": (2.0, "build_optimizer", "clip_norm", 2.0),
    "stay_near": (0.05, "compile", "stay_near", 0.05),
    "lr_schedule": ("constant", "learning_rate_schedule", "shape", "constant"),
    "warmup_steps": (1, "learning_rate_schedule", "warmup_steps", 1),
    "false_accept_rate": (0.2, "fit_recognizer", "false_accept_rate", 0.2),
}
PRETRAINED = {
    "head_all": (True, "TwoStreamModel", "num_head_classes", 8),
    "classify_whole": (True, "compile", "classify_whole", True),
    "compare_head": (True, "compile", "compare_head", True),
    "unit_features": (True, "compile", "unit_features", True),
    "momentum": (0.7, "build_optimizer", "momentum", 0.7),
    "backbone_rate": (0.5, "TwoRates", 0, None),
    "backbone_norms": ("kept", "TwoStreamModel", "keep_norms", True),
    "embedding_start": ("whitened", "start_where_features_compare_best", "num_classes", 8),
    "train_from": ("stage3", "split_embedder", 1, "stage3"),
    "cached_views": (2, "fitting_views", 0, 2),
    "cache_disk_megabytes": (99, "fitting_views", "megabytes", 99),
    "cache_dir": ("CACHE", "cached_outputs", "folder", "CACHE"),
    "passes": (1.0, "learning_rate_schedule", "steps", None),
}
# Settings that are seen elsewhere, and where.
ELSEWHERE = {
    "method": "tests/settings/test_methods.py",
    "data": "every training here",
    "run_dir": "every training here",
    "resume": "tests/test_train.py",
    "head_ratio": "tests/runs/test_streams.py",
    "head_num_classes": "tests/runs/test_streams.py",
    "head_auto": "tests/settings/test_config.py",
    "time_budget": "tests/settings/test_config.py and tests/training/test_plan.py",
    "weights": "tests/test_train.py",
    "inference_rule": "tests/test_train.py",
    "k_top": "tests/test_export.py",
    "reweight_from": "tests/models/test_head_terms.py and tests/test_train.py",
    "head_sampled_classes": "tests/models/test_head_terms.py",
}


def test_every_setting_has_a_row():
    rows = [*ALTERNATE, *PRETRAINED, *ELSEWHERE]
    assert sorted(rows) == sorted(field.name for field in dataclasses.fields(Config))


@pytest.fixture
def calls(monkeypatch):
    """Part -> the arguments of each call, positional ones by place."""
    found = collections.defaultdict(list)
    for name, (owner, attribute) in WATCHED.items():
        real = getattr(owner, attribute)
        first = 1 if isinstance(owner, type) else 0  # self

        def watched(*args, _name=name, _real=real, _first=first, **kwargs):
            found[_name].append({**dict(enumerate(args[_first:])), **kwargs})
            return _real(*args, **kwargs)

        monkeypatch.setattr(owner, attribute, watched)
    return found


def arrived(calls, rows):
    """Rows whose changed value did not arrive."""
    missing = []
    for setting, (_, part, place, value) in rows.items():
        seen = [call[place] for call in calls[part] if place in call]
        if value is None:  # that it was called at all is what shows
            if not calls[part]:
                missing.append(setting)
        elif not any(str(each) == str(value) for each in seen):
            missing.append((setting, seen[:3]))
    return missing


def test_every_setting_reaches_its_part(tmp_path, calls):
    data = fakes.write_npz(tmp_path / "bars.npz")
    changed = {name: row[0] for name, row in ALTERNATE.items()}
    train.run(Config(data=data, run_dir=str(tmp_path / "run"), **changed))
    assert arrived(calls, ALTERNATE) == []


def test_every_setting_of_a_pretrained_training_reaches_its_part(tmp_path, calls):
    data = fakes.write_npz(tmp_path / "bars.npz")
    small = dict(backbone="resnet8", width=4, embedding_dim=8, eval_every=0, head_batch_size=8)
    first = train.run(
        Config(data=data, run_dir=str(tmp_path / "first"), head_ratio=0.5, steps=1, **small)
    )
    calls.clear()
    changed = {name: row[0] for name, row in PRETRAINED.items()}
    changed["cache_dir"] = str(tmp_path / "CACHE")
    changed["schedule"] = "joint"
    del changed["compare_head"], changed["classify_whole"]
    train.run(
        Config(
            data=data, run_dir=str(tmp_path / "second"), weights=str(first.run_dir), width=4,
            backbone="resnet8", embedding_dim=8, classify_whole=True, compare_head=True,
            metric_loss="supcon", images_per_class=2, head_batch_size=8, **changed,
        )
    )  # fmt: skip
    rows = {**PRETRAINED, "cache_dir": (None, "cached_outputs", "folder", tmp_path / "CACHE")}
    assert arrived(calls, rows) == []
    # One pass: images over those of a step, 8 of the head stream and 16 x 2 of 8 classes.
    images = len(resolve.load_index(data).train)
    steps = {call["steps"] for call in calls["learning_rate_schedule"]}
    assert steps == {-(-images // (8 + 8 * 2))}
