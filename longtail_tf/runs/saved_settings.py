"""The settings of a run, as its folder keeps them; of older versions too."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from longtail_tf.config import Config, ResolvedConfig
from longtail_tf.datasets.spec import from_folder, is_there
from longtail_tf.errors import UserError
from longtail_tf.files import Path, named
from longtail_tf.runs import kept_backbone
from longtail_tf.runs.folder import RunFolder
from longtail_tf.settings.cli import parse_values
from longtail_tf.settings.declare import wrong_types
from longtail_tf.settings.retired import without_retired
from longtail_tf.text_files import damaged


def load_settings(folder: RunFolder) -> ResolvedConfig:
    """The resolved settings of a run.

    Raises:
      UserError: config.json holds settings that this version does not know or that were removed.
    """
    content = folder.read_json(folder.config)
    settings = without_retired(content.get("settings") or {}, source=str(folder.config))
    defaults = {field.name: field.default for field in dataclasses.fields(ResolvedConfig)}
    unknown = sorted(set(settings) - set(defaults))
    if unknown:
        raise UserError(
            f"{folder.config} has settings this longtail_tf does not know "
            f"({', '.join(unknown)}): install the version named in it."
        )
    if settings.get("weights") == "":  # how random weights were written before they had a word
        settings["weights"] = "none"
    if "pixel_range" not in settings:  # before it was saved, it hung on the word imagenet
        settings["pixel_range"] = "0..1" if settings.get("weights") == "imagenet" else "-1..1"
    own = kept_backbone.kept(folder.path)
    if own is not None:
        settings["backbone"] = own
    wrong = wrong_types(Config, settings)  # older versions left more of them open
    if wrong:
        raise damaged(
            folder.config,
            f"its setting {wrong[0]} is {settings[wrong[0]]!r}, which this longtail_tf cannot take",
        )
    settings.update(_found_again(settings, content.get("working_folder") or ""))
    try:
        # All of them: a method would fill in what an older version did not save.
        return ResolvedConfig(**{**defaults, **settings})
    except UserError as error:
        raise damaged(folder.config, error) from error


def saved_settings(run_dir: Path) -> dict[str, Any]:
    """Every setting that a run folder says it was begun with, to resume it; {} where it says none.

    config.json is asked first; config.flags holds the same where a kill left only that.

    Raises:
      UserError: config.json is damaged or of a version this one does not know.
    """
    folder = RunFolder(run_dir)
    with named(folder.config):
        is_there, has_flags = folder.config.exists(), folder.flagfile.exists()
    if is_there:
        RunFolder.open(run_dir)  # a changed one is told as that, not by what does not fit
        return dataclasses.asdict(load_settings(folder))
    if has_flags:
        return parse_values(Config, [f"--flagfile={folder.flagfile}"])
    return {}


def _found_again(settings: dict[str, Any], working_folder: str) -> dict[str, Any]:
    """Relative paths that lead nowhere from here, as they were meant: from the training's folder.

    Where they lead nowhere from there either, they are told as whole paths.
    """
    found = {}
    data = settings.get("data", "")
    if not is_there(data):
        found["data"] = from_folder(data, working_folder)
    for name in ("exclude", "weights"):
        path = settings.get(name, "")
        if not path or os.path.isabs(path) or os.path.exists(path) or not working_folder:
            continue
        if os.path.exists(os.path.join(working_folder, path)):
            found[name] = os.path.join(working_folder, path)
    return found


def resumed_backbone(run_dir: Path, given: str) -> str:
    """What a resumed run builds its backbone from: `given`; or, where that is the network of the
    user's own which the run was begun with, the copy in the run folder."""
    folder = RunFolder(run_dir)
    own = kept_backbone.kept(folder.path)
    if own is None or not folder.config.is_file():
        return given
    begun_with = folder.read_json(folder.config).get("settings", {}).get("backbone")
    return own if given == begun_with else given
