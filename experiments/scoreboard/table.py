"""The scoreboard's table of one data set, into RESULTS.md between its markers."""

from __future__ import annotations

import datetime
import json
import math
import os
import pathlib
from typing import Any, NamedTuple, Optional

import numpy as np
import plots

from longtail_tf.reporting.differences import over_seeds, t_quantile
from longtail_tf.run_folder import write_atomically

REFERENCE = "logit_adjusted"  # the row that others are compared with, by its own default rule
BANDS = ("balanced", "all", "many", "medium", "few")


class Runs(NamedTuple):
    """The finished runs of one method, by seed."""

    method: str
    evaluations: dict[int, dict[str, Any]]
    cpu_seconds: list[float]
    classifier_bytes: int

    @property
    def default_rule(self) -> str:
        """The rule that the method names classes by."""
        return next(iter(self.evaluations.values()))["inference_rule"]

    @property
    def rules(self) -> list[str]:
        """Rules that every seed was evaluated by, the default first."""
        first = next(iter(self.evaluations.values()))["rules"]
        rules = [r for r in first if all(r in each["rules"] for each in self.evaluations.values())]
        return sorted(rules, key=lambda rule: rule != self.default_rule)

    def values(self, rule: str, band: str) -> dict[int, Optional[float]]:
        """Seed -> accuracy, 0..1; None for an empty band."""
        return {seed: each["rules"][rule][band] for seed, each in self.evaluations.items()}


def write(data: str, folders: dict, *, results: pathlib.Path, command: str) -> str:
    """Writes the table and the plot of one data set.

    Args:
      data: its name.
      folders: (method, seed) -> run folder; unfinished ones are left out.
      results: the Markdown file; the plot goes into scoreboard/plots beside it.
      command: what makes the table again.

    Returns:
      The table, Markdown; "" where no run is finished.
    """
    runs = load(folders)
    if not runs:
        return ""
    plot = results.parent / "scoreboard" / "plots" / f"{data}.png"
    plots.draw(plot, data, {each.method: _points(each) for each in runs})
    lines = table_lines(runs)
    block = "\n".join(
        [
            _head(runs),
            f"`{command}`",
            "",
            f"![balanced accuracy by method](scoreboard/plots/{data}.png)",
            "",
            *lines,
        ]
    )
    start, end = f"<!-- scoreboard {data} -->", f"<!-- end {data} -->"
    text = results.read_text() if results.exists() else "# Results\n"
    if start not in text:
        text += f"\n### {data}\n\n{start}\n{end}\n"
    before, rest = text.split(start)
    write_atomically(results, f"{before}{start}\n{block}\n{end}{rest.split(end)[1]}")
    return "\n".join(lines)


def load(folders: dict) -> list[Runs]:
    """What the finished runs say, in the order of `folders`."""
    found = []
    for method in dict.fromkeys(method for method, _ in folders):
        mine = {seed: folder for (name, seed), folder in folders.items() if name == method}
        mine = {s: f for s, f in sorted(mine.items()) if (f / "evaluation.json").exists()}
        if not mine:
            continue
        config = _read(next(iter(mine.values())) / "config.json")
        settings = config["settings"]
        outputs = config["num_head"] * (settings["classification_loss"] != "none")
        found.append(
            Runs(
                method,
                {seed: _read(folder / "evaluation.json") for seed, folder in mine.items()},
                [_read(f / "cpu_seconds.json") for f in mine.values()
                 if (f / "cpu_seconds.json").exists()],
                4 * outputs * settings["embedding_dim"],
            )
        )  # fmt: skip
    return found


def table_lines(runs: list[Runs]) -> list[str]:
    """One row a method and rule."""
    reference = next((each for each in runs if each.method == REFERENCE), None)
    lines = [
        f"| trained with | rule | balanced | against {REFERENCE} | all | many | medium | few | "
        "images seen | CPU s | classifier bytes | split |",
        "|" + "---|" * 12,
    ]
    for each in runs:
        seen = sorted({one["images_seen"] for one in each.evaluations.values()})
        digests = sorted({one["provenance"]["data_digest"] for one in each.evaluations.values()})
        for rule in each.rules:
            cells = [with_interval(list(each.values(rule, band).values())) for band in BANDS]
            cells.insert(1, against(each, rule, reference))
            lines.append(
                f"| {each.method} | {rule}{' *' if rule == each.default_rule else ''} | "
                + " | ".join(cells)
                + f" | {' to '.join(f'{n:,}' for n in dict.fromkeys([seen[0], seen[-1]]))} | "
                + (f"{np.mean(each.cpu_seconds):.0f}" if each.cpu_seconds else "-")
                + f" | {each.classifier_bytes:,} | {', '.join(d[:8] for d in digests)} |"
            )
    return lines


def interval(values: list) -> Optional[tuple[float, float]]:
    """Mean and half the 95 % t interval over seeds, 0 for one seed; None for an empty band."""
    if any(value is None for value in values):
        return None
    count = len(values)
    if count == 1:
        return float(values[0]), 0.0
    half = t_quantile(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return float(np.mean(values)), half


def with_interval(values: list) -> str:
    """mean ± half the 95 % interval, in percent; - for an empty band."""
    found = interval(values)
    if found is None:
        return "-"
    return f"{100 * found[0]:.1f}" + (f" ± {100 * found[1]:.1f}" if len(values) > 1 else "")


def against(runs: Runs, rule: str, reference: Optional[Runs]) -> str:
    """Balanced accuracy minus the reference's at the same seeds, paired, with its 95 % interval."""
    if reference is None:
        return "-"
    mine = runs.values(rule, "balanced")
    theirs = reference.values(reference.default_rule, "balanced")
    seeds = sorted(set(mine) & set(theirs))
    if not seeds or (runs is reference and rule == reference.default_rule):
        return "-"
    first, second = (np.array([values[seed] for seed in seeds]) for values in (theirs, mine))
    if len(seeds) == 1:
        return f"{100 * (second - first)[0]:+.1f}"
    found = over_seeds(first, second)
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _points(runs: Runs) -> dict[str, tuple[float, float]]:
    points = {rule: interval(list(runs.values(rule, "balanced").values())) for rule in runs.rules}
    return {rule: found for rule, found in points.items() if found is not None}


def _head(runs: list[Runs]) -> str:
    evaluations = [one for each in runs for one in each.evaluations.values()]
    commits = sorted({one["provenance"]["commit"] or "unknown" for one in evaluations})
    seeds = sorted({seed for each in runs for seed in each.evaluations})
    return (
        f"{datetime.date.today()}, commit {', '.join(commits)}, seeds "
        f"{', '.join(map(str, seeds))}, one thread of {os.cpu_count()} cores (shared), last step, "
        "nothing chosen on the test set. Percent, mean ± half the 95 % t interval over seeds; "
        f"differences are paired by seed with {REFERENCE}'s own rule, on balanced accuracy; * the "
        "method's own rule; bytes of the float32 classifier that is trained.\n"
    )


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text())
