"""Exports a trained run for TF Serving and for devices, checked before it is published.

    python -m longtail_tf.export --run_dir=runs/digits
    python -m longtail_tf.export --run_dir=runs/digits --inference_rule=ncm --tflite=none

Leaves in RUN_DIR/export: MODEL/VERSION/ (SavedModel), serving/ (configuration of the real server
and client examples) and tflite/ (device files with a parity report).
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, Optional

from longtail_tf.errors import UserError
from longtail_tf.settings import cli, setting
from longtail_tf.settings.terminal import plain, plain_name

TFLITE_VARIANTS = ("float32", "float16", "dynamic", "int8")
RESERVED_NAMES = ("serving", "tflite")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Settings of one export."""

    run_dir: str = setting("", "Run folder that longtail_tf.train left.")
    export_dir: str = setting("", "Where the export goes; empty: RUN_DIR/export.")
    model_name: str = setting("longtail", "Name that clients of the server ask for.")
    version: Optional[int] = setting(None, "Version number; unset: the next one. Never overwrites.")
    data: str = setting(
        "", "Data set for checks, calibration and parity; empty: the one the run was trained on."
    )
    inference_rule: str = setting(
        "", "Rule that names the class, any but knn; empty: the run's own."
    )
    k_top: Optional[int] = setting(None, "Candidates per image; unset: the run's own.")
    unknown: bool = setting(
        False, "Answer 'unknown' below the rejection threshold calibrated on validation."
    )
    unknown_threshold: Optional[float] = setting(
        None, "Rejection threshold in place of the run's: best cosine to a prototype.", unit="-1..1"
    )
    strict: bool = setting(
        False, "One unreadable image fails its whole request; else only its row is not valid."
    )
    max_image_bytes: int = setting(16 * 2**20, "Larger image files are not read.", unit="bytes")
    max_image_pixels: int = setting(
        32 * 2**20, "Images whose header announces more are not decoded.", unit="pixels"
    )
    batch_sizes: str = setting(
        "1,2,4,8,16,32", "Batch sizes the server may form; each gets warm-up requests."
    )
    tflite: str = setting(",".join(TFLITE_VARIANTS), "TFLite precisions to write, or none.")
    gate_images: int = setting(32, "Real images the export is checked with.", unit="images")
    calibration_images: int = setting(200, "Training images for int8.", unit="images")
    parity_images: int = setting(500, "Test images of the TFLite report.", unit="images")


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What an export left."""

    version_dir: pathlib.Path
    tflite_files: tuple[pathlib.Path, ...]
    gates: dict[str, Any]
    parity: tuple[dict[str, Any], ...]


def run(config: ExportConfig, *, needs_data: bool = True) -> ExportResult:
    """Writes and checks the server and device files and the SavedModel, and publishes it last.

    Args:
      config: settings.
      needs_data: False to check the SavedModel with generated images where the data set of the run
        is not at hand; there are no device files then.

    Raises:
      UserError: settings or run folder that cannot work.
      exporting.gates.ExportGateError: the export is not fit to serve; nothing was published.
    """
    batch_sizes, variants = parse_batch_sizes(config.batch_sizes), parse_variants(config.tflite)
    if config.model_name in RESERVED_NAMES:
        raise UserError(
            f"--model_name={config.model_name} is the name of a folder beside the model: choose "
            "another."
        )
    from longtail_tf.exporting import publish, saved_model, serving_module
    from longtail_tf.exporting.parity import generated_images, image_files, spread_rows
    from longtail_tf.exporting.rule_head import check_rule
    from longtail_tf.exporting.server_files import write_server_files
    from longtail_tf.exporting.tflite_files import write_device_files
    from longtail_tf.runs.folder import provenance
    from longtail_tf.runs.trained_run import load_run

    trained = load_run(config.run_dir)
    index, why_none = _data_of(trained, config, needs_data=needs_data)
    rule = config.inference_rule or trained.config.inference_rule
    check_rule(trained.recognizer, rule, has_head=trained.model.head is not None)
    export_dir = pathlib.Path(config.export_dir or trained.folder.export)
    threshold = choose_threshold(config, trained.recognizer.threshold)
    if index is None:
        images = generated_images(config.gate_images, side=trained.config.image_size)
        print(plain(f"checked with generated images only: {why_none}"))
    else:
        test = index.test or index.val or index.train
        images = image_files(test, spread_rows(test.labels, config.gate_images, seed=0))
    model: dict[str, Any] = {
        "model": trained.model,
        "recognizer": trained.recognizer,
        "class_names": list(trained.class_names),
        "image_size": trained.config.image_size,
        "channels": trained.channels,
        "unknown_threshold": threshold,
    }
    paths: list[pathlib.Path] = []
    rows: list[dict[str, Any]] = []
    table = ""
    if variants and index is not None:
        paths, rows, table = write_device_files(
            export_dir / "tflite",
            index=index,
            test=test,
            model_name=config.model_name,
            variants=variants,
            calibration_images=config.calibration_images,
            parity_images=config.parity_images,
            info=provenance(data_digest=trained.data_digest, seed=trained.config.seed),
            **model,
        )
    model_folder = export_dir / config.model_name

    def server_files() -> None:
        """Written just before the version is published, which they name."""
        new = publish.choose_version(model_folder, config.version)
        write_server_files(
            export_dir,
            model_name=config.model_name,
            versions=sorted([*publish.versions(model_folder), new]),
            batch_sizes=batch_sizes,
            image_size=trained.config.image_size,
            channels=trained.channels,
        )

    version_dir, gates = saved_model.export_saved_model(
        export_dir=export_dir,
        model_name=config.model_name,
        version=config.version,
        image_files=images,
        batch_sizes=batch_sizes,
        info=provenance(data_digest=trained.data_digest, seed=trained.config.seed),
        before_publishing=server_files,
        rule=rule,
        top_k=config.k_top or trained.config.k_top,
        limits=serving_module.Limits(
            image_bytes=config.max_image_bytes,
            image_pixels=config.max_image_pixels,
            strict=config.strict,
        ),
        **model,
    )
    print(
        f"exported {plain_name(str(version_dir))}: {gates['images']} images checked, largest "
        f"difference from Keras {gates['largest_difference_from_keras']:.1e}"
    )
    if table:
        print(table)
    return ExportResult(version_dir, tuple(paths), gates, tuple(rows))


def _data_of(trained: Any, config: ExportConfig, *, needs_data: bool) -> tuple[Any, str]:
    """The data set to check with; None and why, where that is allowed."""
    from longtail_tf.runs.enrolled import load_data

    try:
        return load_data(trained, config.data), ""
    except (UserError, OSError, ImportError) as error:
        if needs_data or config.data:
            raise
        if config.tflite != "none":
            raise UserError(
                f"--tflite={config.tflite}: device files are checked with the test images of the "
                f"run, which are not at hand ({error}): leave it out."
            ) from error
        return None, str(error)


def choose_threshold(config: ExportConfig, calibrated: Optional[float]) -> Optional[float]:
    """The rejection threshold to export: the flag's, else with --unknown the run's, else none.

    Raises:
      UserError: --unknown, and the run has none.
    """
    if config.unknown_threshold is not None or not config.unknown:
        return config.unknown_threshold
    if calibrated is None:
        raise UserError(
            "--unknown: this run has no rejection threshold, because it had no validation images; "
            "give one with --unknown_threshold."
        )
    return float(calibrated)


def parse_batch_sizes(text: str) -> tuple[int, ...]:
    """Rising batch sizes from "1,2,4".

    Raises:
      UserError: not whole numbers from 1 up.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise UserError(
            f"--batch_sizes={text}: give whole numbers from 1 up with commas between, as 1,8,32."
        )
    return tuple(sorted({int(word) for word in words}))


def parse_variants(text: str) -> tuple[str, ...]:
    """TFLite variants from "float32,int8"; "none" is none.

    Raises:
      UserError: a variant that does not exist.
    """
    words = () if text == "none" else tuple(word.strip() for word in text.split(","))
    unknown = [word for word in words if word not in TFLITE_VARIANTS]
    if unknown:
        raise UserError(
            f"--tflite={text}: {unknown[0]!r} is not known; give some of "
            f"{', '.join(TFLITE_VARIANTS)}, or none."
        )
    return words


def main() -> None:
    """Command line."""
    cli.launch(run, ExportConfig, __doc__)


if __name__ == "__main__":
    main()
