"""Cases: a file of a run folder, an export or a checkpoint that is not what it was."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Optional

from tests.sweep import bad_arrays
from tests.sweep.bad_contents import BYTES, JSON_TEXTS, TEXTS, wrong_tables, wrong_values
from tests.sweep.bad_places import PLACES
from tests.sweep.calls import MAY_CHANGE, run_call
from tests.sweep.case import Call, Case, Place
from tests.sweep.world import STEPS, World

LOADED = ("config.json", "classes.csv", "digests.json", "prototypes.npz", "model.weights.h5")
REPORTED = (
    "config.json", "config.flags", "classes.csv", "head_set.json", "metrics.jsonl",
    "evaluation.json", "per_class.csv", "embeddings.npz", "digests.json",
)  # fmt: skip
CHECKPOINT = tuple(
    f"checkpoints/{name}"
    for name in (
        "checkpoint",
        f"step-{STEPS // 2}.index",
        f"step-{STEPS // 2}.data-00000-of-00001",
    )
)
READ = {
    "train": ("config.json", "config.flags", "classes.csv", "head_set.json", "digests.json",
              "metrics.jsonl", *CHECKPOINT),
    "evaluate": (*LOADED, "head_set.json"),
    "classify": LOADED,
    "export": LOADED,
    "enroll": (*LOADED, "config.flags", "head_set.json"),
    "report": REPORTED,
    "compare": REPORTED,
}  # fmt: skip
# Every so many-th content only, where a call that works takes seconds.
STRIDE = {
    ("classify", "config.json"): 2,
    ("train", "config.json"): 4,
    ("train", "config.flags"): 2,
    ("train", "classes.csv"): 12,
    ("train", "head_set.json"): 12,
    ("train", "metrics.jsonl"): 4,
    ("report", "config.json"): 3,
    ("report", "per_class.csv"): 2,
    ("compare", "evaluation.json"): 2,
}
# What a resumed run writes itself, so that its loss is mended.
MENDED = ("config.flags", "classes.csv", "head_set.json", "metrics.jsonl", *CHECKPOINT)
EXPORTED = (
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    "assets/labels.txt",
    "assets.extra/tf_serving_warmup_requests",
)
Spoil = Callable[[pathlib.Path], Optional[str]]  # gives what it did, where the name does not say


def cases() -> Iterator[Case]:
    """Every file of a run folder that an entry point reads, spoilt in every way."""
    for entry, files in READ.items():
        for file in files:
            for name, spoil in PLACES.items():
                if name == "a good link" and entry in ("train", "enroll"):
                    continue
                prepare = functools.partial(_in_place, entry=entry, file=file, spoil=spoil)
                yield Case(entry, f"run's {file} {name}", prepare)
    for entry in ("compare", "evaluate", "export", "enroll"):
        for name, spoil in _json_texts():
            prepare = functools.partial(_with_content, entry=entry, file="config.json", spoil=spoil)
            yield Case(entry, f"run's config.json: {name}", prepare)
    for entry, file in _content_pairs():
        for name, spoil in [*_contents(file)][:: STRIDE.get((entry, file), 1)]:
            prepare = functools.partial(_with_content, entry=entry, file=file, spoil=spoil)
            yield Case(entry, f"run's {file}: {name}", prepare)
    for file in ("saved_model.pb", *EXPORTED):
        places = PLACES if file == "saved_model.pb" else {"missing": PLACES["missing"]}
        for name, spoil in places.items():
            prepare = functools.partial(_served, file=file, spoil=functools.partial(_at, spoil))
            yield Case("serve", f"export's {file} {name}", prepare, small=False)
        for name, change in BYTES.items():
            spoil_bytes = functools.partial(_changed, change=change)
            prepare = functools.partial(_served, file=file, spoil=spoil_bytes)
            yield Case("serve", f"export's {file}: {name}", prepare, small=False)
    for entry in ("evaluate", "enroll", "classify", "report"):
        values = _json_values("enrollment.json") if entry == "evaluate" else ()
        for name, spoil in (*_json_texts(), *values):
            prepare = functools.partial(
                _with_content, entry=entry, file="enrollment.json", spoil=spoil, enrolled=True
            )
            yield Case(entry, f"run's enrollment.json: {name}", prepare, small=False)


def _content_pairs() -> Iterator[tuple[str, str]]:
    """(entry point, file) pairs whose contents are spoilt: one reader of each kind of reading."""
    for file in READ["train"]:
        yield "train", file
    for file in LOADED:
        yield "classify", file
    for file in REPORTED:
        yield "report", file
    yield "compare", "evaluation.json"


def _contents(file: str) -> Iterator[tuple[str, Spoil]]:
    suffix = pathlib.PurePath(file).suffix
    if suffix == ".json":
        yield from _json_texts()
        yield from _json_values(file)
        yield from _changes(TEXTS)
    elif suffix == ".csv":
        yield from _tables(file)
        yield from _changes(TEXTS)
    elif suffix in (".flags", ".jsonl") or file == "checkpoints/checkpoint":
        yield from _changes(TEXTS)
        if suffix == ".jsonl":
            yield from ((f"a line {name}", functools.partial(_appended, text=text))
                        for name, text in JSON_TEXTS.items())  # fmt: skip
            for name, value in (("step", 10**20), ("step", "x"), ("head_loss", "x"), ("val", 3),
                                ("val", {"gated": 3}), ("head_loss", None)):  # fmt: skip
                record = {"step": 1, "head_loss": 1.0, name: value}
                text = json.dumps(record).encode()
                yield f"a line with {name} = {value!r}", functools.partial(_appended, text=text)
    else:
        yield from _changes(BYTES)
        if suffix == ".npz":
            yield from _arrays(file)


def _changes(changes: Any) -> Iterator[tuple[str, Spoil]]:
    for name, change in changes.items():
        yield name, functools.partial(_changed, change=change)


def _json_texts() -> Iterator[tuple[str, Spoil]]:
    for name, text in JSON_TEXTS.items():
        yield name, functools.partial(_written, text=text)


def _json_values(file: str) -> Iterator[tuple[str, Spoil]]:
    """Values are told by number: the good file is not known before the case is prepared."""
    for number in range(MOST_VALUES[file]):
        yield f"value {number}", functools.partial(_nth, number=number)


# How many ways `wrong_values` has for the records of the world's run.
MOST_VALUES = {
    "config.json": 175, "head_set.json": 60, "digests.json": 18, "evaluation.json": 60,
    "enrollment.json": 40,
}  # fmt: skip


def _tables(file: str) -> Iterator[tuple[str, Spoil]]:
    for number in range({"classes.csv": 75, "per_class.csv": 100}[file]):
        yield f"table {number}", functools.partial(_nth_table, number=number)


def _arrays(file: str) -> Iterator[tuple[str, Spoil]]:
    names = {
        "prototypes.npz": ("meta", "prototypes", "prototype_classes", "class_counts"),
        "embeddings.npz": ("labels", "predictions", "rows", "embeddings", "confidences"),
    }[file]
    for place, (name, raw) in enumerate(bad_arrays.MEMBERS.items()):
        for member in names if place < 5 else (names[place % len(names)],):
            yield f"{member} {name}", functools.partial(_member, name=member, raw=raw)
    for name, spoil_member in bad_arrays.ARCHIVES.items():
        for member in names:
            yield f"{member} {name}", functools.partial(spoil_member, name=member)
    for member in names:
        yield f"no {member}", functools.partial(_member, name=member, raw=None)
        yield f"{member} a bomb", functools.partial(_bombed, name=member)
    for name, spoil in bad_arrays.FILES.items():
        yield name, spoil


def _in_place(place: Place, *, entry: str, file: str, spoil: Callable) -> Call:
    run = copy_run(place, entry)
    path = run / file
    bad = spoil(path, path.read_bytes())
    expect = bad.expect
    if entry == "train" and file in MENDED:
        expect = "any"
    elif entry in ("report", "compare") and path.name != "config.json":
        expect = "any"  # a section is left out
    elif file == "head_set.json" or (entry == "enroll" and file == "config.flags"):
        expect = "any"
    return Call(
        run_call(entry, place, run),
        expect=expect,
        names=(path.name,) if expect == "refuse" else (),
        may_change=MAY_CHANGE.get(entry, ()),
        changes_when_refused=("run/.lock",),
        plain_user=bad.plain_user,
    )


def _with_content(
    place: Place, *, entry: str, file: str, spoil: Spoil, enrolled: bool = False
) -> Call:
    run = copy_run(place, entry, enrolled=enrolled)
    about = spoil(run / file)
    _forget_digest(run, file)
    return Call(
        run_call(entry, place, run),
        about=about or "",
        may_change=MAY_CHANGE.get(entry, ()),
        changes_when_refused=("run/.lock",),
    )


def _served(place: Place, *, file: str, spoil: Spoil) -> Call:
    model = place.copy(place.world.export, "model")
    path = model / "1" / file
    spoil(path)
    return Call(
        [f"--model_base_path={model}", "--port=0", "--file_system_poll_wait_seconds=0.1"],
        plain_user=path.exists() and not path.stat().st_mode & 0o777,
        until="serving on",
    )


def copy_run(place: Place, entry: str, *, enrolled: bool = False) -> pathlib.Path:
    """A copy of the run that an entry point reads, without its exports, in `run`."""
    world: World = place.world
    source = world.stopped if entry == "train" else world.run
    if enrolled and world.enrolled is not None:
        source = world.enrolled
    target = place.path("run")
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.name not in ("export", "enrolled", ".lock"):
            place.copy(path, f"run/{path.name}")
    return target


def _forget_digest(run: pathlib.Path, file: str) -> None:
    """Takes the digest of a file out, so that its content is what is read."""
    path = run / "digests.json"
    if file == "digests.json":
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    content["sha256"].pop(pathlib.PurePath(file).name, None)
    path.write_text(json.dumps(content), encoding="utf-8")


def _at(spoil: Callable, path: pathlib.Path) -> None:
    spoil(path, path.read_bytes())


def _changed(path: pathlib.Path, *, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _written(path: pathlib.Path, *, text: bytes) -> None:
    path.write_bytes(text)


def _appended(path: pathlib.Path, *, text: bytes) -> None:
    path.write_bytes(path.read_bytes() + text + b"\n")


def _nth(path: pathlib.Path, *, number: int) -> str:
    ways = list(wrong_values(path.read_bytes()))
    what, text = ways[number % len(ways)]
    path.write_bytes(text)
    return what


def _nth_table(path: pathlib.Path, *, number: int) -> str:
    ways = list(wrong_tables(path.read_bytes()))
    what, text = ways[number % len(ways)]
    path.write_bytes(text)
    return what


def _member(path: pathlib.Path, *, name: str, raw: bytes | None) -> None:
    members = bad_arrays.members(path)
    members.pop(name)
    if raw is not None:
        members[name] = raw
    bad_arrays.write_members(path, members)


def _bombed(path: pathlib.Path, *, name: str) -> None:
    cache = path.parents[2].parent / "bombs"
    cache.mkdir(exist_ok=True)
    path.write_bytes(bad_arrays.cached_bomb(cache, path, name).read_bytes())
