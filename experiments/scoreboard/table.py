"""The scoreboard of one data set: two tables into RESULTS.md between its markers, all of it as CSV.

The first table has a row for each method, read by the rule it names classes by, or by the one that
validation chose in each run (auto), and beside it by the rule that turned out best; the second has
a row for each training and a column for each rule.
"""

from __future__ import annotations

import collections
import csv
import datetime
import io
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import plots

from longtail_tf.files import write_atomically
from longtail_tf.reporting.differences import over_seeds, t_quantile
from longtail_tf.settings.choices import AUTO_RULE, RULES

TEN_LINES = ("logreg", "class_means", "shrunk_lda")  # of frozen.py: scikit-learn's, no network
FEW_CLASSES = 5  # a band of fewer says little
REFERENCE = "logit_adjusted"  # the row that others are compared with, by its own rule
BANDS = ("balanced", "all", "many", "medium", "few")


class Method(NamedTuple):
    """A row of the first table."""

    name: str
    trained_as: str  # methods that differ in the rule alone share a training
    rule: str  # that it names classes by; "auto": the one that each run chose


class Runs(NamedTuple):
    """The finished runs of one training, by seed."""

    name: str
    evaluations: dict[int, dict[str, Any]]
    cpu_seconds: list[float]
    classifier_bytes: int
    band_classes: dict[str, int]  # classes in each band of shots; {} where no run says

    @property
    def rules(self) -> list[str]:
        """Rules that every seed was evaluated by."""
        evaluations = list(self.evaluations.values())
        known = [rule for rule in RULES if all(rule in each["rules"] for each in evaluations)]
        return known or [*evaluations[0]["rules"]]  # of scikit-learn, under names of their own

    def has(self, rule: str) -> bool:
        """Whether every seed can be read by `rule`."""
        return rule in self.rules or rule == AUTO_RULE

    def values(self, rule: str, band: str) -> dict[int, float | None]:
        """Seed -> accuracy, 0..1, by `rule` or the one its run chose; None for an empty band."""
        return {
            seed: each["rules"][self.chosen(seed) if rule == AUTO_RULE else rule][band]
            for seed, each in self.evaluations.items()
        }

    def chosen(self, seed: int) -> str:
        """The rule that the run of a seed names classes by."""
        return str(self.evaluations[seed]["inference_rule"])

    @property
    def best(self) -> tuple[str, float]:
        """The rule that turned out best, and its mean balanced accuracy over the seeds, 0..1."""
        means = {
            rule: float(np.mean(list(self.values(rule, "balanced").values())))  # type: ignore[arg-type]
            for rule in self.rules
        }
        rule = max(means, key=means.__getitem__)
        return rule, means[rule]


