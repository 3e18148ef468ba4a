from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.training.learning_rate import TwoRates, build_optimizer, learning_rate_schedule


def oracle(step, *, peak, steps, warmup, cosine):
    if step + 1 < warmup:
        return peak * (step + 1) / warmup
    last = max(warmup - 1, 0)
    progress = min((step - last) / max(steps - last, 1), 1)
    return peak * 0.5 * (1 + math.cos(math.pi * progress)) if cosine else peak


@pytest.mark.parametrize("shape", ["cosine", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (7, 0), (5, 5), (1, 0)])
def test_schedule_is_the_formula(shape, steps, warmup):
    schedule = learning_rate_schedule(0.3, steps=steps, warmup_steps=warmup, shape=shape)
    for step in range(steps + 2):
        expected = oracle(step, peak=0.3, steps=steps, warmup=warmup, cosine=shape == "cosine")
        np.testing.assert_allclose(float(schedule(step)), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_spares_norms_and_biases(name):
    schedule = learning_rate_schedule(0.1, steps=10, warmup_steps=0, shape="constant")
    optimizer = build_optimizer(name, schedule, momentum=0.0, weight_decay=0.5)
    variables = [
        tf.Variable(np.ones(2, np.float32), name=n)
        for n in ("conv/kernel", "norm/gamma", "norm/beta", "dense/bias", "head/scale")
    ]
    optimizer.build(variables)
    optimizer.apply_gradients([(tf.zeros(2), variable) for variable in variables])
    np.testing.assert_allclose(variables[0], [0.95, 0.95], rtol=1e-6)
    for variable in variables[1:]:
        np.testing.assert_array_equal(variable, [1, 1])


def test_sgd_without_momentum_and_decay_is_plain():
    schedule = learning_rate_schedule(0.1, steps=10, warmup_steps=0, shape="constant")
    optimizer = build_optimizer("sgd", schedule, momentum=0.0, weight_decay=0.0)
    variable = tf.Variable([1.0])
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.constant([2.0]), variable)])
    np.testing.assert_allclose(variable, [0.8])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_two_rates_move_each_variable_at_its_own(name):
    """Against two plain optimizers, each with its own variables."""

    def optimizer(peak):
        schedule = learning_rate_schedule(peak, steps=10, warmup_steps=2, shape="cosine")
        return build_optimizer(name, schedule, momentum=0.9, weight_decay=0.1)

    def variables():
        return [tf.Variable([1.0, -2.0], name="kernel"), tf.Variable([[3.0]], name="kernel2")]

    new, pretrained = variables()
    both = TwoRates(optimizer(0.1), optimizer(0.01), [pretrained])
    both.build([new, pretrained])
    apart = variables()
    alone = [optimizer(0.1), optimizer(0.01)]
    for single, variable in zip(alone, apart):
        single.build([variable])
    for step in range(5):
        gradients = [tf.constant([0.5, step + 1.0]), tf.constant([[-1.0]])]
        both.apply_gradients(zip(gradients, [new, pretrained]))
        for single, gradient, variable in zip(alone, gradients, apart):
            single.apply_gradients([(gradient, variable)])
    for ours, theirs in zip([new, pretrained], apart):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert not np.array_equal(pretrained.numpy(), [[3.0]])


def test_gradients_are_clipped_together():
    schedule = learning_rate_schedule(1.0, steps=1, warmup_steps=0, shape="constant")
    optimizer = build_optimizer("sgd", schedule, momentum=0.0, weight_decay=0.0, clip_norm=1.0)
    first, second = tf.Variable([0.0]), tf.Variable([0.0])
    optimizer.build([first, second])
    optimizer.apply_gradients([(tf.constant([3.0]), first), (tf.constant([4.0]), second)])
    np.testing.assert_allclose([first.numpy()[0], second.numpy()[0]], [-0.6, -0.8], rtol=1e-5)
