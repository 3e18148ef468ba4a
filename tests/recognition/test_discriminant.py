"""The rule `lda` against scikit-learn, plain loops and what its derivation promises."""

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.recognition import discriminant
from longtail_tf.recognition.discriminant import CORRECTED, class_columns, fit_discriminant
from longtail_tf.recognition.fit import Embedded, evaluate_rules, fit_recognizer


def clouds(seed, counts, dimension=6):
    """Classes of one skew covariance around random means."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    means = rng.normal(0, 1, (len(counts), dimension))
    skew = rng.normal(size=(dimension, dimension)) * np.linspace(0.2, 2, dimension)
    noise = rng.normal(size=(len(labels), dimension)) @ skew
    return (means[labels] + 0.5 * noise).astype(np.float32), labels


def in_loops(embeddings, labels, num_classes, shrinkage):
    """Minus half the squared distances [N, C], in plain float64 loops.

    Log-likelihoods times the covariance's trace.
    """
    x = embeddings.astype(np.float64)
    means = [x[labels == c].mean(axis=0) for c in range(num_classes)]
    counts = np.bincount(labels)
    total = np.zeros((x.shape[1],) * 2)
    for row, label in zip(x, labels):
        total += np.outer(row - means[label], row - means[label]) / counts[label]
    covariance = total / sum(1 - 1 / n for n in counts)
    mean_variance = np.trace(covariance) / len(covariance)
    shrunken = (1 - shrinkage) * covariance + shrinkage * mean_variance * np.eye(len(covariance))
    scores = np.empty((len(x), num_classes))
    for i, row in enumerate(x):
        for c, mean in enumerate(means):
            apart = row - mean
            distance = apart @ np.linalg.solve(shrunken, apart)
            off = np.trace(np.linalg.solve(shrunken, covariance)) / counts[c]
            scores[i, c] = -0.5 * np.trace(covariance) * (distance - CORRECTED * off)
    return scores


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shrinkage", [0.05, 0.2, 1.0])
def test_scores_are_the_distances_of_plain_loops(seed, shrinkage):
    counts = np.random.default_rng(seed).integers(1, 30, 7)
    counts[0] = 12
    embeddings, labels = clouds(seed, counts)
    fit = fit_discriminant(embeddings, labels, 7, shrinkage=shrinkage)
    scores = embeddings @ fit.kernel + fit.bias
    expected = in_loops(embeddings, labels, 7, shrinkage)
    scores -= scores.mean(axis=1, keepdims=True)
    expected -= expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("seed", range(5))
def test_it_names_what_scikit_learn_names_where_all_classes_are_alike(seed):
    """Of equal counts the weights of images and what is corrected fall out of the comparison."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    embeddings, labels = clouds(seed, [25] * 6)
    unseen, _ = clouds(seed, [40] * 6)
    fit = fit_discriminant(embeddings, labels, 6, shrinkage=1e-6)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(6, 1 / 6))
    theirs.fit(embeddings, labels)
    ours = (unseen @ fit.kernel + fit.bias).argmax(axis=1)
    assert (ours == theirs.predict(unseen)).mean() > 0.995


def test_all_shrunken_is_the_nearest_mean_but_for_the_counts():
    embeddings, labels = clouds(3, [9] * 5)
    fit = fit_discriminant(embeddings, labels, 5, shrinkage=1.0)
    means = np.stack([embeddings[labels == c].mean(axis=0) for c in range(5)])
    nearest = np.linalg.norm(embeddings[:, None] - means, axis=2).argmin(axis=1)
    assert np.array_equal((embeddings @ fit.kernel + fit.bias).argmax(axis=1), nearest)


