from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import train
from longtail_tf.config import Config
from longtail_tf.errors import UserError
from longtail_tf.runs import kept_backbone
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.resolve import resolve
from longtail_tf.runs.saved_settings import load_settings
from longtail_tf.runs.trained_run import load_run
from tests import fakes

layers = tf.keras.layers


def own():
    images = layers.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, padding="same", name="conv")(layers.Rescaling(1 / 255)(images))
    return tf.keras.Model(images, layers.ReLU(name="relu")(x))


def test_a_run_takes_the_users_network_along(tmp_path):
    """It is moved, and the file it began with is gone: it loads and embeds as before."""
    fakes.write_npz(tmp_path / "bars.npz")
    own().save(tmp_path / "net.keras")
    settings = {
        **fakes.TINY_NET,
        "width": None,
        "embedding_dim": 4,
        "backbone": str(tmp_path / "net.keras"),
    }
    config = Config(
        **settings, data=f"npz:{tmp_path / 'bars.npz'}", run_dir=str(tmp_path / "run"),
        head_ratio=0.5, steps=2, train_from="all", eval_every=0,
    )  # fmt: skip
    train.run(config)
    images = np.random.RandomState(0).randint(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    before = load_run(str(tmp_path / "run")).model.embed_images(images)[0].numpy()
    (tmp_path / "net.keras").unlink()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    run = load_run(str(tmp_path / "moved"))
    np.testing.assert_array_equal(run.model.embed_images(images)[0].numpy(), before)
    assert run.config.backbone == str(tmp_path / "moved" / "backbone.keras")
    assert run.config.pixel_range == "0..255"


def test_files_and_folders_are_kept_and_names_are_not(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"x")
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "config.json").write_text("{}")
    (tmp_path / "net.h5").write_bytes(b"x")
    for name, backbone, found in (
        ("a", str(tmp_path / "saved"), "{}/backbone"),
        ("b", f"keras_hub:{tmp_path / 'preset'}", "keras_hub:{}/backbone"),
        ("c", str(tmp_path / "net.h5"), "{}/backbone.h5"),
        ("d", "resnet20", None),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for _ in range(2):  # a second start leaves it as it is
            with kept_backbone.keeping(backbone, folder):
                pass
        assert kept_backbone.kept(folder) == (found and found.format(folder))


def test_a_network_that_cannot_be_kept_is_told(tmp_path):
    match = "nowhere.keras cannot be copied into .*: the run keeps its network"
    with pytest.raises(UserError, match=match):
        with kept_backbone.keeping("/nowhere.keras", tmp_path):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("weights", "expected"), [("imagenet", "0..1"), ("", "-1..1")])
def test_old_runs_keep_the_pixels_they_had(tmp_path, weights, expected):
    """Up to 0.9 the range hung on the word imagenet and was not saved."""
    config = Config(data="x", run_dir="y", backbone="resnet50v2", head_all=True)
    facts = dict(num_images=9, num_classes=9, side=64, is_files=False, flip_is_valid=True)
    saved = {**dataclasses.asdict(resolve(config, **facts)), "weights": weights}
    del saved["pixel_range"]
    (tmp_path / "config.json").write_text(json.dumps({"settings": saved}))
    assert load_settings(RunFolder(tmp_path)).pixel_range == expected
    # And a new run that starts from its weights feeds them alike, whatever the table says.
    new = Config(data="x", run_dir="y", backbone="resnet50v2", head_all=True, weights=str(tmp_path))
    assert resolve(new, **facts).pixel_range == expected
