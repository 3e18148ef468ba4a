"""Three ways to the same answer: a run folder, a .tflite file, a server.

Each is a generator over encoded images, in order, of dicts: `classes` (name, class_id, score: a
probability 0..1; best first) and `unknown`, or `error` for an image that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from longtail_tf.errors import UserError

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
    from longtail_tf.trained_run import load_run

    run = load_run(run_dir)
    rule = rule or run.config.inference_rule
    prior = read_test_prior(test_prior, class_names=run.class_names, class_counts=run.class_counts)
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        pixels, valid = preprocess_many(
            tf.constant(list(batch), tf.string),
            image_size=run.config.image_size or 0,
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
    from longtail_tf.tflite import DeviceClassifier, read_image

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
