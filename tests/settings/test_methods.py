"""--method presets: they only set other settings, and whatever the user gives wins."""

from __future__ import annotations

import dataclasses
import json
import types

import numpy as np
import pytest

from longtail_tf import train
from longtail_tf.config import Config
from longtail_tf.errors import UserError
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.resolve import resolve
from longtail_tf.runs.trained_run import load_run, load_settings
from longtail_tf.settings import cli, methods
from longtail_tf.settings.flags import flagfile_text
from tests import fakes

NEEDS_A_HEAD_RULE = ("head_ce", "longtail")
BASE = dict(data="digits_lt", run_dir="runs/x")
FACTS = dict(num_classes=10, num_images=500, side=8, is_files=False, flip_is_valid=False)


def base(name):
    return {**BASE, **({"head_ratio": 0.3} if name in NEEDS_A_HEAD_RULE else {})}


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_sets_what_its_table_says_and_nothing_else(name):
    config = Config(method=name, **base(name))
    for field in dataclasses.fields(Config):
        given = {"method": name, **base(name)}
        expected = given.get(field.name, methods.METHODS[name].get(field.name, field.default))
        assert getattr(config, field.name) == expected, field.name
    assert methods.departures(config) == []


@pytest.mark.parametrize("name", methods.METHODS)
def test_tables_hold_known_settings_with_allowed_values_and_none_of_the_data_set(name):
    fields = {field.name: field for field in dataclasses.fields(Config)}
    for setting, value in methods.METHODS[name].items():
        choices = fields[setting].metadata["choices"]
        assert not choices or value in choices, setting
        assert value is not None, "config.flags leaves unset values out"
    of_the_data = {
        *("data", "image_size", "steps", "classes_per_batch", "learning_rate", "weights", "seed"),
        *("head_ratio", "head_min_count", "head_num_classes", "backbone", "width", "embedding_dim"),
    }
    assert not of_the_data & set(methods.METHODS[name])
    assert methods.METHODS[name].get("images_per_class", 0) == 0, "0: derived from the counts"


@pytest.mark.parametrize("name", methods.METHODS)
def test_config_flags_of_a_method_repeats_the_run(name, tmp_path):
    config = resolve(Config(method=name, **base(name), momentum=0.8), **FACTS)
    file = tmp_path / "config.flags"
    file.write_text(flagfile_text(config, comment="x"))
    repeated = cli.parse(Config, [f"--flagfile={file}"])
    assert dataclasses.asdict(repeated) == dataclasses.asdict(config)
    assert resolve(repeated, **FACTS) == config
    assert dataclasses.replace(config) == config


def test_a_flag_that_is_given_wins_wherever_it_stands(tmp_path):
    file = tmp_path / "a.flags"
    file.write_text("--label_smoothing=0\n--data=digits_lt\n--run_dir=x\n")
    for flags in (["--margin=0.5", "--method=ce_triplet"], ["--method=ce_triplet", "--margin=0.5"]):
        config = cli.parse(Config, [*flags, f"--flagfile={file}"])
        assert (config.margin, config.label_smoothing) == (0.5, 0.0)
        assert config.metric_loss == "triplet_hard"
    # ... also where it is the default, which only its being given tells apart.
    assert cli.parse(Config, [f"--flagfile={file}", "--method=ce_triplet"]).label_smoothing == 0.0
    assert Config(method="ce_triplet", **BASE).label_smoothing == 0.1
    assert Config(method="ce_triplet", label_smoothing=0.0, **BASE).label_smoothing == 0.0


@pytest.mark.parametrize(
    "rule", [dict(head_ratio=0.3), dict(head_min_count=5), dict(head_num_classes=3)]
)
def test_a_head_rule_that_is_given_replaces_the_methods(rule):
    config = Config(method="ce", **BASE, **rule)
    assert not config.head_all and config.metric_loss == "none"
    assert methods.departures(config) == ["--head_all=False (the method: True)"]


