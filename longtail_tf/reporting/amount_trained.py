"""Section on what training bought: each amount of it, tried on held-out images before the run."""

from __future__ import annotations

from typing import Any

from longtail_tf.metrics.shot_bands import BANDS
from longtail_tf.reporting.html import Html, counted, element, percent, points, table
from longtail_tf.reporting.page import Missing, Section
from longtail_tf.reporting.run_data import RunData

_TITLE = "What training bought"
_NAMES = {"none": "nothing: the features as they are", "head": "the embedding"}


def amount_trained_section(run: RunData) -> Section | Missing | None:
    """A row an amount of training: balanced accuracy, by band, against nothing trained.

    None for a network from random weights, where there is nothing to compare with.
    """
    trials = (run.start or {}).get("trials") or []
    if not trials:
        if run.setting("weights") in (None, "", "none"):
            return None
        return Missing(_TITLE, "No amount of training was tried before this run (no start.json).")
    chosen = (run.start or {}).get("chosen")
    images = (run.start or {}).get("held_out_images", 0)
    words = [
        element(
            "p",
            f"Measured on {counted(images, 'training image')} held out for this alone, before the "
            "run itself: they come from the same source as the others, so the figures are higher "
            "than on the test set; their order is what counts.",
        )
    ]
    if chosen is not None:
        words.append(
            element(
                "p",
                f"More training had to win by more than one standard error. Chosen: "
                f"{_name(chosen)}.",
            )
        )
    rows = [_row(trial, trials[0], chosen) for trial in trials]
    body = table(
        ("trained", "read by", "balanced", "against nothing", *BANDS),
        rows,
        caption="Accuracy on held-out images by amount of training",
        text_columns=2,
    )
    return Section("amount", _TITLE, words, [body])


def _row(trial: dict[str, Any], first: dict[str, Any], chosen: str | None) -> list[Any]:
    name = _name(str(trial.get("train_from")))
    bands = trial.get("bands") or {}
    gain = None if trial is first else points(trial["balanced"] - first["balanced"])
    return [
        element("b", name) if trial.get("train_from") == chosen else name,
        element("code", str(trial.get("rule"))),
        percent(trial.get("balanced")),
        gain,
        *(percent(bands.get(band)) for band in BANDS),
    ]


def _name(train_from: str) -> Html | str:
    return _NAMES.get(train_from, f"the network from {train_from} up")
