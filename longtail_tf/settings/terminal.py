"""Text for a terminal: names out of data may hold what would move its cursor or fool its reader."""

from __future__ import annotations

import shlex
import unicodedata

# Control characters, format characters (also those that turn the direction of writing), line and
# paragraph separators, surrogates.
_ESCAPED = frozenset(("Cc", "Cf", "Zl", "Zp", "Cs"))
_JOINERS = "\u200c\u200d"  # parts of words and of emoji


def plain(text: str, *, keep: str = "\n\t") -> str:
    """The text with every character escaped that a terminal would obey instead of show.

    Args:
      text: what is about to be printed.
      keep: control characters that are ours.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        each
        if each in keep or each in _JOINERS or unicodedata.category(each) not in _ESCAPED
        else _escaped(each)
        for each in text
    )


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte of a name that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def quoted(argument: object) -> str:
    """An argument as a shell takes it, in a command that is printed to be copied."""
    text = str(argument)
    shown = plain_name(text)
    if shown == text:
        return shlex.quote(text)
    # $'...' understands the escapes, in bash and zsh.
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{plain_name(escaped)}'"


def plain_name(name: str) -> str:
    """A name on one line: `plain`, with line breaks and tabs escaped too."""
    return plain(name, keep="")
