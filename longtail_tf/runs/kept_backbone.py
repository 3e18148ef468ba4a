"""The user's own network, kept in the run folder: a run moves as a whole.

It is the copy that is built from when the run is loaded, whatever became of the file since.
"""

from __future__ import annotations

import pathlib
import shutil

from longtail_tf.errors import UserError
from longtail_tf.settings.backbones import HUB, facts

_NAME = "backbone"


def keep(backbone: str, folder: pathlib.Path) -> None:
    """Copies the network of `--backbone` into a run folder, where it is the user's own.

    Raises:
      UserError: there is no such file, or it cannot be copied.
    """
    family = facts(backbone).family
    if family not in ("own", "keras_hub") or kept(folder) is not None:
        return
    source = pathlib.Path(backbone[len(HUB) :] if family == "keras_hub" else backbone)
    beside = folder / f".{_NAME}"
    _remove(beside)
    try:
        if source.is_dir():
            shutil.copytree(source, beside)
        elif family == "own":
            shutil.copyfile(source, beside)
        else:
            from longtail_tf.models import keras_hub_backbone  # needs TensorFlow

            keras_hub_backbone.keep(backbone, beside)
        beside.rename(folder / f"{_NAME}{source.suffix if family == 'own' else ''}")
    except OSError as error:
        _remove(beside)
        raise UserError(
            f"--backbone={backbone} cannot be copied into {folder} ({error.strerror or error}): "
            "the run keeps its network."
        ) from error


def kept(folder: pathlib.Path) -> str | None:
    """What `--backbone` has to be to build the network kept in a run folder; None for no such."""
    for path in sorted(folder.glob(f"{_NAME}*")):
        if path.is_dir() and not (path / "saved_model.pb").is_file():
            return f"{HUB}{path}"
        return str(path)
    return None


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
