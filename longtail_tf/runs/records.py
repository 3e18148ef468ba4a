"""What a run writes down before it starts and says when it is done."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from absl import logging

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically, write_csv, write_json
from longtail_tf.head_set import head_table
from longtail_tf.metrics import shot_bands, tables
from longtail_tf.runs import digests, kept_backbone
from longtail_tf.runs.folder import FORMAT_VERSION, RunFolder, provenance
from longtail_tf.runs.record_shapes import need
from longtail_tf.runs.saved_settings import load_settings
from longtail_tf.runs.streams import head_sampler, whole_sampler
from longtail_tf.runs.trained_run import TrainedRun
from longtail_tf.settings.backbones import brings_weights
from longtail_tf.settings.flags import flagfile_text
from longtail_tf.settings.methods import departures
from longtail_tf.settings.terminal import quoted

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
    "replicas",
)


def begin(folder: RunFolder, config: ResolvedConfig, index: DatasetIndex, *, num_head: int) -> None:
    """Writes the run's settings and class tables, and tells the user what the tail will meet.

    A resumed run keeps the files it has, and gets those that a kill at its start left out.

    Raises:
      UserError: a resumed run with other settings or data than it began with.
    """
    if config.resume:
        _check_unchanged(RunFolder(config.run_dir), config, index)
    with kept_backbone.keeping(config.backbone, folder.path):
        missing = _missing(folder) if config.resume else (*_WRITERS,)
        if missing:
            _write(folder, config, index, num_head=num_head, names=missing)
    for note in index.notes:
        logging.info("%s", note)
    logging.info("%s", _summary(config, index, num_head=num_head))


def first_checkpoint(config: ResolvedConfig, folder: RunFolder) -> int:
    """The step after which this run has saved a checkpoint, as far as it got; 0: it may have none.

    A run that says nothing of that step was stopped before it.
    """
    due = min(config.checkpoint_every, config.steps)
    return due if folder.last_step() > due else 0


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
    if not folder.config.exists() or _saved(config) != load_settings(folder):
        _write(folder, config, index, num_head=num_head, names=(*_WRITERS,))


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
    named = quoted(f"--run_dir={folder}")
    logging.info(
        "\nnext:\n"
        "  %s   (open in a browser)\n"
        "  python -m longtail_tf.classify %s IMAGE...\n"
        "  python -m longtail_tf.evaluate %s\n"
        "  python -m longtail_tf.export %s",
        run.folder.report,
        named,
        named,
        named,
    )


def show_stop(config: ResolvedConfig, step: int) -> None:
    """Says where a signal stopped the training, and how it goes on."""
    logging.info(
        "stopped at step %s of %s and saved; continue with\n"
        "  python -m longtail_tf.train %s --resume",
        f"{step:,}",
        f"{config.steps:,}",
        quoted(f"--run_dir={config.run_dir}"),
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


def _saved(config: ResolvedConfig) -> ResolvedConfig:
    """The settings as the run folder keeps them."""
    return dataclasses.replace(config, resume=False)


def _missing(folder: RunFolder) -> tuple[str, ...]:
    """Records that are not there, or were not taken down when the run was killed at its start."""
    known = digests.recorded(folder.path)
    return tuple(
        name
        for name in _WRITERS
        if not (folder.path / name).exists() or name in DIGESTED and name not in known
    )


def _write(
    folder: RunFolder,
    config: ResolvedConfig,
    index: DatasetIndex,
    *,
    num_head: int,
    names: tuple[str, ...],
) -> None:
    with folder.recording(*(folder.path / name for name in names if name in DIGESTED)):
        for name in names:
            _WRITERS[name](folder, config, index, num_head)


def _write_config(
    folder: RunFolder, config: ResolvedConfig, index: DatasetIndex, num_head: int
) -> None:
    write_json(
        folder.config,
        {
            "format_version": FORMAT_VERSION,
            "settings": dataclasses.asdict(_saved(config)),
            "working_folder": os.getcwd(),  # where relative paths in the settings start
            "num_classes": index.num_classes,
            "num_head": num_head,
            "channels": index.channels,
            "data_times": index.times,
            "provenance": provenance(data_digest=index.digest, seed=config.seed),
        },
    )


def _write_flagfile(
    folder: RunFolder, config: ResolvedConfig, index: DatasetIndex, num_head: int
) -> None:
    flagfile = quoted(f"--flagfile={folder.flagfile}")
    comment = f"python -m longtail_tf.train {flagfile} --run_dir=NEW repeats this"
    write_atomically(folder.flagfile, flagfile_text(_saved(config), comment=comment))


def _write_classes(
    folder: RunFolder, config: ResolvedConfig, index: DatasetIndex, num_head: int
) -> None:
    bands = shot_bands.band_names(index.class_counts)
    write_csv(
        folder.classes,
        ("id", "name", "train_count", "head", "band"),
        (
            (i, name, int(count), int(i < num_head), band)
            for i, (name, count, band) in enumerate(
                zip(index.class_names, index.class_counts, bands)
            )
        ),
    )


def _write_head_set(
    folder: RunFolder, config: ResolvedConfig, index: DatasetIndex, num_head: int
) -> None:
    counts = index.class_counts
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


# In the order they are written: what a run is begun with comes first.
_WRITERS = {
    "config.json": _write_config,
    "config.flags": _write_flagfile,
    "classes.csv": _write_classes,
    "head_set.json": _write_head_set,
}
DIGESTED = ("config.json", "classes.csv", "head_set.json")


def _check_unchanged(folder: RunFolder, config: ResolvedConfig, index: DatasetIndex) -> None:
    """Refuses to resume what would not give the same weights; says what is other all the same."""
    saved = load_settings(folder)
    before, now = weights_settings(saved), weights_settings(config)
    changed = [
        f"--{name}={now[name]} (was {before[name]})" for name in before if before[name] != now[name]
    ]
    if changed:
        raise UserError(
            f"--resume continues the run as it began, but {', '.join(changed)}: leave these "
            "settings out, or start a new run in a new folder."
        )
    content = folder.read_json(folder.config)
    need(folder.config, content, "provenance")
    digest, times = content["provenance"].get("data_digest"), content.get("data_times", "")
    if digest != index.digest:
        raise UserError(
            f"{config.data} has changed since the run began (digest {index.digest[:12]}, was "
            f"{str(digest)[:12]}): restore it, or start a new run."
        )
    if times and times != index.times:
        raise UserError(
            f"images of {config.data} were written anew since the run began: paths and sizes are "
            "the same and times are not, so the weights might be others. Restore the images with "
            "their times (cp -p and rsync -a keep them), or start a new run. If you know that they "
            f"are the same, take data_times out of {folder.config}, and its own line out of "
            f"{digests.FILE}."
        )
    free = [
        f"--{name}={getattr(config, name)} (was {getattr(saved, name)})"
        for name in FREE_ON_RESUME
        if name not in ("resume", "run_dir") and getattr(config, name) != getattr(saved, name)
    ]
    if free:
        logging.info("from here on with %s; the weights stay the same", ", ".join(free))
    logging.info(
        "resumed: the settings are those of the start, and so are %s of the images",
        "paths, sizes and times" if times else "the contents",
    )


def _head_rule(config: ResolvedConfig) -> str:
    for name in ("head_min_count", "head_ratio", "head_num_classes"):
        if getattr(config, name) is not None:
            return f"{name}={getattr(config, name)}"
    return "head_all" if config.head_all else "none"


def _network_lines(config: ResolvedConfig, *, images: int) -> list[str]:
    """What is trained of which network, and for how long."""
    none = "its own weights" if brings_weights(config.backbone) else "random weights"
    weights = {"none": none, "imagenet": "ImageNet weights"}
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
