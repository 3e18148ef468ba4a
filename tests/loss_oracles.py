"""Loss formulas in plain float64 loops, written from the papers for the tests alone."""

import numpy as np


def distance(a, b, metric):
    if metric == "angular":
        return max(0.0, 1.0 - np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
    squared = float(np.sum((a - b) ** 2))
    return squared if metric == "squared-L2" else float(np.sqrt(squared))


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


def _table(points, metric):
    size = len(points)
    return [[distance(points[i], points[j], metric) for j in range(size)] for i in range(size)]


def _chain(points, weights, metric):
    gradient = np.zeros_like(points)
    for (i, j), weight in weights.items():
        gradient[i] += weight * distance_gradient(points[i], points[j], metric)
        gradient[j] += weight * distance_gradient(points[j], points[i], metric)
    return gradient


def _is_positive(labels, sources, a, p):
    if a == p or labels[a] != labels[p]:
        return False
    return sources is None or sources[a] != sources[p]


def _share(row, chosen):
    """Weight of each slot when the minimum over the chosen slots of a row has gradient 1.

    Equal distances share it. Where the minimum is also the largest distance of the whole row,
    tensorflow-addons, which shifts the row by that largest distance, takes its minimum over zeros:
    each chosen slot gets 1 / B and the slots at the largest distance share what is left.
    """
    shares = {n: 1.0 / len(chosen) for n in chosen}
    at_largest = [j for j, d in enumerate(row) if d == max(row)]
    if set(chosen) <= set(at_largest):
        shares = {n: 1.0 / len(row) for n in chosen}
        for j in at_largest:
            shares[j] = shares.get(j, 0.0) + (1.0 - len(chosen) / len(row)) / len(at_largest)
    return shares


def triplet_semihard(labels, points, *, margin, metric="L2", sources=None):
    """Value and gradient; equal distances share the gradient."""
    points = np.asarray(points, np.float64)
    size = len(points)
    table = _table(points, metric)
    total, pairs, weights = 0.0, 0, {}

    def add(i, j, weight):
        weights[i, j] = weights.get((i, j), 0.0) + weight

    for a in range(size):
        negatives = [n for n in range(size) if labels[n] != labels[a]]
        for p in range(size):
            if not _is_positive(labels, sources, a, p):
                continue
            pairs += 1
            beyond = [n for n in negatives if table[a][n] > table[a][p]]
            to_negative, shares = 0.0, {}
            if beyond:
                to_negative = min(table[a][n] for n in beyond)
                shares = _share(table[a], [n for n in beyond if table[a][n] == to_negative])
            elif negatives:
                to_negative = max(table[a][n] for n in negatives)
                chosen = [n for n in negatives if table[a][n] == to_negative]
                shares = {n: 1.0 / len(chosen) for n in chosen}
            hinge = margin + table[a][p] - to_negative
            if hinge >= 0.0:
                total += hinge
                add(a, p, 1.0)
                for n, share in shares.items():
                    add(a, n, -share)
    pairs = max(pairs, 1)
    return total / pairs, _chain(points, weights, metric) / pairs


def triplet_hard(labels, points, *, margin, metric="L2", soft=False, sources=None):
    points = np.asarray(points, np.float64)
    size = len(points)
    table = _table(points, metric)
    total, weights = 0.0, {}

    def add(i, j, weight):
        weights[i, j] = weights.get((i, j), 0.0) + weight

    for a in range(size):
        positives = [p for p in range(size) if _is_positive(labels, sources, a, p)]
        negatives = [n for n in range(size) if labels[n] != labels[a]]
        far = max((table[a][p] for p in positives), default=0.0)
        near = min((table[a][n] for n in negatives), default=max(table[a]))
        gap = far - near
        value = np.log1p(np.exp(gap)) if soft else max(gap + margin, 0.0)
        slope = 1.0 / (1.0 + np.exp(-gap)) if soft else float(gap + margin >= 0.0)
        total += value
        hardest = [p for p in positives if table[a][p] == far]
        for p in hardest:
            add(a, p, slope / len(hardest))
        for n, share in _share(table[a], [n for n in negatives if table[a][n] == near]).items():
            add(a, n, -slope * share)
    return total / size, _chain(points, weights, metric) / size


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
