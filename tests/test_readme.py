"""README's commands: every one parses, and the Python block runs."""

from __future__ import annotations

import importlib
import pathlib
import re
import shlex

import pytest

from longtail_tf.settings import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
COMMANDS = [
    line.split(" #")[0]
    for language, block in BLOCKS
    if language == "sh"
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python -m longtail_tf")
]
SETTINGS = {
    "train": ("longtail_tf.config", "Config", None),
    "classify": ("longtail_tf.classify", "ClassifyConfig", "images"),
}


def settings_of(module):
    """The settings class of an entry point and its positional field."""
    if module in SETTINGS:
        source, name, positional = SETTINGS[module]
        return getattr(importlib.import_module(source), name), positional
    found = importlib.import_module(f"longtail_tf.{module}")
    names = [name for name in vars(found) if name.endswith("Config") and name != "Config"]
    own = [
        getattr(found, name) for name in names if getattr(found, name).__module__ == found.__name__
    ]
    positional = re.search(r'positional="(\w+)"', pathlib.Path(found.__file__).read_text())
    return own[0], positional and positional[1]


def test_there_are_commands():
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command):
    _, _, module, *arguments = shlex.split(command)
    settings, positional = settings_of(module.split(".")[1])
    if "--help" not in arguments and "..." not in command:
        cli.parse(settings, arguments, positional=positional)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_files_named_in_the_text_exist():
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.slow
def test_the_python_block_runs(tmp_path, monkeypatch, capsys):
    (block,) = (block for language, block in BLOCKS if language == "python")
    monkeypatch.chdir(tmp_path)
    exec(block.replace("steps=200", "steps=20, warmup_steps=5"), {})
    assert 0 <= float(capsys.readouterr().out.split()[-1]) <= 1
