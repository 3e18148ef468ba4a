"""The only place that imports keras-cv, keras-hub and tensorflow-addons.

They are imported when first used, never at start-up. keras-cv (through keras-core) prints its
backend to *stdout*, which would corrupt `--json` output; tensorflow-addons warns of its end of
life. Exactly these two lines are silenced here, nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from types import ModuleType

from longtail_tf.errors import UserError


def keras_cv() -> ModuleType:
    """Returns the keras-cv module, without its line on stdout."""
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module("keras_cv")


def keras_hub() -> ModuleType:
    """Returns the keras-hub module, an optional extra.

    Raises:
      UserError: it is not installed, or cannot be imported beside the installed Keras.
    """
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        raise UserError(
            f"--backbone=keras_hub:... needs the package keras-hub ({error}): with Python 3.12 or "
            "later, pip install 'longtail_tf[keras_hub]'; before that, choose another --backbone."
        ) from error


def tensorflow_addons() -> ModuleType:
    """Returns the tensorflow-addons module, without its end-of-life warning.

    Raises:
      UserError: it cannot be imported beside the installed TensorFlow.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*TensorFlow Addons \(TFA\)")
        try:
            return importlib.import_module("tensorflow_addons")
        except ImportError as error:
            raise UserError(
                f"tensorflow-addons cannot be imported here ({error}); its losses (--metric_loss="
                "tfa_*) need TensorFlow 2.15 and Python 3.9 to 3.11: choose another --metric_loss."
            ) from error
