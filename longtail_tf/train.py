"""Trains one network with two streams, recognises every class, and leaves a complete run folder.

python -m longtail_tf.train --flagfile=experiments/digits_lt.flags --run_dir=runs/digits
python -m longtail_tf.train --run_dir=runs/digits --resume
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any, Optional

from absl import logging

from longtail_tf.config import Config
from longtail_tf.settings import cli


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run left: its folder, and evaluation.json's numbers by inference rule.

    `metrics` is None when a signal stopped the training before its end, and in workers beside the
    chief, which alone evaluates.
    """

    run_dir: pathlib.Path
    metrics: Optional[dict[str, Any]]


def run(config: Config) -> RunResult:
    """Trains, recognises every class, evaluates once, reports.

    Raises:
      UserError: settings, data or run folder that cannot work; a training that diverged.
    """
    # Imported here so that `--help` and a mistyped flag answer without waiting for TensorFlow.
    from longtail_tf import report
    from longtail_tf.compat import quiet
    from longtail_tf.models import replicas
    from longtail_tf.recognition.embedding_pass import refresh_batch_norm
    from longtail_tf.runs import evaluation, records, trained_run
    from longtail_tf.runs.data import index_of, resolve_for
    from longtail_tf.runs.folder import RunFolder
    from longtail_tf.runs.streams import head_size
    from longtail_tf.training import loop, workers
    from longtail_tf.training.checkpoints import Checkpoints

    loop.prepare_tensorflow(threads=config.threads)
    strategy = replicas.strategy_of(config.replicas)
    quiet.quiet_first_compilation()
    with workers.failing_together(strategy):
        index = index_of(config)
        config = resolve_for(config, index)
        num_head = head_size(config, index.class_counts)
    with workers.claimed_folder(strategy, config.run_dir, resume=config.resume) as folder:
        with workers.failing_together(strategy):
            model = loop.compiled_model(config, index, num_head=num_head, strategy=strategy)
            if workers.is_chief(strategy):
                records.begin(folder, config, index, num_head=num_head)
            checkpoints = Checkpoints(model, folder.checkpoints)
            saved = RunFolder(config.run_dir).checkpoints
            start_step = checkpoints.restore(saved) if config.resume else 0
        same = {"settings": records.weights_settings(config), "data": index.digest}
        workers.check_same(strategy, {**same, "checkpoints": start_step})
        folder.trim_metrics(start_step)

        interrupted_at = loop.fit(
            model,
            config,
            index,
            num_head=num_head,
            strategy=strategy,
            folder=folder,
            start_step=start_step,
            checkpoints=checkpoints,
        )
        if interrupted_at is not None:
            logging.info(
                "stopped at step %s of %s and saved; continue with\n"
                "  python -m longtail_tf.train --run_dir=%s --resume",
                f"{interrupted_at:,}",
                f"{config.steps:,}",
                config.run_dir,
            )
            return RunResult(pathlib.Path(config.run_dir), None)
        model = trained_run.inference_copy(model, config, channels=index.channels)
        if not workers.is_chief(strategy):
            return RunResult(pathlib.Path(config.run_dir), None)
        batch_norm = refresh_batch_norm(
            model,
            index.train,
            image_size=config.image_size,
            channels=index.channels,
            seed=config.seed,
            max_bad_share=config.max_bad_share,
        )
        recognizer = evaluation.recognizer_from(model, index, config, num_head=num_head)
        run = trained_run.save_run(folder, model, recognizer)
        results = evaluation.evaluate_test(
            run, index, step=config.steps, out=folder.path, batch_norm=batch_norm
        )
        report.write_report(config.run_dir, index=index)
        records.show_results(run, results)
    return RunResult(folder.path, results["rules"])


def main() -> None:
    """Command line; with --resume the settings come from the run folder."""
    cli.launch(run, Config, __doc__, argv=_with_saved_settings(sys.argv))


def _with_saved_settings(argv: list[str]) -> list[str]:
    """Puts RUN_DIR/config.flags before the other flags when --resume is given."""
    folders = [word.split("=", 1)[1] for word in argv if word.lstrip("-").startswith("run_dir=")]
    if any(word.lstrip("-") in ("resume", "resume=true") for word in argv[1:]) and folders:
        saved = pathlib.Path(folders[-1]) / "config.flags"
        if saved.is_file():
            return [argv[0], f"--flagfile={saved}", *argv[1:]]
    return argv


if __name__ == "__main__":
    main()
