"""Names of the losses that settings choose from; importable without TensorFlow."""

from __future__ import annotations

from longtail_tf.errors import UserError

DISTANCE_METRICS = ("L2", "squared-L2", "angular")

METRIC_LOSSES = (
    "triplet_semihard",
    "triplet_hard",
    "triplet_hard_soft",
    "supcon",
    "multi_similarity",
    "prototype",
    "tfa_npairs",
    "tfa_lifted_struct",
    "tfa_contrastive",
)

# Of the metric losses, those that can take further pairs from a cross-batch memory.
MEMORY_LOSSES = (
    "triplet_semihard",
    "triplet_hard",
    "triplet_hard_soft",
    "supcon",
    "multi_similarity",
)

CLASSIFICATION_LOSSES = (
    "cross_entropy",
    "logit_adjusted",
    "class_balanced",
    "focal",
    "ldam",
)

# Of the classification losses, those that make up for a class's number of images.
BALANCING_LOSSES = ("logit_adjusted", "class_balanced")

# Of the classification losses, those for which evenly smoothed labels make sense.
SMOOTHABLE_LOSSES = ("cross_entropy", "class_balanced")


def check_name(name: object, choices: tuple, setting: str) -> str:
    """Returns `name` if it is one of `choices`.

    Raises:
      UserError: it is not; the sentence lists the choices.
    """
    if not isinstance(name, str) or name not in choices:
        raise UserError(f"{setting}={name!r} is unknown: choose one of {', '.join(choices)}.")
    return name


def check_number(value: object, setting: str, *, minimum: float, exclusive: bool = False) -> float:
    """Returns `value` as a float if it is a finite number not below (or above) `minimum`.

    Raises:
      UserError: it is not a number in range.
    """
    relation = "above" if exclusive else "of at least"
    sentence = f"{setting}={value!r} was given: give a finite number {relation} {minimum:g}."
    if isinstance(value, bool):
        raise UserError(sentence)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserError(sentence) from error
    if not minimum <= number < float("inf") or (exclusive and number == minimum):
        raise UserError(sentence)
    return number
