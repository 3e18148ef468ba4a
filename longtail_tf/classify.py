"""Names the class of image files: with a run folder, an exported .tflite, or a server.

python -m longtail_tf.classify --run_dir=runs/digits photo.jpg another.png
python -m longtail_tf.classify --model=classifier_int8.tflite --json photo.jpg
python -m longtail_tf.classify --server=127.0.0.1:8500/digits photos/*.jpg
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.files import MOST_IMAGE_BYTES, read_bytes
from longtail_tf.runs.folder import RunFolder
from longtail_tf.settings import cli, setting
from longtail_tf.settings.choices import RULES
from longtail_tf.settings.terminal import plain_name

MANY_IMAGES = 50


@dataclasses.dataclass(frozen=True)
class ClassifyConfig:
    """Settings of one call."""

    images: tuple = setting((), "Image files: JPEG, PNG, BMP or GIF.")
    run_dir: str = setting("", "Run folder that longtail_tf.train left.")
    model: str = setting("", "Exported .tflite file; needs no TensorFlow.")
    server: str = setting("", "Server as HOST:PORT/MODEL, by gRPC.")
    inference_rule: str = setting(
        "",
        "With --run_dir, the rule that names the class; empty: the run's own.",
        choices=("", *RULES),
    )
    test_prior: str = setting(
        "",
        "With --run_dir, how often each class is expected: uniform, train (as in training), or a "
        "CSV file with the columns name and weight.",
    )
    k_top: int = setting(5, "Candidates named per image.", unit="classes")
    unknown: bool = setting(
        False, "Answer 'unknown' where no class is near enough (calibrated on validation)."
    )
    json: bool = setting(False, "Print JSON: one list, an object an image.")


def run(config: ClassifyConfig) -> list[dict[str, Any]]:
    """Classifies the images and prints the answers as they come, in the order of the files.

    Returns:
      For each image: `image`, and either `classes` (name, class_id, score, best first) and
      `unknown`, or `error`.

    Raises:
      UserError: bad settings, or, after everything was printed, images that could not be read.
    """
    _check(config)
    files = {name: _read(name) for name in config.images}
    answers = _answers(config, [data for data in files.values() if data is not None])
    results = []
    for place, (name, data) in enumerate(files.items()):
        answer = {"error": "cannot be read"} if data is None else next(answers)
        results.append({"image": name, **answer})
        if not config.json:
            print(_line(results[-1]), flush=True)
        _show_progress(place + 1, len(files))
    if config.json:
        print(json.dumps(results, indent=2))
    bad = [result["image"] for result in results if "error" in result]
    if bad:
        raise UserError(
            f"{len(bad)} of {len(results)} images could not be classified ({', '.join(bad[:5])}): "
            "each must be an existing, whole JPEG, PNG, BMP or GIF file."
        )
    return results


def _check(config: ClassifyConfig) -> None:
    backends = [f"--{name}" for name in ("run_dir", "model", "server") if getattr(config, name)]
    if len(backends) != 1:
        raise UserError(
            f"{' and '.join(backends) or 'none'} given: name the classifier by exactly one of "
            "--run_dir, --model, --server."
        )
    for name in ("inference_rule", "test_prior"):
        if getattr(config, name) and not config.run_dir:
            raise UserError(
                f"--{name}={getattr(config, name)}: an exported model has its rule and prior "
                "fixed; leave it out, or classify with --run_dir."
            )
    if config.unknown and config.server:
        raise UserError(
            "--unknown: a served model rejects unknowns if it was exported so; leave it out."
        )
    if not config.images:
        raise UserError("no image is given: name one or more files after the flags.")
    if config.k_top < 1:
        raise UserError(f"--k_top={config.k_top}: expected 1 or more.")


def _answers(config: ClassifyConfig, images: list[bytes]) -> Iterator[dict[str, Any]]:
    if config.run_dir:
        RunFolder.open(config.run_dir)  # its fault is named first, even where no image can be read
        return run_answers(
            config.run_dir,
            images,
            rule=config.inference_rule,
            k_top=config.k_top,
            unknown=config.unknown,
            test_prior=config.test_prior,
        )
    if config.model:
        return device_answers(config.model, images, k_top=config.k_top, unknown=config.unknown)
    return server_answers(config.server, images, k_top=config.k_top)


def _read(name: str) -> bytes | None:
    try:
        return read_bytes(name, most_bytes=MOST_IMAGE_BYTES)
    except OSError:
        return None


def _line(result: dict[str, Any]) -> str:
    image = plain_name(result["image"])
    if "error" in result:
        return f"{image}: {result['error']}"
    named = [
        f"{plain_name(each['name'])} {100 * each['score']:.1f} %" for each in result["classes"]
    ]
    if result["unknown"]:
        named = ["unknown", f"(nearest: {named[0]})"] if named else ["unknown"]
    return f"{image}: {'   '.join(named)}"


def _show_progress(done: int, total: int) -> None:
    """A line that counts, on a terminal and for many images only."""
    if total >= MANY_IMAGES and sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r\x1b[K{done:,} of {total:,} images", end=end, file=sys.stderr, flush=True)


BATCH_SIZE = 64
NOT_AN_IMAGE = "not a whole JPEG, PNG, BMP or GIF image"
Answers = Iterator[dict[str, Any]]


def run_answers(
    run_dir: str,
    images: Sequence[bytes],
    *,
    rule: str,
    k_top: int,
    unknown: bool,
    test_prior: str = "",
) -> Answers:
    """Answers of a run folder, through the same preprocessing as its evaluation.

    Raises:
      UserError: no such run, a rule that was not fitted, no threshold for `unknown`.
    """
    import tensorflow as tf

    from longtail_tf.images.preprocess import preprocess_many
    from longtail_tf.recognition.priors import read_test_prior
    from longtail_tf.runs.trained_run import load_run

    run = load_run(run_dir)
    rule = rule or run.config.inference_rule
    prior = read_test_prior(test_prior, class_names=run.class_names, class_counts=run.class_counts)
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        pixels, valid = preprocess_many(
            tf.constant(list(batch), tf.string),
            image_size=run.config.image_size,
            channels=run.channels,
        )
        unit, head_logits = run.model.embed_images(pixels)
        embeddings = unit.numpy()
        logits = None if head_logits is None else head_logits.numpy()
        found = run.recognizer.predict(rule, embeddings, logits, k=k_top, test_prior=prior)
        strange = run.recognizer.is_unknown(embeddings) if unknown else np.zeros(len(batch), bool)
        for i in range(len(batch)):
            if not valid[i]:
                yield {"error": NOT_AN_IMAGE}
                continue
            ranked = zip(found.class_ids[i], found.probabilities[i])
            classes = [_named(run.class_names[c], c, p) for c, p in ranked]
            yield {"classes": classes, "unknown": bool(strange[i])}


def device_answers(model: str, images: Sequence[bytes], *, k_top: int, unknown: bool) -> Answers:
    """Answers of an exported .tflite file; needs no TensorFlow.

    Raises:
      UserError: no runtime, not an exported file, no threshold for `unknown`.
    """
    from longtail_tf.exporting.device import DeviceClassifier, read_image

    device = DeviceClassifier(model)
    if unknown and device.unknown_threshold is None:
        raise UserError(
            f"--unknown: {model} carries no rejection threshold; export it again with one."
        )
    for image in images:
        try:
            pixels = read_image(image, device.image_size, device.channels)
        except UserError:
            yield {"error": NOT_AN_IMAGE}
            continue
        found = device.classify(pixels, k_top + 1)
        is_unknown = found[0].class_id < 0
        classes = [_named(c.label, c.class_id, c.probability) for c in found if c.class_id >= 0]
        yield {"classes": classes[:k_top], "unknown": unknown and is_unknown}


def server_answers(address: str, images: Sequence[bytes], *, k_top: int) -> Answers:
    """Answers of TensorFlow Serving or `longtail_tf.serve` at HOST:PORT/MODEL.

    The export decides how many classes are named and whether unknowns are rejected; at most
    `k_top` of them are kept.

    Raises:
      UserError: no answer from there, no such model.
    """
    from longtail_tf.serving.client import Client

    with Client.connect(address) as client:
        for answer in client.classify(images):
            if answer.error is not None:
                yield {"error": answer.error}
                continue
            ranked = list(zip(answer.labels, answer.class_ids, answer.scores))
            classes = [_named(*each) for each in ranked if each[1] >= 0]
            yield {"classes": classes[:k_top], "unknown": any(c < 0 for c in answer.class_ids[:1])}


def _named(name: str, class_id: Any, score: Any) -> dict[str, Any]:
    return {"name": name, "class_id": int(class_id), "score": float(score)}


def main() -> None:
    """Command line."""
    cli.launch(run, ClassifyConfig, __doc__, positional="images")


if __name__ == "__main__":
    main()
