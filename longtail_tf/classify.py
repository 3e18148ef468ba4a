"""Names the class of image files.

    python -m longtail_tf.classify --run_dir=runs/digits photo.jpg another.png
    python -m longtail_tf.classify --run_dir=runs/digits --json photo.jpg
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Optional

from longtail_tf import cli
from longtail_tf.config import RULES
from longtail_tf.errors import UserError
from longtail_tf.settings import setting


@dataclasses.dataclass(frozen=True)
class ClassifyConfig:
    """Settings of one call."""

    images: tuple = setting((), "Image files: JPEG, PNG, BMP or GIF.")
    run_dir: str = setting("", "Run folder that longtail_tf.train left.")
    inference_rule: str = setting(
        "", "Rule that names the class; empty: the run's own.", choices=("", *RULES))  # fmt: skip
    k_top: int = setting(5, "Candidates named per image.", unit="classes")
    unknown: bool = setting(
        False, "Answer 'unknown' where no class is near enough (calibrated on validation).")  # fmt: skip
    json: bool = setting(False, "Print JSON: one list, an object an image.")


def run(config: ClassifyConfig) -> list[dict[str, Any]]:
    """Classifies the images and prints the answers, in the order of the files.

    Returns:
      For each image: `image`, and either `classes` (name, class_id, score, best first) and
      `unknown`, or `error`.

    Raises:
      UserError: no images, or, after everything was printed, some that could not be read.
    """
    if not config.images:
        raise UserError("no image is given: name one or more files after the flags.")
    if config.k_top < 1:
        raise UserError(f"--k_top={config.k_top}: expected 1 or more.")
    files = {name: _read(name) for name in config.images}
    from longtail_tf.classify_run import classify_bytes
    from longtail_tf.trained_run import load_run

    trained = load_run(config.run_dir)
    readable = [data for data in files.values() if data is not None]
    answers = iter(
        classify_bytes(
            trained,
            readable,
            rule=config.inference_rule or trained.config.inference_rule,
            k_top=config.k_top,
            unknown=config.unknown,
        )
    )
    results = [
        {"image": name, **({"error": "cannot be read"} if data is None else next(answers))}
        for name, data in files.items()
    ]
    _show(results, as_json=config.json)
    bad = [result["image"] for result in results if "error" in result]
    if bad:
        raise UserError(
            f"{len(bad)} of {len(results)} images could not be classified ({', '.join(bad[:5])}): "
            "each must be an existing, whole JPEG, PNG, BMP or GIF file."
        )
    return results


def _read(name: str) -> Optional[bytes]:
    try:
        return pathlib.Path(name).read_bytes()
    except OSError:
        return None


def _show(results: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(results, indent=2))
        return
    for result in results:
        if "error" in result:
            print(f"{result['image']}: {result['error']}")
            continue
        named = [f"{each['name']} {100 * each['score']:.1f} %" for each in result["classes"]]
        if result["unknown"]:
            named = ["unknown", f"(nearest: {named[0]})"]
        print(f"{result['image']}: {'   '.join(named)}")


def main() -> None:
    """Command line."""
    cli.launch(run, ClassifyConfig, __doc__, positional="images")


if __name__ == "__main__":
    main()
