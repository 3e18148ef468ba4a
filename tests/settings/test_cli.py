from __future__ import annotations

import dataclasses
import errno
import logging as python_logging
import os
import subprocess
import sys
from typing import Optional

import pytest

from longtail_tf.config import Config
from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically
from longtail_tf.settings import cli, setting
from longtail_tf.settings.flags import flagfile_text


@dataclasses.dataclass(frozen=True)
class Toy:
    """Settings of a toy entry point."""

    images: tuple = setting((), "Files.")
    steps: int = setting(3, "How long.", unit="steps")
    rate: float = setting(0.5, "How fast.")
    margin: Optional[float] = setting(None, "How wide.")
    rule: str = setting("a", "Which.", choices=("a", "b"))
    resume: bool = setting(False, "Go on.")


def parse(*arguments):
    return cli.parse(Toy, arguments, positional="images")


def test_defaults_and_types():
    assert parse() == Toy()
    assert parse("--steps=7", "--rate=2", "--margin=0.25", "--rule=b", "--resume") == Toy(
        (), 7, 2.0, 0.25, "b", True
    )
    assert parse("--noresume", "x.png", "y.png").images == ("x.png", "y.png")


@pytest.mark.parametrize("line_first", [True, False])
def test_command_line_beats_flagfile_in_either_order(tmp_path, line_first):
    file = tmp_path / "a.flags"
    file.write_text("# a comment\n--steps=5\n--rate=9\n")
    arguments = ["--steps=7", f"--flagfile={file}"]
    settings = parse(*(arguments if line_first else arguments[::-1]))
    assert (settings.steps, settings.rate) == (7, 9.0)


