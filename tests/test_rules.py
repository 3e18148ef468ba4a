"""The house rules that a program can check."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "longtail_tf").rglob("*.py"))
# Files under 40 lines, and why each is a file of its own.
SHORT = {
    "errors.py": "everything imports it",
    "prototypes.py": "a public name that users import",
    "metrics/shot_bands.py": "the bands that the field publishes",
    "losses/pairwise.py": "the arithmetic that every metric loss shares",
    "losses/checks.py": "importable without TensorFlow",
    "datasets/wording.py": "how messages of every source count and list",
    "settings/terminal.py": "what a terminal is shown, for every command",
    "settings/declare.py": "how a setting is declared; every command imports it",
}
NUMPY_ONLY = (
    "longtail_tf.config",
    "longtail_tf.settings.flags",
    "longtail_tf.settings.cli",
    "longtail_tf.runs.folder",
    "longtail_tf.head_set",
    "longtail_tf.sampling",
    "longtail_tf.datasets",
    "longtail_tf.metrics",
    "longtail_tf.recognition.prototypes",
    "longtail_tf.recognition.fit",
    "longtail_tf.losses.checks",
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_follows_the_house_rules(path):
    text = path.read_text()
    tree = ast.parse(text)
    lines = len(text.splitlines())
    assert lines <= 500, "more than one idea? split it (CONTRIBUTING.md, style)"
    name = str(path.relative_to(ROOT / "longtail_tf"))
    assert lines >= 40 or path.name == "__init__.py" or name in SHORT, "a splinter? give a reason"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), "user input wants a UserError with a sentence"
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert not name.startswith("tensorflow.python"), "private TensorFlow moves"
            if name.split(".")[0] in ("keras_cv", "tensorflow_addons"):
                raise AssertionError("import it through quiet_imports")
            if name.startswith("absl") and "flags" in name:
                assert path.name in ("flags.py", "cli.py"), "flags stop at the entry points"
    if path.name not in ("flags.py", "cli.py"):
        assert "FLAGS" not in text
    guards = [node for node in tree.body if ast.unparse(node).startswith("if __name__ ==")]
    assert (
        not guards or guards[-1] is tree.body[-1]
    ), "what stands below is not defined when it runs"
    if '__name__ == "__main__"' not in text and path.name not in ("cli.py", "progress.py"):
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        prints = [call for call in calls if getattr(call.func, "id", "") == "print"]
        assert not prints, "library code returns or logs; entry points print"


def test_numpy_only_modules_do_not_load_tensorflow():
    code = f"import sys\nfor m in {NUMPY_ONLY!r}: __import__(m)\nprint('tensorflow' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_nothing_names_this_machine_or_a_package_registry():
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    banned = re.compile("py" + r"pi\.org|/work" + r"/(main|shared)|python" + "hosted")
    for name in listed:
        if name.endswith((".py", ".md", ".cfg", ".toml", ".sh", ".flags", "Makefile", "run")):
            assert not banned.search((ROOT / name).read_text(errors="ignore")), name
