"""A case of the sweep: one bad thing before one entry point, and what is to come of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Optional

from tests.sweep.fork_server import Job
from tests.sweep.inventory import inventory, litter, lost
from tests.sweep.runner import STALL_S, ForkServer, Outcome
from tests.sweep.world import World

GOOD_VERDICTS = ("success", "sentence")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a case happens: `folder` is the working folder; the rest is kept from it."""

    folder: pathlib.Path
    home: pathlib.Path
    world: World

    def path(self, name: str) -> pathlib.Path:
        """A path in the working folder."""
        return self.folder / name

    def copy(self, source: pathlib.Path, name: str) -> pathlib.Path:
        """A copy of a good file or folder."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
        return target


@dataclasses.dataclass(frozen=True)
class Call:
    """How the entry point is called, and what may come of it.

    Attributes:
      arguments: the command line.
      expect: "refuse" (a sentence must come), "work" (it must succeed), or "any" of the two.
      names: texts of which the sentence must hold one; empty: not looked at.
      may_change: patterns of paths that a call that succeeds may write anew.
      changes_when_refused: the same for one that is refused.
      plain_user: heed permissions even as root.
      file_bytes: no file may grow beyond.
      environment: variables.
      locale: which fork server: "utf8", "c" or "latin1".
      until: see `ForkServer.run`.
      check: looks at a success; what is wrong with it, or "".
      streams: "stdout" or "stderr" -> a path to write to instead of being captured.
      relief: called after the call.
      about: what is bad, where the name of the case does not say.
      then: (entry, arguments) of calls that must succeed after the relief.
    """

    arguments: Sequence[str]
    expect: str = "any"
    names: tuple[str, ...] = ()
    may_change: tuple[str, ...] = ()
    changes_when_refused: tuple[str, ...] = ()
    plain_user: bool = False
    file_bytes: Optional[int] = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    locale: str = "utf8"
    until: str = ""
    check: Optional[Callable[[Outcome], str]] = None
    streams: dict[str, str] = dataclasses.field(default_factory=dict)
    relief: Optional[Callable[[], None]] = None
    about: str = ""
    then: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclasses.dataclass(frozen=True)
class Case:
    """A case; `prepare` makes the bad thing in a new working folder.

    Attributes:
      entry: module below longtail_tf.
      name: what is bad, in words that are unique for the entry.
      prepare: makes the place bad and says how to call.
      small: whether a small world will do.
    """

    entry: str
    name: str
    prepare: Callable[[Place], Call]
    small: bool = True

    @property
    def title(self) -> str:
        """Entry point and name."""
        return f"{self.entry}: {self.name}"


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a case.

    `verdict` is success or sentence, or what went wrong: traceback, hang, memory, crash, lost,
    litter, exit N, mute (exit code 2 without a sentence), unnamed (the sentence does not name what
    is bad), accepted (a success where a refusal was due), refused (the reverse), wrong (a success
    that is none), then (the call after it failed).
    """

    case: Case
    verdict: str
    detail: str
    seconds: float
    call: Call

    @property
    def is_good(self) -> bool:
        """Whether nothing went wrong."""
        return self.verdict in GOOD_VERDICTS


def run_case(
    case: Case,
    *,
    world: World,
    servers: Callable[[str], ForkServer],
    scratch: pathlib.Path,
    keep: bool = False,
) -> Result:
    """Runs one case in `scratch`, which is emptied before, and after unless `keep`.

    Args:
      case: what to run.
      world: the good things.
      servers: locale -> its fork server.
      scratch: a folder for this case alone.
      keep: leave the folder, to look at.
    """
    remove(scratch)
    folder, home = scratch / "in", scratch / "home"
    folder.mkdir(parents=True)
    home.mkdir()
    place = Place(folder=folder, home=home, world=world)
    call = case.prepare(place)
    with _released(call.relief):
        before = inventory(str(folder))
        outcome = _run(case.entry, call, place, servers(call.locale))
        after = inventory(str(folder))
    verdict, detail = judge(case, call, outcome, before=before, after=after)
    seconds = outcome.wall_s
    for entry, arguments in call.then if verdict in GOOD_VERDICTS else ():
        follow = _run(entry, dataclasses.replace(call, arguments=arguments, plain_user=False,
                                                 file_bytes=None), place,
                      servers(call.locale))  # fmt: skip
        seconds += follow.wall_s
        if follow.exit_code != 0:
            verdict, detail = "then", f"{entry} {' '.join(arguments)}: {last_line(follow.stderr)}"
            break
    if not keep:
        remove(scratch)
    return Result(case=case, verdict=verdict, detail=detail, seconds=seconds, call=call)


