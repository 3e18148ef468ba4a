"""The user's own network, kept in the run folder: a run moves as a whole.

It is the copy that is built from when the run is loaded, whatever became of the file since.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from longtail_tf.errors import UserError
from longtail_tf.files import hidden_folder
from longtail_tf.settings.backbones import HUB, facts

_NAME = "backbone"


@contextlib.contextmanager
def keeping(backbone: str, folder: pathlib.Path) -> Iterator[None]:
    """Copies the network of `--backbone` into a run folder, where it is the user's own.

    The copy is made before the body and gets its name after it: a network that cannot be copied
    leaves nothing behind, and one without a name is no run.

    Raises:
      UserError: there is no such file, or it cannot be copied.
    """
    family = facts(backbone).family
    if family not in ("own", "keras_hub") or kept(folder) is not None:
        yield
        return
    source = pathlib.Path(backbone[len(HUB) :] if family == "keras_hub" else backbone)
    target = folder / f"{_NAME}{source.suffix if family == 'own' else ''}"
    with hidden_folder(target) as hidden:
        beside = hidden / target.name
        try:
            if source.is_dir():
                shutil.copytree(source, beside)
            elif family == "own":
                shutil.copyfile(source, beside)
            else:
                from longtail_tf.models import keras_hub_backbone  # needs TensorFlow

                keras_hub_backbone.keep(backbone, beside)
        except OSError as error:
            raise UserError(
                f"--backbone={backbone} cannot be copied into {folder} "
                f"({error.strerror or error}): the run keeps its network."
            ) from error
        yield
        beside.rename(target)


def kept(folder: pathlib.Path) -> str | None:
    """What `--backbone` has to be to build the network kept in a run folder; None for no such."""
    for path in sorted(folder.glob(f"{_NAME}*")):
        if path.is_dir() and not (path / "saved_model.pb").is_file():
            return f"{HUB}{path}"
        return str(path)
    return None
