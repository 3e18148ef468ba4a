"""Evaluates a trained run again, on its own test set or on another set of the same classes.

python -m longtail_tf.evaluate --run_dir=runs/digits
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from longtail_tf.errors import UserError
from longtail_tf.settings import cli, setting


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Settings of one evaluation."""

    run_dir: str = setting("", "Run folder that longtail_tf.train left.")
    data: str = setting(
        "", "Another data set with the same classes, whose test split is read instead; needs --out."
    )
    test_prior: str = setting(
        "",
        "How often each class is expected: uniform, train (as in training), or a CSV file with the "
        "columns name and weight; needs --out.",
    )
    out: str = setting(
        "", "Folder for evaluation.json, per_class.csv and embeddings.npz; empty: the run folder."
    )


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Embeds the test set, applies every rule, writes evaluation.json and per_class.csv."""
    from longtail_tf.recognition.priors import read_test_prior
    from longtail_tf.runs import evaluation, records
    from longtail_tf.runs.enrolled import load_data
    from longtail_tf.runs.trained_run import load_run

    if (config.data or config.test_prior) and not config.out:
        changed = f"--data={config.data}" if config.data else f"--test_prior={config.test_prior}"
        raise UserError(
            f"{changed} without --out would overwrite the run's own evaluation: name a "
            "folder for this one with --out."
        )
    trained = load_run(config.run_dir)
    index = load_data(trained, config.data)
    results = evaluation.evaluate_test(
        trained,
        index,
        step=trained.config.steps,
        out=pathlib.Path(config.out) if config.out else trained.folder.path,
        test_prior=read_test_prior(
            config.test_prior,
            class_names=trained.class_names,
            class_counts=trained.class_counts,
        ),
    )
    records.show_results(trained, results)
    return results


def main() -> None:
    """Command line."""
    cli.launch(run, EvaluateConfig, __doc__)


if __name__ == "__main__":
    main()