def test_what_the_data_set_decides_is_no_departure(monkeypatch):
    table = {"head_auto": True, "images_per_class": 0, "margin": 0.3}
    monkeypatch.setattr(methods, "METHODS", {"m": table})
    settings = types.SimpleNamespace(method="m", head_auto=False, images_per_class=4, margin=0.2)
    assert methods.departures(settings) == ["--margin=0.2 (the method: 0.3)"]


def test_an_unknown_method_is_refused_in_words(capsys):
    with pytest.raises(UserError, match="--method=cee: expected one of ce, posthoc_adjusted, "):
        Config(method="cee", **BASE)
    with pytest.raises(SystemExit) as stop:
        cli.launch(None, Config, "", argv=["train", "--method=cee"])
    assert stop.value.code == 2 and "value should be one of <ce|" in capsys.readouterr().err


def test_help_lists_the_methods():
    text = cli.help_text(Config, "")
    assert "--method  (not set)" in text
    assert "One of: ce, posthoc_adjusted" in " ".join(text.split())


def test_preset_gives_a_copy():
    methods.preset("ce")["head_all"] = False
    assert methods.preset("ce")["head_all"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(reweight_from=1.5), "--reweight_from=1.5: expected 0 to 1"),
        (dict(reweight_from=0.5, head_sampling="balanced"),
         "--head_sampling=balanced and --reweight_from=0.5 each make up for the tail"),
        (dict(head_sampling="balanced", classification_loss="logit_adjusted"),
         "--head_sampling=balanced and --classification_loss=logit_adjusted each make up"),
        (dict(classification_loss="class_balanced", reweight_from=0.8),
         "--classification_loss=class_balanced and --reweight_from=0.8 each make up"),
        (dict(head_ratio=None, head_all=True, inference_rule="head_adjusted",
              classification_loss="logit_adjusted"),
         "--inference_rule=head_adjusted and --classification_loss=logit_adjusted each make up"),
        (dict(inference_rule="crt"), "--inference_rule=crt corrects a classifier of every class"),
        (dict(head_ratio=None, head_all=True, inference_rule="tau_norm", cosine_head=True),
         "--inference_rule=tau_norm: class vectors of a --cosine_head have no length"),
    ],
)  # fmt: skip
def test_settings_that_undo_each_other_are_refused_in_words(change, message):
    with pytest.raises(UserError, match=message):
        Config(**{**BASE, "head_ratio": 0.3, **change})


def test_a_rule_of_every_class_waits_for_what_head_auto_comes_to():
    from longtail_tf.runs.resolve import resolve

    config = Config(**{**BASE, "head_ratio": None}, head_auto=True, inference_rule="crt")
    facts = dict(num_images=500, side=8, is_files=False, flip_is_valid=True)
    assert resolve(config, num_classes=500, **facts).head_all
    with pytest.raises(UserError, match="--inference_rule=crt corrects a classifier of every"):
        resolve(config, num_classes=501, **facts)


def tiny(folder, **changes):
    spec = fakes.write_npz(folder / "bars.npz")
    return Config(
        data=spec,
        run_dir=str(folder / "run"),
        steps=2,
        warmup_steps=1,
        **fakes.TINY_NET,
        **changes,
    )


def test_an_old_run_of_a_method_keeps_the_defaults_it_was_trained_with(tmp_path):
    """Settings that a later version adds to a method's table are not read into it."""
    folder = RunFolder(tmp_path)
    saved = dataclasses.asdict(Config(method="ldam_drw", **BASE))
    del saved["reweight_from"]
    folder.config.write_text(json.dumps({"settings": saved}))
    assert load_settings(folder).reweight_from == 1.0


def test_a_method_trains_and_its_departures_are_reported(tmp_path, caplog):
    config = tiny(tmp_path, method="balanced_sampling", label_smoothing=0.1, neck=False)
    with caplog.at_level("INFO", logger="absl"):
        done = train.run(dataclasses.replace(config, inference_rule="ncm"))
    assert "method balanced_sampling, but with --inference_rule=ncm (the method: head_only)" in (
        caplog.text
    )
    run = load_run(str(done.run_dir))
    assert run.config.method == "balanced_sampling" and run.config.head_sampling == "balanced"
    assert np.isfinite(done.metrics["head_only"]["balanced"])
