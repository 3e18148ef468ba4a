from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.training.learning_rate import WarmupSchedule, build_optimizer


def oracle(step, *, peak, steps, warmup, cosine):
    rate = peak * min((step + 1) / max(warmup, 1), 1)
    if cosine:
        progress = min(max((step - warmup) / max(steps - warmup, 1), 0), 1)
        rate *= 0.5 * (1 + math.cos(math.pi * progress))
    return rate


@pytest.mark.parametrize("shape", ["cosine", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (7, 0), (5, 5), (1, 0)])
def test_schedule_is_the_formula(shape, steps, warmup):
    schedule = WarmupSchedule(0.3, steps=steps, warmup_steps=warmup, shape=shape)
    for step in range(steps + 2):
        expected = oracle(step, peak=0.3, steps=steps, warmup=warmup, cosine=shape == "cosine")
        np.testing.assert_allclose(float(schedule(step)), expected, atol=1e-6)


def test_a_later_first_step_shifts_the_schedule():
    plain = WarmupSchedule(0.3, steps=50, warmup_steps=5, shape="cosine")
    later = WarmupSchedule(0.3, steps=50, warmup_steps=5, shape="cosine", first_step=20)
    assert float(later(7)) == float(plain(27))


def test_config_rebuilds_the_schedule():
    schedule = WarmupSchedule(0.3, steps=50, warmup_steps=5, shape="cosine", first_step=3)
    again = WarmupSchedule.from_config(schedule.get_config())
    assert [float(again(s)) for s in range(9)] == [float(schedule(s)) for s in range(9)]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_spares_norms_and_biases(name):
    schedule = WarmupSchedule(0.1, steps=10, warmup_steps=0, shape="constant")
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
    schedule = WarmupSchedule(0.1, steps=10, warmup_steps=0, shape="constant")
    optimizer = build_optimizer("sgd", schedule, momentum=0.0, weight_decay=0.0)
    variable = tf.Variable([1.0])
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.constant([2.0]), variable)])
    np.testing.assert_allclose(variable, [0.8], rtol=1e-6)
