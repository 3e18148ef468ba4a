"""How long a training takes on this machine: what a time budget buys, and what a plan costs.

Four numbers say it all: seconds an image through the trunk that stands still (reading it included)
and through the top, forward; a train step is three forward passes of what it trains. They are
measured on a few batches before anything is decided.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.errors import UserError
from longtail_tf.images.pipeline import evaluation_batches, plain_errors
from longtail_tf.models import networks
from longtail_tf.runs.resolve import without_training
from longtail_tf.runs.trained_run import build_embedder
from longtail_tf.settings.backbones import facts
from longtail_tf.training.progress import format_seconds

OVERHEAD_SECONDS = 20.0  # tracing, fitting the rules, the report
STEP_COST = 3.0  # a train step against a forward pass: forward, and twice that backward
MOST_PASSES, FEWEST_PASSES = 12.0, 1.0
TRIAL_COST = 0.75  # of a training, for the trial of the top under --train_from=auto
_MEASURED_BATCHES, _MEASURED_SIZE = 3, 32


class Costs(NamedTuple):
    """Seconds an image on this machine."""

    trunk: float  # reading, and forward through what stands still
    top: float  # forward through what is trained


class Work(NamedTuple):
    """How many images there are, and what is done with them."""

    train: int
    others: int  # validation and test images, each looked at once
    cached: bool  # whether the trunk's outputs are computed once
    tried: bool  # whether the amount of training is tried first


def seconds_needed(costs: Costs, work: Work, *, views: int, passes: float) -> float:
    """Seconds of a whole run, from the first image to the report."""
    each = costs.trunk + costs.top
    total = OVERHEAD_SECONDS + each * work.others
    if not work.cached:
        a_pass = work.train * (costs.trunk + STEP_COST * costs.top)
        return total + each * work.train + passes * a_pass
    total += costs.trunk * work.train * (1 + views) + costs.top * work.train
    trainings = passes * work.train * STEP_COST * costs.top
    if work.tried:
        total += costs.top * work.train * (1 + views)
        trainings *= 1 + TRIAL_COST
    return total + trainings


def fitted(budget: float, costs: Costs, work: Work, *, views: int) -> tuple[int, float] | None:
    """The views and passes that fill `budget` seconds; None where not even one of each fits.

    Views are given up before passes fall below two, and passes last.
    """
    views = views if work.cached else 0
    for fewest in (2.0, FEWEST_PASSES):
        for kept in range(views, min(views, 1) - 1, -1):
            fixed = seconds_needed(costs, work, views=kept, passes=0.0)
            a_pass = seconds_needed(costs, work, views=kept, passes=1.0) - fixed
            passes = (budget - fixed) / a_pass
            if passes >= fewest:
                return kept, min(passes, MOST_PASSES)
    return None


def within_budget(config: ResolvedConfig, index: DatasetIndex, *, seconds: float) -> ResolvedConfig:
    """The settings with passes and views that fit the time, evaluation included.

    Where the top cannot be trained in it only the embedding is, or nothing.

    Raises:
      UserError: not even reading every image once fits.
    """
    costs = measured(config, index)
    others = len(index.val or ()) + len(index.test or ())
    work = Work(
        train=len(index.train),
        others=others,
        cached=config.train_from != "all" and config.cached_views > 0,
        tried=config.train_from == "auto",
    )
    found = fitted(seconds, costs, work, views=config.cached_views)
    images_per_step = config.images_per_step
    if found is not None:
        views, passes = found
        steps = max(1, math.floor(passes * work.train / images_per_step))
        logging.info(
            "--time_budget: %.1f passes%s fit into %s",
            passes,
            f" over {views} views an image" if work.cached else "",
            format_seconds(seconds),
        )
        return dataclasses.replace(
            config, steps=steps, cached_views=views, warmup_steps=min(100, steps // 10)
        )
    least = seconds_needed(costs, work._replace(cached=True, tried=False), views=0, passes=0.0)
    if config.weights != "none" and least <= seconds:
        logging.info(
            "--time_budget: %s is enough to read the pretrained features, not to train",
            format_seconds(seconds),
        )
        return without_training(config)
    needed = seconds_needed(costs, work, views=min(config.cached_views, 1), passes=FEWEST_PASSES)
    raise UserError(
        f"--time_budget={format_seconds(seconds).replace(' ', '')} is too short for "
        f"{work.train + others:,} images: one pass takes about {format_seconds(needed)} on this "
        "machine; raise it, or lower --image_size."
    )


def measured(config: ResolvedConfig, index: DatasetIndex) -> Costs:
    """Times a few batches through the network of the settings; the first one, which traces, not."""
    embedder = build_embedder(
        config, channels=index.channels, precision=config.precision, weights="none"
    )
    part = config.trunk_below
    if part == "auto":
        part = facts(config.backbone).usual_cut
    models = [embedder]
    if part != "all":
        models = list(networks.split_embedder(embedder, part))
    runs = [tf.function(lambda batch, model=model: model(batch)) for model in models]
    count = min(len(index.train), (1 + _MEASURED_BATCHES) * _MEASURED_SIZE)
    rows = np.unique(np.linspace(0, len(index.train) - 1, count).astype(np.int64))
    batches = evaluation_batches(
        index.train,
        image_size=config.image_size,
        channels=index.channels,
        batch_size=_MEASURED_SIZE,
        rows=rows,
        skip_bad=True,
        max_bad_share=1.0,
    )
    spent, images = [0.0, 0.0], 0
    read_since = time.perf_counter()
    with plain_errors():
        for number, (batch, _) in enumerate(batches):
            size = int(batch.shape[0])
            outputs = tf.cast(batch, tf.float32)
            took = [time.perf_counter() - read_since]
            for run in runs:
                begun = time.perf_counter()
                outputs = run(outputs)
                np.asarray(outputs)
                took.append(time.perf_counter() - begun)
            if number and size == _MEASURED_SIZE or len(rows) <= _MEASURED_SIZE:
                images += size
                spent[0] += took[0] + (took[1] if len(runs) > 1 else 0.0)
                spent[1] += took[-1]
            read_since = time.perf_counter()
    images = max(images, 1)
    return Costs(trunk=spent[0] / images, top=max(spent[1] / images, 1e-9))
