"""Class prototypes against plain loops in float64."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.recognition import prototypes


def unit(vectors):
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def case(seed, classes=23, images=400, dimension=19):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.geometric(0.2, images) % classes])
    rng.shuffle(labels)
    vectors = rng.normal(size=(len(labels), dimension)) * rng.uniform(0.1, 9, (len(labels), 1))
    return vectors.astype(np.float32), labels


@pytest.mark.parametrize("seed", range(4))
def test_against_a_loop(seed):
    vectors, labels = case(seed)
    expected = [unit(unit(vectors[labels == c]).mean(axis=0)) for c in range(23)]
    got = prototypes.class_prototypes(vectors, labels, 23)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-6)


def test_plain_means_keep_lengths():
    vectors, labels = case(0)
    expected = [vectors[labels == c].astype(np.float64).mean(axis=0) for c in range(23)]
    got = prototypes.class_means(vectors, labels, 23)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_sums_are_float64():
    """A million equal float32 steps of 0.1 drift when summed in float32; the mean must not."""
    vectors = np.full((1_000_000, 1), 0.1, np.float32)
    got = prototypes.class_means(vectors, np.zeros(1_000_000, np.int32), 1)
    assert got[0, 0] == np.float32(0.1)


def test_many_classes_of_one_image(rng):
    vectors = rng.normal(size=(50_000, 4)).astype(np.float32)
    labels = rng.permutation(50_000)
    got = prototypes.class_prototypes(vectors, labels, 50_000)
    np.testing.assert_allclose(got[labels], unit(vectors), atol=1e-6)


def test_bad_input():
    vectors, labels = case(0)
    with pytest.raises(UserError, match=r"2 of 25 classes have no image .*ids 23, 24\)"):
        prototypes.class_prototypes(vectors, labels, 25)
    with pytest.raises(UserError, match=r"labels run over 0..22; expected class ids within 0..9"):
        prototypes.class_prototypes(vectors, labels, 10)
    with pytest.raises(UserError, match=r"embeddings have shape \(3,\)"):
        prototypes.class_prototypes(np.zeros(3), np.zeros(3, int), 1)
    broken = vectors.copy()
    broken[7, 3] = np.nan
    with pytest.raises(UserError, match="the embedding of image 7 holds NaN or infinity"):
        prototypes.class_prototypes(broken, labels, 23)
