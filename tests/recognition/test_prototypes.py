"""Class prototypes against plain loops in float64; k-means by what it must find."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.recognition import prototypes
from longtail_tf.recognition.prototypes import spherical_kmeans
from tests import rounding


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


def test_variants_score_as_they_say():
    """plain = Euclidean to plain means; cl2n = cosine after taking the mean off."""
    from longtail_tf.recognition.inference_rules import prototype_scores

    vectors, labels = case(3)
    vectors = unit(vectors).astype(np.float32)
    plain = prototypes.fit_prototypes(vectors, labels, 23, variant="plain")
    means = np.stack([vectors[labels == c].astype(np.float64).mean(axis=0) for c in range(23)])
    distance = ((vectors[:, None] - means[None]) ** 2).sum(axis=-1)
    scores = prototype_scores(
        vectors, plain.prototypes, plain.prototype_classes, bias=plain.prototype_bias
    )
    np.testing.assert_allclose(scores, 0.5 - 0.5 * distance, atol=rounding.sums_apart(21, 2))

    centred = prototypes.fit_prototypes(vectors, labels, 23, variant="cl2n")
    middle = vectors.astype(np.float64).mean(axis=0)
    moved = unit(vectors - middle)
    expected = moved @ np.stack([unit(moved[labels == c].mean(axis=0)) for c in range(23)]).T
    scores = prototype_scores(
        vectors, centred.prototypes, centred.prototype_classes, center=centred.center
    )
    # Taking the centre off leaves less of each vector, with the rounding of all of it.
    left = np.linalg.norm(vectors - middle, axis=1).min()
    np.testing.assert_allclose(scores, expected, atol=rounding.sums_apart(21, 1 / left))


def test_multi_prototypes_find_the_two_looks_of_a_class(rng):
    """Class 1 has two opposite looks; its mean is noise, its two prototypes are the looks."""
    looks = np.eye(6, dtype=np.float32)
    first = looks[0] + 0.05 * rng.normal(size=(60, 6))
    second = np.concatenate([looks[1] + 0.05 * rng.normal(size=(50, 6)), -looks[1:2].repeat(50, 0)])
    third = looks[2:3]
    vectors = np.concatenate([first, second, third]).astype(np.float32)
    labels = np.repeat([0, 1, 2], [60, 100, 1])
    got, owners = prototypes.multi_prototypes(
        vectors, labels, 3, per_class=2, min_images=50, seed=0
    )
    np.testing.assert_array_equal(owners, [0, 1, 1, 2])
    of_one = got[owners == 1]
    np.testing.assert_allclose(np.sort(of_one[:, 1]), [-1, 1], atol=0.02)
    single = prototypes.class_prototypes(vectors, labels, 3)
    np.testing.assert_array_equal(got[[0, 3]], single[[0, 2]])


def test_one_prototype_a_class_is_the_plain_one():
    vectors, labels = case(1)
    got, owners = prototypes.multi_prototypes(
        vectors, labels, 23, per_class=1, min_images=1, seed=0
    )
    np.testing.assert_array_equal(got, prototypes.class_prototypes(vectors, labels, 23))
    np.testing.assert_array_equal(owners, np.arange(23))


def test_kmeans_recovers_clusters_and_repeats(rng):
    centres = unit(rng.normal(size=(5, 16)))
    member = rng.integers(0, 5, 500)
    points = unit(centres[member] + 0.05 * rng.normal(size=(500, 16))).astype(np.float32)
    got = spherical_kmeans(points, 5, seed=1)
    assert (got @ centres.T).max(axis=0).min() > 0.99
    np.testing.assert_array_equal(got, spherical_kmeans(points, 5, seed=1))


def test_kmeans_with_fewer_places_than_clusters():
    points = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 1]]
    got = spherical_kmeans(points, 4, seed=0)
    np.testing.assert_array_equal(np.sort(got, axis=0), [[0, 0, 0], [1, 1, 0]])


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
    with pytest.raises(UserError, match="'l3' is not known; choose one of l2, cl2n, plain"):
        prototypes.fit_prototypes(vectors, labels, 23, variant="l3")
    with pytest.raises(UserError, match="per_class is 0 and min_images 5"):
        prototypes.multi_prototypes(vectors, labels, 23, per_class=0, min_images=5, seed=0)
