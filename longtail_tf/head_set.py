"""Which classes are the head: three rules, and what each of their settings would cost.

Whatever the rule, every head class has strictly more images than every class outside the head. So
classes that tie at the cut stay out together: a rule that asks for 20 classes may give 18.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.head_refusals import (
    checked_counts,
    checked_ratio,
    checked_whole,
    every_class_refusal,
    min_count_refusal,
    no_class_refusal,
    ratio_size,
)

_BYTES_FLOAT32 = 4
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_ROWS_A_RULE = 6


def select_head(
    class_counts: np.ndarray,
    *,
    min_count: int | None = None,
    ratio: float | None = None,
    num_classes: int | None = None,
) -> np.ndarray:
    """Returns the ids of the head classes under exactly one rule.

    Args:
        class_counts: training images of each class, whole numbers [C], in any order.
        min_count: classes with more than this many images, at least 0.
        ratio: the floor(ratio * C) classes with the most images, 0 < ratio < 1.
        num_classes: this many classes with the most images, at least 1.

    Returns:
        int64 [H], positions in `class_counts` in rising order; 0 < H < C, and each of them has
        strictly more images than each class left out.

    Raises:
        UserError: no rule or several, a setting or counts out of range, or a setting that leaves
            no head class or takes every class; the message names the counts at the cut and the
            nearest setting that works.
    """
    counts = checked_counts(class_counts)
    rules = {"min_count": min_count, "ratio": ratio, "num_classes": num_classes}
    given = {name: value for name, value in rules.items() if value is not None}
    if len(given) != 1:
        came = " and ".join(f"{name}={value}" for name, value in given.items()) or "no head rule"
        raise UserError(
            f"{came} came, but the head set needs exactly one of min_count (more than so many "
            "images), ratio (top share of the classes) and num_classes (top so many classes); "
            "set one."
        )
    if min_count is not None:
        cut = checked_whole("min_count", min_count, least=0)
        head = np.flatnonzero(counts > cut)
        if not 0 < len(head) < len(counts):
            raise min_count_refusal(counts, cut, len(head))
        return head
    if ratio is not None:
        size = ratio_size(checked_ratio(ratio), len(counts))
        setting = f"ratio={ratio} ({size} of {len(counts)} classes)"
    else:
        size = checked_whole("num_classes", num_classes, least=1)
        setting = f"num_classes={size}"
    if size >= len(counts):
        raise every_class_refusal(counts, setting)
    # The largest count that stays outside; whoever has no more than that stays outside with it.
    cut = int(np.partition(counts, len(counts) - 1 - size)[len(counts) - 1 - size])
    head = np.flatnonzero(counts > cut)
    if not len(head):
        raise no_class_refusal(counts, setting, by_ratio=ratio is not None)
    return head


def head_row(
    class_counts: np.ndarray, head: np.ndarray, *, embedding_dim: int, head_batch_size: int = 128
) -> dict[str, Any]:
    """What a head set holds and what its classifier costs, beside a softmax over all classes.

    Bytes are float32. A training step holds the classifier's weights, their gradient and one
    optimiser slot [H, D] each, and the logits and their gradient [B, H] each.
    """
    counts = np.asarray(class_counts)

    def training_bytes(classes: int) -> int:
        numbers_held = classes * (3 * embedding_dim + 2 * head_batch_size)
        return int(numbers_held * _BYTES_FLOAT32)

    return {
        "head_classes": len(head),
        "class_share": len(head) / len(counts),
        "images": int(counts[head].sum()),
        "image_share": float(counts[head].sum() / counts.sum()),
        "least_images_in_head": int(counts[head].min()),
        "classifier_bytes": len(head) * embedding_dim * _BYTES_FLOAT32,
        "training_bytes": training_bytes(len(head)),
        "full_classifier_bytes": len(counts) * embedding_dim * _BYTES_FLOAT32,
        "full_training_bytes": training_bytes(len(counts)),
    }


def head_table(
    class_counts: np.ndarray, embedding_dim: int, *, head_batch_size: int = 128
) -> list[dict[str, Any]]:
    """A row for several settings of each rule: `rule`, `setting` and the facts of `head_row`.

    At most six settings of a rule, evenly spread. Settings that would be refused are left out, and
    so is one whose head is that of the setting before it; the table is empty when all classes have
    equally many images.
    """
    counts = checked_counts(class_counts)
    steps = [s * 10**e for e in range(len(str(int(counts.max())))) for s in (1, 2, 5)]
    sizes = [s * 10**e for e in range(len(str(len(counts)))) for s in (1, 2, 5)]
    table = []
    for rule, settings in (("min_count", steps), ("ratio", _RATIOS), ("num_classes", sizes)):
        before, rows = 0, []
        for setting in settings:
            try:
                head = select_head(counts, **{rule: setting})  # type: ignore[arg-type]
            except UserError:
                continue
            if len(head) != before:
                facts = head_row(
                    counts, head, embedding_dim=embedding_dim, head_batch_size=head_batch_size
                )
                rows.append({"rule": rule, "setting": setting, **facts})
            before = len(head)
        kept = np.linspace(0, len(rows) - 1, min(_ROWS_A_RULE, len(rows))).round().astype(int)
        table += [rows[i] for i in kept]
    return table
