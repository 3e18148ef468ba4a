from __future__ import annotations

import pathlib
import re

import pytest

from longtail_tf.errors import UserError
from longtail_tf.settings import backbones
from longtail_tf.settings.backbones import check_cut, cut_names, facts


def test_a_fact_of_every_entry_is_given():
    for name, entry in backbones.TABLE.items():
        assert entry.name == name and entry.pixel_range in backbones.PIXEL_RANGES
        assert entry.image_size >= 32 and (entry.features or entry.family == "cifar")
        assert bool(entry.weights) == bool(entry.licence)
        assert entry.usual_cut in cut_names(name)


README = pathlib.Path(__file__).parents[2] / "README.md"


def test_the_table_in_the_readme_is_this_one():
    rows = [line.split("|") for line in README.read_text().splitlines() if line.startswith("| `")]
    told = {
        name: row for row in rows for name in re.findall("`([a-z0-9_]+)`", row[1]) if len(row) == 8
    }
    assert set(told) == set(backbones.TABLE)
    for name, (_, _, features, _, fed, parts, weights, _) in told.items():
        entry = facts(name)
        assert str(entry.features or "4 x `--width`") in features
        assert entry.pixel_range == fed.strip() and (entry.weights == "") == ("none" in weights)
        last = [part for part in entry.stages if part.startswith("stage")][-1]
        assert last in parts or "the same" in parts
        assert ("head_conv" in entry.stages) == ("head_conv" in parts or "the same" in parts)


def test_old_names_are_still_there():
    """Run folders name them."""
    for name in (
        *("resnet8", "resnet20", "resnet32", "resnet56", "resnet18v2", "resnet34v2", "resnet50v2"),
        *("resnet101v2", "mobilenetv3_small", "mobilenetv3_large", "efficientnetv2_b0"),
        "efficientnetv2_s",
    ):
        assert facts(name).family in ("cifar", "keras_cv")


def test_lite_is_cut_at_stages_and_blocks():
    """Stages begin where Tan 2019, table 1 has them; issue 18 names block 11."""
    assert cut_names("efficientnet_lite0") == (
        *("stage1", "block0", "stage2", "block1", "block2", "stage3", "block3", "block4"),
        *("stage4", "block5", "block6", "block7", "stage5", "block8", "block9", "block10"),
        *("stage6", "block11", "block12", "block13", "block14", "stage7", "block15"),
        *("head_conv", "head"),
    )
    assert facts("efficientnet_lite0").stages["stage6"] == "block11"


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "folder/saved", "./saved"])
def test_files_are_networks_of_the_users_own(name):
    assert facts(name).family == "own" and facts(name).pixel_range == "0..255"
    assert cut_names(name) == ("head",)
    check_cut(name, "any_layer")


def test_presets_are_known_by_their_beginning():
    assert facts("keras_hub:dinov2_small").family == "keras_hub"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("efficientnet_lite", "efficientnet_lite0"), ("resnet50_v2", "resnet50v2"),
     ("MobileNetV2", "")],
)  # fmt: skip
def test_an_unknown_backbone_is_told(name, hint):
    with pytest.raises(UserError, match=f"--backbone={name}: there is no such backbone.*{hint}.*"):
        facts(name)


def test_a_cut_that_does_not_exist_is_told():
    with pytest.raises(
        UserError,
        match=r"keras_resnet50 has no part 'stage_4' \(did you mean stage4\?\): training can begin "
        "at stage1, stage2, stage3, stage4, head",
    ):
        check_cut("keras_resnet50", "stage_4")
    check_cut("keras_resnet50", "stage4")
