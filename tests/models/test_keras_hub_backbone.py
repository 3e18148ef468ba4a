from __future__ import annotations

import sys

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.models import networks

PIXELS = np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)).astype(np.float32)
LINE = dict(scale=1 / 100, offset=-0.5)  # no usual one, so that it must have been read


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("keras_hub")


def vit(hub):
    return hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16
    )


def dinov2(hub):
    return hub.models.DINOV2Backbone(
        patch_size=8, num_layers=1, hidden_dim=8, num_heads=2, intermediate_dim=16,
        image_shape=(32, 32, 3), position_embedding_shape=(32, 32, 3),
    )  # fmt: skip


def siglip(hub):
    vision = hub.models.SigLIPVisionEncoder(
        patch_size=8, hidden_dim=8, num_layers=1, num_heads=2, intermediate_dim=16,
        image_shape=(32, 32, 3),
    )  # fmt: skip
    text = hub.models.SigLIPTextEncoder(
        vocabulary_size=9, embedding_dim=8, hidden_dim=8, num_layers=1, num_heads=2,
        intermediate_dim=16, max_sequence_length=4,
    )  # fmt: skip
    return hub.models.SigLIPBackbone(vision, text)


def resnet(hub):
    return hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
    )  # fmt: skip


CONVERTERS = {vit: "ViT", dinov2: "DINOV2", siglip: "SigLIP", resnet: "ResNet"}


def saved(hub, make, folder):
    net = make(hub)
    net.save_to_preset(str(folder))
    converter = getattr(hub.layers, f"{CONVERTERS[make]}ImageConverter", hub.layers.ImageConverter)
    converter(image_size=(32, 32), **LINE).save_to_preset(str(folder))
    return net


def embedder(folder, **changes):
    settings = dict(backbone=f"keras_hub:{folder}", image_size=32, channels=3, embedding_dim=0)
    return networks.build_embedder(**{**settings, **changes})


@pytest.mark.parametrize("make", CONVERTERS, ids=CONVERTERS.values())
def test_presets_see_their_pixels_and_give_one_vector(hub, tmp_path, make):
    net = saved(hub, make, tmp_path / "preset")
    pixels = PIXELS * LINE["scale"] + LINE["offset"]
    taken = {"images": pixels} if make in (dinov2, siglip) else pixels
    given = np.asarray(getattr(net, "vision_encoder", net)(taken))
    if make in (vit, dinov2):
        expected = given[:, 0]  # the class token
    else:
        expected = given.mean(axis=tuple(range(1, given.ndim - 1)))
    found = embedder(tmp_path / "preset")
    np.testing.assert_allclose(found(PIXELS).numpy(), expected, rtol=1e-4, atol=1e-5)
    trunk, top = networks.split_embedder(found, "head")
    np.testing.assert_array_equal(top(trunk(PIXELS)).numpy(), found(PIXELS).numpy())


def test_another_size_is_taken_or_told(hub, tmp_path):
    saved(hub, dinov2, tmp_path / "dino")
    assert embedder(tmp_path / "dino", image_size=48)(np.zeros((1, 48, 48, 3))).shape == (1, 8)
    saved(hub, vit, tmp_path / "vit")
    with pytest.raises(UserError, match="takes images of 32 px, not of 48: set --image_size=32"):
        embedder(tmp_path / "vit", image_size=48)


def test_a_preset_that_cannot_be_loaded_is_told(hub, tmp_path):
    with pytest.raises(UserError, match="cannot be loaded .*: go online once for a preset by name"):
        embedder(tmp_path / "nowhere")
    vit(hub).save_to_preset(str(tmp_path / "bare"))
    with pytest.raises(UserError, match="does not say how its pixels are normalised"):
        embedder(tmp_path / "bare")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(UserError, match="needs the package keras-hub .*: with Python 3.12"):
        embedder("vit_base")
