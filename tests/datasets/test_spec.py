"""Data specs: grammar, typed options, and the nearest right name in every refusal."""

from __future__ import annotations

import pytest

from longtail_tf.datasets import load_index
from longtail_tf.datasets.spec import COMMON_OPTIONS, Option, parse_spec
from longtail_tf.errors import UserError

KINDS, NAMES = ("folder", "npz", "tfrecord"), ("digits_lt",)


def parse(text):
    return parse_spec(text, kinds=KINDS, names=NAMES)


def test_kind_path_and_query():
    spec = parse("folder:/a b/c?seed=3&flip=false")
    assert (spec.kind, spec.path) == ("folder", "/a b/c")
    options = spec.options(COMMON_OPTIONS)
    assert options["seed"] == 3 and options["flip"] is False and options["untrained"] == "error"
    assert options["test_fraction"] == 0.2


def test_name_with_query():
    spec = parse("digits_lt?imbalance_factor=10")
    assert (spec.kind, spec.path) == ("digits_lt", "")
    assert spec.options(COMMON_OPTIONS)["imbalance_factor"] == 10.0


def test_question_marks_of_a_glob_stay_in_the_path():
    assert parse("tfrecord:/x/part-?????-of-?????").path == "/x/part-?????-of-?????"
    spec = parse("tfrecord:/x/part-??.tfrecord?split=train")
    assert spec.path == "/x/part-??.tfrecord" and spec.query == {"split": "train"}


def test_values_may_be_percent_coded():
    spec = parse("digits_lt?folder=/a%26b/c+d=e")
    assert spec.query == {"folder": "/a&b/c+d=e"}


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parse("npz:~/x.npz").path == "/home/me/x.npz"


@pytest.mark.parametrize(
    "text, match",
    [
        ("", "no data set is given"),
        ("foldr:/x", "unknown kind 'foldr'; did you mean 'folder'"),
        ("folder:", "no path; write folder:PATH"),
        ("folder", "no path; write folder:PATH"),
        ("digit_lt", "names no built-in data set; did you mean 'digits_lt'"),
        ("zzz", "names no built-in data set; choose one of: digits_lt"),
        ("digits_lt?seed=1&", "option '' without a value"),
    ],
)
def test_refusals(text, match):
    with pytest.raises(UserError, match=match):
        parse(text)


def test_a_bare_path_is_answered_with_its_kind(tmp_path):
    with pytest.raises(UserError, match=f"write folder:{tmp_path}"):
        parse(str(tmp_path))


@pytest.mark.parametrize(
    "query, match",
    [
        ("sed=1", "unknown option 'sed'; did you mean 'seed'"),
        ("seed=x", "seed=x, which is no whole number"),
        ("imbalance_factor=big", "is no number"),
        ("flip=maybe", "is no true or false"),
        ("untrained=dropp", "untrained=dropp; did you mean 'drop'"),
    ],
)
def test_bad_options(query, match):
    with pytest.raises(UserError, match=match):
        parse("digits_lt?" + query).options(COMMON_OPTIONS)


def test_options_of_one_source_are_not_known_to_another():
    assert parse("npz:x?width=2").options({"width": Option(1, int)}) == {"width": 2}
    with pytest.raises(UserError, match="unknown option 'layout'"):
        load_index("digits_lt?layout=classes")
    with pytest.raises(UserError, match="did you mean 'csv'"):
        load_index("cvs:/x")
