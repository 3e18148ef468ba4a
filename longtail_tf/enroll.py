"""Adds, replaces, removes or renames a class of a trained run, without training.

    python -m longtail_tf.enroll --run_dir=runs/shop --add="oat milk" photos/oat_*.jpg
    python -m longtail_tf.enroll --run_dir=runs/shop --replace="oat milk" new/oat_*.jpg
    python -m longtail_tf.enroll --run_dir=runs/shop --remove="oat milk"
    python -m longtail_tf.enroll --run_dir=runs/shop --rename="oat milk" --to="oat drink"

Leaves a complete run folder (RUN_DIR/enrolled/N) and the next version in RUN_DIR/export; the run
and its exported versions stay as they are. Says what the change costs the other classes.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from longtail_tf.datasets.class_names import fault, normal
from longtail_tf.errors import UserError
from longtail_tf.settings import cli, setting
from longtail_tf.settings.terminal import plain, plain_name

CHANGES = ("add", "replace", "remove", "rename")


@dataclasses.dataclass(frozen=True)
class EnrollConfig:
    """Settings of one change."""

    run_dir: str = setting("", "Run folder that longtail_tf.train or an earlier enroll left.")
    images: tuple = setting((), "Image files of the class, for --add and --replace.")
    add: str = setting("", "Name of a class to add from the images.")
    replace: str = setting("", "Class whose prototype is made again, from the images.")
    remove: str = setting("", "Class to take out.")
    rename: str = setting("", "Class to rename --to another name.")
    to: str = setting("", "New name, for --rename.")
    force: bool = setting(False, "Also where the images look like a class that is there already.")
    out_dir: str = setting("", "New run folder; empty: the next of RUN_DIR/enrolled/.")
    export: bool = setting(True, "Publish the result as the next exported version.")
    model_name: str = setting("longtail", "Name of the exported model.")
    tflite: str = setting("none", "TFLite precisions to export with it, as in longtail_tf.export.")


@dataclasses.dataclass(frozen=True)
class EnrollResult:
    """What a change left."""

    run_dir: pathlib.Path
    record: dict[str, Any]
    version_dir: pathlib.Path | None


def run(config: EnrollConfig) -> EnrollResult:
    """Changes the classes, saves a new run, reports the cost, exports.

    Raises:
      UserError: a change that cannot be made; nothing was written.
    """
    change, name = _the_change(config)
    from longtail_tf import export
    from longtail_tf.recognition import enrollment
    from longtail_tf.runs import enrolled
    from longtail_tf.runs.trained_run import load_run

    trained = load_run(config.run_dir)
    names = list(trained.class_names)
    name, to = normal(name), normal(config.to)
    class_id = _class_id(names, name, change=change, to=to)
    recognizer = trained.recognizer
    record: dict[str, Any] = {"change": change, "class": name}
    new_ids = enrollment.moved_ids(len(names), class_id if change == "remove" else -1)
    if change in ("add", "replace"):
        embeddings, digests = enrolled.embed_files(trained, config.images)
        record["image_sha256"] = digests
        skip = class_id if change == "replace" else -1
        _check_new(enrollment.resemblance(recognizer, embeddings, skip=skip), names, config)
    if change == "add":
        recognizer, names = enrollment.add_class(recognizer, embeddings), [*names, name]
    elif change == "replace":
        recognizer = enrollment.replace_class(recognizer, class_id, embeddings)
    elif change == "remove":
        recognizer = enrollment.remove_class(recognizer, class_id)
        del names[class_id]
    else:
        record["to"] = names[class_id] = to
    rule = trained.config.inference_rule
    if rule not in recognizer.available_rules():
        kept = next(r for r in ("lda", "gated", "ncm") if r in recognizer.available_rules())
        print(f"rule {rule} does not hold for changed classes; the enrolled run uses {kept}.")
        rule = kept
    done = None if config.out_dir else enrolled.done_already(trained, record)
    if done is not None:
        saved = load_run(str(done))
        print(f"{change} {plain_name(name)}: done before, in {plain_name(str(done))}")
    else:
        found = enrolled.cost(trained, recognizer, rule, new_ids=new_ids)
        record["validation"] = None if isinstance(found, str) else found
        saved = enrolled.save_enrolled(
            trained,
            recognizer,
            out=pathlib.Path(config.out_dir) if config.out_dir else enrolled.next_folder(trained),
            class_names=names,
            new_ids=new_ids,
            rule=rule,
            record=record,
        )
        print(f"{change} {plain_name(name)}: {plain_name(str(saved.folder.path))}")
        print(plain(_cost_text(found)))
    version_dir = None
    if config.export:
        exported = export.run(
            export.ExportConfig(
                run_dir=str(saved.folder.path),
                export_dir=str(_export_dir(trained.folder.path)),
                model_name=config.model_name,
                tflite=config.tflite,
            ),
            needs_data=False,
        )
        version_dir = exported.version_dir
    return EnrollResult(saved.folder.path, record, version_dir)


def _the_change(config: EnrollConfig) -> tuple[str, str]:
    """(change, class name) of the one change asked for."""
    asked = [change for change in CHANGES if getattr(config, change)]
    if len(asked) != 1:
        raise UserError(
            f"{len(asked)} changes are asked for ({', '.join(asked) or 'none'}): give exactly one "
            "of --add, --replace, --remove, --rename."
        )
    [change] = asked
    if change in ("add", "replace") and not config.images:
        raise UserError(f"--{change} came without an image: name one or more image files.")
    if change in ("remove", "rename") and config.images:
        raise UserError(
            f"--{change} takes no image, but {len(config.images)} came: leave them out."
        )
    if (change == "rename") != bool(config.to):
        raise UserError("--rename=OLD and --to=NEW go together: give both, or neither.")
    return change, getattr(config, change)


def _class_id(names: list[str], name: str, *, change: str, to: str) -> int:
    """Id of the class; the next free one for --add."""
    new = name if change == "add" else to
    reason = "exists already" if new in names else new and fault(new)
    if not reason and new != new.strip():
        reason = "has spaces at its ends"
    if reason:
        raise UserError(
            f"class {new!r} {reason}: choose another name"
            + (", or change its images with --replace." if change == "add" else ".")
        )
    if change == "add":
        return len(names)
    if name not in names:
        raise UserError(
            f"--{change}={name}: this run has no such class; it has {len(names)}, for example "
            f"{', '.join(names[:3])}."
        )
    if change == "remove" and len(names) < 3:
        raise UserError(f"--remove={name}: a run needs at least two classes to tell apart.")
    return names.index(name)


def _check_new(found: Any, names: list[str], config: EnrollConfig) -> None:
    if 2 * found.nearer > found.images and not config.force:
        raise UserError(
            f"{found.nearer} of {found.images} images are recognised as {names[found.class_id]!r} "
            "and do not stand clear of it, so the two would be mixed up: give other images, "
            f"--replace={names[found.class_id]}, or add them anyway with --force."
        )


def _cost_text(validation: dict[str, Any] | str) -> str:
    if isinstance(validation, str):
        return f"the cost to the other classes is not known: {validation}."
    before, after = validation["before"], validation["after"]
    parts = [
        f"{band} {100 * before[band]:.1f} -> {100 * after[band]:.1f} %"
        for band in ("all", "many", "medium", "few")
        if before[band] is not None
    ]
    return (
        f"other classes on {validation['images']} validation images: {', '.join(parts)} "
        f"({validation['lost']} lost)"
    )


def _export_dir(run_dir: pathlib.Path) -> pathlib.Path:
    """The export folder of the first run of a chain: a server polls one place."""
    return (run_dir.parent.parent if run_dir.parent.name == "enrolled" else run_dir) / "export"


def main() -> None:
    """Command line."""
    cli.launch(run, EnrollConfig, __doc__, positional="images")


if __name__ == "__main__":
    main()
