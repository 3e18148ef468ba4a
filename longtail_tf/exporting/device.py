"""Running an exported .tflite with numpy, Pillow and whichever TFLite runtime is there.

    device = DeviceClassifier("export/tflite/classifier_int8.tflite")
    for candidate in device.classify(read_image("cat.jpg", device.image_size, device.channels)):
        print(candidate.label, candidate.probability)

TensorFlow is imported only where it is the only runtime. Labels, prototypes and calibration come
out of the file itself, which is also a zip.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import operator
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from longtail_tf.errors import UserError
from longtail_tf.files import MOST_IMAGE_BYTES, read_bytes

# module, its class, and how pip calls it; the first that can be imported is used
RUNTIMES = (
    ("ai_edge_litert.interpreter", "Interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "Interpreter", "tflite-runtime"),
    ("tensorflow", "lite.Interpreter", "tensorflow"),
)
UNKNOWN_LABEL = "unknown"
RECOGNISER_FILE, LABELS_FILE = "recognizer.json", "labels.txt"
DIGEST_FILE = "model.sha256"
PROTOTYPES_FILE = "prototypes.npy"
JPEG_SCALES = (8, 4, 2)
MOST_MODEL_BYTES = 8 << 30


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One class an image may show."""

    label: str
    class_id: int  # -1: unknown
    score: float  # cosine to the class's prototype, -1..1
    probability: float  # calibrated, over all known classes


class DeviceClassifier:
    """A .tflite exported by longtail_tf, classifier or embedder, ready to classify images."""

    def __init__(self, path: str | os.PathLike, *, threads: int = 1, runtime: str = "") -> None:
        """Loads the model and what is packed with it.

        Args:
          path: the .tflite file.
          threads: of the interpreter.
          runtime: a pip name of RUNTIMES; empty takes the first that is installed.

        Raises:
          UserError: no runtime, no such file, or not a .tflite that longtail_tf exported.
        """
        content = _read_file(path)
        files = _associated_files(content, path)
        info = json.loads(files[RECOGNISER_FILE])
        self.kind: str = info["kind"]
        self.output: str = info["output"]
        self.image_size: int = info["image_size"]
        self.channels: int = info["channels"]
        self.temperature: float = info["temperature"]
        self.unknown_threshold: float | None = info["unknown_threshold"]
        self.labels = files[LABELS_FILE].decode().split("\n")[:-1]
        if self.kind == "embedder":
            self.prototypes = np.load(io.BytesIO(files[PROTOTYPES_FILE]))
        interpreter_class, self.runtime = load_runtime(runtime)
        try:
            with quiet_interpreter():
                self._interpreter = interpreter_class(model_content=content, num_threads=threads)
            self._run = self._interpreter.get_signature_runner(self.kind)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"{path} does not load in {self.runtime} ({str(error).splitlines()[0]}): export it "
                "again, or install a newer runtime."
            ) from error
        [details] = self._run.get_input_details().values()
        self._input_type = details["dtype"]

    def outputs(self, image: np.ndarray) -> np.ndarray:
        """What the model gives for a uint8 image [S, S, C]: scores [C] or an embedding [D]."""
        expected = (self.image_size, self.image_size, self.channels)
        if image.shape != expected or image.dtype != np.uint8:
            raise UserError(
                f"An image of shape {image.shape} and type {image.dtype} came; this model takes "
                f"uint8 {expected}, pixels 0..255: use longtail_tf.exporting.device.read_image."
            )
        return self._run(image=image[np.newaxis].astype(self._input_type))[self.output][0]

    def embed(self, image: np.ndarray) -> np.ndarray:
        """The unit-length embedding [D] of a uint8 image; embedder models only."""
        if self.kind != "embedder":
            raise UserError("This model gives scores only: use the embedder_*.tflite export.")
        embedding = self.outputs(image)  # int8 drifts off unit length by a few percent
        return embedding / max(float(np.linalg.norm(embedding)), 1e-12)

    def scores(self, image: np.ndarray) -> np.ndarray:
        """Cosine to each class's prototype, float32 [C]."""
        if self.kind == "classifier":
            return self.outputs(image)
        return self.prototypes @ self.embed(image)

    def classify(self, image: np.ndarray, top_k: int = 5) -> list[Candidate]:
        """The best classes of a uint8 image [S, S, C], best first.

        Where no class reaches the rejection threshold, the first candidate is "unknown".
        """
        scores = self.scores(image)
        weights = np.exp((scores - scores.max()) / self.temperature)
        probabilities = weights / weights.sum()
        order = np.argsort(-scores, kind="stable")[:top_k]
        found = [
            Candidate(self.labels[c], int(c), float(scores[c]), float(probabilities[c]))
            for c in order
        ]
        if self.unknown_threshold is not None and found[0].score < self.unknown_threshold:
            unknown = dataclasses.replace(found[0], label=UNKNOWN_LABEL, class_id=-1)
            found = [unknown, *found][:top_k]
        return found

    def add_class(self, label: str, images: Sequence[np.ndarray]) -> None:
        """Adds a class from a few uint8 images, without training; embedder models only.

        Raises:
          UserError: no image, or the class exists.
        """
        if not len(images):
            raise UserError(f"Class {label!r} came without an image: give at least one.")
        if label in self.labels:
            raise UserError(f"Class {label!r} exists already: choose another name.")
        mean = np.mean([self.embed(image) for image in images], axis=0)
        prototype = mean / max(float(np.linalg.norm(mean)), 1e-12)
        self.prototypes = np.concatenate([self.prototypes, prototype[np.newaxis]])
        self.labels = [*self.labels, label]


