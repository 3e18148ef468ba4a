from __future__ import annotations

import json
import re

import h5py
import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.models import networks
from longtail_tf.models.own_backbone import build

layers = tf.keras.layers
PIXELS = np.random.RandomState(0).randint(0, 256, (2, 16, 16, 3)).astype(np.float32)


def own(gives="map", *, size=None, channels=3, inputs=1):
    """A network of someone else, normalising its pixels itself."""
    images = [layers.Input((size, size, channels)) for _ in range(inputs)]
    x = layers.Rescaling(1 / 255)(images[0])
    x = layers.Conv2D(4, 3, padding="same", name="first")(x)
    x = layers.Dropout(0.5)(layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x)))
    x = layers.Conv2D(5, 3, 2, name="second")(x)
    if gives == "tokens":
        x = layers.Reshape((-1, 5))(x)
    elif gives == "vector":
        x = layers.GlobalMaxPooling2D()(x)
    outputs = [x, x] if gives == "two" else x
    return tf.keras.Model(images if inputs > 1 else images[0], outputs)


def embedder(path, **changes):
    settings = dict(backbone=str(path), image_size=16, channels=3, embedding_dim=0)
    return networks.build_embedder(**{**settings, **changes})


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("gives", ["map", "tokens", "vector"])
def test_a_keras_file_is_a_backbone_with_its_weights(tmp_path, ending, gives):
    net = own(gives, size=16 if gives == "tokens" else None)
    if ending == ".h5":
        with pytest.warns():  # Keras calls its .h5 files legacy
            net.save(tmp_path / f"net{ending}")
    else:
        net.save(tmp_path / f"net{ending}")
    found = embedder(tmp_path / f"net{ending}")(PIXELS).numpy()
    expected = net(PIXELS).numpy()
    expected = expected.mean(axis=tuple(range(1, expected.ndim - 1)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_it_is_cut_at_its_layers_and_trains_without_dropout(tmp_path):
    own().save(tmp_path / "net.keras")
    whole = embedder(tmp_path / "net.keras", embedding_dim=7)
    expected = whole(PIXELS).numpy()
    for cut in ("norm", "second", "head"):
        trunk, top = networks.split_embedder(whole, cut)
        np.testing.assert_array_equal(top(trunk(PIXELS)).numpy(), expected)
    trunk, top = networks.split_embedder(whole, "second")
    maps = trunk(PIXELS)
    np.testing.assert_array_equal(top(maps, training=True).numpy(), top(maps).numpy())
    with pytest.raises(UserError, match="backbone has no layer 'third' to cut at; it has"):
        networks.split_embedder(whole, "third")


def test_it_can_see_grey_images(tmp_path):
    own(channels=1).save(tmp_path / "net.keras")
    assert embedder(tmp_path / "net.keras", channels=1)(PIXELS[..., :1]).shape == (2, 5)


def test_another_pixel_range_is_fed_where_it_is_named(tmp_path):
    net = own()
    net.save(tmp_path / "net.keras")
    found = embedder(tmp_path / "net.keras", pixel_range="-1..1")(PIXELS).numpy()
    expected = net(PIXELS / 127.5 - 1).numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


class Doubling(tf.Module):
    """A SavedModel of no Keras: uint8 images to a map of their doubled channels."""

    def __init__(self, **settings):
        super().__init__()
        self.factor = tf.Variable(2.0)
        self.shape = settings.get("shape", [None, None, None, 3])

    def signature(self):
        @tf.function(input_signature=[tf.TensorSpec(self.shape, tf.uint8, name="images")])
        def serve(images):
            return {"map": self.factor * tf.cast(images, tf.float32)}

        return serve.get_concrete_function()


def test_a_saved_model_is_a_backbone_that_stands_still(tmp_path):
    module = Doubling()
    tf.saved_model.save(module, str(tmp_path / "net"), {"serving_default": module.signature()})
    found = embedder(tmp_path / "net", embedding_dim=4)
    assert [tuple(weight.shape) for weight in found.trainable_weights] == [(3, 4)]
    trunk, top = networks.split_embedder(found, "head")
    means = 2 * PIXELS.mean(axis=(1, 2))
    np.testing.assert_allclose(trunk(PIXELS).numpy(), means, rtol=1e-5)
    np.testing.assert_array_equal(top(trunk(PIXELS)).numpy(), found(PIXELS).numpy())
    # It goes into an export, its variables too.
    tf.saved_model.save(found, str(tmp_path / "out"))
    again = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
    (result,) = again(tf.constant(PIXELS)).values()
    np.testing.assert_allclose(result.numpy(), found(PIXELS).numpy(), rtol=1e-5)


def refused(match, path, shape=(16, 16, 3)):
    with pytest.raises(UserError, match=match):
        build(str(path), input_shape=shape)


def test_what_cannot_be_a_backbone_is_told(tmp_path):
    refused("nowhere.keras: there is no such file; give a .keras or .h5", "/nowhere.keras")
    refused("is a folder without a saved_model.pb, so no SavedModel", tmp_path)
    (tmp_path / "text.keras").write_text("hello")
    refused(r"text.keras cannot be loaded \(.*\): save it as a functional", tmp_path / "text.keras")
    own(size=32).save(tmp_path / "size.keras")
    refused("takes images of 32 px, not of 16: set --image_size=32", tmp_path / "size.keras")
    own("two").save(tmp_path / "two.keras")
    refused("must take one batch of images .* and give one output", tmp_path / "two.keras")
    own(inputs=2).save(tmp_path / "inputs.keras")
    refused("must take one batch of images", tmp_path / "inputs.keras")
    scalar = tf.keras.Sequential([layers.Input((16, 16, 3)), layers.Reshape((4, 4, 6, 8))])
    scalar.save(tmp_path / "deep.keras")
    refused("must give a feature map .* it gives .., 4, 4, 6, 8", tmp_path / "deep.keras")
    own(channels=1).save(tmp_path / "grey.keras")
    refused("takes images of 1 channels, not of 3: convert them", tmp_path / "grey.keras")


def test_a_saved_model_without_the_signature_is_told(tmp_path):
    module = Doubling()
    tf.saved_model.save(module, str(tmp_path / "net"), {"other": module.signature()})
    refused("cannot be loaded .it has no signature serving_default, but other.", tmp_path / "net")


def test_code_in_a_file_is_refused_unrun(tmp_path):
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(
            {"class_name": "Sequential", "config": [{"class_name": "Lambda", "config": {}}]}
        )
    refused(f"{re.escape(str(path))} holds a Lambda layer, Python code that loading would r", path)
