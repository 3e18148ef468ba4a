"""What users must not have to read: third parties' lines on stdout and stderr."""

from __future__ import annotations

import sys

import pytest

from tests import stacks, waiting


def run(code):
    result = waiting.run([sys.executable, "-c", code])
    assert result.returncode == 0, result.stderr[-2000:]
    return result


def test_a_command_starts_tensorflow_without_a_word_and_shows_what_else_is_written():
    code = (
        "import os, sys; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'\n"
        "from longtail_tf.compat import quiet; quiet.quiet_import()\n"
        "assert 'tensorflow' not in sys.modules\n"
        "import tensorflow as tf; tf.constant(0)\n"
        "print(tf.__name__, len(tf.__version__) > 3)\n"
        "quiet._quietly(lambda: os.write(2, b'kept\\noneDNN custom operations are on\\n'))()"
    )
    result = run(code)
    assert result.stdout == "tensorflow True\n" and result.stderr == "kept\n"


def test_xla_says_nothing():
    code = (
        "import os; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'\n"
        "import sys, tensorflow as tf\n"
        "tf.constant(0); print('TensorFlow started', file=sys.stderr)\n"
        "from longtail_tf.compat.quiet import quiet_first_compilation\n"
        "quiet_first_compilation()\n"
        "print(float(tf.function(lambda x: 2 * x, jit_compile=True)(tf.constant(3.0))))\n"
        "print('still here', file=sys.stderr)"
    )
    result = run(code)
    assert result.stdout == "6.0\n"
    # TensorFlow 2.21 itself says something when it starts, past every log level.
    assert result.stderr.split("TensorFlow started\n")[1] == "still here\n"


@pytest.mark.parametrize(
    "name", ["keras_cv", pytest.param("tensorflow_addons", marks=stacks.needs_addons)]
)
def test_quiet_imports_print_nothing(name):
    code = (
        "import os; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'\n"
        f"from longtail_tf.compat import quiet_imports; quiet_imports.{name}()"
    )
    result = run(code)
    assert result.stdout == "" and "Addons" not in result.stderr


def test_missing_addons_is_reported(monkeypatch):
    from longtail_tf.compat import quiet_imports
    from longtail_tf.errors import UserError

    def missing(name):
        raise ImportError("no keras.src.engine")

    monkeypatch.setattr(quiet_imports.importlib, "import_module", missing)
    with pytest.raises(UserError, match="cannot be imported here .* choose another --metric_loss"):
        quiet_imports.tensorflow_addons()
