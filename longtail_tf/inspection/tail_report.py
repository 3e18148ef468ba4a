"""The numbers of a long tail that decide how to train on it. Pure functions of the class counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.head_set import head_row, head_table, select_head
from longtail_tf.metrics.shot_bands import BANDS, FEW_BELOW, band_ids
from longtail_tf.sampling.checks import checked_pk_settings, checked_whole
from longtail_tf.sampling.facts import pk_facts

_DEFAULT_CLASSES_PER_BATCH = 16
_HEAD_MEMORY_BYTES = 1 << 30
_REPEATS_WORTH_SAYING = 0.1
_CURVE_POINTS = 64


def tail_facts(
    class_counts: np.ndarray,
    *,
    name: str = "data",
    splits: Mapping[str, int | None] | None = None,
    classes_per_batch: int | None = None,
    images_per_class: int = 4,
    head_batch_size: int = 64,
    embedding_dim: int = 128,
) -> dict[str, Any]:
    """Everything `inspect` says, ready for a json.

    Args:
        class_counts: training images of each class [C], each at least 1, in any order.
        name: what to call the data.
        splits: images of each split by its name, None where the split is missing.
        classes_per_batch: P; 16, or every class of a smaller set, by default.
        images_per_class: K.
        head_batch_size: images of a head batch.
        embedding_dim: numbers in an embedding.

    Returns:
        `counts` (largest, median, smallest, imbalance, classes that hold half of the images),
        `bands`, `curve`, `whole_stream` (see `sampling_facts.pk_facts`), `head_settings` (see
        `head_set.head_table`), `recommended_head` and `advice`, sentences on what stands out.

    Raises:
        UserError: batch settings that do not fit the number of classes.
    """
    counts = np.sort(np.asarray(class_counts).astype(np.int64))[::-1]
    p = min(_DEFAULT_CLASSES_PER_BATCH, len(counts))
    p = p if classes_per_batch is None else classes_per_batch
    checked_pk_settings(p, images_per_class, 0, len(counts))
    checked_whole("head_batch_size", head_batch_size, least=1)
    checked_whole("embedding_dim", embedding_dim, least=1)
    costs = {"embedding_dim": embedding_dim, "head_batch_size": head_batch_size}
    seen = np.cumsum(counts)
    facts: dict[str, Any] = {
        "name": name,
        "classes": len(counts),
        "images": int(seen[-1]),
        "splits": dict(splits or {"train": int(seen[-1])}),
        "counts": {
            "largest": int(counts[0]),
            "median": float(np.median(counts)),
            "mean": float(counts.mean()),
            "smallest": int(counts[-1]),
            "imbalance": float(counts[0] / counts[-1]),
            "classes_with_half_the_images": int(np.searchsorted(seen * 2, seen[-1]) + 1),
        },
        "bands": _bands(counts),
        "curve": _curve(counts, seen),
        "whole_stream": pk_facts(counts, classes_per_batch=p, images_per_class=images_per_class),
        "head_settings": head_table(counts, **costs),
        "full_head": head_row(counts, np.arange(len(counts)), **costs),
        "recommended_head": recommended_head(counts, **costs),
        **costs,
    }
    facts["advice"] = _advice(facts)
    return facts


def recommended_head(
    class_counts: np.ndarray, *, embedding_dim: int, head_batch_size: int
) -> dict[str, Any] | None:
    """The setting to start from, with the facts of its `head_row` and the steps of one pass.

    The rule: every class that is not few-shot (more than 20 images; any number where no class has
    more), as a softmax learns little from fewer. If those are more than half of the classes, or
    their classifier takes more than 1 GiB in training, min_count rises until they are not.

    Returns:
        None when all classes have equally many images, as then there is no tail to leave out.
    """
    counts = np.asarray(class_counts)
    falling = np.sort(counts)[::-1]
    largest = int(falling[0])
    everything = head_row(
        counts, np.arange(len(counts)), embedding_dim=embedding_dim, head_batch_size=head_batch_size
    )
    bytes_a_class = everything["training_bytes"] / len(counts)
    most = min(len(counts) // 2, max(1, int(_HEAD_MEMORY_BYTES / bytes_a_class)))
    cut = max(FEW_BELOW if largest > FEW_BELOW else 0, int(falling[most]))
    try:
        # Where the largest classes tie across the limit, they are the smallest head there is.
        cut = min(cut, largest - 1)
        head = select_head(counts, min_count=cut)
    except UserError:
        return None
    facts = head_row(counts, head, embedding_dim=embedding_dim, head_batch_size=head_batch_size)
    return {
        "rule": "min_count",
        "setting": cut,
        "flag": f"--head_min_count={cut}",
        **facts,
        "steps_per_image_pass": -(-facts["images"] // head_batch_size),
    }


def _bands(counts: np.ndarray) -> dict[str, dict[str, Any]]:
    ids = band_ids(counts)
    return {
        band: {
            "classes": int((ids == i).sum()),
            "class_share": float((ids == i).mean()),
            "images": int(counts[ids == i].sum()),
            "image_share": float(counts[ids == i].sum() / counts.sum()),
        }
        for i, band in enumerate(BANDS)
    }


def _curve(counts: np.ndarray, seen: np.ndarray) -> list[dict[str, Any]]:
    """At most 64 points of the falling count curve, closer together at the head."""
    ranks = np.unique(np.geomspace(1, len(counts), _CURVE_POINTS).round().astype(int))
    return [
        {"rank": int(r), "images": int(counts[r - 1]), "image_share": float(seen[r - 1] / seen[-1])}
        for r in ranks
    ]


def _advice(facts: dict[str, Any]) -> list[str]:
    """Sentences on what stands out, each with its remedy."""
    whole, counts = facts["whole_stream"], facts["counts"]
    no_head = facts["recommended_head"] is None
    advice = []
    if no_head:
        advice.append(
            "All classes have equally many images: there is no tail, so no head rule can cut one. "
            "An ordinary classifier over all classes (--head_all) fits this data."
        )
    elif not facts["bands"]["few"]["classes"]:
        advice.append(
            "No class is few-shot (fewer than 20 images): compare with an ordinary classifier over "
            "all classes (--head_all) before you keep two streams."
        )
    if whole["repeat_share"] >= _REPEATS_WORTH_SAYING:
        k = whole["images_per_class"]
        smaller = f"A smaller --images_per_class than {k}, or " if k > 2 else ""
        power = "--class_power=0.5, which draws larger classes more often, lowers both."
        repeats, pairs = 100 * whole["repeat_share"], 100 * whole["same_image_pair_share"]
        advice.append(
            f"{repeats:.0f} % of the places in a whole batch repeat an image of that batch. A "
            "repeat is augmented differently, but teaches less than another image would; "
            f"{pairs:.0f} % of the positive pairs are one image twice, which the loss leaves out. "
            f"{smaller}{power}"
        )
    if whole["singletons"]:
        one = whole["singletons"] == 1
        advice.append(
            f"{whole['singletons']:,} {'class has' if one else 'classes have'} one training image: "
            "no positive pair, so to the metric loss negatives only, and recognised from that one "
            "image. A second image there is worth more than many in the head."
        )
    if whole["steps_until_every_image"] > 10 * whole["steps_per_image_pass"]:
        advice.append(
            "The whole stream draws all classes alike, so it takes "
            f"{whole['steps_until_every_image']:,} steps to show every image of the largest class "
            f"({counts['largest']:,} images). The head stream is there for those."
        )
    if "test" in facts["splits"] and not facts["splits"]["test"]:
        advice.append(
            "There is no test split, so nothing tells the accuracy on unseen images: hold some out."
        )
    return advice
