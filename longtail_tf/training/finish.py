"""The end of a training: fresh batch-norm statistics, a recogniser of every class, a saved run."""

from __future__ import annotations

import dataclasses
from typing import Any

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.recognition.embedding_pass import refresh_batch_norm
from longtail_tf.runs import records
from longtail_tf.runs.evaluation import recognizer_from
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.trained_run import TrainedRun, inference_copy, save_run
from longtail_tf.training.start import Start


@dataclasses.dataclass(frozen=True, eq=False)
class Finished:
    """A saved run, and what its batch-norm refresh looked at (for evaluation.json)."""

    run: TrainedRun
    batch_norm: dict[str, Any]


def finished_run(
    plain: Start,
    config: ResolvedConfig,
    index: DatasetIndex,
    *,
    num_head: int,
    folder: RunFolder,
) -> Finished:
    """Turns a trained network into a run that names every class, and saves it.

    Args:
      plain: the network as the last step left it, in float32 and one replica
        (`start.plain_copy`).
      config: settings.
      index: the data set.
      num_head: classes of the head classifier.
      folder: where the run is saved.
    """
    batch_norm = {"batches": 0, "images": 0}
    if config.steps:  # features that are read as they are stay as they are
        batch_norm = refresh_batch_norm(
            plain.model,
            lambda sampler: plain.inputs.plain_streams(sampler, seed=config.seed),
            index.train.labels,
            seed=config.seed,
        )
    recognizer, choice = recognizer_from(
        plain.model, plain.inputs, index, config, num_head=num_head
    )
    if choice is not None:
        config = dataclasses.replace(config, inference_rule=choice.rule)
        records.settle(folder, config, index, num_head=num_head)
    model = inference_copy(plain.model, config, channels=index.channels)
    return Finished(save_run(folder, model, recognizer), batch_norm)
