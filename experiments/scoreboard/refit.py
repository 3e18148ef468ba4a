"""Fits every inference rule again from the networks of finished runs, and evaluates them again.

    python experiments/scoreboard/refit.py --runs=runs/scoreboard --data=digits,fashion

For runs that were trained before a rule was written: their networks stay as they are, and
evaluation.json then names the commit of this evaluation. Runs that have every rule are left alone.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

import table

from longtail_tf.errors import UserError
from longtail_tf.settings import cli, setting


@dataclasses.dataclass(frozen=True)
class RefitConfig:
    """Settings of one call."""

    runs: str = setting("runs/scoreboard", "Where the run folders are.")
    data: str = setting("", "Data sets, comma-separated; empty: all of them.")


def run(config: RefitConfig) -> None:
    """Refits what lacks a rule.

    Raises:
      UserError: there are no finished runs.
    """
    found = sorted(pathlib.Path(config.runs).glob("*/*/*/evaluation.json"))
    wanted = config.data.split(",") if config.data else None
    found = [path for path in found if wanted is None or path.parts[-4] in wanted]
    found = [path for path in found if path.parts[-3] not in table.TEN_LINES]
    if not found:
        raise UserError(f"--runs={config.runs}: no finished runs (DATA/METHOD/SEED) are there.")
    for path in found:
        if missing(json.loads(path.read_text())["rules"]):
            print("/".join(path.parts[-4:-1]), flush=True)
            refit(path.parent)


def missing(rules: dict) -> list[str]:
    """Rules that every such run can be read by, and that this one was not."""
    if not rules:  # without images to judge it by
        return []
    wanted = ["lda", *["gated_lda"] * ("head_only" in rules)]
    return [rule for rule in wanted if rule not in rules]


def refit(folder: pathlib.Path) -> None:
    """Fits and evaluates one run by every rule."""
    from longtail_tf import report
    from longtail_tf.runs import evaluation
    from longtail_tf.runs.trained_run import load_run, save_run

    trained = load_run(str(folder))
    index = trained.load_data()
    before = json.loads((folder / "evaluation.json").read_text())
    recognizer = evaluation.recognizer_from(
        trained.model, index, trained.config, num_head=trained.num_head
    )
    trained = save_run(trained.folder, trained.model, recognizer)
    evaluation.evaluate_test(
        trained,
        index,
        step=before["step"],
        out=folder,
        batch_norm=before["batch_norm_refresh"],
    )
    report.write_report(str(folder), index=index)


if __name__ == "__main__":
    cli.launch(run, RefitConfig, __doc__)
