"""Checks of the arguments that losses take; importable without TensorFlow."""

from __future__ import annotations

from longtail_tf.errors import UserError


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