@contextlib.contextmanager
def quiet_interpreter() -> Iterator[None]:
    """TensorFlow 2.21 still has its interpreter, but warns at each use that it will go."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter is deprec")
        yield


def load_runtime(runtime: str = "") -> tuple[Any, str]:
    """(Interpreter class, pip name) of `runtime`, or of the first one installed.

    Raises:
      UserError: it is not known or not installed.
    """
    names = [name for _, _, name in RUNTIMES]
    if runtime and runtime not in names:
        raise UserError(f"TFLite runtime {runtime!r} is not known: one of {', '.join(names)}.")
    for module, attribute, name in RUNTIMES:
        if runtime in ("", name):
            try:
                found = importlib.import_module(module)
                return operator.attrgetter(attribute)(found), name
            except ImportError:
                continue
    raise UserError(
        f"No TFLite runtime can be imported ({runtime or ', '.join(names)}): "
        f"pip install {runtime or 'ai-edge-litert'}."
    )


def read_image(source: str | os.PathLike | bytes, image_size: int, channels: int) -> np.ndarray:
    """An image file as the network sees it: uint8 [S, S, C].

    The rule of `preprocess.preprocess_bytes` with Pillow's decoder and filters, within a grey level
    or two of it: JPEG at a decoder scale where that keeps S, then the whole picture squashed to
    S x S, bilinear, antialiased where it shrinks by more than 2.

    Raises:
      UserError: there is no such file, or it is not an image.
    """
    name = "The image" if isinstance(source, bytes) else os.fspath(source)
    mode = "RGB" if channels == 3 else "L"
    try:
        if not isinstance(source, bytes):
            source = read_bytes(source, most_bytes=MOST_IMAGE_BYTES)
        with Image.open(io.BytesIO(source)) as image:
            shortest = min(image.size)
            for scale in JPEG_SCALES if image.format == "JPEG" else ():
                if shortest >= scale * image_size:
                    image.draft(mode, (image.width // scale, image.height // scale))
                    break
            pixels = image.convert(mode)
    except FileNotFoundError:
        raise UserError(f"{name} does not exist: check the path.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{name} cannot be read as an image ({error}): give a JPEG, PNG, GIF or BMP file."
        ) from error
    square = (image_size, image_size)
    if pixels.size != square:
        if max(pixels.size) > 2 * image_size:
            pixels = pixels.resize(square, Image.Resampling.BILINEAR)
        else:  # resize() would antialias; a plain kernel is what preprocess uses here
            whole = (0, 0, *pixels.size)
            pixels = pixels.transform(
                square, Image.Transform.EXTENT, whole, Image.Resampling.BILINEAR
            )
    return np.asarray(pixels).reshape(image_size, image_size, channels)


def _read_file(path: str | os.PathLike) -> bytes:
    try:
        return read_bytes(path, most_bytes=MOST_MODEL_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check --model.") from error


def _associated_files(content: bytes, path: str | os.PathLike) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(info.file_size > len(content) for info in archive.infolist()):
                raise zipfile.BadZipFile("larger unpacked than the whole file; ours are not packed")
            files = {name: archive.read(name) for name in archive.namelist()}
            model_end = min((info.header_offset for info in archive.infolist()), default=0)
    except Exception:  # zipfile raises a dozen kinds at what is no archive of ours
        files, model_end = {}, 0
    if not {RECOGNISER_FILE, LABELS_FILE, DIGEST_FILE} <= set(files):
        raise UserError(
            f"{path} is not a .tflite that longtail_tf exported, or is cut off (no labels in it): "
            "give a whole file from the export/tflite folder of a run."
        )
    # an interpreter that is given a damaged model takes the process down with it
    if hashlib.sha256(content[:model_end]).hexdigest().encode() != files[DIGEST_FILE]:
        raise UserError(f"{path} is damaged (its digest differs): copy or export it again.")
    try:
        _check_files(files)
    except (KeyError, TypeError, ValueError, EOFError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged (what is packed with the model: {error!r}): copy or export it "
            "again."
        ) from error
    return files


def _check_files(files: dict[str, bytes]) -> None:
    """Raises a ValueError, KeyError or TypeError where the packed files are not as exported."""
    info = json.loads(files[RECOGNISER_FILE])
    numbers = (info["temperature"], info["unknown_threshold"] or 0.0)
    if info["kind"] not in ("classifier", "embedder") or not isinstance(info["output"], str):
        raise ValueError("its kind or output")
    if type(info["image_size"]) is not int or not 0 < info["image_size"] < 1 << 16:
        raise ValueError(f"image_size {info['image_size']!r}")
    if info["channels"] not in (1, 3) or not all(type(each) in (int, float) for each in numbers):
        raise ValueError("its channels or numbers")
    if not 0 < numbers[0] < 1e30 or not abs(numbers[1]) < 1e30:
        raise ValueError("its temperature or threshold")
    labels = files[LABELS_FILE].decode().split("\n")[:-1]
    for name in files if info["kind"] == "embedder" else ():
        if name.endswith(".npy") and not len(np.load(io.BytesIO(files[name]), allow_pickle=False)):
            raise ValueError(f"{name} is empty")
    if not labels:
        raise ValueError("no label")
