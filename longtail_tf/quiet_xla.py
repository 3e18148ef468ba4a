"""XLA announces its first compilation in a process on stderr, past every log level."""

from __future__ import annotations

import os
import sys

import tensorflow as tf


def compile_first_quietly() -> None:
    """Compiles a trivial function with stderr closed, so that the announcement is not seen.

    The line is written by C++ logging that TensorFlow never initialises, so no setting hides it.
    Everything after this call is logged as ever.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
