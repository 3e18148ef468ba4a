"""Classifies encoded images with a trained run, through the same preprocessing as evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from longtail_tf.preprocess import preprocess_many
from longtail_tf.trained_run import TrainedRun

BATCH_SIZE = 64


def classify_bytes(
    run: TrainedRun, images: Sequence[bytes], *, rule: str, k_top: int, unknown: bool
) -> list[dict[str, Any]]:
    """Names the classes of encoded images.

    Args:
      run: the trained run.
      images: contents of JPEG, PNG, BMP or GIF files.
      rule: inference rule.
      k_top: candidates an image.
      unknown: whether an image that is near no class is flagged.

    Returns:
      For each image `classes` (dicts of name, class_id, score: probability 0..1; best first) and
      `unknown`; or `error` for an image that cannot be decoded.

    Raises:
      UserError: a rule that was not fitted, or no threshold for `unknown`.
    """
    answers = []
    for start in range(0, len(images), BATCH_SIZE):
        answers += _classify_batch(run, images[start : start + BATCH_SIZE], rule, k_top, unknown)
    return answers


def _classify_batch(
    run: TrainedRun, images: Sequence[bytes], rule: str, k_top: int, unknown: bool
) -> list[dict[str, Any]]:
    pixels, valid = preprocess_many(
        tf.constant(list(images), tf.string),
        image_size=run.config.image_size or 0,
        channels=run.channels,
    )
    embeddings, logits = run.model.embed_with_logits(pixels)
    embeddings = embeddings.numpy()
    found = run.recognizer.predict(
        rule, embeddings, None if logits is None else logits.numpy(), k=k_top
    )
    is_unknown = run.recognizer.is_unknown(embeddings) if unknown else np.zeros(len(images), bool)
    return [
        {
            "classes": [
                {"name": run.class_names[class_id], "class_id": int(class_id), "score": float(p)}
                for class_id, p in zip(found.class_ids[i], found.probabilities[i])
            ],
            "unknown": bool(is_unknown[i]),
        }
        if valid[i]
        else {"error": "not a whole JPEG, PNG, BMP or GIF image"}
        for i in range(len(images))
    ]
