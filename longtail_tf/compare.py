"""Puts runs side by side, with paired differences and 95 % intervals.

    python -m longtail_tf.compare --runs=runs/alternate,runs/joint --out=comparison.html

Every run is compared with the first. Runs with the same settings and different seeds form a group;
two groups that share seeds are paired by seed, single runs by test image.
"""

from __future__ import annotations

import dataclasses
import pathlib

from longtail_tf import __version__
from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically
from longtail_tf.reporting.compare_page import as_page
from longtail_tf.reporting.compare_text import as_text
from longtail_tf.reporting.comparison import Comparison, compare_runs
from longtail_tf.reporting.projector import write_projector_files
from longtail_tf.reporting.run_data import read_run
from longtail_tf.settings import cli, setting


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Settings of the comparison."""

    runs: str = setting("", "Run folders, separated by commas; the first is the one compared with.")
    out: str = setting("", "Also write the comparison as one self-contained HTML file.")
    projector: str = setting(
        "", "Also write TensorBoard Projector files of each run into DIR/<run name>/.")  # fmt: skip


def run(config: CompareConfig) -> Comparison:
    """Prints the comparison; writes the page and the Projector files where asked."""
    paths = [path.strip() for path in config.runs.split(",") if path.strip()]
    if not paths:
        raise UserError("--runs is missing: give two or more run folders, --runs=A,B.")
    runs = [read_run(path) for path in paths]
    comparison = compare_runs(runs)
    print(as_text(comparison))
    if config.out:
        html = as_page(comparison, version=__version__)
        write_atomically(config.out, html.encode("utf-8", "replace"))
    if config.projector:
        for number, data in enumerate(runs):
            name = data.name if [r.name for r in runs].count(data.name) == 1 else f"run{number}"
            write_projector_files(data, pathlib.Path(config.projector) / name)
    return comparison


def main() -> None:
    """Command line."""
    cli.launch(run, CompareConfig, __doc__)


if __name__ == "__main__":
    main()