def test_classes_of_one_image_each_fall_back_to_the_nearest_image():
    embeddings = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    fit = fit_discriminant(embeddings, np.arange(5), 5)
    assert np.allclose(fit.precision, np.eye(8)) and fit.scatter == 0
    near = embeddings + 0.01
    assert (near @ fit.kernel + fit.bias).argmax(axis=1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shrunk", [1.0, 0.1, 0.01, 0.001])
def test_scores_keep_their_scale_as_training_images_are_memorised(shrunk):
    """Scatter of the training images a thousandth of that of others: confidence stays a number."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(20, 16))
    labels = np.repeat(np.arange(20), 10)

    def images(scatter):
        return (means[labels] + scatter * rng.normal(size=(200, 16))).astype(np.float32)

    train = Embedded(images(0.5 * shrunk), None, labels.astype(np.int32))
    val = Embedded(images(0.5), None, labels.astype(np.int32))
    fitted = fit_recognizer(train, val, num_classes=20, num_head=0, seed=0, rules=("lda",))
    assert np.abs(fitted.lda_kernel).max() < 1e3
    unseen = images(0.5)
    rows = fitted.predict("lda", unseen)
    right = rows.class_ids[:, 0] == labels
    assert right.mean() > 0.85
    assert abs(rows.probabilities[:, 0].mean() - right.mean()) < 0.08


def test_rounding_is_no_scatter():
    """Equal images of a class, embedded in batches of other sizes, differ in their last bits."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4, 8)).astype(np.float32)
    embeddings = np.repeat(points, 3, axis=0) * (1 + 1e-7 * rng.normal(size=(12, 8)))
    fit = fit_discriminant(embeddings.astype(np.float32), np.repeat(np.arange(4), 3), 4)
    assert np.allclose(fit.precision, np.eye(8))


def test_more_dimensions_than_images_are_no_trouble():
    embeddings, labels = clouds(1, [3, 2, 2], dimension=40)
    fit = fit_discriminant(embeddings, labels, 3)
    assert all(np.isfinite(np.asarray(part)).all() for part in fit)
    assert np.array_equal((embeddings @ fit.kernel + fit.bias).argmax(axis=1), labels)


def test_pieces_give_the_whole(monkeypatch):
    embeddings, labels = clouds(2, [20, 9, 4, 1, 1])
    whole = fit_discriminant(embeddings, labels, 5)
    monkeypatch.setattr(discriminant, "_CELLS", 20)  # three rows of six
    for part, expected in zip(fit_discriminant(embeddings, labels, 5), whole):
        np.testing.assert_allclose(part, expected, rtol=1e-4, atol=1e-4)


def test_a_class_added_later_gets_the_column_of_a_fit():
    """A class the fit did not see, against plain loops: its mean alone is new."""
    embeddings, labels = clouds(4, [20, 9, 4, 3])
    seen = labels < 3
    fit = fit_discriminant(embeddings[seen], labels[seen], 3)
    new = embeddings[~seen].astype(np.float64)
    kernel, bias = class_columns(
        new.mean(axis=0, keepdims=True),
        np.array([3]),
        precision=fit.precision,
        center=fit.center,
        scatter=fit.scatter,
    )
    scores = embeddings @ np.c_[fit.kernel, kernel] + np.r_[fit.bias, bias]
    means = [embeddings[labels == c].astype(np.float64).mean(axis=0) for c in range(4)]
    for row, found in zip(embeddings.astype(np.float64), scores):
        distances = [(row - mean) @ fit.precision @ (row - mean) for mean in means]
        corrected = [CORRECTED * fit.scatter / n for n in (20, 9, 4, 3)]
        expected = -0.5 * (np.array(distances) - corrected)
        np.testing.assert_allclose(
            found - found.mean(), expected - expected.mean(), rtol=1e-3, atol=1e-3
        )


def drawn(rng, means, sizes):
    labels = np.repeat(np.arange(len(means)), sizes)
    spread = np.array([10.0] + [0.5] * (means.shape[1] - 1))
    vectors = means[labels] + spread * rng.normal(size=(len(labels), means.shape[1]))
    return Embedded(vectors.astype(np.float32), None, labels.astype(np.int32))


def test_it_beats_prototypes_where_directions_differ():
    """A learning proof: one direction scatters ten times as much as the others."""
    wins = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        counts = [60, 20, 6, 3, 2, 1]
        means = rng.normal(size=(6, 12))
        train, test = (drawn(rng, means, sizes) for sizes in (counts, [50] * 6))
        fitted = fit_recognizer(
            train, None, num_classes=6, num_head=0, seed=seed, rules=("ncm", "lda")
        )
        rows = evaluate_rules(fitted, test, train_counts=np.array(counts), replicates=0)
        wins.append(rows["lda"]["balanced"] - rows["ncm"]["balanced"])
    assert np.mean(wins) > 0.1


def test_bad_input():
    embeddings, labels = clouds(0, [4, 3])
    with pytest.raises(UserError, match="1 of 3 classes have no image"):
        fit_discriminant(embeddings, labels, 3)
    embeddings[2, 1] = np.nan
    with pytest.raises(UserError, match="the embedding of image 2 holds NaN or infinity"):
        fit_discriminant(embeddings, labels, 2)


def test_scores_at_each_shrinkage_are_those_of_a_fit_at_it(rng):
    labels = np.repeat(np.arange(5), [9, 6, 4, 2, 1])
    embeddings = (rng.normal(size=(22, 7)) + np.eye(7)[labels]).astype(np.float32)
    unseen = rng.normal(size=(6, 7)).astype(np.float32)
    found = list(discriminant._scores_by_shrinkage(embeddings, labels, unseen, 5))
    for shrinkage, scores in zip(discriminant.SHRINKAGES, found):
        fit = discriminant.fit_discriminant(embeddings, labels, 5, shrinkage=shrinkage)
        expected = unseen @ fit.kernel + fit.bias
        # Up to what all classes of an image share.
        apart = scores - scores[:, :1] - (expected - expected[:, :1])
        np.testing.assert_allclose(apart, 0, atol=1e-3 * np.abs(scores).max())


def test_long_noisy_vectors_want_more_shrinkage_than_short_telling_ones(rng):
    labels = np.repeat(np.arange(6), 8)
    noise = rng.normal(size=(48, 200))
    few_directions = np.zeros((48, 200))
    few_directions[np.arange(48), labels] = 4.0
    long = (few_directions + noise).astype(np.float32)
    assert discriminant.choose_shrinkage(long, labels, 6) >= 0.8
    scales = np.ones(6)
    scales[0] = 40.0  # one loud direction that says nothing
    loud = (3 * np.eye(6)[labels] + rng.normal(size=(48, 6)) * scales).astype(np.float32)
    assert discriminant.choose_shrinkage(loud, labels, 6) < 1.0


def test_classes_of_one_image_leave_the_usual_shrinkage(rng):
    vectors = rng.normal(size=(4, 9)).astype(np.float32)
    assert discriminant.choose_shrinkage(vectors, np.arange(4), 4) == discriminant.SHRINKAGE
