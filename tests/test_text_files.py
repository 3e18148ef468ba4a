"""Text, JSON and CSV: the same in every locale, and refused in words."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from longtail_tf.errors import UserError
from longtail_tf.text_files import csv_rows, read_json, read_text

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
    ],
    ids=["plain", "mark", "UTF-16", "UTF-16 big-endian", "UTF-32", "CRLF", "CR"],
)
def test_text_reads_alike_however_it_was_saved(tmp_path, encode):
    path = tmp_path / "a.txt"
    path.write_bytes(encode("für\n☕\n"))
    assert read_text(path) == "für\n☕\n"


def test_text_that_is_no_utf8_is_told_with_the_place(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"a.txt is no UTF-8 text \(byte 3: .*\): save it as UTF-8"):
        read_text(path)
    assert read_text(path, errors="surrogateescape") == os.fsdecode(b"caf\xe9\n")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_the_locale_does_not_matter(tmp_path, locale):
    path = tmp_path / "a.csv"
    path.write_bytes("name\nbär\n".encode())
    code = (
        "import sys; from longtail_tf.text_files import csv_rows;"
        "print(ascii(list(csv_rows(sys.argv[1]))))"
    )
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[{'name': 'b\\xe4r'}]\n", done.stderr


def test_json_reads_an_object(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, "é"]}', encoding="utf-8")
    assert read_json(path) == {"a": [1, "é"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1]", "it holds a list, an object in braces was expected"),
        ("null", "it holds null"),
        ("true", "it holds true or false"),
        ('"x"', "it holds a text"),
        ("3", "it holds a number"),
        ("{} {}", "Extra data"),
        ("[" * 100_000, "recursion|nested"),
        ('{"a":' * 100_000, "recursion|nested"),
    ],
)
def test_json_that_is_no_object_is_damaged(tmp_path, text, reason):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"a.json is damaged \\(.*({reason}).*restore it"):
        read_json(path)


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="before the limit")
def test_a_number_of_thousands_of_digits_is_damage_too(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": ' + "9" * 5000 + "}")
    with pytest.raises(UserError, match="a.json is damaged"):
        read_json(path)


def test_csv_rows_are_texts_by_column(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,name\n0,"a, ""b"""\n1,\n')
    assert list(csv_rows(path, ("name",))) == [
        {"id": "0", "name": 'a, "b"'},
        {"id": "1", "name": ""},
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it has no column 'name'"),
        ("id,other\n", "it has no column 'name'"),
        ("id,name\n1\n", "line 2 has other columns than the header"),
        ("id,name\n1,2\n1,2,3\n", "line 3 has other columns than the header"),
        ('id,name\n1,"open', "unexpected end of data"),
        ("id,name\n1," + "x" * 200_000, "field larger than field limit"),
    ],
)
def test_csv_that_is_no_table_is_damaged(tmp_path, text, reason):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=f"a.csv is damaged \\(.*{reason}"):
        list(csv_rows(path, ("name",)))


def test_a_nul_in_a_csv_file_is_a_letter_nobody_has(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"name\na\0b\n")
    assert list(csv_rows(path)) == [{"name": "a\N{REPLACEMENT CHARACTER}b"}]


def test_json_of_lone_surrogates_can_be_written_again(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": "\\ud800"}')
    assert json.loads(json.dumps(read_json(path))) == {"a": "\ud800"}
