"""Turns a trained network into a recogniser, and reads the test set once."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping
from typing import Any, Optional

import numpy as np
from absl import logging

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.files import write_atomically, write_csv, write_json
from longtail_tf.images.inputs import Inputs
from longtail_tf.metrics import per_class
from longtail_tf.metrics.retrieval import retrieval_metrics
from longtail_tf.metrics.verification import tar_at_far
from longtail_tf.models.cosine_head import class_norms
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.recognition.embedding_pass import (
    EMBED_BATCH_SIZE,
    embed_batches,
    embed_split,
    prototype_rows,
)
from longtail_tf.recognition.fit import (
    Embedded,
    Predictions,
    Recognizer,
    evaluate_rules,
    fit_recognizer,
    predict_rules,
    unknown_metrics,
)
from longtail_tf.recognition.rule_choice import RuleChoice, choose_rule
from longtail_tf.runs.folder import RunFolder, provenance
from longtail_tf.runs.streams import seen_counts
from longtail_tf.runs.trained_run import TrainedRun
from longtail_tf.settings.checks import ways_to_balance
from longtail_tf.settings.choices import AUTO_RULE

# Of the validations between train steps; the last evaluation takes everything.
QUICK_IMAGES_PER_CLASS = 20
QUICK_IMAGES = 10_000
QUICK_RULES = ("ncm", "gated", "lda", "head_only", "gated_lda")
SHOWN = ("all", "many", "medium", "few", "balanced", "macro_f1")
FALSE_ACCEPT_RATES = (0.01, 0.001)


def recognizer_from(
    model: TwoStreamModel,
    inputs: Inputs,
    index: DatasetIndex,
    config: ResolvedConfig,
    *,
    num_head: int,
) -> tuple[Recognizer, RuleChoice | None]:
    """Prototypes from the un-augmented training images; weights and thresholds from validation.

    Returns:
      The recogniser, and the rule that validation chooses where the settings leave it open.
    """
    train = embed_batches(model, inputs.plain_batches("train", batch_size=EMBED_BATCH_SIZE))
    val = None
    if index.val is not None:
        val = embed_batches(model, inputs.plain_batches("val", batch_size=EMBED_BATCH_SIZE))
    recognizer = fit_recognizer(
        train,
        val,
        num_classes=index.num_classes,
        num_head=num_head,
        seed=config.seed,
        false_accept_rate=config.false_accept_rate,
        head_norms=class_norms(model.head),
        head_counts=seen_counts(config, index.class_counts, num_head=num_head)
        if num_head == index.num_classes
        else None,
        prior_corrected=" and ".join(ways_to_balance(config)),
        log=lambda line: logging.info("  %s", line),
    )
    if config.inference_rule != AUTO_RULE:
        return recognizer, None
    choice = _chosen_by(recognizer, val)
    logging.info("  rule %s: %s", choice.rule, choice.reason)
    return recognizer, choice


def _chosen_by(recognizer: Recognizer, val: Embedded | None) -> RuleChoice:
    """The rule that reads the validation images best; by preference where there are none."""
    if val is None:
        has_logits = bool(recognizer.num_head)
        rules = recognizer.available_rules(has_head_logits=has_logits)
        labels, found = np.zeros(0, np.int64), {rule: np.zeros(0, np.int64) for rule in rules}
    else:
        labels = val.labels
        predictions = predict_rules(recognizer, val)
        found = {rule: each.class_ids[:, 0] for rule, each in predictions.items()}
    return choose_rule(labels, found, num_classes=recognizer.num_classes)


def quick_validation(
    model: TwoStreamModel,
    inputs: Inputs,
    index: DatasetIndex,
    *,
    num_head: int,
    step: int,
) -> dict[str, Any]:
    """Validation numbers between train steps, from a few training images of each class.

    The batch-norm statistics are the running ones, so the numbers trail the final ones a little.

    Returns:
      {"step": ..., "val": {rule: {all, many, medium, few, balanced, macro_f1}}}.
    """
    rows = prototype_rows(index.train.labels, per_class=QUICK_IMAGES_PER_CLASS, seed=0)
    val_rows = np.arange(len(index.val or ()))
    if len(val_rows) > QUICK_IMAGES:
        val_rows = np.sort(np.random.default_rng(0).permutation(val_rows)[:QUICK_IMAGES])
    train, val = (
        embed_batches(model, inputs.plain_batches(split, batch_size=EMBED_BATCH_SIZE, rows=chosen))
        for split, chosen in (("train", rows), ("val", val_rows))
    )
    recognizer = fit_recognizer(
        train, val, num_classes=index.num_classes, num_head=num_head, seed=0, rules=QUICK_RULES
    )
    results = evaluate_rules(
        recognizer, val, train_counts=index.class_counts, rules=QUICK_RULES, replicates=0
    )
    return {
        "step": step,
        "val": {rule: {name: row[name] for name in SHOWN} for rule, row in results.items()},
    }


def evaluate_test(
    run: TrainedRun,
    index: DatasetIndex,
    *,
    step: int,
    out: pathlib.Path,
    batch_norm: Optional[dict[str, Any]] = None,
    test_prior: Optional[np.ndarray] = None,
) -> dict[str, Any]:
    """Reads the test set once, by every rule; writes evaluation.json and its companions to `out`.

    Where the set has no test split the validation split stands in, and the record says so.

    Returns:
      The content of evaluation.json.
    """
    name, split = ("test", index.test) if index.test is not None else ("val", index.val)
    config = run.config
    content: dict[str, Any] = {
        "split": name if split is not None else None,
        "step": step,
        "images_seen": images_seen(config),
        "inference_rule": config.inference_rule,
        "rules": {},
        "retrieval": None,
        "unknowns": None,
        "batch_norm_refresh": batch_norm,
        "provenance": provenance(data_digest=index.digest, seed=config.seed),
    }
    if split is not None:
        embedded = embed_split(
            run.model, split, image_size=config.image_size, channels=run.channels
        )
        found = predict_rules(run.recognizer, embedded, test_prior=test_prior)
        content["rules"] = evaluate_rules(
            run.recognizer, embedded, train_counts=run.class_counts, found=found
        )
        content["retrieval"] = _retrieval(embedded, run.class_counts)
        if run.recognizer.threshold is not None:
            content["unknowns"] = unknown_metrics(run.recognizer, embedded)
    files = RunFolder(out)
    with files.recording(files.evaluation, files.per_class, files.embeddings):
        if split is not None:
            _write_companions(run, embedded, files, found)
        write_json(files.evaluation, content)
    return content


def images_seen(config: ResolvedConfig) -> int:
    """Images that train steps have looked at, repeats included."""
    return config.steps * config.images_per_step


def _retrieval(embedded: Embedded, class_counts: np.ndarray) -> Optional[dict[str, Any]]:
    """Leave-one-out retrieval within the split; None where no class has two images."""
    if np.unique(embedded.labels, return_counts=True)[1].max() < 2:
        return None
    return {
        **retrieval_metrics(embedded.embeddings, embedded.labels, train_counts=class_counts),
        "tar_at_far": {
            f"{rate:g}": share
            for rate, share in zip(
                FALSE_ACCEPT_RATES,
                tar_at_far(
                    embedded.embeddings, embedded.labels, false_accept_rates=FALSE_ACCEPT_RATES
                ).values(),
            )
        },
    }


def _write_companions(
    run: TrainedRun, embedded: Embedded, files: RunFolder, found: Mapping[str, Predictions]
) -> None:
    """per_class.csv and embeddings.npz: what the report draws and `compare` pairs by image."""
    default = found[run.config.inference_rule]
    best = default.class_ids[:, 0]
    rows = per_class.per_class_rows(
        embedded.labels,
        best,
        class_names=run.class_names,
        train_counts=run.class_counts,
        num_head=run.num_head,
    )
    write_csv(
        files.per_class,
        per_class.COLUMNS,
        ([row[column] for column in per_class.COLUMNS] for row in rows),
    )
    arrays = io.BytesIO()
    by_rule: dict[str, Any] = {
        f"predictions_{rule}": predictions.class_ids[:, 0].astype(np.int32)
        for rule, predictions in found.items()
    }
    np.savez(
        arrays,
        embeddings=embedded.embeddings,
        labels=embedded.labels,
        rows=np.arange(len(embedded.labels)),
        predictions=best,
        confidences=default.probabilities[:, 0],
        **by_rule,
    )
    write_atomically(files.embeddings, arrays.getvalue())