def write(
    data: str, methods: list[Method], folders: dict, *, results: pathlib.Path, command: str
) -> str:
    """Writes the tables and the plot of one data set.

    Args:
      data: its name.
      methods: the rows, in their order.
      folders: (training, seed) -> run folder; unfinished ones are left out.
      results: the Markdown file; the plot and the CSV go into scoreboard/ beside it.
      command: what makes the table again.

    Returns:
      The tables, Markdown; "" where no run is finished.
    """
    runs = load(folders)
    trained = [each for each in methods if each.trained_as in runs]
    rows = [each for each in trained if runs[each.trained_as].has(each.rule)]
    for each in trained:
        if each not in rows:
            print(f"{data} {each.name}: not every seed has rule {each.rule}; refit.py may add it")
    if not rows:
        return ""
    board = results.parent / "scoreboard"
    plots.draw(board / "plots" / f"{data}.png", data, [_points(each, runs) for each in rows])
    write_csv(board / "tables" / f"{data}.csv", runs)
    lines = [*method_lines(rows, runs), "", *rule_lines(runs)]
    block = "\n".join(
        [
            _head(runs),
            f"`{command}` ([every seed, rule and band](scoreboard/tables/{data}.csv))",
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


def load(folders: dict) -> dict[str, Runs]:
    """What the finished runs say, by training, in the order of `folders`."""
    found = {}
    for training in dict.fromkeys(training for training, _ in folders):
        mine = {seed: folder for (name, seed), folder in folders.items() if name == training}
        mine = {s: f for s, f in sorted(mine.items()) if (f / "evaluation.json").exists()}
        if not mine:
            continue
        first = next(iter(mine.values()))
        config = _read(first / "config.json")
        settings = config["settings"]
        outputs = config["num_head"] * (settings["classification_loss"] != "none")
        found[training] = Runs(
            training,
            {seed: _read(folder / "evaluation.json") for seed, folder in mine.items()},
            [_read(f / "cpu_seconds.json") for f in mine.values()
             if (f / "cpu_seconds.json").exists()],
            4 * outputs * settings["embedding_dim"],
            _band_classes(first / "classes.csv"),
        )  # fmt: skip
    return found


def method_lines(methods: list[Method], runs: dict[str, Runs]) -> list[str]:
    """The first table: a row a method, by its own rule."""
    reference = next((each for each in methods if each.name == REFERENCE), None)
    with_best = any(each.rule == AUTO_RULE for each in methods)
    classes = next((each.band_classes for each in runs.values() if each.band_classes), {})
    bands = [_band_title(band, classes) for band in ("many", "medium", "few")]
    lines = [
        "| method | rule | balanced |"
        + " by its best rule |" * with_best
        + f" against {REFERENCE} | all | {' | '.join(bands)} | seeds | "
        "images seen | CPU s | classifier bytes | split |",
        "|" + "---|" * (13 + with_best),
    ]
    for method in methods:
        mine = runs[method.trained_as]
        evaluations = mine.evaluations.values()
        seen = sorted({one["images_seen"] for one in evaluations})
        digests = sorted({one["provenance"]["data_digest"] for one in evaluations})
        cells = [with_interval(list(mine.values(method.rule, band).values())) for band in BANDS]
        cells.insert(1, against(method, reference, runs))
        if with_best:
            best, accuracy = mine.best
            cells.insert(1, f"{100 * accuracy:.1f} ({best})")
        rule = method.rule
        if rule == AUTO_RULE:
            rule = "auto: " + ", ".join(dict.fromkeys(map(mine.chosen, mine.evaluations)))
        lines.append(
            f"| {method.name} | {rule} | "
            + " | ".join(cells)
            + f" | {len(mine.evaluations)} | "
            + " to ".join(f"{n:,}" for n in dict.fromkeys([seen[0], seen[-1]]))
            + " | "
            + (f"{np.mean(mine.cpu_seconds):.0f}" if mine.cpu_seconds else "-")
            + f" | {mine.classifier_bytes:,} | {', '.join(d[:8] for d in digests)} |"
        )
    return lines


def rule_lines(runs: dict[str, Runs]) -> list[str]:
    """The second table: balanced accuracy of each training by every rule that applies to it."""
    rules = [rule for rule in RULES if any(rule in each.rules for each in runs.values())]
    lines = ["| trained with | " + " | ".join(rules) + " |", "|" + "---|" * (len(rules) + 1)]
    for each in runs.values():
        if not set(rules) & set(each.rules):
            continue
        cells = [
            f"{100 * np.mean(list(each.values(rule, 'balanced').values())):.1f}"
            if rule in each.rules
            else "-"
            for rule in rules
        ]
        lines.append(f"| {each.name} | " + " | ".join(cells) + " |")
    return lines


def write_csv(path: pathlib.Path, runs: dict[str, Runs]) -> None:
    """Every seed, rule and band; fractions, empty for an empty band; `named_by`: the rule that the
    run names classes by."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trained_with", "rule", "seed", *BANDS, "named_by", "commit"])
    for each in runs.values():
        for rule in each.rules:
            for seed, one in each.evaluations.items():
                bands = [one["rules"][rule][band] for band in BANDS]
                values = ["" if value is None else f"{value:.4f}" for value in bands]
                named_by = int(rule == one.get("inference_rule"))
                row = [each.name, rule, seed, *values, named_by, one["provenance"]["commit"]]
                writer.writerow(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())


def interval(values: list) -> tuple[float, float] | None:
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


def against(method: Method, reference: Method | None, runs: dict[str, Runs]) -> str:
    """Balanced accuracy minus the reference's at the same seeds, paired, with its 95 % interval."""
    if reference is None or method is reference:
        return "-"
    mine = runs[method.trained_as].values(method.rule, "balanced")
    theirs = runs[reference.trained_as].values(reference.rule, "balanced")
    seeds = sorted(set(mine) & set(theirs))
    if not seeds:
        return "-"
    first, second = (np.array([values[seed] for seed in seeds]) for values in (theirs, mine))
    if len(seeds) == 1:
        return f"{100 * (second - first)[0]:+.1f}"
    found = over_seeds(first, second)
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _points(method: Method, runs: dict[str, Runs]) -> plots.Line:
    mine = runs[method.trained_as]
    shown = [AUTO_RULE] * (method.rule == AUTO_RULE) + mine.rules
    points = {
        rule: interval(list(mine.values(rule, "balanced").values()))
        for rule in shown
        if rule == method.rule or method.name == method.trained_as
    }
    found = {rule: point for rule, point in points.items() if point is not None}
    return plots.Line(method.name, method.rule, found)


def _head(runs: dict[str, Runs]) -> str:
    evaluations = [one for each in runs.values() for one in each.evaluations.values()]
    commits = sorted({one["provenance"]["commit"] or "unknown" for one in evaluations})
    return (
        f"{datetime.date.today()}, commit {', '.join(commits)}, one thread of {os.cpu_count()} "
        "cores (shared), last step, nothing chosen on the test set. Percent, mean ± half the 95 % "
        f"t interval over seeds; differences are paired by seed with {REFERENCE}'s own rule, on "
        "balanced accuracy; bytes of the float32 classifier that is trained. Second table: "
        "balanced accuracy of each training by every rule.\n"
    )


def _band_classes(path: pathlib.Path) -> dict[str, int]:
    """How many classes each band of shots has, from a run's classes.csv."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return dict(collections.Counter(row["band"] for row in csv.DictReader(file)))


def _band_title(band: str, classes: dict[str, int]) -> str:
    """A band's name; with the number of its classes where those are few."""
    count = classes.get(band, 0)
    if not 0 < count < FEW_CLASSES:
        return band
    return f"{band} ({count} class{'es' * (count > 1)}!)"


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text())