def judge(
    case: Case, call: Call, outcome: Outcome, *, before: dict, after: dict
) -> tuple[str, str]:
    """(verdict, detail) of an outcome."""
    told = last_line(outcome.stderr)
    verdict = _ending(case, outcome)
    if verdict not in GOOD_VERDICTS:
        return verdict, told
    refused = verdict == "sentence"
    may_change = call.changes_when_refused if refused else call.may_change
    gone = lost(before, after, may_change=may_change)
    left = litter(before, after)
    wrong = call.check(outcome) if call.check is not None and not refused else ""
    unnamed = bool(call.names) and not any(name in outcome.stderr for name in call.names)
    for is_so, fault, detail in (
        (bool(gone), "lost", f"{'; '.join(gone[:5])} ({told})"),
        (bool(left), "litter", f"{', '.join(left[:5])} ({told})"),
        (refused and call.expect == "work", "refused", told),
        (not refused and call.expect == "refuse", "accepted", told),
        (refused and unnamed, "unnamed", told),
        (bool(wrong), "wrong", wrong),
    ):
        if is_so:
            return fault, detail
    return verdict, told


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else ""


def remove(folder: pathlib.Path) -> None:
    """Removes a folder whatever its permissions are."""
    if not folder.exists():
        return
    for root, folders, _ in os.walk(folder):
        for name in folders:
            path = os.path.join(root, name)
            if not os.path.islink(path):
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o700)
    for mount in _mounts_below(folder):
        subprocess.run(["umount", mount], check=False)
    shutil.rmtree(folder)


def _ending(case: Case, outcome: Outcome) -> str:
    if outcome.given_up:
        return outcome.given_up
    if outcome.signal is not None:
        return "crash"
    if "Traceback (most recent call last)" in outcome.stderr:
        return "traceback"
    if outcome.exit_code == 0:
        return "success"
    if outcome.exit_code != 2:
        return f"exit {outcome.exit_code}"
    has_sentence = any(
        line.startswith(f"{case.entry}: ") and len(line.split()) > 3
        for line in outcome.stderr.splitlines()
    )
    return "sentence" if has_sentence else "mute"


def _run(entry: str, call: Call, place: Place, server: ForkServer) -> Outcome:
    temporary = place.home / "tmp"
    temporary.mkdir(exist_ok=True)
    job = Job(
        entry=entry,
        arguments=list(call.arguments),
        folder=str(place.folder),
        stdout=call.streams.get("stdout", str(place.home / "stdout")),
        stderr=call.streams.get("stderr", str(place.home / "stderr")),
        environment={
            "HOME": str(place.home),
            "XDG_CACHE_HOME": str(place.home / "cache"),
            "TMPDIR": str(temporary),
            **call.environment,
        },
        plain_user=call.plain_user,
        file_bytes=call.file_bytes,
    )
    return server.run(job, until=call.until, stall_s=STALL_S)


@contextlib.contextmanager
def _released(relief: Optional[Callable[[], None]]) -> Iterator[None]:
    try:
        yield
    finally:
        if relief is not None:
            relief()


def _mounts_below(folder: pathlib.Path) -> list[str]:
    try:
        lines = pathlib.Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return []
    points = [line.split()[1] for line in lines]
    return sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True)