def test_flagfile_as_two_words_and_nested(tmp_path):
    (tmp_path / "base.flags").write_text("--steps=5\n--rate=9\n")
    (tmp_path / "more.flags").write_text(f"--flagfile={tmp_path / 'base.flags'}\n--rate=1\n")
    settings = parse("--flagfile", str(tmp_path / "more.flags"))
    assert (settings.steps, settings.rate) == (5, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stpes=7"], "there is no flag --stpes: did you mean --steps?"),
        (["--zzzz=7"], "there is no flag --zzzz: --help lists every flag"),
        (["--steps=x"], "flag --steps=x: invalid literal"),
        (["--rule=c"], "value should be one of <a|b>"),
        (["--flagfile=/no.flags"], "/no.flags: No such file or directory; check the path"),
    ],
)
def test_bad_flags_exit_2_with_a_sentence(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        cli.launch(lambda settings: None, Toy, "doc", positional="images", argv=["p", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_stray_words_are_refused_where_none_are_taken():
    with pytest.raises(UserError, match="'steps' was given without a flag name"):
        cli.parse(dataclasses.make_dataclass("NoWords", []), ["steps"])


def test_user_error_from_run_exits_2(capsys):
    def run(settings):
        raise UserError("the data set is empty: add images.")

    with pytest.raises(SystemExit) as stop:
        cli.launch(run, Toy, "doc", positional="images", argv=["dir/train.py"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "train: the data set is empty: add images.\n"


def test_a_defect_is_not_hidden():
    def run(settings):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.launch(run, Toy, "doc", positional="images", argv=["p"])


def test_help_shows_every_setting_with_unit_default_and_choices(capsys):
    cli.launch(None, Toy, "What it does.", positional="images", argv=["p", "--help"])
    text = capsys.readouterr().out
    assert "What it does." in text
    assert "--steps  (3 steps)" in text and "--margin  (not set)" in text
    assert "One of: a, b." in text and "--resume  (false)" in text


def test_help_of_config_names_every_field():
    text = cli.help_text(Config, "")
    for field in dataclasses.fields(Config):
        assert f"--{field.name}  (" in text
        assert field.metadata["help"][:20].split("  ")[0].split(" ")[0] in text


def test_flagfile_text_repeats_the_settings(tmp_path):
    config = Config(data="digits_lt?seed=3", run_dir="a b", head_ratio=0.2, resume=True, seed=5)
    file = tmp_path / "config.flags"
    file.write_text(flagfile_text(config, comment="two\nlines"))
    assert cli.parse(Config, [f"--flagfile={file}"]) == config


def test_help_of_every_entry_point_is_quick_to_import():
    """No heavy module is loaded before the flags are parsed."""
    code = (
        "import sys; from longtail_tf import train, evaluate, classify, inspect, export, serve;"
        "heavy = {'tensorflow', 'keras_cv', 'tensorflow_addons', 'matplotlib', 'grpc', 'sklearn'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# What the machine refuses


def _launched(run, capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.launch(run, Toy, "doc", positional="images", argv=["train.py", *arguments])
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return stop.value.code, told.err


@pytest.mark.parametrize(
    ("number", "path", "expected"),
    [
        (errno.ENOSPC, "/d/a", "/d/a: No space left on device; free some space on that disk"),
        (errno.EACCES, "/d/a", "/d/a: Permission denied; look at its permissions"),
        (errno.EROFS, "/d/a", "/d/a: Read-only file system; name a place that is not read-only"),
        (errno.ENAMETOOLONG, "/d/a", "/d/a: File name too long; name another"),
        (errno.ENOTDIR, "/d/a", "/d/a: Not a directory; name another"),
        (errno.EISDIR, "/d/a", "/d/a: Is a directory; name another"),
        (errno.EIO, None, "Input/output error; name another"),
        (errno.ENOENT, "/d/\x1b[2J", "/d/\\x1b[2J: No such file or directory; check the path"),
    ],
)
def test_any_oserror_is_a_sentence_with_the_path(capsys, number, path, expected):
    def run(settings):
        raise OSError(number, os.strerror(number), path)

    code, told = _launched(run, capsys)
    assert code == 2 and told.startswith(f"train: {expected}") and told.endswith(".\n")


def test_an_oserror_without_a_number_is_told_in_its_own_words(capsys):
    def run(settings):
        raise OSError("cannot identify image file")

    assert _launched(run, capsys) == (2, "train: cannot identify image file; name another.\n")


def test_too_little_memory_is_a_sentence(capsys):
    def run(settings):
        raise MemoryError("Unable to allocate 27.3 TiB")

    code, told = _launched(run, capsys)
    assert code == 2 and "not enough memory (Unable to allocate 27.3 TiB): use a machine" in told


def test_a_sentence_is_escaped_and_never_a_book(capsys):
    def run(settings):
        raise UserError("\x1b[2J" + "x" * 100_000)

    code, told = _launched(run, capsys)
    assert code == 2 and "\x1b" not in told and len(told) < 5000 and " ... " in told


def test_names_in_log_lines_are_escaped():
    line = python_logging.LogRecord("x", 20, "f", 1, "bad image %s\nnext", ("\x1b[2J.png",), None)
    assert cli._Plain("%(message)s").format(line) == "bad image \\x1b[2J.png\nnext"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_behind_standard_output_is_told(stream):
    code = (
        "import sys\nfrom longtail_tf.inspect import main\n"
        "sys.argv = ['inspect.py', '--data=digits_lt']\nmain()"
    )
    with open("/dev/full", "w") as full:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
        done = subprocess.run([sys.executable, "-c", code], text=True, **streams)
    if stream == "stdout":
        assert done.returncode == 2
        assert (
            done.stderr == "inspect: No space left on device; free some space on that disk and "
            "give the same command again.\n"
        )
    else:
        assert done.returncode == 0 and "classes" in done.stdout


# Flagfiles


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.encode("latin-1"),  # a comment
    ],
    ids=["mark", "UTF-16", "CRLF", "Latin-1"],
)
def test_flagfiles_are_read_however_they_were_saved(tmp_path, encode):
    file = tmp_path / "a.flags"
    file.write_bytes(encode("# für\n\n// mehr\n  --steps=5  \n"))
    assert parse(f"--flagfile={file}").steps == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--steps=5\n--stpes=7\n", "a.flags, line 2: there is no flag --stpes: did you mean"),
        ("steps=5\n", "a.flags, line 1: 'steps=5' is no flag; write one --name=value a line"),
        ("\0\0\0\n", "a.flags, line 1: .* is no flag"),
        ("--rate=1\n--st\0eps=7\n", "a.flags, line 2: .* is no flag"),
        ("x" * 100_000, r"a.flags, line 1: 'x+\.\.\.' is no flag"),
        ("--flagfile=a.flags\n", "the flagfile a.flags names itself"),
        ("--flagfile\n", "--flagfile came without a file"),
    ],
)
def test_flagfiles_that_hold_something_else_are_told_with_the_line(
    tmp_path, monkeypatch, text, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.flags").write_text(text)
    with pytest.raises(UserError, match=message):
        parse("--flagfile=a.flags")


def test_a_flagfile_that_is_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.flags")
    with pytest.raises(OSError, match="it is a pipe, a file was expected"):
        parse(f"--flagfile={tmp_path / 'a.flags'}")


def test_a_path_that_is_no_utf8_survives_a_flagfile(tmp_path):
    config = Config(
        data=f"folder:{os.fsdecode(b'caf' + bytes([0xE9]))}", run_dir="a", head_ratio=0.2
    )
    write_atomically(tmp_path / "config.flags", flagfile_text(config, comment=""))
    assert cli.parse(Config, [f"--flagfile={tmp_path / 'config.flags'}"]) == config


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
def test_a_text_that_a_flagfile_cannot_hold_is_refused(value):
    with pytest.raises(UserError, match="--data=.* holds a line break, which a flagfile cannot"):
        flagfile_text(Config(data=value, run_dir="a", head_ratio=0.2), comment="")
    with pytest.raises(UserError, match="holds a line break"):
        cli.parse(Config, [f"--data={value}", "--run_dir=a", "--head_ratio=0.2"])
