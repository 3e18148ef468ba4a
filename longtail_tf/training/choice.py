"""How much of a pretrained network is trained, where that is left to the data.

Three candidates: nothing (the features as they are), the embedding, and the top of the backbone.
Each is tried on images that were held out of the training split, every class of two images or more
among them, as a validation split seldom holds the tail. More training must win by more than a
standard error of the difference: so a run does not end below where it started.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Optional

import numpy as np
from absl import logging

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.images.inputs import TrunkInputs
from longtail_tf.images.trunk_cache import TrunkCache
from longtail_tf.metrics import balanced_accuracy, shot_accuracy
from longtail_tf.metrics.array_checks import unit_rows
from longtail_tf.models.parts import pooled_features
from longtail_tf.recognition.embedded import Embedded
from longtail_tf.recognition.embedding_pass import (
    EMBED_BATCH_SIZE,
    embed_batches,
    refresh_batch_norm,
)
from longtail_tf.recognition.fit import fit_recognizer, predict_rules
from longtail_tf.recognition.rule_choice import RuleChoice, choose_rule, leads
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.resolve import without_training
from longtail_tf.runs.streams import head_sampler, head_size, whole_sampler
from longtail_tf.settings.backbones import HEAD, facts
from longtail_tf.settings.choices import AUTO_RULE
from longtail_tf.training.loop import compile_for
from longtail_tf.training.progress import format_seconds
from longtail_tf.training.start import network_over, starting_network

HELD_SHARE = 0.25  # of the training images of a class, for the trials
TRIED_RULES = ("lda", "ncm", "gated_lda")
NOTHING = "none"


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One candidate on the held-out images.

    Attributes:
      train_from: "none", "head" or a part of the backbone.
      choice: the rule that reads it best.
      predictions: class ids int [V] by that rule.
      accuracy: balanced, 0..1, of these.
      bands: accuracy by shot band; None where a band is empty.
      seconds: that the trial took.
    """

    train_from: str
    choice: RuleChoice
    predictions: np.ndarray
    accuracy: float
    bands: dict[str, Any]
    seconds: float


def decided(
    config: ResolvedConfig, index: DatasetIndex, *, folder: RunFolder
) -> tuple[ResolvedConfig, Optional[dict[str, Any]]]:
    """The settings with `train_from=auto` decided, and the record of the trials.

    Settings that say where training begins come back as they are, without a record.
    """
    if config.train_from in ("all", NOTHING) or not config.cached_views:
        return _without_auto(config), None
    if config.resume and config.train_from != "auto" and RunFolder(config.run_dir).start.exists():
        return config, None  # decided when the run began, and recorded
    labels = index.train.labels
    held = held_out_rows(labels, share=HELD_SHARE, seed=config.seed)
    at_part = _without_auto(config)
    part = at_part.train_from
    num_head = head_size(at_part, index.class_counts)
    base = starting_network(at_part, index, num_head=num_head, folder=folder)
    if not isinstance(base.inputs, TrunkInputs):
        raise TypeError("a trunk that stands still was to be cached")
    outputs = base.inputs.caches["train"]
    is_open = config.train_from == "auto"
    seen = outputs if is_open else dataclasses.replace(outputs, outputs=outputs.outputs[:1])
    features = seen.through(pooled_features(base.model.embedder))
    trials = [_untrained(features, index, held)]
    if not is_open:
        logging.info("%s", _table(trials, None, num_held=len(held)))
        return config, _record(trials, None, num_held=len(held))
    trials.append(_trained(dataclasses.replace(config, train_from=HEAD), index, features, held))
    if part != HEAD:
        trials.append(_trained(at_part, index, outputs, held))
    best = trials[0]
    for trial in trials[1:]:
        if leads(labels[held], trial.predictions, best.predictions):
            best = trial
    logging.info("%s", _table(trials, best, num_held=len(held)))
    settings = dataclasses.replace(config, train_from=best.train_from)
    if config.inference_rule == AUTO_RULE:
        settings = dataclasses.replace(settings, inference_rule=best.choice.rule)
    if best.train_from == NOTHING:
        settings = without_training(settings)
    return settings, _record(trials, best, num_held=len(held))


