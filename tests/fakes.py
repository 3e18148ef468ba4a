"""Tiny data sets for tests: shapes on noise, long-tailed, quick to learn."""

from __future__ import annotations

import io
import pathlib

import numpy as np
from PIL import Image

# A network and batches that train on these sets in a moment.
TINY_NET = dict(
    head_batch_size=6,
    classes_per_batch=4,
    images_per_class=2,
    backbone="resnet8",
    width=4,
    embedding_dim=8,
)
COUNTS = (24, 18, 12, 8, 5, 3, 2, 1)  # training images a class; class 7 has one


def draw(label: int, rng: np.random.Generator, *, size: int = 8, channels: int = 1) -> np.ndarray:
    """A bar whose angle is the class, on noise: uint8 [size, size, channels]."""
    angle = np.pi * label / len(COUNTS)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    shift = rng.normal(0, 0.3)
    bar = np.abs(x * np.sin(angle) - y * np.cos(angle) + shift) < 1.2
    pixels = 60 + 140 * bar + rng.normal(0, 15, (size, size))
    return np.repeat(np.clip(pixels, 0, 255).astype(np.uint8)[..., None], channels, axis=-1)


def make_arrays(*, counts=COUNTS, test_per_class=6, seed=0, size=8, channels=1):
    """images, labels, split codes (0 train, 1 val, 2 test), shuffled."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate(
        [
            np.repeat(np.arange(len(counts)), counts),
            np.repeat(np.arange(len(counts)), test_per_class),
        ]
    )
    split = np.repeat([0, 2], [sum(counts), test_per_class * len(counts)])
    order = rng.permutation(len(labels))
    labels, split = labels[order], split[order]
    images = np.stack([draw(label, rng, size=size, channels=channels) for label in labels])
    return images, labels, split


def write_npz(path: pathlib.Path, **settings) -> str:
    """Writes a tiny data set; returns its spec."""
    images, labels, split = make_arrays(**settings)
    names = np.array([f"bar {label}" for label in range(int(labels.max()) + 1)])
    np.savez(
        path,
        images=images,
        labels=labels,
        split=split.astype(np.uint8),
        split_names=np.array(["train", "val", "test"]),
        class_names=names,
    )
    return f"npz:{path}"


def write_folder(path: pathlib.Path, **settings) -> str:
    """The same as train/ and test/ folders of PNG files, a folder a class; returns its spec."""
    images, labels, split = make_arrays(**settings)
    for row, (image, label, code) in enumerate(zip(images, labels, split)):
        folder = path / ("train", "val", "test")[code] / f"bar {label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.png").write_bytes(png_bytes(image))
    return f"folder:{path}"


def png_bytes(image: np.ndarray) -> bytes:
    """The PNG file of uint8 [H, W, C]."""
    data = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(data, "PNG")
    return data.getvalue()
