"""What a run writes down before it starts and says when it is done."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import logging

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically, write_csv, write_json
from longtail_tf.head_set import head_table
from longtail_tf.metrics import shot_bands, tables
from longtail_tf.runs import kept_backbone
from longtail_tf.runs.folder import FORMAT_VERSION, RunFolder, provenance
from longtail_tf.runs.saved_settings import load_settings
from longtail_tf.runs.streams import head_sampler, whole_sampler
from longtail_tf.runs.trained_run import TrainedRun
from longtail_tf.settings.flags import flagfile_text
from longtail_tf.settings.methods import departures

SMALLER_PX = 160  # named beside larger images

# Settings that change nothing in the weights, so a resumed run may have others.
FREE_ON_RESUME = (
    "resume",
    "run_dir",
    "eval_every",
    "checkpoint_every",
    "log_every",
    "tensorboard",
    "inference_rule",
    "k_top",
    "threads",
    "replicas",
)


def begin(folder: RunFolder, config: ResolvedConfig, index: DatasetIndex, *, num_head: int) -> None:
    """Writes the run's settings and class tables, and tells the user what the tail will meet.

    A resumed run keeps the files it has.

    Raises:
      UserError: a resumed run with other settings or data than it began with.
    """
    if config.resume:
        _check_unchanged(folder, config, index)
    else:
        kept_backbone.keep(config.backbone, folder.path)
        with folder.recording(folder.config, folder.classes, folder.head_set):
            _write_settings(folder, config, index, num_head=num_head)
    for note in index.notes:
        logging.info("%s", note)
    logging.info("%s", _summary(config, index, num_head=num_head))


def settle(
    folder: RunFolder,
    config: ResolvedConfig,
    index: DatasetIndex,
    *,
    num_head: int,
    trials: dict[str, Any] | None = None,
) -> None:
    """Writes settings that were open when the run began, and what decided them.

    Args:
      folder: of the run.
      config: settings, decided.
      index: the data set.
      num_head: classes of the head classifier.
      trials: for start.json; None where nothing was tried.
    """
    if trials is not None:
        write_json(
            folder.start,
            {**trials, "provenance": provenance(data_digest=index.digest, seed=config.seed)},
        )
    if dataclasses.replace(config, resume=False) != load_settings(folder):
        with folder.recording(folder.config, folder.classes, folder.head_set):
            _write_settings(folder, config, index, num_head=num_head)


def show_results(run: TrainedRun, results: dict[str, Any]) -> None:
    """Prints the table of rules and the commands to type next."""
    folder = run.folder.path
    if results["split"] is None:
        logging.info("the data set has no validation or test images: nothing to evaluate.")
    else:
        table = tables.format_rules_table(results["rules"], default_rule=run.config.inference_rule)
        logging.info(
            "\n%s set at step %s, %% right\n%s", results["split"], f"{results['step']:,}", table
        )
    logging.info(
        "\nnext:\n"
        "  %s   (open in a browser)\n"
        "  python -m longtail_tf.classify --run_dir=%s IMAGE...\n"
        "  python -m longtail_tf.evaluate --run_dir=%s\n"
        "  python -m longtail_tf.export --run_dir=%s",
        run.folder.report,
        folder,
        folder,
        folder,
    )


def show_stop(config: ResolvedConfig, step: int) -> None:
    """Says where a signal stopped the training, and how it goes on."""
    logging.info(
        "stopped at step %s of %s and saved; continue with\n"
        "  python -m longtail_tf.train --run_dir=%s --resume",
        f"{step:,}",
        f"{config.steps:,}",
        config.run_dir,
    )


def what_must_agree(
    config: ResolvedConfig, index: DatasetIndex, *, start_step: int
) -> dict[str, Any]:
    """What must be the same in every process of a training."""
    return {
        "settings": weights_settings(config),
        "data": index.digest,
        "checkpoints": start_step,
    }


def weights_settings(config: ResolvedConfig) -> dict[str, Any]:
    """The settings on which the weights depend, by name."""
    settings = dataclasses.asdict(config)
    return {name: value for name, value in settings.items() if name not in FREE_ON_RESUME}


def _write_settings(
    folder: RunFolder, config: ResolvedConfig, index: DatasetIndex, *, num_head: int
) -> None:
    saved = dataclasses.replace(config, resume=False)
    comment = f"python -m longtail_tf.train --flagfile={folder.flagfile} --run_dir=NEW repeats this"
    write_json(
        folder.config,
        {
            "format_version": FORMAT_VERSION,
            "settings": dataclasses.asdict(saved),
            "num_classes": index.num_classes,
            "num_head": num_head,
            "channels": index.channels,
            "provenance": provenance(data_digest=index.digest, seed=config.seed),
        },
    )
    write_atomically(folder.flagfile, flagfile_text(saved, comment=comment))
    counts = index.class_counts
    bands = shot_bands.band_names(counts)
    write_csv(
        folder.classes,
        ("id", "name", "train_count", "head", "band"),
        (
            (i, name, int(count), int(i < num_head), band)
            for i, (name, count, band) in enumerate(zip(index.class_names, counts, bands))
        ),
    )
    images = int(counts.sum())
    write_json(
        folder.head_set,
        {
            "rule": _head_rule(config),
            "num_head": num_head,
            "num_classes": index.num_classes,
            "smallest_head_count": int(counts[num_head - 1]) if num_head else None,
            "largest_tail_count": int(counts[num_head]) if num_head < len(counts) else None,
            "head_images": int(counts[:num_head].sum()),
            "head_image_share": float(counts[:num_head].sum() / images),
            "classifier_bytes": 4 * config.embedding_dim * num_head,
            "full_classifier_bytes": 4 * config.embedding_dim * index.num_classes,
            "dry_run": head_table(counts, embedding_dim=config.embedding_dim),
            "provenance": provenance(data_digest=index.digest, seed=config.seed),
        },
    )


def _check_unchanged(folder: RunFolder, config: ResolvedConfig, index: DatasetIndex) -> None:
    before, now = weights_settings(load_settings(folder)), weights_settings(config)
    changed = [
        f"--{name}={now[name]} (was {before[name]})" for name in before if before[name] != now[name]
    ]
    if changed:
        raise UserError(
            f"--resume continues the run as it began, but {', '.join(changed)}: leave these "
            "settings out, or start a new run in a new folder."
        )
    digest = folder.read_json(folder.config)["provenance"]["data_digest"]
    if digest != index.digest:
        raise UserError(
            f"{config.data} has changed since the run began (digest {index.digest[:12]}, was "
            f"{digest[:12]}): restore it, or start a new run."
        )


def _head_rule(config: ResolvedConfig) -> str:
    for name in ("head_min_count", "head_ratio", "head_num_classes"):
        if getattr(config, name) is not None:
            return f"{name}={getattr(config, name)}"
    return "head_all" if config.head_all else "none"


def _network_lines(config: ResolvedConfig, *, images: int) -> list[str]:
    """What is trained of which network, and for how long."""
    weights = {"none": "random weights", "imagenet": "ImageNet weights"}
    line = (
        f"network: {config.backbone} from {weights.get(config.weights, config.weights)}, "
        f"{config.image_size} px"
    )
    if config.train_from == "none":
        return [f"{line}; nothing is trained, its features are read as they are"]
    lines = [line]
    if config.train_from == "auto":
        lines.append("  how much of it is trained: what held-out images say, tried first")
    elif config.train_from != "all":
        what = (
            "the embedding alone" if config.train_from == "head" else f"from {config.train_from} up"
        )
        lines.append(f"  trained: {what}; what lies below stands still")
    if config.cached_views:
        lines.append(
            f"  what stands still is computed once, for each image as it is and in "
            f"{config.cached_views} augmented views"
        )
    passes = config.steps * config.images_per_step / max(images, 1)
    lines.append(
        f"  {config.steps:,} steps of {config.images_per_step} images, {passes:.1f} passes"
    )
    if config.weights != "none" and config.image_size > SMALLER_PX:
        share = (SMALLER_PX / config.image_size) ** 2
        lines.append(f"  --image_size={SMALLER_PX} takes about {100 * share:.0f} % of the time")
    return lines


def _summary(config: ResolvedConfig, index: DatasetIndex, *, num_head: int) -> str:
    """What is about to be trained, in a few lines."""
    counts = index.class_counts
    held_out = [
        f"{name} {len(split):,}"
        for name, split in (("val", index.val), ("test", index.test))
        if split
    ]
    lines = [
        f"{config.data}: {index.num_classes:,} classes, {int(counts.sum()):,} training images "
        f"({int(counts[0]):,} to {int(counts[-1]):,} a class); {', '.join(held_out) or 'no val'}"
    ]
    lines += _network_lines(config, images=int(counts.sum()))
    if departures(config):
        lines.append(f"method {config.method}, but with {', '.join(departures(config))}")
    head = head_sampler(config, index.train, num_head=num_head) if config.steps else None
    if head is not None:
        share = counts[:num_head].sum() / counts.sum()
        lines.append(
            f"head stream: {num_head:,} classes with {100 * share:.0f} % of the images, "
            f"{config.head_batch_size} a step, {config.classification_loss}"
        )
    whole = whole_sampler(config, index.train) if config.steps else None
    if whole is not None:
        facts = whole.describe()
        lines.append(
            f"whole stream: {config.classes_per_batch} classes x {config.images_per_class} images "
            f"a step, {config.metric_loss}; {facts['steps_per_class_pass']:,} steps for every class"
        )
        if config.classify_whole:
            lines.append("  its images of head classes feed the classification loss too")
        if config.compare_head:
            lines.append("  the head stream's images feed its metric loss too")
        if facts["classes_under_k"]:
            lines.append(
                f"  classes with fewer than {config.images_per_class} images: "
                f"{facts['classes_under_k']:,} ({facts['singletons']:,} with one); "
                f"{100 * facts['repeat_share']:.0f} % of the slots repeat an image under another "
                "augmentation"
            )
    return "\n".join(lines)
