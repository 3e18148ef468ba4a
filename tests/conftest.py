"""Test set-up: no GPU, quiet TensorFlow, one thread count so that bits repeat."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pathlib  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from tests import stacks  # noqa: E402

REAL_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _seed_numpy():
    np.random.seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def addons():
    """The losses of tensorflow-addons; the test is skipped where it has no release (Keras 3)."""
    if not stacks.HAS_ADDONS:
        pytest.skip(stacks.NO_ADDONS)
    from longtail_tf.compat import quiet_imports

    return quiet_imports.tensorflow_addons().losses


@pytest.fixture
def real_data():
    """The folder of real data sets beside the checkout; the test is skipped where it is missing."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real data sets (../shared/data) are not beside this checkout")
    return REAL_DATA
