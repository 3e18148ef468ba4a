"""Run folders of older versions name settings that were removed since."""

from __future__ import annotations

import dataclasses
import json

import pytest

from longtail_tf.config import Config, ResolvedConfig
from longtail_tf.errors import UserError
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.saved_settings import load_settings
from longtail_tf.settings import cli
from longtail_tf.settings.retired import RETIRED, without_retired


def saved_settings(tmp_path, **more):
    settings = ResolvedConfig(
        data="digits_lt",
        run_dir=str(tmp_path),
        image_size=8,
        head_ratio=0.2,
        classes_per_batch=4,
        steps=9,
        learning_rate=0.1,
    )
    folder = RunFolder(tmp_path)
    folder.config.write_text(json.dumps({"settings": {**dataclasses.asdict(settings), **more}}))
    return folder, settings


def test_a_removed_setting_that_did_nothing_is_skipped(tmp_path):
    folder, settings = saved_settings(tmp_path, **RETIRED)
    assert load_settings(folder) == settings


def test_a_removed_setting_that_did_something_is_refused(tmp_path):
    folder, _ = saved_settings(tmp_path, **{**RETIRED, "prototypes_per_class": 3})
    with pytest.raises(UserError, match="config.json has prototypes_per_class=3, a setting that w"):
        load_settings(folder)


def test_a_flagfile_of_an_older_run_repeats_it(tmp_path):
    flagfile = tmp_path / "config.flags"
    flagfile.write_text("--prototype_variant=l2\n--prototypes_per_class=1\n--steps=700\n")
    given = [f"--flagfile={flagfile}", "--data=digits_lt", "--run_dir=x", "--head_ratio=0.2"]
    settings = cli.parse(Config, given)
    assert settings.steps == 700
    with pytest.raises(UserError, match="has prototype_variant=cl2n, a setting that was removed"):
        cli.parse(Config, [*given, "--prototype_variant=cl2n"])
    assert "prototype_variant" not in cli.help_text(Config, "")


def test_no_setting_is_both_there_and_removed():
    assert not set(RETIRED) & {field.name for field in dataclasses.fields(Config)}
    assert without_retired({"steps": 3, **RETIRED}, source="x") == {"steps": 3}
