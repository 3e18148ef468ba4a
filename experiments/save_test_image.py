"""Saves one test image of a run's data set as a PNG file, to have something to classify."""

from __future__ import annotations

import dataclasses
import pathlib

from longtail_tf.settings import cli, setting


@dataclasses.dataclass(frozen=True)
class SaveConfig:
    """Settings."""

    run_dir: str = setting("", "Run folder that longtail_tf.train left.")
    out: str = setting("", "PNG file to write.")
    row: int = setting(-1, "Row of the test split; -1: the last, of the rarest class.")


def run(config: SaveConfig) -> None:
    """Writes the image and says which class it is."""
    import numpy as np
    from PIL import Image

    from longtail_tf.datasets import load_index
    from longtail_tf.runs.folder import RunFolder
    from longtail_tf.runs.trained_run import load_settings

    settings = load_settings(RunFolder.open(config.run_dir))
    index = load_index(settings.data, val_per_class=settings.val_per_class)
    row = int(np.argsort(index.test.labels, kind="stable")[config.row])
    pixels = index.test.read(np.array([row]))[0]
    pathlib.Path(config.out).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(config.out)
    label = int(index.test.labels[row])
    count = int(index.class_counts[label])
    print(f"{config.out}: class {index.class_names[label]} ({count} training images)")


if __name__ == "__main__":
    cli.launch(run, SaveConfig, __doc__)
