"""Named methods: each a plain table of values for other settings, and nothing else.

A setting that the user gives, as a flag, in a flagfile or as an argument of `Config`, wins over the
method's. A head rule given by the user replaces the method's. No value here is fitted to one data
set: each is its paper's, or the default.

    Config(method="ldam_drw", data="digits_lt", run_dir="runs/x")
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

from longtail_tf.errors import UserError

HEAD_RULES = ("head_min_count", "head_ratio", "head_num_classes", "head_all", "head_auto")

# What a training is where nothing of it is said: neither a method nor any of these.
USUAL_METHOD = "longtail_plus"
_SAY_WHAT_IS_TRAINED = (
    *HEAD_RULES,
    "schedule",
    "classification_loss",
    "metric_loss",
    "head_sampling",
    "classify_whole",
    "compare_head",
)

# Values that are derived from the data set before a training begins.
_OF_THE_DATA = (("head_auto", True), ("images_per_class", 0))

_ALL_CLASSES: Mapping[str, Any] = {
    "head_all": True,
    "classification_loss": "cross_entropy",
    "metric_loss": "none",
    "head_sampling": "random",
    "inference_rule": "head_only",
}
_LONGTAIL: Mapping[str, Any] = {
    "schedule": "alternate",
    "classification_loss": "cross_entropy",
    "head_sampling": "random",
    "metric_loss": "triplet_semihard",
    "unit_features": True,
    "neck": True,
    "inference_rule": "auto",
}

METHODS: Mapping[str, Mapping[str, Any]] = {
    # Plain softmax cross entropy over all classes.
    "ce": _ALL_CLASSES,
    # Menon 2021 (arXiv:2007.07314), section 4.1: the prior taken off the trained logits.
    "posthoc_adjusted": {**_ALL_CLASSES, "inference_rule": "head_adjusted"},
    # Menon 2021, equation 10; Balanced Softmax (Ren 2020, arXiv:2007.10740) is the same loss.
    "logit_adjusted": {**_ALL_CLASSES, "classification_loss": "logit_adjusted"},
    # Every class drawn alike (Kang 2020, arXiv:1910.09217, section 4: q = 0).
    "balanced_sampling": {**_ALL_CLASSES, "head_sampling": "balanced"},
    # Cui 2019 (arXiv:1901.05555): weights by the effective number of images.
    "class_balanced": {**_ALL_CLASSES, "classification_loss": "class_balanced"},
    # Lin 2017 (arXiv:1708.02002), gamma 2.
    "focal": {**_ALL_CLASSES, "classification_loss": "focal"},
    # Cao 2019 (arXiv:1906.07413): margins, and weights from epoch 160 of 200 on.
    "ldam_drw": {
        **_ALL_CLASSES,
        "classification_loss": "ldam",
        "cosine_head": True,
        "reweight_from": 0.8,
    },
    # Kang 2020: one training by cross entropy, four ways to name a class afterwards.
    "crt": {**_ALL_CLASSES, "inference_rule": "crt"},
    "tau_norm": {**_ALL_CLASSES, "inference_rule": "tau_norm"},
    "lws": {**_ALL_CLASSES, "inference_rule": "lws"},
    "ncm": {**_ALL_CLASSES, "inference_rule": "ncm"},
    # Classification of the head alone; the tail is named by its means.
    "head_ce": {
        "classification_loss": "cross_entropy",
        "head_sampling": "random",
        "metric_loss": "none",
        "inference_rule": "lda",
    },
    # FaceNet's loss alone (Schroff 2015, arXiv:1503.03832, section 3.2).
    "triplet": {
        "classification_loss": "none",
        "metric_loss": "triplet_semihard",
        "unit_features": True,
        "inference_rule": "ncm",
    },
    # The re-identification recipe (Luo 2019, arXiv:1903.07071): hardest triplets on plain features
    # before the neck, smoothed cross entropy of all classes after it, in one update.
    "ce_triplet": {
        "head_all": True,
        "schedule": "joint",
        "classify_whole": True,
        "classification_loss": "cross_entropy",
        "label_smoothing": 0.1,
        "head_sampling": "random",
        "metric_loss": "triplet_hard",
        "margin": 0.3,
        "unit_features": False,
        "neck": True,
        "inference_rule": "ncm",
    },
    # Supervised contrastive loss (Khosla 2020, arXiv:2004.11362, temperature 0.1) beside cross
    # entropy of all classes (as Wang 2021, arXiv:2103.14267, Hybrid-SC, at a fixed weight).
    "supcon_ce": {
        "head_all": True,
        "schedule": "joint",
        "classify_whole": True,
        "classification_loss": "cross_entropy",
        "head_sampling": "random",
        "metric_loss": "supcon",
        "metric_temperature": 0.1,
        "unit_features": True,
        "neck": True,
        "inference_rule": "head_only",
    },
    # The method itself: cross entropy on the head, semi-hard triplets on everything, in turn.
    "longtail": _LONGTAIL,
    # The best recipe found so far (experiments/LOG.md): one forward pass in which both losses
    # see every image (the classification loss every one of a head class, and is adjusted to it).
    "longtail_plus": {
        "head_auto": True,
        "schedule": "joint",
        "classify_whole": True,
        "compare_head": True,
        "classification_loss": "logit_adjusted",
        "head_sampling": "random",
        "head_batch_size": 32,
        "metric_loss": "supcon",
        "metric_temperature": 0.1,
        "images_per_class": 0,
        "class_power": 1.0,
        "unit_features": True,
        "neck": True,
        "inference_rule": "auto",
    },
}

Settings = TypeVar("Settings")


def preset(name: str) -> dict[str, Any]:
    """The settings of a method.

    Raises:
      UserError: there is no such method.
    """
    if name not in METHODS:
        raise UserError(f"--method={name}: expected one of {', '.join(METHODS)}.")
    return dict(METHODS[name])


def filled_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` settings and, beside them, those of the method they name.

    Where they name none and say nothing of what is trained, that is `USUAL_METHOD`.

    Args:
      given: the settings that the user gave, by name; perhaps with `method`.
    """
    if given.get("method") is None:
        if any(name in given for name in ("method", *_SAY_WHAT_IS_TRAINED)):
            return dict(given)
        given = {**given, "method": USUAL_METHOD}
    settings = preset(given["method"])
    if any(rule in given for rule in HEAD_RULES):
        for rule in HEAD_RULES:
            settings.pop(rule, None)
    return {**settings, **given}


def taking_methods(settings_class: type[Settings]) -> type[Settings]:
    """Makes a dataclass fill in what its `method` says for arguments that are not given.

    Copies (`dataclasses.replace`), saved settings and config.flags give every argument, so they
    repeat what was trained whatever a method's table says by then.
    """
    plain = settings_class.__init__

    @functools.wraps(plain)
    def filling(self: Any, **given: Any) -> None:
        plain(self, **filled_in(given))

    settings_class.__init__ = filling  # type: ignore[method-assign]
    return settings_class


def departures(settings: Any) -> list[str]:
    """Flags by which `settings` differ from their method, each with the method's value in words.

    What a method leaves to the data set is a number by the time a run is under way, no departure.
    """
    if settings.method is None:
        return []
    table = METHODS[settings.method]
    return [
        f"--{name}={getattr(settings, name)} (the method: {value})"
        for name, value in table.items()
        if getattr(settings, name) != value and (name, value) not in _OF_THE_DATA
    ]
