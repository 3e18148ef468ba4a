"""What must hold between the settings of a run; each refusal is a sentence."""

from __future__ import annotations

import math
import re

from longtail_tf.errors import UserError
from longtail_tf.settings.backbones import (
    CIFAR_BACKBONES,
    check_cut,
    check_imagenet,
    facts,
)
from longtail_tf.settings.choices import (
    ALL_CLASS_RULES,
    ANY_HEAD_RULES,
    BALANCING_LOSSES,
    MEMORY_LOSSES,
    MIXING_AUGMENTATIONS,
)
from longtail_tf.settings.fields import TrainingFields


def check(config: TrainingFields) -> None:
    """Refuses settings that cannot work.

    Raises:
      UserError: what came, what was expected, how to fix it.
    """
    _check_run(config)
    _check_streams(config)
    _check_network(config)
    _check_memory(config)
    _check_sampled_head(config)


def _check_run(config: TrainingFields) -> None:
    if not config.data:
        raise UserError(
            "--data is missing: name a data set, for example --data=digits_lt or "
            "--data=folder:PATH."
        )
    if not config.run_dir:
        raise UserError("--run_dir is missing: name a new folder for what this run leaves.")
    _check_length(config)
    _at_least(1, config, "log_every", "checkpoint_every", "k_top")
    _at_least(0, config, "eval_every", "val_per_class", "seed", "split_seed", "threads")
    _at_least(0, config, "warmup_steps", "cache_megabytes")
    if not 0 <= config.max_bad_share <= 1:
        raise UserError(f"--max_bad_share={config.max_bad_share}: expected 0 to 1.")
    if config.seed >= 2**31 or config.split_seed >= 2**31:
        raise UserError(f"--seed={max(config.seed, config.split_seed)}: set it below 2147483648.")
    for name in (
        "learning_rate",
        "weight_decay",
        "margin",
        "classification_weight",
        "metric_weight",
        "metric_temperature",
        "backbone_rate",
        "clip_norm",
        "stay_near",
        "passes",
    ):
        value = getattr(config, name)
        positive = name in ("learning_rate", "metric_temperature", "passes")
        if value is not None and (not math.isfinite(value) or value < 0 or positive and not value):
            expected = "above 0" if positive else "0 or more"
            raise UserError(f"--{name}={value}: expected a finite number, {expected}.")
    for name in ("momentum", "label_smoothing"):
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"--{name}={getattr(config, name)}: expected 0 or more, below 1.")
    if not 0 < config.false_accept_rate < 1:
        raise UserError(
            f"--false_accept_rate={config.false_accept_rate}: expected a share between 0 and 1."
        )
    steps = config.steps
    if steps is not None and (config.warmup_steps or 0) > steps:
        raise UserError(
            f"--warmup_steps={config.warmup_steps} is longer than the whole training (--steps="
            f"{steps}): set --warmup_steps to {steps // 10} or so."
        )


def _check_length(config: TrainingFields) -> None:
    """A training's length is given in one way."""
    _at_least(0 if config.train_from == "none" else 1, config, "steps")
    given = [
        f"--{name}={getattr(config, name)}"
        for name in ("steps", "passes", "time_budget")
        if getattr(config, name)
    ]
    if config.time_budget:
        seconds_of(config.time_budget)
    if len(given) > 1:
        raise UserError(
            f"{' and '.join(given)} each say how long the training is: keep one of them."
        )


