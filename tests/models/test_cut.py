from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.models.cut import cut_at

layers = tf.keras.layers


def branched():
    """first -> (left1 -> left2) + itself -> last."""
    x = layers.Input((3,), name="x")
    first = layers.Dense(4, name="first")(x)
    left = layers.Dense(4, name="left2")(layers.Dense(4, name="left1")(first))
    joined = layers.Add(name="joined")([left, first])
    return tf.keras.Model(x, layers.Dense(2, name="last")(joined), name="net")


@pytest.mark.parametrize("layer", ["first", "left1", "last"])
def test_the_halves_make_the_whole(layer):
    net = branched()
    x = np.random.RandomState(0).normal(size=(5, 3)).astype(np.float32)
    expected = net(x).numpy()
    trunk, top = cut_at(net, layer)
    np.testing.assert_array_equal(top(trunk(x)).numpy(), expected)
    assert not trunk.trainable_weights and top.trainable_weights


def test_a_cut_inside_a_branch_is_refused():
    with pytest.raises(UserError, match="net cannot be cut at left2: a branch leads around it; na"):
        cut_at(branched(), "left2")


def test_a_cut_at_a_join_is_refused():
    with pytest.raises(UserError, match="net cannot be cut at joined: it joins 2 branches; name a"):
        cut_at(branched(), "joined")


def test_an_unknown_layer_is_reported():
    with pytest.raises(UserError, match="net has no layer 'lost' to cut at; it has first, left1,"):
        cut_at(branched(), "lost")
