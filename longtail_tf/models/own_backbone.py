"""A network of the user's own as a backbone: a .keras or .h5 file, or a SavedModel folder.

It must take one batch of images and give a feature map [B, h, w, c], a row of tokens [B, t, c] or a
vector [B, c]. A Keras file can be fine-tuned and cut at its layers; a SavedModel stands still.
"""

from __future__ import annotations

import pathlib
from typing import Any

import h5py
import tensorflow as tf

from longtail_tf.errors import UserError


def build(path: str, *, input_shape: tuple[int, int, int]) -> tf.keras.Model:
    """Loads it with the weights it holds.

    Args:
      path: the file or folder.
      input_shape: height, width and channels of our images.

    Returns:
      A functional model from images to what the network gives.

    Raises:
      UserError: there is no such file, it cannot be loaded, or it takes or gives something else.
    """
    flag = f"--backbone={path}"
    if not pathlib.Path(path).exists():
        raise UserError(
            f"{flag}: there is no such file; give a .keras or .h5 file, a SavedModel folder, or "
            "the name of a backbone."
        )
    is_folder = pathlib.Path(path).is_dir()
    if is_folder and not pathlib.Path(path, "saved_model.pb").is_file():
        raise UserError(f"{flag} is a folder without a saved_model.pb, so no SavedModel.")
    if not is_folder:
        _refuse_code(path)
    try:
        if is_folder:
            images = tf.keras.Input(input_shape, name="images")
            net = tf.keras.Model(images, SavedModelLayer(path, name="saved_model")(images))
        else:
            net = tf.keras.models.load_model(path, compile=False)
        inputs, outputs = net.inputs, net.outputs
    except Exception as error:  # whatever the loader raises on a file of any origin
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise UserError(
            f"{flag} cannot be loaded ({reason}): save it as a functional or sequential Keras "
            "model of Keras' own layers, or as a SavedModel with a serving_default signature."
        ) from error
    if not inputs or len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4:
        raise UserError(
            f"{flag} must take one batch of images [B, height, width, channels] and give one "
            f"output; it takes {_shapes(inputs)} and gives {_shapes(outputs)}."
        )
    if len(outputs[0].shape) not in (2, 3, 4) or outputs[0].shape[-1] is None:
        raise UserError(
            f"{flag} must give a feature map [B, h, w, c], tokens [B, t, c] or a vector [B, c] of "
            f"a fixed c; it gives {_shapes(outputs)}."
        )
    for side, wanted in zip(input_shape[:2], inputs[0].shape[1:3]):
        if wanted not in (None, side):
            raise UserError(
                f"{flag} takes images of {wanted} px, not of {side}: set --image_size={wanted}."
            )
    if inputs[0].shape[-1] not in (None, 3, input_shape[-1]):
        raise UserError(
            f"{flag} takes images of {inputs[0].shape[-1]} channels, not of {input_shape[-1]}: "
            "convert them, or give a network of 3 channels, which sees grey images too."
        )
    return net


class SavedModelLayer(tf.keras.layers.Layer):
    """Calls the serving_default signature of a SavedModel, whose weights stand still.

    Args:
      folder: of the SavedModel.
    """

    def __init__(self, folder: str, **settings: Any) -> None:
        super().__init__(trainable=False, **settings)
        self.folder = folder
        self.loaded = tf.saved_model.load(folder)
        signatures = self.loaded.signatures
        if "serving_default" not in signatures:
            raise ValueError(f"it has no signature serving_default, but {', '.join(signatures)}")
        self.signature = signatures["serving_default"]
        specs = self.signature.structured_input_signature[1]
        if len(specs) != 1 or len(self.signature.structured_outputs) != 1:
            raise ValueError("its serving_default has more than one input or output")
        ((self.argument, self.taken),) = specs.items()
        ((self.result, self.given),) = self.signature.structured_outputs.items()

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Images [B, H, W, C] -> what the signature gives."""
        images = tf.cast(images, self.taken.dtype)
        return tf.cast(self.signature(**{self.argument: images})[self.result], tf.float32)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The signature's output shape with the batch of `input_shape`."""
        return (input_shape[0], *self.given.shape[1:])

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the layer from the same folder."""
        return {**super().get_config(), "folder": self.folder}


def _refuse_code(path: str) -> None:
    """A Lambda layer in an .h5 file is Python code that loading would run."""
    if not h5py.is_hdf5(path):
        return
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config", b"")
    if '"Lambda"' in (config.decode(errors="replace") if isinstance(config, bytes) else config):
        raise UserError(
            f"--backbone={path} holds a Lambda layer, Python code that loading would run; nothing "
            "in it was run: save the model without it, or as a SavedModel."
        )


def _shapes(tensors: Any) -> str:
    shapes = [tuple(tensor.shape) for tensor in tensors or []]
    return " and ".join(str(shape).replace("None", "?") for shape in shapes) or "nothing"
