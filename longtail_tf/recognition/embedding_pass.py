"""One pass of a trained network over a split: embeddings, head logits, labels.

Before it, `refresh_batch_norm` recomputes the batch-normalisation statistics: the two streams are
sampled differently, so the running averages left by training fit neither of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from longtail_tf.datasets import Split
from longtail_tf.images.pipeline import evaluation_batches, plain_errors
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.recognition.fit import Embedded
from longtail_tf.sampling import PKSampler

EMBED_BATCH_SIZE = 256
SMALL_PX, PHOTO_BATCH_SIZE = 64, 64  # 256 photos of 224 px would take some GB in a deep network
REFRESH_BATCHES = (20, 100)  # least and most


def embed_split(
    model: TwoStreamModel,
    split: Split,
    *,
    image_size: int,
    channels: int,
    rows: np.ndarray | None = None,
    max_bad_share: float | None = None,
) -> Embedded:
    """Embeds every image of `split` (or of `rows`), un-augmented, in row order.

    Args:
      model: the network.
      split: the images.
      image_size: side of the images the network sees, px.
      channels: 1 or 3.
      rows: int [M], these only.
      max_bad_share: leave out images that cannot be read, up to this share of the split; None:
        such an image is an error, as a test set must be read whole.

    Returns:
      Embeddings float32 [N, D] of unit length, head logits [N, H] or None, labels int32 [N].
    """
    return embed_batches(
        model,
        evaluation_batches(
            split,
            image_size=image_size,
            channels=channels,
            batch_size=EMBED_BATCH_SIZE if image_size <= SMALL_PX else PHOTO_BATCH_SIZE,
            rows=rows,
            skip_bad=max_bad_share is not None,
            max_bad_share=max_bad_share or 0.0,
        ),
    )


def embed_batches(model: TwoStreamModel, batches: Iterable[tuple[Any, Any]]) -> Embedded:
    """As `embed_split`, of batches (inputs, labels), whatever the network takes as input."""
    embeddings, logits, labels = [], [], []
    with plain_errors():
        for inputs, batch_labels in batches:
            batch_embeddings, batch_logits = model.embed_images(inputs)
            embeddings.append(batch_embeddings.numpy())
            labels.append(np.asarray(batch_labels))
            if batch_logits is not None:
                logits.append(batch_logits.numpy())
    return Embedded(
        np.concatenate(embeddings),
        np.concatenate(logits) if logits else None,
        np.concatenate(labels).astype(np.int32),
    )


def refresh_batch_norm(
    model: TwoStreamModel,
    draw: Callable[[PKSampler], tf.data.Dataset],
    labels: np.ndarray,
    *,
    seed: int,
) -> dict[str, Any]:
    """Recomputes batch-norm statistics over class-balanced, un-augmented training batches.

    The average over batches is exact and cumulative (momentum i / (i + 1) in batch i), so nothing
    of the running averages is left. What is frozen, or keeps its norms,
    keeps its statistics. At most about one pass
    over the images, or over the classes, is made.

    Args:
      model: the network.
      draw: sampler -> endless batches of (inputs, labels, rows).
      labels: int [N] of the training images.
      seed: of the sampling.

    Returns:
      A record for evaluation.json: batches and images used.
    """
    kept = set(map(id, _batch_norms(model.embedder) if model.keep_norms else ()))
    norms = [norm for norm in _batch_norms(model) if norm.trainable and id(norm) not in kept]
    num_classes = len(np.unique(labels))
    classes_per_batch = min(64, num_classes)
    sampler = PKSampler(
        labels,
        classes_per_batch=classes_per_batch,
        images_per_class=max(2, EMBED_BATCH_SIZE // classes_per_batch),
        seed=seed,
    )
    least, most = REFRESH_BATCHES
    every_class = -(-num_classes // classes_per_batch)
    every_image = -(-len(labels) // sampler.batch_size)
    num_batches = min(most, max(least, every_class), max(every_class, every_image))
    num_batches = num_batches if norms else 0
    momenta = [norm.momentum for norm in norms]
    with plain_errors():
        for count, batch in enumerate(draw(sampler).take(num_batches) if norms else ()):
            for norm in norms:
                norm.momentum = count / (count + 1)
            # Eager: a traced function would keep the momentum of its first call.
            model(batch[0], training=True)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return {"batches": num_batches, "images": num_batches * sampler.batch_size}


def prototype_rows(labels: np.ndarray, *, per_class: int, seed: int) -> np.ndarray:
    """At most `per_class` rows of each class, int64, ascending: a cheap stand-in for all rows."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[by_class]
    starts = np.searchsorted(sorted_labels, sorted_labels, side="left")
    return np.sort(by_class[np.arange(len(labels)) - starts < per_class]).astype(np.int64)


def _batch_norms(layer: Any) -> Iterator[tf.keras.layers.BatchNormalization]:
    if isinstance(layer, tf.keras.layers.BatchNormalization):
        yield layer
    for part in getattr(layer, "layers", []):
        yield from _batch_norms(part)
