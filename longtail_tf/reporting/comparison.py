"""Several runs side by side: groups of seeds, their accuracies, and differences to the first."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.reporting.differences import Difference, over_images, over_seeds
from longtail_tf.reporting.run_data import GROUPS, RunData

# Settings that may differ between runs of one group: where and how long it ran, not what it is.
INCIDENTAL = frozenset(
    ("seed", "run_dir", "resume", "log_every", "checkpoint_every", "tensorboard", "threads")
)
FEWEST_SEEDS = 2


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs with the same settings and different seeds.

    Attributes:
      name: of its first run.
      runs: by seed, in the order given.
    """

    name: str
    runs: dict[int, RunData]

    def accuracies(self, rule: str, group: str) -> list[float]:
        """The accuracy of each run that has one."""
        found = [run.rules.get(rule, {}).get(group) for run in self.runs.values()]
        return [value for value in found if value is not None]


@dataclasses.dataclass(frozen=True)
class Row:
    """Differences of one rule of one group to the same of the first group.

    Attributes:
      name: of the compared group.
      rule: the inference rule; "default" rules may differ, then "a / b".
      differences: by "all" and band; None where a band is empty.
    """

    name: str
    rule: str
    differences: dict[str, Difference | None]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` shows."""

    groups: list[Group]
    rules: list[str]
    rows: list[Row]
    notes: list[str]


def compare_runs(runs: Sequence[RunData]) -> Comparison:
    """Groups runs by settings and compares each group with the first.

    Raises:
      UserError: fewer than two runs, a run without evaluation, or runs of different data.
    """
    _check(runs)
    groups = _grouped(runs)
    rules = list(dict.fromkeys(rule for run in runs for rule in run.rules))
    rows: list[Row] = []
    notes: list[str] = []
    if len(groups) == 1:
        notes.append(
            "All runs have the same settings and differ by seed only, so the differences below are "
            "the training's own chance."
        )
        groups_to_compare = [Group(run.name, {seed: run}) for seed, run in groups[0].runs.items()]
    else:
        groups_to_compare = groups
    first, *others = groups_to_compare
    for other in others:
        shared = [seed for seed in first.runs if seed in other.runs]
        if len(shared) >= FEWEST_SEEDS:
            rows += _by_seeds(first, other, shared, rules)
        else:
            found, note = _by_images(first, other)
            rows += found
            notes += [note] if note else []
    return Comparison(groups, rules, rows, notes)


def differing_settings(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Settings, commit and packages that are not the same in all groups: name -> one value each."""
    facts = []
    for group in groups:
        run = next(iter(group.runs.values()))
        settings = {k: v for k, v in run.settings.items() if k not in INCIDENTAL}
        code = {k: run.provenance.get(k) for k in ("commit", "python")}
        facts.append({**settings, **code, **(run.provenance.get("packages") or {})})
    names = dict.fromkeys(name for fact in facts for name in fact)
    values = {name: [fact.get(name) for fact in facts] for name in names}
    return {name: row for name, row in values.items() if any(v != row[0] for v in row)}


def _check(runs: Sequence[RunData]) -> None:
    if len(runs) < 2:
        raise UserError(
            f"{len(runs)} run folder came with --runs, expected two or more: --runs=A,B."
        )
    for run in runs:
        if not run.rules:
            raise UserError(
                f"{run.folder.path} has no evaluation.json with accuracies: finish its training, "
                "or run longtail_tf.evaluate on it."
            )
    digests = [run.provenance.get("data_digest") for run in runs]
    for run, digest in zip(runs, digests):
        if digest != digests[0]:
            raise UserError(
                f"{run.name} was evaluated on other data (digest {str(digest)[:12]}) than "
                f"{runs[0].name} ({str(digests[0])[:12]}): only runs on the same images, labels "
                "and split can be compared."
            )


def _grouped(runs: Sequence[RunData]) -> list[Group]:
    groups: dict[str, Group] = {}
    for run in runs:
        settings = {k: v for k, v in run.settings.items() if k not in INCIDENTAL}
        key = json.dumps(settings, sort_keys=True, default=str)
        group = groups.setdefault(key, Group(run.name, {}))
        seed = _seed(run)
        if seed in group.runs:
            raise UserError(
                f"{run.folder.path} and {group.runs[seed].folder.path} have the same settings and "
                f"the same seed {seed}: name each run once."
            )
        group.runs[seed] = run
    named: list[Group] = []
    for group in groups.values():
        taken = [other.name for other in named]
        name = group.name
        if name in taken:  # folders of the same name in different places
            name = str(next(iter(group.runs.values())).folder.path)
        named.append(Group(name, group.runs))
    return named


def _seed(run: RunData) -> int:
    seed = run.setting("seed")
    return int(seed if seed is not None else run.provenance.get("seed") or 0)


def _by_seeds(first: Group, other: Group, shared: list[int], rules: list[str]) -> list[Row]:
    rows = []
    for rule in rules:
        differences: dict[str, Difference | None] = {}
        for group in GROUPS:
            pairs = [
                tuple(g.runs[seed].rules.get(rule, {}).get(group) for g in (first, other))
                for seed in shared
            ]
            whole = [pair for pair in pairs if None not in pair]
            differences[group] = (
                over_seeds(*np.array(whole).T) if len(whole) >= FEWEST_SEEDS else None
            )
        if any(differences.values()):
            rows.append(Row(other.name, rule, differences))
    return rows


def _by_images(first: Group, other: Group) -> tuple[list[Row], str]:
    """The default rules, which may differ, then every other rule that both runs keep."""
    ours, theirs = (next(iter(group.runs.values())) for group in (first, other))
    known: list[Any] = [ours.recognised, theirs.recognised]
    if None in known or ours.classes is None:
        return [], (
            f"{other.name} against {first.name}: no interval, since one of them keeps no "
            "predictions of single images (embeddings.npz)."
        )
    one, two = known
    first_order, second_order = np.argsort(one.rows), np.argsort(two.rows)
    labels = one.labels[first_order]
    if not (
        np.array_equal(one.rows[first_order], two.rows[second_order])
        and np.array_equal(labels, two.labels[second_order])
    ):
        return [], (
            f"{other.name} against {first.name}: no interval, since they were not evaluated on the "
            "same test images."
        )
    defaults = list(dict.fromkeys([ours.default_rule, theirs.default_rule]))
    pairs = {" / ".join(defaults): (one.predictions, two.predictions)}
    for rule in one.by_rule:
        if rule in two.by_rule and rule not in pairs:
            pairs[rule] = one.by_rule[rule], two.by_rule[rule]
    counts = ours.classes.train_counts
    return [
        Row(other.name, rule, over_images(labels, a[first_order], b[second_order], counts))
        for rule, (a, b) in pairs.items()
    ], ""
