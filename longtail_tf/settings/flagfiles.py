"""`--flagfile=FILE`: settings out of files, one `--name=value` a line.

Read here and not by absl, which reads in the locale's encoding, waits for pipes, and does not say
in which line of which file a name is wrong.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator, Sequence

from longtail_tf.errors import UserError
from longtail_tf.text_files import read_text

MOST_BYTES = 16 << 20
_NAMES = ("--flagfile", "-flagfile")


def expanded(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """The arguments with the lines of every flagfile first, so that the command line wins.

    Args:
      arguments: a command line without the program.
      names: every flag there is.

    Raises:
      UserError: a flagfile that names itself, or holds something else than flags there are.
      OSError: a flagfile that cannot be read.
    """
    from_files: list[str] = []
    others: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument in _NAMES:
            path = next(remaining, "")
        elif argument.startswith(tuple(f"{name}=" for name in _NAMES)):
            path = argument.partition("=")[2]
        else:
            others.append(argument)
            continue
        from_files += _lines_of(path, names, above=())
    return from_files + others


def unknown_flag(name: str, names: Collection[str]) -> str:
    """The sentence on a flag that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean --{near[0]}?" if near else "--help lists every flag."
    return f"there is no flag --{name}: {hint}"


def _lines_of(path: str, names: Collection[str], *, above: tuple[str, ...]) -> Iterator[str]:
    if not path:
        raise UserError("--flagfile came without a file: write --flagfile=FILE.")
    path = os.path.expanduser(path)
    place = os.path.realpath(path)
    if place in above:
        raise UserError(f"the flagfile {path} names itself, through others or not: take that out.")
    # What is no UTF-8 is a file name, which goes back to its own bytes.
    text = read_text(path, most_bytes=MOST_BYTES, errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.strip()
        if not words or words.startswith(("#", "//")):
            continue
        where = f"{path}, line {number}"
        if not words.startswith("-") or "\0" in words:
            raise UserError(
                f"{where}: {_short(words)} is no flag; write one --name=value a line, and # before "
                "a comment."
            )
        name, _, value = words.partition("=")
        if name in _NAMES:
            yield from _lines_of(value, names, above=(*above, place))
            continue
        name = name.lstrip("-")
        if name not in names and not (name.startswith("no") and name[2:] in names):
            raise UserError(f"{where}: {unknown_flag(_short(name)[1:-1], names)}")
        yield words


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
