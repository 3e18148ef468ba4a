"""python -m tests.sweep.kills [--most=N] [--only=PHASE]

Kills a program by SIGKILL at its n-th file event, gives the same command again until it is done,
and compares what then lies there, bit for bit, with what an uninterrupted run leaves. Exit code 1
where anything differs.

A file event is a call by which Python opens a file to write, or renames, removes or makes one,
below the working folder; before and after TensorFlow writes a checkpoint or a SavedModel counts
too, as its own calls are not seen from Python.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from tests.sweep import world
from tests.sweep.case import remove
from tests.sweep.fork_server import Job
from tests.sweep.runner import ForkServer, Outcome

_KILL_AT = "SWEEP_KILL_AT"
_EVENTS = "SWEEP_EVENTS"
_WATCHED = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.link",
    "os.symlink",
)
# What differs from run to run and says nothing of the result: clocks and random names.
_NOT_COMPARED = re.compile(
    r"(^|/)(\.lock|\.conversion\.lock|stdout|stderr|fingerprint\.pb)$|(^|/)tflite/parity\.json$"
)
_CLOCKS = re.compile(
    rb'("images_per_s"|"latency_ms"|"seconds"): [0-9.e+-]+|"commit": "[^"]*"'  # the tree may change
)


@dataclasses.dataclass(frozen=True)
class Phase:
    """A command to kill.

    Attributes:
      name: of the phase.
      prepare: working folder -> nothing; puts there what the command starts from.
      command: the entry point and its arguments.
      again: the same, for calls after a kill.
      resume_needs: a file without which the first command is given again and not `again`.
      clocks: files that show how fast it went, which are not compared.
    """

    name: str
    prepare: Callable[[pathlib.Path], None]
    command: tuple[str, ...]
    again: tuple[str, ...]
    resume_needs: str = ""
    clocks: tuple[str, ...] = ()


def phases(made: world.World) -> list[Phase]:
    """Every phase of the life of a run."""

    def nothing(folder: pathlib.Path) -> None:
        pass

    def finished(folder: pathlib.Path) -> None:
        shutil.copytree(
            made.run, folder / "run", ignore=shutil.ignore_patterns("export", "enrolled")
        )

    images = [str(path) for path in sorted(made.image.parent.iterdir())[:2]]
    train = ("train", f"--data=npz:{made.npz}", "--run_dir=run", *world.TRAIN)
    evaluate = ("evaluate", "--run_dir=run")
    export = ("export", "--run_dir=run", "--tflite=none", "--gate_images=2", "--batch_sizes=1")
    convert = (
        "convert", f"--data=folder:{made.photos}", "--out=shards", "--shard_megabytes=0.01",
        "--workers=1",
    )  # fmt: skip
    enroll = ("enroll", "--run_dir=run", "--add=new", "--force", "--export=false", *images)
    return [
        Phase(
            "train",
            nothing,
            train,
            ("train", "--run_dir=run", "--resume"),
            resume_needs="run/config.json",
            clocks=("run/report.html",),  # its chart of images a second; `report` compares the rest
        ),
        Phase("evaluate", finished, evaluate, evaluate),
        Phase("report", finished, ("report", "--run_dir=run"), ("report", "--run_dir=run")),
        Phase("convert", nothing, convert, convert),
        Phase("enroll", finished, enroll, enroll),
        Phase("export", finished, export, export),
    ]


def count_events() -> None:
    """A hook for a child: it counts file events and is killed at the one that is asked for."""
    top = os.getcwd() + os.sep
    kill_at, seen = int(os.environ.get(_KILL_AT, "0")), [0]
    log = os.open(os.environ[_EVENTS], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    inside = [False]

    def happened(what: str, path: Any) -> None:
        name = os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes)) else ""
        if not name.startswith(top) or inside[0]:
            return
        inside[0] = True
        seen[0] += 1
        os.write(log, f"{what} {os.path.relpath(name, top)}\n".encode())
        inside[0] = False
        if seen[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple) -> None:
        if event == "open" and arguments and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path, mode, flags = (*arguments, None, None)[:3]
            writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
            writes = writes or isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
            if writes:
                happened("open", os.fspath(path))
        elif event in _WATCHED and arguments:
            happened(event, arguments[0])

    _around_tensorflow(happened)
    sys.addaudithook(audit)


def _around_tensorflow(happened: Callable[[str, Any], None]) -> None:
    """Events before and after what TensorFlow writes by itself."""
    import tensorflow as tf

    def around(owner: Any, name: str, path_of: Callable[[tuple], Any]) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            happened(f"before {name}", path_of(arguments))
            result = real(*arguments, **options)
            happened(f"after {name}", path_of(arguments))
            return result

        setattr(owner, name, call)

    around(tf.train.Checkpoint, "write", lambda arguments: arguments[1])
    around(tf.saved_model, "save", lambda arguments: arguments[1])


def run_phase(phase: Phase, server: ForkServer, folder: pathlib.Path, *, most: int) -> list[str]:
    """Kills the phase at up to `most` events, evenly chosen; what went wrong, a line each."""
    place = folder / "place"  # the same each time: records name the folder they were made in
    events = _uninterrupted(phase, server, place)
    expected = contents(place / "in")
    wanted = range(1, len(events) + 1)
    if len(events) > most:
        wanted = sorted({1 + round(i * (len(events) - 1) / (most - 1)) for i in range(most)})
    wrong = []
    for at in wanted:
        remove(place)
        fault = _killed_and_resumed(phase, server, place, at=at, expected=expected)
        if fault:
            wrong.append(f"{phase.name}, event {at} of {len(events)} ({events[at - 1]}): {fault}")
            print(wrong[-1], flush=True)
    print(f"{phase.name}: {len(events)} file events, killed at {len(wanted)}, {len(wrong)} wrong",
          flush=True)  # fmt: skip
    remove(folder)
    return wrong


def _uninterrupted(phase: Phase, server: ForkServer, place: pathlib.Path) -> list[str]:
    outcome = _call(phase.command, server, place, prepare=phase.prepare)
    if outcome.exit_code != 0:
        raise RuntimeError(f"{phase.name} does not work at all: {outcome.stderr[-2000:]}")
    return (place / "events").read_text(encoding="utf-8").splitlines()


def _killed_and_resumed(
    phase: Phase, server: ForkServer, place: pathlib.Path, *, at: int, expected: dict[str, str]
) -> str:
    outcome = _call(phase.command, server, place, prepare=phase.prepare, kill_at=at)
    if outcome.signal != signal.SIGKILL:
        return f"it was to be killed and ended with {outcome.exit_code}: {outcome.stderr[-300:]}"
    begun = not phase.resume_needs or (place / "in" / phase.resume_needs).exists()
    command = phase.again if begun else phase.command
    outcome = _call(command, server, place)
    if outcome.exit_code != 0:
        return f"it does not go on: {outcome.stderr.strip()[-400:]}"
    found = contents(place / "in")
    names = {*expected, *found} - {*phase.clocks}
    differ = sorted(name for name in names if expected.get(name) != found.get(name))
    return f"{', '.join(differ[:6])} differ" if differ else ""


def _call(
    command: Sequence[str],
    server: ForkServer,
    place: pathlib.Path,
    *,
    prepare: Callable[[pathlib.Path], None] | None = None,
    kill_at: int = 0,
) -> Outcome:
    folder, home = place / "in", place / "home"
    if prepare is not None:
        folder.mkdir(parents=True)
        home.mkdir()
        prepare(folder)
    entry, *arguments = command
    job = Job(
        entry=entry,
        arguments=arguments,
        folder=str(folder),
        stdout=str(place / "stdout"),
        stderr=str(place / "stderr"),
        environment={
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home),
            _KILL_AT: str(kill_at),
            _EVENTS: str(place / ("events" if prepare is not None else "events_after")),
        },
        hook=f"tests.sweep.kills:{count_events.__name__}",  # this module may be __main__
    )
    return server.run(job, stall_s=120)


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Relative path -> digest of what it holds, of every file that is compared."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not _NOT_COMPARED.search(name):
            found[name] = hashlib.sha256(_comparable(path)).hexdigest()
    return found


def _comparable(path: pathlib.Path) -> bytes:
    """The bytes of a file without clocks."""
    raw = path.read_bytes()
    if path.suffix == ".npz":
        return _unzipped(path)
    if path.suffix == ".h5":
        return _datasets(path)
    if path.name == "digests.json":  # of config.json, evaluation.json and others, compared above
        return json.dumps(sorted(json.loads(raw)["sha256"])).encode()
    if path.suffix in (".json", ".jsonl"):
        return _CLOCKS.sub(b"", raw)
    return raw


def _unzipped(path: pathlib.Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return b"".join(
            name.encode() + archive.read(name) for name in archive.namelist() if name != "facts.npy"
        )


def _datasets(path: pathlib.Path) -> bytes:
    """The arrays of an HDF5 file; the file itself holds the time it was written."""
    import h5py

    found: list[bytes] = []

    def visit(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            found.append(name.encode() + entry[()].tobytes())

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return b"".join(found)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep.kills", description=__doc__)
    parser.add_argument("--most", type=int, default=15, help="kills of each phase at most")
    parser.add_argument("--only", default="", help="phases whose name holds this text")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kills_"))
    wrong: list[str] = []
    try:
        with ForkServer({"LC_ALL": "C.UTF-8"}) as server:
            made = world.build(folder / "world", server, whole=False)
            for phase in phases(made):
                if options.only in phase.name:
                    wrong += run_phase(phase, server, folder / phase.name, most=options.most)
    finally:
        remove(folder)
    print(f"{len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
