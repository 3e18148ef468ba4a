"""The metric loss of a setting, as one function of labels, embeddings and source rows."""

from __future__ import annotations

import functools
from typing import Any, Callable

import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.losses import tfa_losses
from longtail_tf.losses.checks import check_name, check_number
from longtail_tf.losses.contrastive import multi_similarity_loss, supcon_loss
from longtail_tf.losses.memory import Memory
from longtail_tf.losses.prototype import PrototypeLoss
from longtail_tf.losses.triplet import check_settings, triplet_hard_loss, triplet_semihard_loss
from longtail_tf.settings.choices import MEMORY_LOSSES, METRIC_LOSSES


def metric_loss(
    name: str,
    *,
    margin: float,
    distance_metric: str = "L2",
    temperature: float = 0.1,
    num_classes: int | None = None,
    embedding_dim: int | None = None,
) -> Callable[..., tf.Tensor]:
    """Returns a metric loss with its settings filled in.

    All hold [B, B] temporaries only, except tfa_lifted_struct (O(B^3)). Slots of one image are
    masked in all but tfa_npairs and tfa_lifted_struct, which tensorflow-addons wrote without.

    Args:
      name: one of METRIC_LOSSES.
      margin: of the triplet losses (not the soft one), tfa_lifted_struct and tfa_contrastive; at
        least 0, in units of the distance.
      distance_metric: "L2", "squared-L2" or "angular": of the triplet losses and tfa_contrastive.
        The others fix theirs: cosines, or L2 in tfa_lifted_struct, which takes no other.
      temperature: divides the cosines in supcon, prototype and tfa_npairs; above 0.
      num_classes: C, for prototype, which keeps one moving prototype a class.
      embedding_dim: D, for prototype.

    Returns:
      Function (labels int [B], embeddings float [B, D], source_rows int [B] or None) -> float32
      scalar, computed in float32 from embeddings of any precision. Those of MEMORY_LOSSES also take
      `memory`, a `Memory` of earlier batches.

    Raises:
      UserError: an unknown name, or a setting out of range.
    """
    check_name(name, METRIC_LOSSES, "metric_loss")
    check_settings(margin, distance_metric)
    check_number(temperature, "temperature", minimum=0.0, exclusive=True)
    if name == "tfa_lifted_struct" and distance_metric != "L2":
        raise UserError(
            f"distance_metric={distance_metric!r} was given with metric_loss='tfa_lifted_struct', "
            "which measures L2 only: choose L2, or another metric_loss."
        )
    triplet: dict[str, Any] = {"margin": margin, "distance_metric": distance_metric}
    make: dict[str, Callable[[], Callable]] = {
        "triplet_semihard": lambda: functools.partial(triplet_semihard_loss, **triplet),
        "triplet_hard": lambda: functools.partial(triplet_hard_loss, **triplet),
        "triplet_hard_soft": lambda: functools.partial(triplet_hard_loss, soft=True, **triplet),
        "supcon": lambda: functools.partial(supcon_loss, temperature=temperature),
        "multi_similarity": lambda: multi_similarity_loss,
        "prototype": lambda: PrototypeLoss(
            num_classes or 0, embedding_dim or 0, temperature=temperature
        ),
    }
    if name in make:
        base = make[name]()
    else:
        base = tfa_losses.tfa_loss(name, temperature=temperature, **triplet)
    if isinstance(base, PrototypeLoss):  # it has state, which checkpoints must find
        return base

    def loss(
        labels: Any, embeddings: Any, source_rows: Any = None, memory: Memory | None = None
    ) -> tf.Tensor:
        points = tf.convert_to_tensor(embeddings)
        if points.dtype.is_floating:  # or the loss says what is wrong with them
            points = tf.cast(points, tf.float32)
        if memory is None:
            return base(labels, points, source_rows=source_rows)
        if name not in MEMORY_LOSSES:
            raise UserError(
                f"metric_loss={name!r} takes no pairs from a memory: choose one of "
                f"{', '.join(MEMORY_LOSSES)}, or give no memory."
            )
        return base(labels, points, source_rows=source_rows, memory=memory)

    return loss
