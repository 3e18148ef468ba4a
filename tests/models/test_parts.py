"""What is pretrained in an embedder, what that gives, and the projection above it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.models import networks
from longtail_tf.models.parts import backbone_variables, pooled_features, projection, whitening
from tests import rounding
from tests.models.test_networks import shaken

SIZE, FEATURES, DIM = 8, 16, 5
PIXELS = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 1)).astype(np.float32)


def build(*, embedding_dim=DIM, whitened=True):
    tf.keras.utils.set_random_seed(0)
    return shaken(
        networks.build_embedder(
            backbone="resnet8", image_size=SIZE, channels=1, width=4,
            embedding_dim=embedding_dim, whitened=whitened,
        )
    )  # fmt: skip


def pools_by_hand(embedder, inputs, cut):
    """What the backbone gives, averaged over places in float64."""
    net = networks.backbone_of(embedder)
    if cut is None:
        maps = net(inputs / 127.5 - 1).numpy()
    elif cut == "head":
        return np.asarray(inputs, np.float64)
    else:
        # The map that the top gets is what stage 3 takes; run that stage alone.
        first = net.get_layer("stage3_block1_1_conv").input
        maps = tf.keras.Model(first, net.outputs[0])(inputs).numpy()
    return maps.astype(np.float64).mean(axis=(1, 2))


KINDS = [
    (dict(), True, True),
    (dict(whitened=False), False, True),
    (dict(embedding_dim=0), False, False),
]


@pytest.mark.parametrize("cut", [None, "stage3", "head"])
@pytest.mark.parametrize(("changes", "has_whitening", "has_projection"), KINDS)
def test_the_parts_are_found_in_an_embedder_and_in_every_top(
    cut, changes, has_whitening, has_projection
):
    whole = build(**changes)
    trunk, embedder = (None, whole) if cut is None else networks.split_embedder(whole, cut)
    fixed, last = whitening(embedder), projection(embedder)
    assert (fixed is not None, last is not None) == (has_whitening, has_projection)
    # A top has the very layers of the whole.
    assert fixed is whitening(whole) and last is projection(whole)
    if fixed is not None:
        assert [tuple(w.shape) for w in fixed.weights] == [(FEATURES, DIM), (DIM,)]
        assert not fixed.trainable_weights
        fixed.set_weights(
            [np.random.default_rng(1).normal(size=w.shape) for w in fixed.get_weights()]
        )
    if last is not None:
        below = DIM if has_whitening else FEATURES
        assert [tuple(w.shape) for w in last.weights] == [(below, DIM)]  # no bias
    inputs = PIXELS if trunk is None else trunk(PIXELS).numpy()
    pooled = pooled_features(embedder)(tf.constant(inputs))
    pooled = np.asarray(pooled, np.float64)
    expected = pools_by_hand(whole, inputs, cut)
    assert pooled.shape == (6, FEATURES)
    np.testing.assert_allclose(pooled, expected, atol=rounding.NETWORK * np.abs(expected).max())
    # And the rest of the embedder is two matrix products.
    features = expected
    if fixed is not None:
        kernel, bias = fixed.get_weights()
        features = features @ kernel.astype(np.float64) + bias
    if last is not None:
        features = features @ last.get_weights()[0].astype(np.float64)
    np.testing.assert_allclose(
        embedder(inputs).numpy(), features, atol=rounding.NETWORK * max(1, np.abs(features).max())
    )


@pytest.mark.parametrize("cut", [None, "stage3"])
def test_pooled_features_follow_the_weights(cut):
    """A training moves them after the function was made."""
    embedder = build()
    inputs = PIXELS
    if cut:
        trunk, embedder = networks.split_embedder(embedder, cut)
        inputs = trunk(PIXELS).numpy()
    run = pooled_features(embedder)
    before = np.asarray(run(tf.constant(inputs)))
    norm = next(v for v in embedder.trainable_variables if "gamma" in v.name)
    norm.assign(3 * np.ones(norm.shape))
    assert np.abs(np.asarray(run(tf.constant(inputs))) - before).max() > 0.05


@pytest.mark.parametrize(("cut", "of_backbone"), [(None, 27), ("stage3", 9), ("head", 0)])
@pytest.mark.parametrize("whitened", [True, False])
def test_backbone_variables_are_those_trained_but_for_the_projection(cut, of_backbone, whitened):
    """resnet8: a stem and 2, 3, 3 convolutions in its stages, each with a scale and a shift."""
    embedder = build(whitened=whitened)
    if cut:
        embedder = networks.split_embedder(embedder, cut)[1]
    found = backbone_variables(embedder)
    assert len(found) == of_backbone
    assert len(embedder.trainable_variables) == of_backbone + 1
    rest = set(map(id, embedder.trainable_variables)) - set(map(id, found))
    assert rest == {id(projection(embedder).kernel)}


def test_without_a_projection_all_that_is_trained_is_backbone():
    embedder = build(embedding_dim=0)
    assert len(backbone_variables(embedder)) == len(embedder.trainable_variables) == 27
    top = networks.split_embedder(embedder, "head")[1]
    assert backbone_variables(top) == []
