"""`longtail COMMAND` reaches every entry point, and only imports the one it needs."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

import longtail_tf
from longtail_tf import __main__ as commands

PACKAGE = pathlib.Path(longtail_tf.__file__).parent


def longtail(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "longtail_tf", *arguments], capture_output=True, text=True
    )


def test_every_entry_point_is_a_command():
    entries = {
        path.stem for path in PACKAGE.glob("*.py") if "\ndef main() -> None:" in path.read_text()
    }
    assert set(commands.COMMANDS) == entries - {"__main__"}


def test_a_command_is_its_entry_point():
    done = longtail("compare", "--help")
    assert done.returncode == 0 and "--runs" in done.stdout
    wrong = longtail("report", "--rundir=x")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("longtail report: there is no flag --rundir: did you mean --run")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_the_commands_are_listed(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["longtail", *arguments])
    commands.main()
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in commands.COMMANDS)


def test_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["longtail", "--version"])
    commands.main()
    assert capsys.readouterr().out == f"longtail_tf {longtail_tf.__version__}\n"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("trian", "did you mean train?"), ("xyzzy", "choose one of inspect, train,")],
)
def test_an_unknown_command(monkeypatch, capsys, word, hint):
    monkeypatch.setattr(sys, "argv", ["longtail", word])
    with pytest.raises(SystemExit) as stopped:
        commands.main()
    assert stopped.value.code == 2
    assert f"longtail: there is no command '{word}': {hint}" in capsys.readouterr().err


def test_the_list_of_commands_starts_fast():
    code = (
        "import sys; sys.argv = ['longtail']; from longtail_tf import __main__ as m; m.main(); "
        "heavy = {'absl', 'numpy', 'tensorflow'} & set(sys.modules); sys.exit(str(heavy or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "longtail COMMAND --help" in done.stdout and not done.stderr.strip()


def test_the_citation_names_this_version():
    citation = PACKAGE.parent / "CITATION.cff"
    assert f"\nversion: {longtail_tf.__version__}\n" in citation.read_text()
