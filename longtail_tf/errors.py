"""The one exception a user is meant to read."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input or settings, in one sentence: what came, what was expected, how to fix it.

    Entry points print the sentence without a traceback and exit with code 2.
    """
