"""Loss formulas in plain float64 loops, written from the papers for the tests alone."""

import numpy as np


def distance(a, b, metric):
    """From a to b, or to each row of b."""
    if metric == "angular":
        cosine = np.dot(b, a) / np.linalg.norm(a) / np.linalg.norm(b, axis=-1)
        return np.maximum(0.0, 1.0 - cosine)
    squared = np.sum((a - b) ** 2, axis=-1)
    return squared if metric == "squared-L2" else np.sqrt(squared)


def distance_gradient(a, b, metric):
    """d distance / d a; by symmetry d / d b has the arguments swapped."""
    if metric == "angular":
        na, nb = np.linalg.norm(a), np.linalg.norm(b)
        ua, ub = a / na, b / nb
        return -(ub - np.dot(ua, ub) * ua) / na
    if metric == "squared-L2":
        return 2.0 * (a - b)
    length = np.linalg.norm(a - b)
    return np.zeros_like(a) if length == 0.0 else (a - b) / length


class _Triplets:
    """Adds up the hinges of triplets and what they give the points."""

    def __init__(self, points, metric):
        self.points, self.metric = points, metric
        self.total, self.number, self.gradient = 0.0, 0, np.zeros_like(points)

    def add(self, value, slope, far, near):
        """`far` and `near`: the pairs of slots whose distance is to shrink, and to grow."""
        self.total += value
        self.number += 1
        for (i, j), weight in ((far, slope), (near, -slope)):
            if i != j and weight:
                a, b = self.points[i], self.points[j]
                self.gradient[i] += weight * distance_gradient(a, b, self.metric)
                self.gradient[j] += weight * distance_gradient(b, a, self.metric)

    def mean(self):
        number = max(self.number, 1)
        return self.total / number, self.gradient / number


def _positives(labels, sources, a):
    same = [p for p in range(len(labels)) if p != a and labels[p] == labels[a]]
    return [p for p in same if sources is None or sources[p] != sources[a]]


def triplet_semihard(labels, points, *, margin, metric="L2", sources=None):
    """Value and gradient in O(B^3); of equally near negatives the first is taken.

    Distances that differ by rounding alone count as equal.
    """
    points, labels = np.asarray(points, np.float64), np.asarray(labels)
    triplets = _Triplets(points, metric)
    for a in range(len(points)):
        row = distance(points[a], points, metric)
        negatives = np.flatnonzero(labels != labels[a])
        rounding = 1e-11 * np.max(row)
        for p in _positives(labels, sources, a):
            beyond = negatives[row[negatives] > row[p] + rounding]
            if len(beyond):
                n = min(beyond, key=row.__getitem__)
            elif len(negatives):
                n = max(negatives, key=row.__getitem__)
            else:
                n = a  # no negative: distance 0
            hinge = margin + row[p] - (row[n] if n != a else 0.0)
            triplets.add(max(hinge, 0.0), float(hinge > 0.0), (a, p), (a, n))
    return triplets.mean()


def triplet_hard(labels, points, *, margin, metric="L2", soft=False, sources=None):
    """Value and gradient; of equally far or near slots the first is taken."""
    points, labels = np.asarray(points, np.float64), np.asarray(labels)
    triplets = _Triplets(points, metric)
    for a in range(len(points)):
        row = distance(points[a], points, metric)
        row[a] = 0.0
        p = max(_positives(labels, sources, a), key=row.__getitem__, default=a)
        n = min(np.flatnonzero(labels != labels[a]), key=row.__getitem__, default=p)
        gap = row[p] - row[n]
        value = np.log1p(np.exp(gap)) if soft else max(gap + margin, 0.0)
        slope = 1.0 / (1.0 + np.exp(-gap)) if soft else float(gap + margin > 0.0)
        triplets.add(value, slope, (a, p), (a, n))
    return triplets.mean()


def supervised_contrastive(labels, points, *, temperature, sources=None, memory=None):
    unit = [p / np.linalg.norm(p) for p in np.asarray(points, np.float64)]
    keys = [(u, labels[i], None if sources is None else sources[i]) for i, u in enumerate(unit)]
    keys += [(u, y, object()) for u, y in (memory or [])]
    losses = []
    for i, u in enumerate(unit):
        others = [
            (k, y)
            for j, (k, y, s) in enumerate(keys)
            if j != i and (sources is None or s != sources[i])
        ]
        positives = [k for k, y in others if y == labels[i]]
        if not positives:
            continue
        total = sum(np.exp(np.dot(u, k) / temperature) for k, _ in others)
        terms = [-np.log(np.exp(np.dot(u, k) / temperature) / total) for k in positives]
        losses.append(np.mean(terms))
    return float(np.mean(losses)) if losses else 0.0


def multi_similarity(labels, points, *, alpha, beta, base, epsilon):
    unit = [p / np.linalg.norm(p) for p in np.asarray(points, np.float64)]
    total = 0.0
    for i, u in enumerate(unit):
        pos = [np.dot(u, k) for j, k in enumerate(unit) if j != i and labels[j] == labels[i]]
        neg = [np.dot(u, k) for j, k in enumerate(unit) if labels[j] != labels[i]]
        if not pos or not neg:
            continue
        hard_pos = [s for s in pos if s < max(neg) + epsilon]
        hard_neg = [s for s in neg if s > min(pos) - epsilon]
        total += np.log(1 + sum(np.exp(-alpha * (s - base)) for s in hard_pos)) / alpha
        total += np.log(1 + sum(np.exp(beta * (s - base)) for s in hard_neg)) / beta
    return total / len(unit)


def softmax(row):
    powers = [np.exp(x - max(row)) for x in row]
    return [p / sum(powers) for p in powers]


def cross_entropy(labels, logits, *, smoothing=0.0, weights=None):
    total = 0.0
    for y, row in zip(labels, np.asarray(logits, np.float64)):
        shares = softmax(row)
        targets = [smoothing / len(row) + (1.0 - smoothing) * (c == y) for c in range(len(row))]
        loss = -sum(t * np.log(s) for t, s in zip(targets, shares))
        total += loss * (1.0 if weights is None else weights[y])
    return total / len(labels)


def slope_along(function, points, direction, step=1e-5):
    """Central difference of a float64 function along a direction."""
    points = np.asarray(points, np.float64)
    return (function(points + step * direction) - function(points - step * direction)) / (2 * step)
