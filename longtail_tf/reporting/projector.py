"""Files for the TensorBoard Embedding Projector: vectors.tsv and metadata.tsv."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.files import write_atomically
from longtail_tf.reporting.run_data import RunData, read_vectors

MOST_VECTORS = 10000  # the Projector runs in a browser and slows down above


def write_projector_files(run: RunData, folder: Any) -> int:
    """Writes the test embeddings of a run for projector.tensorflow.org or TensorBoard.

    More than MOST_VECTORS images are thinned evenly.

    Args:
      run: a run that has been evaluated.
      folder: where vectors.tsv and metadata.tsv go; it is made if it is missing.

    Returns:
      How many vectors were written.

    Raises:
      UserError: the run keeps no test embeddings.
    """
    recognised, classes = run.recognised, run.classes
    if recognised is None or classes is None:
        raise UserError(
            f"{run.folder.path} holds no test embeddings (embeddings.npz with classes.csv), which "
            "--projector writes out: finish or evaluate the run first."
        )
    images = len(recognised.labels)
    shown = np.unique(np.linspace(0, images - 1, min(images, MOST_VECTORS)).astype(np.int64))
    vectors = io.StringIO()
    embeddings = read_vectors(run.folder.embeddings, "embeddings", num_rows=images)
    np.savetxt(vectors, embeddings[shown], "%.6g", "\t")
    lines = ["class\tband\ttrain_images\tnamed\tright"]
    for row in shown:
        true, given = int(recognised.labels[row]), int(recognised.predictions[row])
        named = _cell(classes.names[given]) if given >= 0 else "unknown"
        lines.append(
            f"{_cell(classes.names[true])}\t{classes.band(true)}\t{classes.train_counts[true]}"
            f"\t{named}\t{'yes' if true == given else 'no'}"
        )
    folder = pathlib.Path(folder)
    write_atomically(folder / "vectors.tsv", vectors.getvalue())
    write_atomically(folder / "metadata.tsv", "\n".join(lines) + "\n")
    return len(shown)


def _cell(name: str) -> str:
    """A name that cannot start another cell or line."""
    return " ".join(name.split()) or "(no name)"
