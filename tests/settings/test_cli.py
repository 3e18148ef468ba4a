from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Optional

import pytest

from longtail_tf.config import Config
from longtail_tf.errors import UserError
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
