"""Cases: values of flags that no setting can have."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import typing
from collections.abc import Iterator

from tests.sweep.calls import good_call, replaced
from tests.sweep.case import Call, Case, Place
from tests.sweep.named_files import ENTRIES, NEEDS_EXPORT

NUMBERS = ("-1", "0", str(10**20), "9" * 5000, "nan", "inf", "1e400", "-0.0", "x", "")
TEXTS = ("", " ", "x" * 100_000, "\udce4", "a\nb", "../..", "-", "\x1b[2J", "null", "💥")
CLASSES = {
    "train": "Config", "evaluate": "EvaluateConfig", "classify": "ClassifyConfig",
    "inspect": "InspectConfig", "report": "ReportConfig", "compare": "CompareConfig",
    "export": "ExportConfig", "serve": "ServeConfig", "enroll": "EnrollConfig",
    "convert": "ConvertConfig",
}  # fmt: skip
# What takes long where it works: the work is not what is looked at.
SLOW = ("train", "export")
WRITES = ("run_dir", "out", "out_dir", "export_dir", "projector", "png", "check_csv", "quarantine",
          "show_batch")  # fmt: skip


def cases() -> Iterator[Case]:
    """Every flag of every entry point with values it cannot have."""
    for entry in ENTRIES:
        module = importlib.import_module(f"longtail_tf.{entry}")
        settings = getattr(module, CLASSES[entry])
        hints = typing.get_type_hints(settings)
        for number, field in enumerate(dataclasses.fields(settings)):
            kind = str(hints[field.name])
            values: tuple[str, ...] = TEXTS
            if "int" in kind or "float" in kind:
                values = NUMBERS
            elif "bool" in kind:
                values = ("maybe", "")
            elif field.name in WRITES or "tuple" in kind:
                continue
            most = 3 if entry == "train" else 5
            for i in range(min(most, len(values))):
                value = values[(number + i) % len(values)]
                if entry in SLOW and _may_work(value):
                    value = "9" * 30 if values is NUMBERS else "\udce4"
                prepare = functools.partial(_prepare, entry=entry, name=field.name, value=value)
                title = f"--{field.name} {i}: {ascii(value)[:30]}"
                yield Case(entry, title, prepare, small=entry not in NEEDS_EXPORT)


def _may_work(value: str) -> bool:
    return value in ("0", "-0.0", "", " ", "1e400", "inf")


def _prepare(place: Place, *, entry: str, name: str, value: str) -> Call:
    return Call(
        replaced(good_call(entry, place), name, value),
        until="serving on" if entry == "serve" else "",
        environment={"TF_CONFIG": ""},
    )
