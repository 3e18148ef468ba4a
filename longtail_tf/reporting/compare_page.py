"""A comparison as a self-contained page."""

from __future__ import annotations

from typing import Any

import numpy as np

from longtail_tf.reporting.compare_text import how_paired
from longtail_tf.reporting.comparison import Comparison, Group, differing_settings
from longtail_tf.reporting.differences import Difference
from longtail_tf.reporting.html import (
    Html,
    class_name,
    counted,
    element,
    percent,
    points,
    table,
)
from longtail_tf.reporting.page import Missing, Section, page
from longtail_tf.reporting.reproduce import command, shown_setting
from longtail_tf.reporting.run_data import BAND_WORDS, GROUPS
from longtail_tf.reporting.summary import RULE_WORDS


def as_page(comparison: Comparison, *, version: str) -> Html:
    """The comparison as a self-contained page."""
    top = [
        element("p", "Comparison", class_="over"),
        element("h1", _headline(comparison)),
        element("p", _story(comparison), class_="lead"),
    ]
    sections = [
        _differences(comparison),
        _settings(comparison),
        _accuracies(comparison),
        _commands(comparison),
    ]
    names = " · ".join(group.name for group in comparison.groups)
    return page(f"{names} · comparison", top, sections, footer=f"Made by longtail_tf {version}.")


def _headline(comparison: Comparison) -> list:
    first_rows = {row.name: row for row in reversed(comparison.rows)}  # of the default rule
    overall = [
        (row.name, row.differences["all"])
        for row in comparison.rows
        if row is first_rows[row.name] and row.differences["all"]
    ]
    if not overall:
        return [f"{counted(len(comparison.groups), 'setting')} side by side"]
    name, difference = max(overall, key=lambda pair: pair[1].mean)
    first = class_name(comparison.groups[0].name)
    if difference is not None and difference.low > 0:
        return [element("b", class_name(name)), " is ", element("b", points(difference.mean)[1:]),
                " points ahead of ", first]  # fmt: skip
    if all(d is not None and d.high < 0 for _, d in overall):
        return [element("b", first), " is ahead of everything it was compared with"]
    return ["No clear lead over ", first]


def _story(comparison: Comparison) -> str:
    runs = sum(len(group.runs) for group in comparison.groups)
    return (
        f"{counted(runs, 'run')} in {counted(len(comparison.groups), 'setting')}, on the same "
        "images, labels and split. Differences are in percentage points of accuracy on the test "
        "images; an interval that does not hold 0 is a clear difference. The intervals are not "
        "widened for the number of comparisons made: the more rows, the likelier one looks clear "
        "by chance."
    )


def _differences(comparison: Comparison) -> Any:
    title = "Paired differences"
    if not comparison.rows:
        return Missing(title, " ".join(comparison.notes) or "There is nothing to compare.")
    figures = [_forest(comparison, group) for group in GROUPS]
    rows = [
        [class_name(row.name), element("code", row.rule),
         *(_difference_cell(row.differences[group]) for group in GROUPS)]
        for row in comparison.rows
    ]  # fmt: skip
    first = class_name(comparison.groups[0].name)
    words = [element("p", "Each run against ", element("strong", first), ".")]
    words += [element("p", text) for text in [*how_paired(comparison), *comparison.notes]]
    headers = ["Run", "Rule", "All", "Many", "Medium", "Few"]
    caption = "Difference in points, 95 % interval"
    return Section("differences", title, words, [
        element("div", [figure for figure in figures if figure], class_="bands"),
        table(headers, rows, caption=caption, text_columns=2),
    ])  # fmt: skip


def _forest(comparison: Comparison, group: str) -> Html | None:
    """One line a row: the difference and its interval around zero."""
    found = [(row, row.differences[group]) for row in comparison.rows if row.differences[group]]
    everything = [d for row in comparison.rows for d in row.differences.values() if d]
    reach = max(max(abs(d.low), abs(d.high)) for d in everything) * 1.08 or 0.01
    lines = []
    for row, difference in found:
        if difference is None:
            continue
        left, right, middle = (
            50 + 50 * side / reach for side in (difference.low, difference.high, difference.mean)
        )
        track = element(
            "span", element("b", style="left:50%"),
            element("i", style=f"left:{left:.2f}%;width:{right - left:.2f}%"),
            element("u", style=f"left:{middle:.2f}%"), class_="track", aria_hidden="true",
        )  # fmt: skip
        name = [class_name(row.name), element("small", row.rule)]
        lines.append(
            element("div", element("span", name), track,
                    element("span", points(difference.mean), class_="n"), class_="rule run")
        )  # fmt: skip
    if not lines:
        return None
    ends = [element("span", points(side * reach)) for side in (-1, 0, 1)]
    scale = element("div", element("span"), element("span", ends, class_="ends"), element("span"),
                    class_="rule run scale", aria_hidden="true")  # fmt: skip
    heading = element("h3", element("span", BAND_WORDS[group].capitalize(), class_=f"key {group}"))
    return element("div", heading, lines, scale, class_=group)


def _settings(comparison: Comparison) -> Any:
    title = "What differs"
    differing = differing_settings(comparison.groups)
    if not differing:
        return Missing(title, "The runs differ by seed only.")
    rows = [
        [element("code", name), *(element("code", shown_setting(value)) for value in values)]
        for name, values in sorted(differing.items())
    ]
    headers = ["Setting", *(class_name(group.name) for group in comparison.groups)]
    body = table(headers, rows, caption="Settings that are not the same", text_columns=len(headers))
    words = "Whatever is not listed here is the same in all runs, apart from the seed."
    return Section("settings", title, words, [body])


def _accuracies(comparison: Comparison) -> Section:
    tables = []
    for rule in comparison.rules:
        rows = [
            [class_name(group.name), str(len(group.runs)),
             *(_mean_cell(group, rule, column) for column in GROUPS)]
            for group in comparison.groups
            if group.accuracies(rule, "all")
        ]  # fmt: skip
        caption = [element("code", rule), f": {RULE_WORDS[rule]}" if rule in RULE_WORDS else ""]
        headers = ["Run", "Seeds", "All", "Many", "Medium", "Few"]
        tables.append(table(headers, rows, caption=rule, shown_caption=caption))
    words = "The mean over seeds; beneath it the lowest and the highest seed where there are more."
    return Section("accuracies", "Rules and bands", words, tables)


def _commands(comparison: Comparison) -> Section:
    parts = [
        element("details", element("summary", class_name(run.name)), element("pre", command(run)))
        for group in comparison.groups
        for run in group.runs.values()
    ]
    digest = next(iter(comparison.groups[0].runs.values())).provenance.get("data_digest")
    if digest:
        facts = [element("dt", "Data digest (SHA-256)"), element("dd", element("code", digest))]
        parts.insert(0, element("dl", facts))
    return Section("commands", "How to repeat them", "The command of each run.", parts)


def _mean_cell(group: Group, rule: str, column: str) -> Any:
    values = group.accuracies(rule, column)
    if not values:
        return None
    if len(values) == 1:
        return percent(values[0])
    spread = f"{100 * min(values):.1f}–{100 * max(values):.1f}"
    return [percent(float(np.mean(values))), element("small", spread)]


def _difference_cell(difference: Difference | None) -> Any:
    if difference is None:
        return None
    tone = {"better": "good", "worse": "bad"}.get(difference.verdict)
    verdict = element("small", difference.verdict)
    interval = element("small", f"{points(difference.low)} to {points(difference.high)}")
    return [element("span", points(difference.mean), class_=tone), interval, verdict]
