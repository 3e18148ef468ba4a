"""From embeddings to a fitted `Recognizer`, and from a `Recognizer` to the accuracy table.

All rules come from one embedding pass. Whatever has to be chosen (gate weight, k, when to stop the
linear fit, temperatures, threshold) is chosen on validation images, never on the test set.

| rule | scores a class by |
|---|---|
| ncm | cosine to its prototype |
| knn | votes of the nearest training images, nearer ones weighing more, evened out by class size |
| gated | ncm; if the best prototype is a head class, the head classifier re-ranks the head |
| linear | a balanced linear classifier refitted on the frozen embeddings |
| lda | distance to its mean, by the covariance within classes that all share |
| head_only | the head classifier alone; it cannot name a tail class |
| gated_lda | lda; if its best class is a head class, lda and the head classifier together |
| head_adjusted, tau_norm, lws, crt | a head classifier of every class, corrected |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.recognition.all_class_rules import fit_all_class_rules
from longtail_tf.recognition.discriminant import (
    LONG,
    SHRINKAGE,
    choose_shrinkage,
    fit_discriminant,
)
from longtail_tf.recognition.embedded import Embedded, checked_embedded
from longtail_tf.recognition.linear_refit import MAX_CELLS, fit_linear
from longtail_tf.recognition.prototypes import class_counts, class_prototypes
from longtail_tf.recognition.recognizer import Predictions, Recognizer
from longtail_tf.recognition.rule_evaluation import (
    evaluate_rules,
    predict_rules,
    prediction_metrics,
    unknown_metrics,
)
from longtail_tf.recognition.rule_selection import (
    DEFAULT_TEMPERATURE,
    calibrate,
    choose_gate_weight,
    choose_votes,
    rule_temperature,
)
from longtail_tf.settings.choices import PARTS, RULES

__all__ = [
    "RULES",
    "Embedded",
    "Predictions",
    "Recognizer",
    "evaluate_rules",
    "fit_recognizer",
    "predict_rules",
    "prediction_metrics",
    "unknown_metrics",
]


def fit_recognizer(
    train: Embedded,
    val: Embedded | None,
    *,
    num_classes: int,
    num_head: int,
    seed: int,
    rules: Sequence[str] = RULES,
    k: int | None = None,
    false_accept_rate: float = 0.05,
    head_norms: np.ndarray | None = None,
    prior_corrected: str = "",
    head_counts: np.ndarray | None = None,
    log: Callable[[str], None] | None = None,
) -> Recognizer:
    """Fits every rule on one embedding pass.

    Args:
      train: un-augmented training images; every class has at least one.
      val: validation images, or None: then the gate stays shut (w = 0; `gated_lda`, which has no w,
        takes both opinions as they are), k is 5, temperatures are not fitted and there is no
        rejection threshold.
      num_classes: C.
      num_head: H; head classes are ids 0..H-1.
      seed: of the linear fit.
      rules: those to fit; `linear` is left out, with a log line, where images x classes make it
        take minutes.
      k: neighbours of `knn`; None chooses it, with the vote normalisation, on validation.
      false_accept_rate: share of unknown images that the rejection threshold lets through.
      head_norms: float [H], lengths of the head classifier's class vectors; for `tau_norm`.
      head_counts: images of each class as the head classifier met them in training, [H]; None: the
        training counts. For `head_adjusted`.
      prior_corrected: by what the head classifier is corrected for the training counts, in words;
        then `head_adjusted` is left out.
      log: receives one line for each thing chosen.
    """
    say = log or (lambda line: None)
    sizes = {"num_classes": num_classes, "num_head": num_head}
    train = checked_embedded(train, name="training", **sizes)
    if val is not None:
        val = checked_embedded(val, name="validation", **sizes) if len(val.labels) else None
    unknown_rules = [rule for rule in rules if rule not in RULES]
    if unknown_rules:
        raise UserError(
            f"inference rule {unknown_rules[0]!r} is not known; choose from {', '.join(RULES)}"
        )
    rules = [*rules, *(part for rule in rules for part in PARTS.get(rule, ()))]
    fields: dict[str, Any] = {
        "num_classes": num_classes,
        "num_head": num_head,
        "class_counts": class_counts(train.labels, num_classes),
        "prototypes": class_prototypes(train.embeddings, train.labels, num_classes),
    }
    plain = Recognizer(**fields)
    if "gated" in rules and val is not None and val.head_logits is not None and num_head:
        fields["gate_weight"], accuracy = choose_gate_weight(
            plain.score_chunks("ncm", val.embeddings), val.head_logits, val.labels
        )
        say(f"gate weight {fields['gate_weight']:g}: validation balanced accuracy {accuracy:.1%}")
    if "knn" in rules:
        fields.update(gallery=train.embeddings, gallery_labels=train.labels.astype(np.int32))
        fields["neighbours"], fields["vote_power"] = choose_votes(
            train.embeddings,
            train.labels,
            fields["class_counts"],
            val_embeddings=None if val is None else val.embeddings,
            val_labels=None if val is None else val.labels,
            k=k,
        )
        say(f"knn: k = {fields['neighbours']}, vote power {fields['vote_power']:g}")
    if "linear" in rules:
        if len(train.labels) * num_classes <= MAX_CELLS:
            sharpness = DEFAULT_TEMPERATURE
            if val is not None:
                sharpness = rule_temperature(plain, "ncm", val, seed=seed)
            fit = fit_linear(
                train.embeddings,
                train.labels,
                fields["prototypes"],
                scale=1.0 / sharpness,
                seed=seed,
                val_embeddings=None if val is None else val.embeddings,
                val_labels=None if val is None else val.labels,
            )
            fields.update(linear_kernel=fit.kernel, linear_bias=fit.bias)
            say(f"linear: best after {fit.epochs} passes")
        else:
            say(
                f"linear: not fitted, {len(train.labels)} images x {num_classes} classes would "
                "take minutes a pass"
            )
    if "lda" in rules:
        shrinkage = SHRINKAGE
        if train.embeddings.shape[1] > LONG:
            shrinkage = choose_shrinkage(train.embeddings, train.labels, num_classes, seed=seed)
            say(f"lda: shrinkage {shrinkage:g}, by cross-validation")
        lda = fit_discriminant(train.embeddings, train.labels, num_classes, shrinkage=shrinkage)
        fields.update({f"lda_{name}": array for name, array in lda._asdict().items()})
    if num_head == num_classes:
        fields.update(
            fit_all_class_rules(
                train,
                val,
                class_counts=fields["class_counts"] if head_counts is None else head_counts,
                head_norms=head_norms,
                prior_corrected=prior_corrected,
                seed=seed,
                rules=rules,
                say=say,
            )
        )
    return calibrate(
        Recognizer(**fields),
        val,
        rules=rules,
        seed=seed,
        false_accept_rate=false_accept_rate,
        log=say,
    )
