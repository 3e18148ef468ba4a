"""python -m tests.sweep [--only=TEXT] [--out=FILE] [--list]

Runs every case, prints how many came to what for each entry point, and writes the failures with the
commands that repeat them. Exit code 1 where anything went wrong.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from tests.sweep import all_cases
from tests.sweep.case import Case, Result, remove, run_case
from tests.sweep.locales import ForkServers
from tests.sweep.world import build

_SECONDS_A_LINE = 30.0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__)
    parser.add_argument("--only", default="", help="run cases whose title holds this text")
    parser.add_argument("--every", type=int, default=1, help="run every so many-th case")
    parser.add_argument("--out", help="write each result as a line of JSON into this file")
    parser.add_argument("--list", action="store_true", help="print the titles and stop")
    parser.add_argument("--keep", action="store_true", help="leave the folder of a failed case")
    options = parser.parse_args()
    wanted = [case for case in all_cases.cases() if options.only in case.title]
    wanted = wanted[:: options.every]
    if options.list:
        print("\n".join(case.title for case in wanted))
        return
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sweep_"))
    began, results, out = time.monotonic(), [], None
    try:
        out = open(options.out, "w", encoding="utf-8") if options.out else None  # noqa: SIM115
        for result in _results(wanted, folder, keep=options.keep):
            results.append(result)
            if out is not None:
                print(_record(result), file=out, flush=True)
    finally:
        if out is not None:
            out.close()
        if not options.keep:
            remove(folder)
    print(summary(results, seconds=time.monotonic() - began))
    sys.exit(any(not result.is_good for result in results))


def _results(cases: Sequence[Case], folder: pathlib.Path, *, keep: bool) -> Iterator[Result]:
    told = time.monotonic()
    with ForkServers(folder / "locales") as servers:
        world = build(
            folder / "world", servers("utf8"), whole=not all(case.small for case in cases)
        )
        for number, case in enumerate(cases):
            result = run_case(
                case, world=world, servers=servers, scratch=folder / f"case{number}", keep=keep
            )
            if keep and result.is_good:
                remove(folder / f"case{number}")
            if not result.is_good:
                print(
                    f"{result.verdict}: {case.title} {result.call.about}: {result.detail}"[:300],
                    flush=True,
                )
            if time.monotonic() - told > _SECONDS_A_LINE:
                told = time.monotonic()
                print(f"{number + 1:,} of {len(cases):,}", file=sys.stderr, flush=True)
            yield result


def summary(results: Sequence[Result], *, seconds: float) -> str:
    """A table of how many cases came to what, an entry point a line."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for result in results:
        counts[result.case.entry][result.verdict] += 1
        counts["all"][result.verdict] += 1
    verdicts = [verdict for verdict, _ in counts["all"].most_common()]
    entries = [*sorted(set(counts) - {"all"}), "all"]
    lines = [f"{'':10}{'cases':>8}" + "".join(f"{verdict:>11}" for verdict in verdicts)]
    for entry in entries:
        numbers = [counts[entry][verdict] for verdict in verdicts]
        cells = "".join(f"{number or '-':>11}" for number in numbers)
        lines.append(f"{entry:10}{sum(numbers):>8,}{cells}")
    lines.append(f"{len(results) / max(seconds, 1e-9):.1f} cases/s")
    return "\n".join(lines)


def _record(result: Result) -> str:
    return json.dumps(
        {
            "case": result.case.title,
            "verdict": result.verdict,
            "about": result.call.about,
            "detail": result.detail,
            "seconds": round(result.seconds, 2),
            "arguments": list(result.call.arguments),
        }
    )


if __name__ == "__main__":
    main()
