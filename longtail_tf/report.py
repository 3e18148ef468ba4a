"""Writes a run's report: one self-contained HTML file for managers and engineers.

    python -m longtail_tf.report --run_dir=runs/shop

Reads what the run folder holds and opens in any browser, offline. Example images are taken from the
run's data set where it is at hand.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from absl import logging

from longtail_tf import __version__
from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically
from longtail_tf.reporting.amount_trained import amount_trained_section
from longtail_tf.reporting.counts import count_curve
from longtail_tf.reporting.further_measures import (
    calibration_section,
    retrieval_section,
    unknowns_section,
)
from longtail_tf.reporting.map_section import embedding_section
from longtail_tf.reporting.mistakes import confused_pairs, worst_classes
from longtail_tf.reporting.page import page
from longtail_tf.reporting.pictures import Pictures
from longtail_tf.reporting.projector import write_projector_files
from longtail_tf.reporting.recognition import accuracy_by_count, bands_by_rule
from longtail_tf.reporting.reproduce import reproduce_section
from longtail_tf.reporting.run_data import RunData, read_run
from longtail_tf.reporting.summary import summary
from longtail_tf.reporting.training import training_section
from longtail_tf.settings import cli, setting
from longtail_tf.settings.terminal import plain_name


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Settings of the report."""

    run_dir: str = setting("", "Run folder that longtail_tf.train wrote.")
    out: str = setting("", "Where the page goes; empty: RUN_DIR/report.html.")
    data: str = setting(
        "", "Data set for the example images, where it has moved; empty: that of the training."
    )
    pictures: bool = setting(True, "Show example images of the test set.")
    projector: str = setting(
        "", "Also write TensorBoard Projector files (vectors.tsv, metadata.tsv) into this folder."
    )


def write_report(
    run_dir: Any, *, index: Any = None, out: Any = None, no_pictures: str = ""
) -> pathlib.Path:
    """Writes the report of a run folder.

    Args:
      run_dir: the run folder; files it lacks leave out their sections, each with a sentence.
      index: the run's data set, for example images; None leaves them out. One with another digest
        than the run's is not shown.
      out: the page's path; None: report.html in the run folder.
      no_pictures: why there is no index, in a sentence.

    Returns:
      The page's path.

    Raises:
      UserError: there is no run in `run_dir`, or one of its files is damaged.
    """
    run = read_run(run_dir)
    pictures, no_pictures = _pictures(run, index, no_pictures)
    top = summary(run, data_name=_data_name(run, index))
    sections = [
        bands_by_rule(run),
        count_curve(run),
        accuracy_by_count(run),
        confused_pairs(run, pictures, no_pictures),
        worst_classes(run, pictures, no_pictures),
        embedding_section(run),
        calibration_section(run),
        unknowns_section(run),
        retrieval_section(run),
        amount_trained_section(run),
        training_section(run),
        reproduce_section(run),
    ]
    html = page(
        f"{run.name} · training report",
        top,
        [section for section in sections if section is not None],
        footer=f"Made by longtail_tf {__version__}.",
    )
    path = pathlib.Path(out) if out else run.folder.report
    write_atomically(path, html.encode("utf-8", "replace"))
    return path


def run(config: ReportConfig) -> pathlib.Path:
    """Writes the report and, where asked, the Projector files."""
    data = read_run(config.run_dir)
    index, no_pictures = None, "Example images were switched off for this report."
    if config.pictures:
        index, no_pictures = _load_index(data, config.data)
    path = write_report(
        config.run_dir, index=index, out=config.out or None, no_pictures=no_pictures
    )
    if config.projector:
        write_projector_files(data, config.projector)
    print(plain_name(str(path)))
    return path


def _pictures(run: RunData, index: Any, reason: str) -> tuple[Pictures | None, str]:
    split = getattr(index, run.split, None)
    if split is None:
        return None, reason or (
            "The data set was not at hand when this report was made, so there are no example "
            "images."
        )
    digest = run.provenance.get("data_digest")
    if digest and index.digest != digest:
        return None, (
            "The data set at hand is not the one of this run (its digest differs), so there are no "
            "example images."
        )
    return Pictures(split), ""


def _load_index(run: RunData, data: str) -> tuple[Any, str]:
    """The run's data set, or None and a sentence."""
    from longtail_tf.datasets import load_index
    from longtail_tf.datasets.spec import from_folder, is_there

    spec = data or run.setting("data")
    if not spec:
        return None, ""
    if not data and not is_there(spec):
        spec = from_folder(spec, run.config.get("working_folder") or "")
    try:
        return load_index(
            spec,
            val_per_class=run.setting("val_per_class") or 0,
            split_seed=run.setting("split_seed") or 0,
            exclude=run.setting("exclude") or "",
        ), ""
    except (UserError, OSError, ImportError) as error:
        if data:
            raise
        logging.warning("No example images: the data set of this run cannot be read (%s)", error)
        return None, ""


def _data_name(run: RunData, index: Any) -> str:
    if index is not None:
        return str(index.name)
    return str(run.setting("data") or "")


def main() -> None:
    """Command line."""
    cli.launch(run, ReportConfig, __doc__)


if __name__ == "__main__":
    main()
