"""What the two stacks (TensorFlow 2.15 with Keras 2.15, TensorFlow 2.21 with Keras 3) lack."""

from __future__ import annotations

import importlib.util
from importlib import metadata

import pytest

HAS_ADDONS = importlib.util.find_spec("tensorflow_addons") is not None
NO_ADDONS = "tensorflow-addons has no release for this TensorFlow"
needs_addons = pytest.mark.skipif(not HAS_ADDONS, reason=NO_ADDONS)
KERAS_3 = metadata.version("keras").startswith("3.")
needs_workers = pytest.mark.skipif(KERAS_3, reason="--replicas=workers is refused under Keras 3")


def available(names):
    """Metric losses as test parameters: those of tensorflow-addons skip where it is missing."""
    return [
        pytest.param(name, marks=needs_addons) if name.startswith("tfa_") else name
        for name in names
    ]
