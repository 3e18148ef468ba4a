"""The weights file of either Keras loads; here the other's is this one's under the other names."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.models import networks
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.models.weights_file import load_weights

KERAS_2 = {"embedder": "layers/functional", "neck": "neck", "head": "layers/{head}"}
KERAS_3 = {"embedder": "embedder", "neck": "layers/batch_normalization", "head": "head"}


def network(seed, *, num_head_classes=3, **settings):
    tf.keras.utils.set_random_seed(seed)
    embedder = networks.build_embedder(
        backbone="resnet8", image_size=8, channels=1, embedding_dim=6, width=2
    )
    model = TwoStreamModel(embedder, num_head_classes=num_head_classes, **settings)
    rng = np.random.default_rng(seed)
    for layer in (model.neck, model.head):
        if layer is not None:
            layer.set_weights([rng.uniform(0.5, 1, w.shape) for w in layer.get_weights()])
    model.step.assign(seed)
    return model


def in_layout(path, out, layout, *, cosine_head):
    """Copies the parts, wherever this Keras filed them, to where the other one does."""
    head = "cosine_head" if cosine_head else "dense"
    with h5py.File(path) as source, h5py.File(out, "w") as target:
        source.copy("vars", target)
        for part, place in layout.items():
            for names in (KERAS_2, KERAS_3):
                old = names[part].format(head=head)
                if old in source and len(source[old]):
                    source.copy(old, target, name=place.format(head=head))


@pytest.mark.parametrize("layout", [KERAS_2, KERAS_3], ids=["keras2", "keras3"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"neck": False}, {"cosine_head": True}, {"num_head_classes": 0, "neck": False}],
    ids=["all", "no_neck", "cosine", "embedder_alone"],
)
def test_the_files_of_both_load(layout, settings, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    model = network(7, **settings)
    model.save_weights(str(tmp_path / "own.weights.h5"))
    path = tmp_path / "other.weights.h5"
    cosine_head = settings.get("cosine_head", False)
    in_layout(tmp_path / "own.weights.h5", path, layout, cosine_head=cosine_head)
    loaded = network(8, **settings)
    load_weights(loaded, path)
    assert int(tf.convert_to_tensor(loaded.step)) == 7
    for ours, theirs in zip(loaded.embed_images(images), model.embed_images(images)):
        if theirs is not None:
            np.testing.assert_array_equal(ours, theirs)


def test_another_network_or_file_is_an_error(tmp_path):
    path = tmp_path / "own.weights.h5"
    network(7, neck=False).save_weights(str(path))
    with pytest.raises(ValueError, match="it holds no neck"):
        load_weights(network(8), path)
    with pytest.raises(ValueError):
        load_weights(network(8, num_head_classes=4, neck=False), path)
    path.write_bytes(b"damaged")
    with pytest.raises(OSError):
        load_weights(network(8), path)
