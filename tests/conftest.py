"""Test set-up: no GPU, quiet TensorFlow, one thread count so that bits repeat, no hoarding."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
# The order in which a sum is shared out depends on the threads, hence its last bits too: as many
# on every machine. Two, so that what threads can break is tested.
for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "2")

import contextlib  # noqa: E402
import ctypes  # noqa: E402
import gc  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402

from tests import stacks  # noqa: E402

REAL_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _seed_numpy():
    np.random.seed(0)


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_behind():
    """After each file: no process goes on, and the memory of its graphs goes back."""
    yield
    left = {child: told for child, told in _children().items() if "resource_tracker" not in told}
    for child in left:
        child.kill()
    psutil.wait_procs(left)
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
        gc.collect()
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):  # glibc keeps what was freed; two workers share a machine
            libc.malloc_trim(0)
    assert not left, f"left running; start processes with tests.waiting: {list(left.values())}"


def _children() -> dict:
    """The child processes of this one, and their command lines."""
    found = {}
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found[child] = " ".join(child.cmdline()) or child.name()
    return found


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
