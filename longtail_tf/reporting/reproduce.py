"""Section on how to get these numbers again: command, data digest, code, packages, seed."""

from __future__ import annotations

import shlex
from typing import Any

from longtail_tf.reporting.html import element, table
from longtail_tf.reporting.page import Section
from longtail_tf.reporting.run_data import RunData


def reproduce_section(run: RunData) -> Section:
    """Everything that is needed to repeat the run."""
    facts = run.provenance
    rows: list[Any] = []
    for key, spoken in (
        ("data_digest", "Data digest (SHA-256)"),
        ("seed", "Seed"),
        ("commit", "Commit"),
        ("longtail_tf", "longtail_tf"),
        ("python", "Python"),
    ):
        fact = facts.get(key)
        if fact is None and key == "seed":
            fact = run.setting("seed")
        if fact is not None:
            rows += [element("dt", spoken), element("dd", element("code", fact))]
    packages = facts.get("packages")
    if isinstance(packages, dict):
        for name, version in packages.items():
            rows += [element("dt", name), element("dd", element("code", version))]
    body: list[Any] = [element("pre", command(run))]
    if rows:
        body.append(element("dl", rows))
    settings = [
        [element("code", name), element("code", shown_setting(value))]
        for name, value in sorted(run.settings.items())
    ]
    if settings:
        body.append(
            element(
                "details", element("summary", f"All {len(settings)} settings"),
                table(["Setting", "Value"], settings, caption="Settings of the training",
                      text_columns=2),
            )
        )  # fmt: skip
    words = [
        element("p", "The command repeats the run from nothing; only the folder it writes to needs "
                "another name."),
        element("p", "Same digest: same images, labels and split. Bits repeat on the same "
                "packages and number of threads."),
    ]  # fmt: skip
    return Section("reproduce", "How to repeat it", words, body)


def command(run: RunData) -> str:
    """The training's command, one flag a line, as a shell takes it."""
    given = run.provenance.get("command") or run.config.get("command")
    if isinstance(given, str) and given:
        return given
    if isinstance(given, list) and given:
        return shlex.join(str(part) for part in given)
    lines = [line.strip() for line in run.flags_text.splitlines()]
    flags = [shlex.quote(line) for line in lines if line and not line.startswith("#")]
    if not flags:
        flags = [
            shlex.quote(f"--{name}={shown_setting(value)}")
            for name, value in run.settings.items()
            if value is not None and isinstance(value, (str, int, float))
        ]
    return " \\\n    ".join(["python -m longtail_tf.train", *flags])


def shown_setting(value: Any) -> str:
    """A setting as a flag takes it."""
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)