def seconds_of(time_budget: str) -> float:
    """Seconds of a time such as 45s, 10m or 1h30m.

    Raises:
      UserError: it is not one.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", time_budget.strip())
    parts = found.groups("0") if found else ()
    seconds = sum(int(part) * unit for part, unit in zip(parts, (3600, 60, 1)))
    if not seconds:
        raise UserError(
            f"--time_budget={time_budget}: expected hours, minutes and seconds, for example 45s, "
            "10m or 1h30m."
        )
    return float(seconds)


def _check_streams(config: TrainingFields) -> None:
    if not config.has_head_stream and not config.has_whole_stream:
        raise UserError(
            "--classification_loss=none and --metric_loss=none leave nothing to train: set one."
        )
    rules = [
        f"--{name}={getattr(config, name)}"
        for name in ("head_min_count", "head_ratio", "head_num_classes")
        if getattr(config, name) is not None
    ]
    rules += ["--head_all"] * config.head_all + ["--head_auto"] * config.head_auto
    if len(rules) > 1:
        raise UserError(f"{' and '.join(rules)} are given together: keep one head rule.")
    if not rules and config.has_head_stream:
        raise UserError(
            "no head rule is given, so the head stream has no classes: set one of "
            "--head_min_count, --head_ratio, --head_num_classes (python -m longtail_tf.inspect "
            "shows what each gives), or let --head_auto choose."
        )
    if config.has_head_stream:
        _at_least(1, config, "head_batch_size")
    if config.has_whole_stream:
        if config.images_per_class < 2 and config.images_per_class != 0:
            raise UserError(
                f"--images_per_class={config.images_per_class}, but a triplet needs a positive: "
                "set it to 2 or more, or to 0 to derive it from the class counts."
            )
        if config.classes_per_batch is not None and config.classes_per_batch < 2:
            raise UserError(
                f"--classes_per_batch={config.classes_per_batch}, but a triplet needs a negative: "
                "set it to 2 or more."
            )
    if config.head_sampling == "pk" and config.head_batch_size % max(config.images_per_class, 1):
        raise UserError(
            f"--head_sampling=pk needs --head_batch_size={config.head_batch_size} to be a multiple "
            f"of --images_per_class={config.images_per_class}."
        )
    joint = config.schedule == "joint" and config.has_head_stream and config.has_whole_stream
    for name in ("classify_whole", "compare_head"):
        if getattr(config, name) and not joint:
            raise UserError(
                f"--{name} shares one forward pass between both losses: it needs "
                "--schedule=joint, a --classification_loss and a --metric_loss."
            )
    if config.compare_head and config.head_augment in MIXING_AUGMENTATIONS:
        raise UserError(
            f"--compare_head takes head images as of one class each, and --head_augment="
            f"{config.head_augment} mixes two: drop one of them."
        )
    if config.metric_loss == "prototype" and config.replicas != "one" and config.mine == "replica":
        raise UserError(
            f"--metric_loss=prototype was given with --replicas={config.replicas} --mine=replica, "
            "but the replicas share one set of prototypes: set --mine=global."
        )
    if not 0 <= config.class_power <= 1:
        raise UserError(f"--class_power={config.class_power}: expected 0 to 1.")
    if config.classification_loss == "ldam" and not config.cosine_head:
        raise UserError("--classification_loss=ldam is defined on cosines: add --cosine_head.")
    _check_balance(config)


def _check_balance(config: TrainingFields) -> None:
    """Training may correct for the counts once: twice would turn the bias round."""
    if not 0 <= config.reweight_from <= 1:
        raise UserError(f"--reweight_from={config.reweight_from}: expected 0 to 1.")
    ways = [way for way in ways_to_balance(config) if way != "--head_sampling=pk"]
    if len(ways) > 1:
        raise UserError(
            f"{' and '.join(ways)} each make up for the tail, and together they would favour it: "
            "keep one."
        )
    rule, way = f"--inference_rule={config.inference_rule}", "".join(ways_to_balance(config)[:1])
    if config.inference_rule == "head_adjusted" and way:
        raise UserError(
            f"{rule} and {way} each make up for the tail, and together they would favour it: keep "
            "one."
        )
    if config.inference_rule == "tau_norm" and config.cosine_head:
        raise UserError(f"{rule}: class vectors of a --cosine_head have no length; drop one.")
    if config.inference_rule in ANY_HEAD_RULES and not config.has_head_stream:
        raise UserError(
            f"{rule} asks the head classifier, and --classification_loss=none trains none: choose "
            "another rule."
        )
    # What --head_auto comes to is known with the data set; settings are checked again then.
    every = (config.head_all or config.head_auto) and config.has_head_stream
    if config.inference_rule in ALL_CLASS_RULES and not every:
        raise UserError(
            f"{rule} corrects a classifier of every class: add --head_all, or choose another rule."
        )


def ways_to_balance(config: TrainingFields) -> list[str]:
    """The settings by which the head classifier is corrected for the training counts."""
    if not config.has_head_stream:
        return []
    sampling, loss = config.head_sampling, config.classification_loss
    ways = [f"--head_sampling={sampling}"] * (sampling != "random")
    ways += [f"--classification_loss={loss}"] * (loss in BALANCING_LOSSES)
    return ways + [f"--reweight_from={config.reweight_from}"] * (config.reweight_from < 1)


def _check_network(config: TrainingFields) -> None:
    if config.embedding_dim not in (None, 0):
        _at_least(2, config, "embedding_dim")
    _at_least(0, config, "cached_views", "cache_disk_megabytes")
    if config.image_size is not None:
        _at_least(8, config, "image_size")
    if config.width is not None:
        _at_least(1, config, "width")
        if config.backbone not in ("auto", *CIFAR_BACKBONES):
            raise UserError(
                f"--width={config.width} is for {', '.join(CIFAR_BACKBONES)}, not for --backbone="
                f"{config.backbone}: leave it out."
            )
    if config.backbone == "auto":
        return
    facts(config.backbone)
    if config.weights == "imagenet":
        check_imagenet(config.backbone)
    if config.train_from not in ("auto", "all", "none"):
        check_cut(config.backbone, config.train_from)


def _check_memory(config: TrainingFields) -> None:
    _at_least(0, config, "memory_size")
    if not config.memory_size:
        return
    flag = f"--memory_size={config.memory_size}"
    if config.metric_loss not in MEMORY_LOSSES:
        raise UserError(
            f"{flag} was given with --metric_loss={config.metric_loss}, which takes no pairs from "
            f"a memory: choose one of {', '.join(MEMORY_LOSSES)}, or leave --memory_size out."
        )
    if not config.unit_features:
        raise UserError(
            f"{flag} was given with --nounit_features, but lengths of features change as training "
            "goes on, so only unit vectors are remembered: leave one of the two out."
        )
    if config.replicas != "one" and config.mine == "replica":
        raise UserError(
            f"{flag} was given with --replicas={config.replicas} --mine=replica, but the replicas "
            "share one memory of the global batches: set --mine=global, or leave --memory_size "
            "out."
        )


def _check_sampled_head(config: TrainingFields) -> None:
    _at_least(0, config, "head_sampled_classes")
    if not config.head_sampled_classes:
        return
    flag = f"--head_sampled_classes={config.head_sampled_classes}"
    if config.classification_loss != "cross_entropy":
        raise UserError(
            f"{flag} was given with --classification_loss={config.classification_loss}: only "
            "cross_entropy can be taken over a sample of the classes; leave one of the two out."
        )
    if config.classify_whole:
        raise UserError(
            f"{flag} was given with --classify_whole, which compares with every head class: leave "
            "one of the two out."
        )
    if config.label_smoothing:
        raise UserError(
            f"{flag} was given with --label_smoothing={config.label_smoothing}, which spreads "
            "labels over every head class: leave one of the two out."
        )
    if config.cosine_head:
        raise UserError(
            f"{flag} was given with --cosine_head, which scales every class vector in each step, "
            "drawn or not: leave one of the two out."
        )
    if config.replicas != "one":
        raise UserError(
            f"{flag} was given with --replicas={config.replicas}, but each replica would compare "
            "its images with other classes than the rest: train one replica, or leave "
            "--head_sampled_classes out."
        )


def _at_least(least: int, config: TrainingFields, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise UserError(f"--{name}={value}: expected {least} or more.")
