"""The section on what training bought, from the records of the trials."""

from __future__ import annotations

import copy
import json

import pytest

from longtail_tf.errors import UserError
from longtail_tf.reporting.amount_trained import amount_trained_section
from longtail_tf.reporting.page import Missing
from longtail_tf.reporting.run_data import read_run
from tests import report_fixtures

START = {
    "held_out_images": 410,
    "chosen": "stage6",
    "trials": [
        {"train_from": "none", "rule": "lda", "balanced": 0.883, "rules": {"lda": 0.883},
         "bands": {"all": 0.8, "many": None, "medium": 0.9, "few": 0.8}, "seconds": 1.0},
        {"train_from": "head", "rule": "ncm", "balanced": 0.9, "rules": {}, "seconds": 2.0,
         "bands": {"all": 0.8, "many": None, "medium": 0.9, "few": 0.85}},
        {"train_from": "stage6", "rule": "lda", "balanced": 0.929, "rules": {}, "seconds": 9.0,
         "bands": {"all": 0.8, "many": None, "medium": 0.9, "few": 0.9}},
    ],
}  # fmt: skip


def run_with(tmp_path, start):
    folder = report_fixtures.make_run(tmp_path / "run", num_classes=6, test_per_class=2)
    if start is not None:
        (tmp_path / "run" / "start.json").write_text(json.dumps(start))
    return folder, read_run(tmp_path / "run")


def test_each_amount_has_a_row_with_what_it_gains_by_band(tmp_path):
    section = amount_trained_section(run_with(tmp_path, START)[1])
    text = "".join(map(str, section.body))
    assert text.count("<tr>") == 4
    assert "<b>the network from stage6 up</b>" in text
    assert "+4.6" in text and "+1.7" in text, "against nothing trained"
    assert "Chosen: the network from stage6 up" in "".join(map(str, section.words))


def test_a_reading_alone_has_no_choice(tmp_path):
    start = {**START, "chosen": None, "trials": START["trials"][:1]}
    section = amount_trained_section(run_with(tmp_path, start)[1])
    assert "Chosen" not in "".join(map(str, section.words))


def test_a_run_without_trials_says_why_if_it_was_pretrained(tmp_path):
    data = run_with(tmp_path, None)[1]
    assert amount_trained_section(data) is None, "from random weights there is nothing to compare"
    data.config["settings"]["weights"] = "imagenet"
    section = amount_trained_section(data)
    assert isinstance(section, Missing) and "no start.json" in section.sentence


def test_a_damaged_record_is_refused_in_words(tmp_path):
    bad = copy.deepcopy(START)
    bad["trials"][1]["balanced"] = "high"
    with pytest.raises(UserError, match="start.json.*trials.1.balanced is missing or of the wrong"):
        run_with(tmp_path, bad)
