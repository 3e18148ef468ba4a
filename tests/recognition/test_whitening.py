"""Where an embedding of pretrained features starts, against plain float64 loops."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from longtail_tf.errors import UserError
from longtail_tf.recognition.whitening import SHRINKAGE, fit_whitening


def clouds(seed, counts, width=7, scale=1.0):
    """Features above 0, as a network pools them; all classes scatter in the same directions."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    means = rng.uniform(0.5, 3, (len(counts), width))
    skew = rng.normal(size=(width, width)) * np.linspace(0.05, 0.6, width)
    noise = rng.normal(size=(len(labels), width)) @ skew
    return (scale * np.maximum(means[labels] + noise, 0)).astype(np.float32), labels


def in_loops(features, labels, num_classes, dimension, shrinkage):
    """The whitened features [N, D] up to a turn: a matrix root by Schur, axes by an SVD."""
    x = features.astype(np.float64)
    width = x.shape[1]
    unit = [row / np.sqrt(sum(value * value for value in row)) for row in x]
    counts = [int((labels == c).sum()) for c in range(num_classes)]
    within = np.zeros((width, width))
    for c in range(num_classes):
        mean = sum(row for row, label in zip(unit, labels) if label == c) / counts[c]
        for row, label in zip(unit, labels):
            if label == c:
                within += np.outer(row - mean, row - mean) / counts[c]
    within /= np.trace(within)
    shrunken = (1 - shrinkage) * within + shrinkage * np.eye(width) / width
    root = scipy.linalg.sqrtm(np.linalg.inv(shrunken))
    weights = np.array([1 / counts[label] / num_classes for label in labels])
    centred = x - sum(weight * row for weight, row in zip(weights, x))
    white = centred @ root
    _, _, axes = np.linalg.svd(np.sqrt(weights)[:, None] * white)
    white = white @ axes[:dimension].T
    variance = np.mean([weights @ np.square(column) for column in white.T])
    return white / np.sqrt(variance)


def mapped(features, found):
    return features.astype(np.float64) @ found.kernel + found.bias


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dimension", [2, 4, 7])
@pytest.mark.parametrize("shrinkage", [0.1, SHRINKAGE, 1.0])
def test_the_map_is_that_of_plain_loops_up_to_a_turn(seed, dimension, shrinkage):
    """Products of the mapped images with each other do not see signs and turns of the axes."""
    counts = np.random.default_rng(seed).integers(1, 20, 6)
    features, labels = clouds(seed, counts)
    found = fit_whitening(features, labels, 6, dimension=dimension, shrinkage=shrinkage)
    assert found.kernel.shape == (7, dimension) and found.bias.shape == (dimension,)
    assert found.kernel.dtype == found.bias.dtype == np.float32
    expected = in_loops(features, labels, 6, dimension, shrinkage)
    ours = mapped(features, found)
    # float32 kernels times features up to 5, squared.
    np.testing.assert_allclose(ours @ ours.T, expected @ expected.T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_of_classes_alike_the_result_has_mean_0_and_variance_1(seed):
    features, labels = clouds(seed, [3, 40, 1, 11, 8])
    ours = mapped(features, fit_whitening(features, labels, 5, dimension=4))
    weights = 1 / np.bincount(labels)[labels] / 5
    np.testing.assert_allclose(weights @ ours, 0, atol=1e-5)
    variances = weights @ np.square(ours)
    assert variances.mean() == pytest.approx(1, abs=1e-4)
    assert (np.diff(variances) < 0).all()  # what tells most comes first


def test_every_class_counts_alike_whatever_its_images():
    """Each image of a class given seven times: the same map."""
    features, labels = clouds(0, [4, 9, 2, 6])
    more = np.concatenate([np.arange(len(labels)), *[np.flatnonzero(labels == 1)] * 6])
    once = mapped(features, fit_whitening(features, labels, 4, dimension=3))
    often = mapped(features, fit_whitening(features[more], labels[more], 4, dimension=3))
    np.testing.assert_allclose(often @ often.T, once @ once.T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_the_scale_of_the_features_makes_no_difference(scale):
    features, labels = clouds(1, [4, 9, 2, 6])
    large, _ = clouds(1, [4, 9, 2, 6], scale=scale)
    once = mapped(features, fit_whitening(features, labels, 4, dimension=3))
    scaled = mapped(large, fit_whitening(large, labels, 4, dimension=3))
    np.testing.assert_allclose(scaled @ scaled.T, once @ once.T, rtol=1e-4, atol=1e-3)


def assert_principal_components(features, found, dimension):
    """Of as many images a class, the map is scikit-learn's PCA, scaled."""
    from sklearn.decomposition import PCA

    theirs = PCA(dimension).fit_transform(features.astype(np.float64))
    theirs /= np.sqrt(np.mean(np.square(theirs)))
    ours = mapped(features, found)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, rtol=1e-4, atol=1e-3)


def test_all_shrunken_leaves_plain_principal_components():
    features, labels = clouds(2, [8] * 5)
    found = fit_whitening(features, labels, 5, dimension=3, shrinkage=1.0)
    assert_principal_components(features, found, 3)


def test_of_one_image_a_class_it_is_plain_principal_components():
    features, labels = clouds(3, [1] * 30)
    assert_principal_components(features, fit_whitening(features, labels, 30, dimension=4), 4)


def test_what_tells_nothing_apart_counts_less():
    """A loud direction in which images of one class differ; a quiet one that tells the classes."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 25)
    features = np.zeros((100, 3), np.float32)
    features[:, 2] = 10  # so that all are about as long
    features[:, 0] = rng.normal(0, 1, 100)
    features[:, 1] = 0.2 * labels + rng.normal(0, 0.02, 100)
    ours = mapped(features, fit_whitening(features, labels, 4, dimension=1, shrinkage=0.01))[:, 0]
    means = np.array([ours[labels == c].mean() for c in range(4)])
    nearest = np.abs(ours[:, None] - means).argmin(axis=1)
    plain = features[:, 0]  # the first principal component
    plain_means = np.array([plain[labels == c].mean() for c in range(4)])
    assert (nearest == labels).mean() > 0.9
    assert (np.abs(plain[:, None] - plain_means).argmin(axis=1) == labels).mean() < 0.5


def test_fewer_images_than_numbers_are_no_trouble():
    features, labels = clouds(4, [1, 2, 1], width=30)
    ours = mapped(features, fit_whitening(features, labels, 3, dimension=20))
    assert np.isfinite(ours).all() and np.square(ours).max() < 1e3


def test_more_numbers_than_the_backbone_has_are_refused():
    features, labels = clouds(0, [4, 4])
    message = (
        "--embedding_dim=8, but the backbone has only 7 features: set it to at most 7, or to 0"
    )
    with pytest.raises(UserError, match=message):
        fit_whitening(features, labels, 2, dimension=8)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "all zero or not finite"), (np.nan, "all zero or not finite"),
     (np.inf, "all zero or not finite"), (3.7, "the same for every image")],
)  # fmt: skip
def test_features_that_tell_nothing_are_refused(value, said):
    features = np.full((20, 7), value, np.float32)
    with pytest.raises(UserError, match=f"features of the backbone are {said}: its weights are"):
        fit_whitening(features, np.arange(20) % 4, 4, dimension=3)


def test_a_single_bad_image_is_refused_too():
    features, labels = clouds(0, [4, 4])
    features[3, 2] = np.nan
    with pytest.raises(UserError, match="not finite"):
        fit_whitening(features, labels, 2, dimension=3)
