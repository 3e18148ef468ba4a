"""Metadata and associated files in a .tflite, in the standard form.

A `TFLITE_METADATA` buffer (a flatbuffer of about 700 bytes, schema "M001") tells Android Studio,
MediaPipe and the TFLite Task library what goes in and comes out; labels and other files are
appended as a plain, uncompressed zip, which interpreters ignore and `unzip -l` reads. Written with
`flatbuffers` alone: the archived writer package needs an old protobuf.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import flatbuffers

METADATA_NAME = "TFLITE_METADATA"
FILE_IDENTIFIER = b"M001"
MIN_PARSER_VERSION = "1.0.0"
LABELS_FILE = "labels.txt"
DIGEST_FILE = "model.sha256"

# numbers from metadata_schema.fbs
AXIS_LABELS, UNKNOWN_FILE = 2, 0
FEATURE_PROPERTIES, IMAGE_PROPERTIES = 1, 2
NORMALIZATION_OPTIONS = 1
RGB, GRAYSCALE = 1, 2


@dataclasses.dataclass(frozen=True)
class Description:
    """What the metadata says about a model with one image input and one float output."""

    name: str
    description: str
    version: str
    image_size: int
    channels: int
    output_name: str
    output_description: str


def pack(model: bytes, description: Description, files: Mapping[str, bytes]) -> bytes:
    """`model` with metadata and `files` in it; `labels.txt` among them names the output's axis.

    Args:
      model: a .tflite without metadata.
      description: what the metadata says.
      files: associated files by name.
    """
    described = _with_metadata(model, _metadata(description, files))
    # interpreters crash on a damaged flatbuffer, so that a reader must be able to tell first
    files = {**files, DIGEST_FILE: hashlib.sha256(described).hexdigest().encode()}
    packed = io.BytesIO(described)
    packed.seek(0, io.SEEK_END)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            # a fixed date: the same model gives the same bytes
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return packed.getvalue()


def _with_metadata(model: bytes, metadata: bytes) -> bytes:
    """Adds the buffer to the model's flatbuffer, by TensorFlow's own schema classes."""
    import numpy as np  # noqa: PLC0415
    from tensorflow.lite.python import schema_py_generated as schema  # noqa: PLC0415

    unpacked = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    unpacked.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME, len(unpacked.buffers) - 1
    unpacked.metadata = [*(unpacked.metadata or []), entry]
    builder = flatbuffers.Builder(len(model) + len(metadata) + 1024)
    builder.Finish(unpacked.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _metadata(description: Description, files: Mapping[str, bytes]) -> bytes:
    b = flatbuffers.Builder(1024)
    labels = [_file(b, LABELS_FILE, AXIS_LABELS)] if LABELS_FILE in files else []
    others = [_file(b, name, UNKNOWN_FILE) for name in files if name != LABELS_FILE]
    size = _table(b, 2, {0: ("u32", description.image_size), 1: ("u32", description.image_size)})
    color = RGB if description.channels == 3 else GRAYSCALE
    image = _table(b, 2, {0: ("i8", color), 1: ("at", size)})
    image_content = _table(b, 3, {0: ("u8", IMAGE_PROPERTIES), 1: ("at", image)})
    feature = _table(b, 0, {})
    feature_content = _table(b, 3, {0: ("u8", FEATURE_PROPERTIES), 1: ("at", feature)})
    # the network normalises inside, so the client's step is (pixel - 0) / 1
    options = _table(b, 2, {0: ("at", _floats(b, [0.0])), 1: ("at", _floats(b, [1.0]))})
    unit = _table(b, 2, {0: ("u8", NORMALIZATION_OPTIONS), 1: ("at", options)})
    stats = _table(b, 2, {0: ("at", _floats(b, [255.0])), 1: ("at", _floats(b, [0.0]))})
    pixels = f"{'RGB' if description.channels == 3 else 'Grey'} image, pixels 0..255, unscaled."
    inputs = _table(b, 7, {
        0: ("at", b.CreateString("image")), 1: ("at", b.CreateString(pixels)),
        3: ("at", image_content), 4: ("at", _offsets(b, [unit])), 5: ("at", stats),
    })  # fmt: skip
    outputs = _table(b, 7, {
        0: ("at", b.CreateString(description.output_name)),
        1: ("at", b.CreateString(description.output_description)),
        3: ("at", feature_content),
        6: ("at", _offsets(b, labels) if labels else None),
    })  # fmt: skip
    subgraph = _table(b, 10, {
        2: ("at", _offsets(b, [inputs])), 3: ("at", _offsets(b, [outputs])),
        4: ("at", _offsets(b, others) if others else None),
    })  # fmt: skip
    root = _table(b, 8, {
        0: ("at", b.CreateString(description.name)),
        1: ("at", b.CreateString(description.description)),
        2: ("at", b.CreateString(description.version)),
        3: ("at", _offsets(b, [subgraph])),
        7: ("at", b.CreateString(MIN_PARSER_VERSION)),
    })  # fmt: skip
    b.Finish(root, file_identifier=FILE_IDENTIFIER)
    return bytes(b.Output())


def _file(b: flatbuffers.Builder, name: str, kind: int) -> int:
    return _table(b, 5, {0: ("at", b.CreateString(name)), 2: ("i8", kind)})


def _table(b: flatbuffers.Builder, slots: int, values: Mapping[int, tuple[str, Any]]) -> int:
    """A flatbuffer table of `slots` fields; a value is ("at", offset) or (number type, value)."""
    b.StartObject(slots)
    for slot, (kind, value) in values.items():
        if kind == "at":
            if value is not None:
                b.PrependUOffsetTRelativeSlot(slot, value, 0)
        elif kind == "u32":
            b.PrependUint32Slot(slot, value, 0)
        elif kind == "u8":
            b.PrependUint8Slot(slot, value, 0)
        else:
            b.PrependInt8Slot(slot, value, 0)
    return b.EndObject()


def _floats(b: flatbuffers.Builder, values: list[float]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependFloat32(value)
    return b.EndVector()


def _offsets(b: flatbuffers.Builder, offsets: list[int]) -> int | None:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return b.EndVector()
