"""Retrieval and verification metrics against plain loops over a full sorted list."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf import metrics
from longtail_tf.errors import UserError
from longtail_tf.metrics import nearest_neighbours
from longtail_tf.metrics import retrieval as retrieval_metrics
from longtail_tf.metrics.verification import tar_at_far
from tests import rounding


def clustered(seed, images=120, classes=9, dimension=6):
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, images, p=rng.dirichlet(np.ones(classes)))
    labels[:2] = [classes, classes + 1]  # two classes of one image: nothing to find
    while True:
        vectors = rng.normal(size=(classes + 2, dimension))[labels] + rng.normal(
            size=(images, dimension)
        )
        vectors = (vectors * rng.uniform(0.5, 3, (images, 1))).astype(np.float32)
        # No two neighbours of a query as near as equal: float32 could rank them either way.
        cosines = np.sort(unit(vectors) @ unit(vectors).T, axis=1)[:, :-1]  # without itself
        if np.diff(cosines, axis=1).min() > 2 * rounding.sums_apart(dimension):
            return vectors, labels


def unit(vectors):
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def oracle(queries, labels, gallery=None, gallery_labels=None, ks=(1, 5)):
    """The definitions, one query at a time, in float64."""
    alone = gallery is None
    gallery, gallery_labels = (queries, labels) if alone else (gallery, gallery_labels)

    cosines = unit(queries) @ unit(gallery).T
    rows = {f"recall_at_{k}": [] for k in ks}
    rows.update(r_precision=[], map_at_r=[])
    for query in range(len(queries)):
        order = sorted(range(len(gallery)), key=lambda g: (-cosines[query, g], g))
        order = [g for g in order if not (alone and g == query)]
        hits = [gallery_labels[g] == labels[query] for g in order]
        relevant = sum(hits)
        if not relevant:
            continue
        for k in ks:
            rows[f"recall_at_{k}"].append(any(hits[:k]))
        rows["r_precision"].append(sum(hits[:relevant]) / relevant)
        gained = [sum(hits[: i + 1]) / (i + 1) for i in range(relevant) if hits[i]]
        rows["map_at_r"].append(sum(gained) / relevant)
    return {name: float(np.mean(values)) for name, values in rows.items()}, rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("small_blocks", [False, True])
def test_against_the_definition(seed, small_blocks, monkeypatch):
    if small_blocks:  # many pieces of queries and of gallery
        monkeypatch.setattr(nearest_neighbours, "_GALLERY_ROWS", 16)
        monkeypatch.setattr(nearest_neighbours, "_BLOCK_CELLS", 64)
        monkeypatch.setattr(retrieval_metrics, "_HIT_CELLS", 50)
    vectors, labels = clustered(seed)
    expected, rows = oracle(vectors, labels)
    got = retrieval_metrics.retrieval_metrics(vectors, labels, ks=(1, 5))
    assert got.pop("queries") == len(rows["map_at_r"]) < len(labels)
    assert got == pytest.approx(expected, abs=1e-9)
    assert metrics.recall_at_k(vectors, labels, 5) == pytest.approx(expected["recall_at_5"])
    assert metrics.map_at_r(vectors, labels) == pytest.approx(expected["map_at_r"])


@pytest.mark.parametrize("seed", range(3))
def test_against_the_definition_with_a_gallery(seed):
    vectors, labels = clustered(seed)
    expected, _ = oracle(vectors[:50], labels[:50], vectors[50:], labels[50:])
    got = retrieval_metrics.retrieval_metrics(
        vectors[:50], labels[:50], ks=(1, 5), gallery=vectors[50:], gallery_labels=labels[50:]
    )
    got.pop("queries")
    assert got == pytest.approx(expected, abs=1e-9)


def test_per_band_means():
    vectors, labels = clustered(1)
    counts = np.where(np.arange(11) < 5, 500, 3)
    got = retrieval_metrics.retrieval_metrics(vectors, labels, train_counts=counts)["map_at_r"]
    scores = retrieval_metrics.query_scores(vectors, labels)
    many = labels[scores.rows] < 5
    assert got["many"] == pytest.approx(scores.average_precision_at_r[many].mean())
    assert got["few"] == pytest.approx(scores.average_precision_at_r[~many].mean())
    assert got["medium"] is None


def test_a_query_never_finds_itself_but_finds_its_copy():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0.1, 1]], np.float32)
    assert metrics.recall_at_k(vectors, np.array([0, 0, 1, 1]), 1) == 1.0
    assert metrics.recall_at_k(vectors, np.array([0, 1, 1, 0]), 1) == 0.0


def test_collapsed_embeddings_tie_in_row_order():
    """All alike: the nearest is simply the first other row, at any block size."""
    vectors, labels = np.ones((6, 3), np.float32), np.array([0, 0, 1, 1, 1, 0])
    # Row 0 finds row 1 (a hit); every other row finds row 0.
    assert metrics.recall_at_k(vectors, labels, 1) == pytest.approx(3 / 6)


@pytest.mark.parametrize("k", [1, 2, 5, 11, 12])
def test_top_k_breaks_ties_by_column(k, rng):
    scores = rng.integers(0, 4, (50, 12)).astype(np.float32)
    expected = [sorted(range(12), key=lambda c: (-row[c], c))[:k] for row in scores]
    np.testing.assert_array_equal(nearest_neighbours.top_k(scores, k), expected)


@pytest.mark.parametrize("max_pairs", [10**6, 4000])
def test_verification_against_all_pairs(max_pairs):
    vectors, labels = clustered(0, images=150)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    same, different = [], []
    for i in range(150):
        for j in range(i):
            (same if labels[i] == labels[j] else different).append(unit[i] @ unit[j])
    same, different = np.array(same), np.sort(different)[::-1]
    rates = (0.1, 0.01)
    got = tar_at_far(vectors, labels, false_accept_rates=rates, max_pairs=max_pairs, seed=3)
    for rate in rates:
        allowed = int(rate * len(different))
        exact = max_pairs > len(different)
        # Where every pair is taken, one may lie at the threshold but for rounding.
        tolerance = 1.5 / len(same) if exact else 0.06
        expected = np.mean(same > different[allowed] + 1e-7)
        assert got[f"tar_at_far_{rate:g}"] == pytest.approx(expected, abs=tolerance)


def test_verification_refuses_to_invent():
    vectors, labels = clustered(0, images=20)
    assert tar_at_far(vectors, labels, false_accept_rates=(1e-6,)) == {"tar_at_far_1e-06": None}
    with pytest.raises(UserError, match="3 images of 3 classes give no pair of one class"):
        tar_at_far(vectors[:3], np.arange(3))


def test_bad_input():
    vectors, labels = clustered(0, images=20)
    with pytest.raises(UserError, match="k = 20 was asked for, but a query can find 1..19"):
        metrics.recall_at_k(vectors, labels, 20)
    with pytest.raises(UserError, match="no query has an image of its class to find"):
        metrics.recall_at_k(vectors[:3], np.arange(3))
    with pytest.raises(UserError, match="one came without the other"):
        metrics.recall_at_k(vectors, labels, gallery=vectors)
    with pytest.raises(UserError, match="queries have 6 dimensions and the gallery 2"):
        metrics.recall_at_k(vectors, labels, gallery=vectors[:, :2], gallery_labels=labels)
    with pytest.raises(UserError, match=r"gallery have shape \(20, 6\) and their labels \(3,\)"):
        metrics.recall_at_k(vectors, labels, gallery=vectors, gallery_labels=labels[:3])
    with pytest.raises(UserError, match="labels of embeddings are float64"):
        metrics.map_at_r(vectors, labels * 1.0)
    with pytest.raises(UserError, match="k = 9 neighbours were asked for"):
        nearest_neighbours.nearest_neighbours(vectors, vectors[:5], 9)