def held_out_rows(labels: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Rows int64 to hold out: `share` of each class, at least one of two or more images."""
    draws = np.random.default_rng(seed)
    held = []
    for class_id in np.unique(labels):
        rows = np.flatnonzero(labels == class_id)
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held.append(draws.permutation(rows)[:count])
    return np.sort(np.concatenate(held)).astype(np.int64)


def _without_auto(config: ResolvedConfig) -> ResolvedConfig:
    """`train_from=auto` as the part that the backbone's table names; for what is never tried."""
    if config.train_from != "auto":
        return config
    return dataclasses.replace(config, train_from=facts(config.backbone).usual_cut)


def _untrained(features: TrunkCache, index: DatasetIndex, held: np.ndarray) -> Trial:
    """The features as the backbone gives them, read by every rule that needs no classifier."""
    begun_at = time.monotonic()
    vectors = unit_rows(features.outputs[0].astype(np.float32))
    labels = index.train.labels
    fitted = np.setdiff1d(np.arange(len(labels)), held)
    fit, unseen = (Embedded(vectors[rows], None, labels[rows]) for rows in (fitted, held))
    return _judged(NOTHING, fit, unseen, index, begun_at, num_head=0)


def _trained(
    config: ResolvedConfig, index: DatasetIndex, outputs: TrunkCache, held: np.ndarray
) -> Trial:
    """A training on the images that are not held out."""
    begun_at = time.monotonic()
    fitted = np.setdiff1d(np.arange(len(index.train)), held)
    labels = index.train.labels[fitted]
    part = dataclasses.replace(
        index,
        train=dataclasses.replace(index.train, labels=labels),  # only drawn from, never read
        class_counts=np.bincount(labels, minlength=index.num_classes),
    )
    num_head = head_size(config, index.class_counts)
    inputs = TrunkInputs({"train": outputs.of(fitted)}, seed=config.seed)
    begun = network_over(inputs, config, index, num_head=num_head)
    compile_for(begun.model, config, part, num_head=num_head)
    begun.model.fit(
        inputs.streams(
            head=head_sampler(config, part.train, num_head=num_head),
            whole=whole_sampler(config, part.train),
            start_step=0,
        ),
        steps_per_epoch=config.steps,
        verbose=0,
        shuffle=False,
    )
    refresh_batch_norm(
        begun.model,
        lambda sampler: inputs.plain_streams(sampler, seed=config.seed),
        labels,
        seed=config.seed,
    )
    fit, unseen = (
        embed_batches(begun.model, outputs.plain_batches(EMBED_BATCH_SIZE, rows))
        for rows in (fitted, held)
    )
    return _judged(config.train_from, fit, unseen, index, begun_at, num_head=num_head)


def _judged(
    train_from: str,
    fit: Embedded,
    unseen: Embedded,
    index: DatasetIndex,
    begun_at: float,
    *,
    num_head: int,
) -> Trial:
    """Reads the held-out images by each rule and keeps the best."""
    recognizer = fit_recognizer(
        fit, None, num_classes=index.num_classes, num_head=num_head, seed=0, rules=TRIED_RULES
    )
    predictions = {
        rule: found.class_ids[:, 0]
        for rule, found in predict_rules(recognizer, unseen, rules=TRIED_RULES).items()
    }
    choice = choose_rule(unseen.labels, predictions, num_classes=index.num_classes)
    found = predictions[choice.rule]
    return Trial(
        train_from,
        choice,
        found,
        accuracy=balanced_accuracy(unseen.labels, found),
        bands=shot_accuracy(unseen.labels, found, index.class_counts),
        seconds=time.monotonic() - begun_at,
    )


def _table(trials: list[Trial], best: Optional[Trial], *, num_held: int) -> str:
    lines = [f"what is trained, tried on {num_held:,} images held out of the training:"]
    for trial in trials:
        name = {NOTHING: "nothing", HEAD: "the embedding"}.get(
            trial.train_from, f"the backbone from {trial.train_from}"
        )
        mark = "  <- chosen" if trial is best else ""
        lines.append(
            f"  {name:<28} {100 * trial.accuracy:5.1f} % balanced, by {trial.choice.rule:<10}"
            f" ({format_seconds(trial.seconds)}){mark}"
        )
    return "\n".join(lines)


def _record(trials: list[Trial], best: Optional[Trial], *, num_held: int) -> dict[str, Any]:
    """What start.json keeps of the trials."""
    return {
        "held_out_images": num_held,
        "chosen": None if best is None else best.train_from,
        "trials": [
            {
                "train_from": trial.train_from,
                "rule": trial.choice.rule,
                "balanced": trial.accuracy,
                "bands": trial.bands,
                "rules": trial.choice.accuracies,
                "seconds": round(trial.seconds, 2),
            }
            for trial in trials
        ],
    }
