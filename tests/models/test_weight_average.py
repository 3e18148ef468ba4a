"""The running average of the weights: its formula, its place in recognition, its exact resume."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from longtail_tf.config import Config
from longtail_tf.runs.trained_run import copy_weights
from longtail_tf.training.checkpoints import Checkpoints
from longtail_tf.training.loop import compiled_model
from tests.models.test_two_stream_model import batch, compile_model, make_model


def parts(model):
    return {name: getattr(model, name).get_weights() for name in ("embedder", "neck", "head")}


def two_batches(rng):
    return {"head": batch(rng, [0, 1, 2, 0, 1]), "whole": batch(rng, [0, 0, 4, 4, 7, 7])}


def test_average_follows_the_recurrence_over_the_steps(rng):
    model = compile_model(make_model(), weight_average=0.5)
    expected = parts(model)
    for step in range(1, 8):
        model.train_step(two_batches(rng))
        decay = min(0.5, (1 + step) / (10 + step))
        now = parts(model)
        expected = {
            name: [decay * old + (1 - decay) * new for old, new in zip(expected[name], now[name])]
            for name in now
        }
    for name, weights in expected.items():
        for ours, theirs in zip(model.averaged.weights_of(name), weights):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_copy_takes_the_averaged_weights(rng):
    model, copy = compile_model(make_model(), weight_average=0.9), make_model(seed=1)
    for _ in range(3):
        model.train_step(two_batches(rng))
    copy_weights(model, copy)
    for name, weights in parts(copy).items():
        for ours, theirs in zip(weights, model.averaged.weights_of(name)):
            np.testing.assert_array_equal(ours, theirs)
    assert any(
        np.abs(ours - theirs).max() > 1e-4
        for ours, theirs in zip(parts(copy)["embedder"], parts(model)["embedder"])
    )


def test_without_it_a_copy_takes_the_last_weights(rng):
    model, copy = compile_model(make_model()), make_model(seed=1)
    model.train_step(two_batches(rng))
    assert model.averaged is None
    copy_weights(model, copy)
    np.testing.assert_array_equal(parts(copy)["head"][0], parts(model)["head"][0])


def test_checkpoints_hold_the_average_and_moving_prototypes(rng, tmp_path):
    settings = dict(data="digits_lt", run_dir="x", head_ratio=0.3, metric_loss="prototype")
    settings.update(backbone="resnet8", width=4, image_size=8, embedding_dim=6, weight_average=0.9)

    class Index:
        num_classes, channels = 8, 1
        class_counts = np.arange(20, 12, -1)

    def fresh(seed):
        config = Config(**settings, margin=0.2, classes_per_batch=3, seed=seed)
        return compiled_model(config, Index, num_head=3, strategy=tf.distribute.get_strategy())

    model, other = fresh(0), fresh(1)
    for _ in range(2):
        model.train_step(two_batches(rng))
    Checkpoints(model, tmp_path).save()
    assert Checkpoints(other, tmp_path).restore() == 2
    np.testing.assert_array_equal(other.metric_loss.prototypes, model.metric_loss.prototypes)
    assert np.abs(other.metric_loss.prototypes.numpy()).sum() > 0
    for ours, theirs in zip(
        other.averaged.weights_of("embedder"), model.averaged.weights_of("embedder")
    ):
        np.testing.assert_array_equal(ours, theirs)
    data = two_batches(rng)
    model.train_step(data)
    other.train_step(data)
    np.testing.assert_array_equal(other.metric_loss.prototypes, model.metric_loss.prototypes)
    np.testing.assert_array_equal(parts(other)["embedder"][0], parts(model)["embedder"][0])
