"""Arrays of .npz files: what lies about itself is refused in words, and takes no memory."""

from __future__ import annotations

import os
import resource

import numpy as np
import pytest

from longtail_tf import npz_files
from longtail_tf.errors import UserError
from longtail_tf.npz_files import array_names, read_array, read_arrays
from tests.sweep import bad_arrays

ARRAYS = {
    "whole": np.arange(12).reshape(3, 4),
    "text": np.array(["bär", "x"]),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.array("facts"),
    "none": np.zeros((0, 3), np.float32),
    "blank": np.array([""]),
}
# What is an array, if not one that anybody asked for.
TRUE = ("of floats", "of complex numbers", "of dates", "of records", "of texts", "a scalar",
        "of no rows", "of huge numbers", "of a billion", "of truths", "of big-endian floats",
        "of empty texts", "of bytes without length")  # fmt: skip


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    return tmp_path / "a.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_gives_them(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_arrays(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS) == array_names(tmp_path / "a.npz")
    for name, array in np.load(tmp_path / "a.npz").items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable
    assert list(read_arrays(tmp_path / "a.npz", ("text", "other"))) == ["text"]


def test_one_array_is_read_alone(path):
    raw = {**bad_arrays.members(path), "text": b"no array at all"}
    bad_arrays.write_members(path, raw)
    np.testing.assert_array_equal(read_array(path, "whole"), ARRAYS["whole"])
    with pytest.raises(UserError, match="has no array 'other', only whole, text"):
        read_array(path, "other")


@pytest.mark.parametrize("what", bad_arrays.MEMBERS)
def test_members_that_lie_are_refused(path, what):
    raw = {**bad_arrays.members(path), "whole": bad_arrays.MEMBERS[what]}
    bad_arrays.write_members(path, raw)
    if what in TRUE or what == "of 40 axes" and np.__version__ > "2":
        assert read_arrays(path)["whole"] is not None
        return
    with pytest.raises(UserError, match=r"a\.npz is damaged or cannot be read as an .npz file of"):
        read_arrays(path)


@pytest.mark.parametrize("what", bad_arrays.ARCHIVES)
def test_archives_that_lie_are_refused(path, what):
    bad_arrays.ARCHIVES[what](path, "whole")
    with pytest.raises(UserError, match=r"a\.npz is damaged or cannot be read"):
        read_arrays(path)


@pytest.mark.parametrize("what", bad_arrays.FILES)
def test_files_that_are_no_archives_of_arrays_hold_none(path, what):
    bad_arrays.FILES[what](path)
    try:
        assert read_arrays(path) == {}
    except UserError as error:
        assert "cannot be read as an .npz file" in str(error)


def test_every_cut_of_a_file_is_refused_or_whole(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is damaged or cannot be read"):
            read_arrays(path)


def test_every_turned_byte_is_refused_or_harmless(path):
    whole = path.read_bytes()
    for at in range(0, len(whole), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read_arrays(path)
        except UserError as error:
            assert "is damaged or cannot be read" in str(error)


def test_a_bomb_is_refused_before_it_unpacks(path, monkeypatch):
    monkeypatch.setattr(bad_arrays, "BOMB_BYTES", 512 << 20)
    bad_arrays.bomb(path, "whole")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="'whole' would unpack .* bytes to 536,8"):
        read_arrays(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_more_than_the_machine_can_hold_is_refused(path, monkeypatch):
    monkeypatch.setattr(npz_files, "_available_bytes", lambda: 100)
    with pytest.raises(UserError, match="holds arrays of .* bytes and 100 are free"):
        read_arrays(path)


def test_what_is_no_file_is_an_oserror(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(OSError, match="it is a pipe, a file was expected"):
        read_arrays(tmp_path / "pipe.npz")
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npz")
