"""Trains one network with two streams, recognises every class, and leaves a complete run folder.

python -m longtail_tf.train --flagfile=experiments/digits_lt.flags --run_dir=runs/digits
python -m longtail_tf.train --run_dir=runs/digits --resume
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any, Optional

from longtail_tf.config import Config
from longtail_tf.settings import cli


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run left: its folder, and evaluation.json's numbers by inference rule.

    `metrics` is None when a signal stopped the training before its end, which `stopped_by` then
    names, and in workers beside the chief, which alone evaluates.
    """

    run_dir: pathlib.Path
    metrics: Optional[dict[str, Any]]
    stopped_by: Optional[int] = None


def run(config: Config) -> RunResult:
    """Trains, recognises every class, evaluates once, reports.

    Raises:
      UserError: settings, data or run folder that cannot work; a training that diverged.
    """
    # Imported here so that `--help` and a mistyped flag answer without waiting for TensorFlow.
    from longtail_tf import report
    from longtail_tf.compat.quiet import quiet_first_compilation
    from longtail_tf.runs import evaluation, records
    from longtail_tf.runs.folder import RunFolder
    from longtail_tf.runs.resolve import index_of, resolve_for
    from longtail_tf.runs.streams import head_size
    from longtail_tf.settings.checks import seconds_of
    from longtail_tf.training import choice, finish, loop, plan, start, workers
    from longtail_tf.training.checkpoints import Checkpoints

    loop.prepare_tensorflow(threads=config.threads)
    with workers.Team(replicas=config.replicas) as team:
        quiet_first_compilation()
        index = index_of(config)
        settings = resolve_for(config, index)
        if config.time_budget:
            budget = seconds_of(config.time_budget)
            settings = plan.within_budget(settings, index, seconds=budget)
        num_head = head_size(settings, index.class_counts)
        with team.claim(settings.run_dir, resume=settings.resume) as folder:
            records.begin(folder, settings, index, num_head=num_head)
            settings, trials = choice.decided(settings, index, folder=folder)
            num_head = head_size(settings, index.class_counts)
            records.settle(folder, settings, index, num_head=num_head, trials=trials)
            with team.strategy.scope():
                begun = start.starting_network(settings, index, num_head=num_head, folder=folder)
                loop.compile_for(begun.model, settings, index, num_head=num_head)
            checkpoints = Checkpoints(begun.model, folder.checkpoints)
            saved = RunFolder(settings.run_dir).checkpoints
            start_step = 0
            if settings.resume:
                first_at = records.first_checkpoint(settings, folder)
                start_step = checkpoints.restore(saved, first_at=first_at)
            folder.trim_metrics(start_step)
            team.agree(records.what_must_agree(settings, index, start_step=start_step))

            stopped = loop.fit(
                begun,
                settings,
                index,
                num_head=num_head,
                team=team,
                folder=folder,
                start_step=start_step,
                checkpoints=checkpoints,
            )
            if stopped is not None:
                records.show_stop(settings, stopped.step)
                return RunResult(pathlib.Path(settings.run_dir), None, stopped.signal)
            # In every process: reading the variables of several workers takes all of them.
            plain = start.plain_copy(begun, settings, index, num_head=num_head)
            if not team.is_chief:
                return RunResult(pathlib.Path(settings.run_dir), None)

            done = finish.finished_run(plain, settings, index, num_head=num_head, folder=folder)
            results = evaluation.evaluate_test(
                done.run,
                index,
                step=settings.steps,
                out=folder.path,
                batch_norm=done.batch_norm,
            )
            report.write_report(folder.path, index=index)
            records.show_results(done.run, results)
            start.remove_own_cache(folder)
            return RunResult(folder.path, results["rules"])


def main() -> None:
    """Command line; with --resume the settings come from the run folder.

    A training that a signal stopped is not done: the exit code says so, as `train && export` goes
    by it.
    """
    result = cli.launch(run, Config, __doc__, complete=_with_saved_settings)
    if result is not None and result.stopped_by is not None:
        sys.exit(128 + result.stopped_by)


def _with_saved_settings(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run folder, and over them those that were given, under --resume."""
    if not given.get("resume") or not given.get("run_dir"):
        return given
    from longtail_tf.runs.saved_settings import saved_settings

    return {**saved_settings(given["run_dir"]), **given}


if __name__ == "__main__":
    main()
