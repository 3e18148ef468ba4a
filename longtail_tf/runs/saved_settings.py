"""The settings of a run, as its folder keeps them; of older versions too."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from longtail_tf.config import Config, ResolvedConfig
from longtail_tf.errors import UserError
from longtail_tf.files import Path
from longtail_tf.runs import kept_backbone
from longtail_tf.runs.folder import RunFolder
from longtail_tf.settings.cli import parse_values
from longtail_tf.settings.retired import without_retired


def load_settings(folder: RunFolder) -> ResolvedConfig:
    """The resolved settings of a run.

    Raises:
      UserError: config.json holds settings that this version does not know or that were removed.
    """
    saved = folder.read_json(folder.config).get("settings", {})
    settings = without_retired(saved, source=str(folder.config))
    defaults = {field.name: field.default for field in dataclasses.fields(ResolvedConfig)}
    unknown = sorted(set(settings) - set(defaults))
    if unknown:
        raise UserError(
            f"{folder.config} has settings this longtail_tf does not know "
            f"({', '.join(unknown)}): install the version named in it."
        )
    if "pixel_range" not in settings:  # before it was saved, it hung on the word imagenet
        settings["pixel_range"] = "0..1" if settings.get("weights") == "imagenet" else "-1..1"
    own = kept_backbone.kept(folder.path)
    if own is not None:
        settings["backbone"] = own
    # All of them: a method would fill in what an older version did not save.
    return ResolvedConfig(**{**defaults, **settings})


def saved_settings(run_dir: Path) -> dict[str, Any]:
    """Every setting that a run folder says it was begun with, to resume it; {} where it says none.

    config.json is asked first; config.flags holds the same where a kill left only that.

    Raises:
      UserError: config.json is damaged or of a version this one does not know.
    """
    folder = RunFolder(run_dir)
    if folder.config.is_file():
        return dataclasses.asdict(load_settings(folder))
    if pathlib.Path(folder.flagfile).is_file():
        return parse_values(Config, [f"--flagfile={folder.flagfile}"])
    return {}
