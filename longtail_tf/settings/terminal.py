"""Text for a terminal: names out of data may hold what would move its cursor or fool its reader."""

from __future__ import annotations

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
        else each.encode("unicode_escape").decode()
        for each in text
    )


def plain_name(name: str) -> str:
    """A name on one line: `plain`, with line breaks and tabs escaped too."""
    return plain(name, keep="")
