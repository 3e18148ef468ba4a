"""Cases: a file named on the command line that is not what it should be."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tests.sweep.bad_contents import BYTES, TEXTS
from tests.sweep.bad_places import NAMES
from tests.sweep.calls import good_call, replaced
from tests.sweep.case import Call, Case, Place
from tests.sweep.world import TRAIN, World

ENTRIES = (
    "train", "evaluate", "classify", "inspect", "report", "compare", "export", "serve", "enroll",
    "convert",
)  # fmt: skip
NEEDS_EXPORT = ("serve",)


class Named(NamedTuple):
    """A file that an entry point takes by name.

    Attributes:
      entry: the entry point.
      what: the option or argument.
      suffix: of the file's name.
      good: its good bytes.
      arguments: (place, path) -> the command line.
      contents: further ways to spoil it, by content.
      small: whether a small world will do.
    """

    entry: str
    what: str
    suffix: str
    good: Callable[[World], bytes]
    arguments: Callable[[Place, str], list[str]]
    contents: Mapping[str, Callable[[bytes], bytes]]
    small: bool = True


def cases() -> Iterator[Case]:
    """Every named file in every bad place and with every bad content."""
    for named in _named_files():
        for name, spoil in NAMES.items():
            prepare = functools.partial(_in_place, named=named, spoil=spoil)
            yield Case(named.entry, f"{named.what} {name}", prepare, small=named.small)
        for name, change in named.contents.items():
            prepare = functools.partial(_with_content, named=named, change=change, name=name)
            yield Case(named.entry, f"{named.what}: {name}", prepare, small=named.small)


def _in_place(place: Place, *, named: Named, spoil: Callable) -> Call:
    good = named.good(place.world)
    bad = spoil(place.path(f"bad{named.suffix}"), good)
    expect = bad.expect if bad.path or named.what == "images" else "any"
    name = os.path.basename(bad.path)[:60]
    return Call(
        named.arguments(place, bad.path),
        expect=expect,
        names=(name,) if name.isprintable() and expect == "refuse" else (),
        plain_user=bad.plain_user,
        until="serving on" if named.entry == "serve" else "",
    )


def _with_content(place: Place, *, named: Named, change: Callable, name: str) -> Call:
    path = place.path(f"bad{named.suffix}")
    path.write_bytes(change(named.good(place.world)))
    works = name in ("UTF-8 with a mark", "CRLF", "UTF-16") and named.suffix in (".flags", ".txt")
    return Call(
        named.arguments(place, str(path)),
        expect="work" if works else "any",
        names=() if works else (path.name,),
        until="serving on" if named.entry == "serve" else "",
    )


def _named_files() -> Iterator[Named]:
    for entry in ENTRIES:
        small = entry not in NEEDS_EXPORT
        arguments = functools.partial(_with_flagfile, entry=entry)
        contents = {} if entry in ("train", "export") else TEXTS  # one reader, and they are slow
        yield Named(entry, "--flagfile", ".flags", _flagfile(entry), arguments, contents, small)
    for entry in ("train", "inspect", "convert"):
        arguments = functools.partial(_with_option, entry=entry, option="exclude")
        yield Named(entry, "--exclude", ".txt", lambda world: b"# none\n3\tbad\n", arguments,
                    TEXTS if entry == "inspect" else {})  # fmt: skip
    for entry, kind in (
        ("train", "npz"), ("inspect", "npz"), ("convert", "npz"), ("evaluate", "npz"),
        ("export", "npz"), ("report", "npz"), ("inspect", "csv"), ("train", "csv"),
        ("convert", "csv"),
    ):  # fmt: skip
        contents = {"npz": BYTES, "csv": TEXTS}[kind] if entry == "inspect" else {}
        arguments = functools.partial(_with_data, entry=entry, kind=kind)
        good = {"npz": _npz, "csv": absolute_table}[kind]
        yield Named(entry, f"--data={kind}:", f".{kind}", good, arguments, contents)
    yield Named("inspect", "--data=tfrecord:", ".tfrecord", _shard,
                functools.partial(_with_data, entry="inspect", kind="tfrecord"), BYTES,
                small=False)  # fmt: skip
    arguments = functools.partial(_with_option, entry="train", option="weights")
    yield Named("train", "--weights", ".weights.h5", _weights, arguments, BYTES)
    for entry in ("evaluate", "classify"):
        arguments = functools.partial(_with_option, entry=entry, option="test_prior")
        yield Named(entry, "--test_prior", ".csv", _prior, arguments, TEXTS)
    for entry in ("classify", "enroll"):
        arguments = functools.partial(_with_image, entry=entry)
        yield Named(entry, "images", ".png", lambda world: world.image.read_bytes(), arguments,
                    BYTES)  # fmt: skip
    yield Named("classify", "--model", ".tflite", lambda world: world.device_model.read_bytes(),
                lambda place, path: [f"--model={path}", str(place.world.image)], BYTES,
                small=False)  # fmt: skip
    for option, good in (
        ("model_config_file", _models_config),
        ("batching_parameters_file", _batching_parameters),
    ):
        arguments = functools.partial(_with_server_file, option=option)
        yield Named("serve", f"--{option}", ".config", good, arguments, TEXTS, small=False)


def _with_option(place: Place, path: str, *, entry: str, option: str) -> list[str]:
    return [*good_call(entry, place), f"--{option}={path}"]


def _with_data(place: Place, path: str, *, entry: str, kind: str) -> list[str]:
    arguments = replaced(good_call(entry, place), "data", f"{kind}:{path}")
    if entry == "evaluate":
        arguments.append("--out=out")
    return arguments


def _with_image(place: Place, path: str, *, entry: str) -> list[str]:
    image = str(place.world.image)
    return [path if each == image else each for each in good_call(entry, place)]


def _with_server_file(place: Place, path: str, *, option: str) -> list[str]:
    arguments = [f"--{option}={path}", "--port=0"]
    if option == "batching_parameters_file":
        arguments.append(f"--model_base_path={place.world.export}")
    return arguments


def _with_flagfile(place: Place, path: str, *, entry: str) -> list[str]:
    arguments = good_call(entry, place)
    if entry == "train":
        arguments = [each for each in arguments if each not in TRAIN]
    return [f"--flagfile={path}", *arguments]


def _flagfile(entry: str) -> Callable[[World], bytes]:
    """Good flags of an entry point; with a letter that is not ASCII, in a comment."""
    lines = {
        "train": TRAIN,
        "evaluate": ("--test_prior=uniform",),
        "classify": ("--k_top=3",),
        "inspect": ("--embedding_dim=64",),
        "report": ("--pictures=false",),
        "compare": ("--projector=",),
        "export": ("--gate_images=2",),
        "serve": ("--enable_batching=true",),
        "enroll": ("--model_name=own",),
        "convert": ("--seed=3",),
    }[entry]
    return lambda world: ("# für\n" + "\n".join(lines) + "\n").encode()


def _npz(world: World) -> bytes:
    return world.npz.read_bytes()


def _weights(world: World) -> bytes:
    return (world.run / "model.weights.h5").read_bytes()


def _shard(world: World) -> bytes:
    if world.shards is None:
        raise ValueError("a small world has no shards")
    return next(iter(sorted(world.shards.glob("train*.tfrecord")))).read_bytes()


def absolute_table(world: World) -> bytes:
    """The table of the photos with absolute paths, so that it works from any folder."""
    first, *rest = world.table.read_text(encoding="utf-8").splitlines()
    return "\n".join([first, *(f"{world.folder}/{line}" for line in rest), ""]).encode()


def _prior(world: World) -> bytes:
    return "name,weight\nbär 0,3\nbär 1,1\n".encode()


def _models_config(world: World) -> bytes:
    return (
        f'model_config_list {{ config {{ name: "m" base_path: "{world.export}" '
        'model_platform: "tensorflow" } }\n'
    ).encode()


def _batching_parameters(world: World) -> bytes:
    return (world.run / "export/serving/batching_parameters.txt").read_bytes()
