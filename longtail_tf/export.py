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


def run(config: ExportConfig) -> ExportResult:
    """Writes, checks and publishes the SavedModel, then the server and device files.

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
    from longtail_tf.exporting.parity import image_files, spread_rows
    from longtail_tf.exporting.rule_head import check_rule
    from longtail_tf.exporting.server_files import write_server_files
    from longtail_tf.exporting.tflite_files import write_device_files
    from longtail_tf.runs.enrolled import load_data
    from longtail_tf.runs.folder import provenance
    from longtail_tf.runs.trained_run import load_run

    trained = load_run(config.run_dir)
    index = load_data(trained, config.data)
    rule = config.inference_rule or trained.config.inference_rule
    check_rule(trained.recognizer, rule, has_head=trained.model.head is not None)
    export_dir = pathlib.Path(config.export_dir or trained.folder.export)
    threshold = choose_threshold(config, trained.recognizer.threshold)
    test = index.test or index.val or index.train
    model: dict[str, Any] = {
        "model": trained.model,
        "recognizer": trained.recognizer,
        "class_names": list(trained.class_names),
        "image_size": trained.config.image_size,
        "channels": trained.channels,
        "unknown_threshold": threshold,
    }
    version_dir, gates = saved_model.export_saved_model(
        export_dir=export_dir,
        model_name=config.model_name,
        version=config.version,
        image_files=image_files(test, spread_rows(test.labels, config.gate_images, seed=0)),
        batch_sizes=batch_sizes,
        info=provenance(data_digest=trained.data_digest, seed=trained.config.seed),
        rule=rule,
        top_k=config.k_top or trained.config.k_top,
        limits=serving_module.Limits(
            image_bytes=config.max_image_bytes,
            image_pixels=config.max_image_pixels,
            strict=config.strict,
        ),
        **model,
    )
    write_server_files(
        export_dir,
        model_name=config.model_name,
        versions=publish.versions(export_dir / config.model_name),
        batch_sizes=batch_sizes,
        image_size=model["image_size"],
        channels=trained.channels,
    )
    print(
        f"exported {version_dir}: {gates['images']} images checked, largest difference from Keras "
        f"{gates['largest_difference_from_keras']:.1e}"
    )
    paths: list[pathlib.Path] = []
    rows: list[dict[str, Any]] = []
    if variants:
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
        print(table)
    return ExportResult(version_dir, tuple(paths), gates, tuple(rows))


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
