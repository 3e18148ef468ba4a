"""Names reach a terminal as something to read, and a shell as one word."""

from __future__ import annotations

import os
import subprocess

import pytest

from longtail_tf.settings.terminal import plain, plain_name, quoted


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("my cat's $pic", "my cat's $pic"),
        ("bär ☕ 猫 👩\u200d🚀 שלום", "bär ☕ 猫 👩\u200d🚀 שלום"),
        ("e\u0301", "e\u0301"),  # a letter and its accent
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb\x07\x7f\x9b1m", "a\\rb\\x07\\x7f\\x9b1m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),  # turns what follows around
        ("a\u2028b\ufeff", "a\\u2028b\\ufeff"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(name, shown):
    assert plain(name) == plain_name(name) == shown
    shown.encode()  # and any terminal can take it


def test_line_ends_of_our_own_text_stay_and_those_of_a_name_do_not():
    assert plain("a table\n\tof lines\n") == "a table\n\tof lines\n"
    assert plain_name("one\ntwo\t") == "one\\ntwo\\t"


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "",
        "my cat's $pic",
        "`id`;*?",
        "-rf",
        "bär",
        "one\ntwo\x1b[2J'\\",
        os.fsdecode(b"caf\xe9"),
    ],
)
def test_a_quoted_argument_is_that_argument_again(name):
    command = f"printf %s {quoted(name)}"
    assert command.encode() and "\n" not in command and "\x1b" not in command
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert done.stdout == os.fsencode(name)
