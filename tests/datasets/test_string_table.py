"""StringTable against a Python list."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf.datasets import StringTable
from longtail_tf.datasets import string_table as module

STRINGS = ["", "a", "héllo", "猫", "a", "x" * 300, "\udcff.jpg"]


def test_behaves_like_the_list():
    table = StringTable.from_strings(STRINGS)
    assert list(table) == STRINGS and len(table) == len(STRINGS)
    assert table[-1] == STRINGS[-1] and list(table[1:5:2]) == STRINGS[1:5:2]
    assert "猫" in table and table.index("a") == 1
    assert table == StringTable.from_strings(iter(STRINGS)) != StringTable.from_strings(["a"])
    assert hash(table) == hash(StringTable.from_strings(STRINGS))
    assert table != STRINGS


def test_bytes_that_are_no_utf8_come_back():
    table = StringTable.from_strings([b"\xff.jpg"])
    assert table.bytes_at(0) == b"\xff.jpg" and table[0] == "\udcff.jpg"


@pytest.mark.parametrize("index", [7, -8])
def test_out_of_range(index):
    with pytest.raises(IndexError, match="of 7"):
        StringTable.from_strings(STRINGS)[index]


def test_empty():
    table = StringTable.from_strings([])
    assert list(table) == [] and len(table.take([])) == 0


@pytest.mark.parametrize("chunk", [1, 3, 1 << 18])
def test_take(chunk, monkeypatch):
    monkeypatch.setattr(module, "_GATHER_CHUNK", chunk)
    rng = np.random.default_rng(0)
    strings = ["n" * int(n) + str(n) for n in rng.integers(0, 9, 50)]
    ids = rng.integers(0, 50, 200)
    assert list(StringTable.from_strings(strings).take(ids)) == [strings[i] for i in ids]


def test_many_strings_cross_the_blocks():
    strings = [str(i) for i in range(200_000)]
    table = StringTable.from_strings(strings)
    assert table[65_535:65_540] == StringTable.from_strings(strings[65_535:65_540])
    assert table[199_999] == "199999"
    assert table.nbytes < 4 * 200_001 + 6 * 200_000 + 1


def test_repr_shows_the_first():
    assert repr(StringTable.from_strings("abcd")) == "StringTable(4 strings: 'a', 'b', 'c', ...)"
