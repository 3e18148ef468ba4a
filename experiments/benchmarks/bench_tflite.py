"""Size and one-thread latency of the TFLite precisions, on an untrained network.

Claim (DESIGN section 7): int8 takes at most 0.9x the time of float32 and 0.3x its size. Weights do
not matter to either, so nothing is trained; accuracy is `parity.json` of a real export.

    python experiments/benchmarks/bench_tflite.py
    python experiments/benchmarks/bench_tflite.py --backbone=resnet8 --width=16 --size=28

The precisions take turns, image by image; CPU time is the measure, medians are printed.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from longtail_tf.exporting import tflite_convert  # noqa: E402
from longtail_tf.exporting.rule_head import RuleHead  # noqa: E402
from longtail_tf.models import networks
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.recognition.fit import Recognizer


def device_module(flags: argparse.Namespace) -> tflite_convert.DeviceModule:
    """An untrained network with random prototypes."""
    classes, rng = flags.classes, np.random.default_rng(0)
    tf.keras.utils.set_random_seed(0)
    embedder = networks.build_embedder(
        backbone=flags.backbone,
        width=flags.width,
        image_size=flags.size,
        channels=3,
        embedding_dim=flags.embedding_dim,
    )
    model = TwoStreamModel(embedder, num_head_classes=2)
    model(np.zeros((2, flags.size, flags.size, 3), np.uint8), training=False)
    prototypes = rng.normal(size=(classes, flags.embedding_dim)).astype(np.float32)
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    recognizer = Recognizer(
        prototypes=prototypes,
        num_classes=classes,
        num_head=2,
        class_counts=np.full(classes, 10),
        gate_weight=0.05,
        temperatures={"ncm": 0.1, "gated": 0.1},
        linear_kernel=prototypes.T.copy(),
        linear_bias=np.zeros(classes, np.float32),
    )
    return tflite_convert.DeviceModule(
        model, RuleHead(recognizer, rule="ncm"), image_size=flags.size, channels=3
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="resnet20")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--size", type=int, default=64, help="px")
    parser.add_argument("--embedding_dim", type=int, default=128)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--variants", default=",".join(tflite_convert.VARIANTS))
    parser.add_argument("--runs", type=int, default=60)
    flags = parser.parse_args()
    module = device_module(flags)
    shape = (16, flags.size, flags.size, 3)
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    sizes, interpreters = {}, {}
    for variant in flags.variants.split(","):
        content = tflite_convert.convert(module, "classifier", variant, images)
        sizes[variant] = len(content)
        interpreters[variant] = tf.lite.Interpreter(model_content=content, num_threads=1)
        interpreters[variant].allocate_tensors()
    seconds: dict[str, list[float]] = {variant: [] for variant in interpreters}
    for run in range(flags.runs):
        image = images[run % len(images)][np.newaxis]
        for variant, interpreter in interpreters.items():
            details = interpreter.get_input_details()[0]
            interpreter.set_tensor(details["index"], image.astype(details["dtype"]))
            start = time.process_time()
            interpreter.invoke()
            seconds[variant].append(time.process_time() - start)
    first = next(iter(sizes))
    print(f"{flags.backbone} width {flags.width}, {flags.size} px; ratios to {first}")
    print("| precision | KiB | size | CPU ms | time |\n|---|---|---|---|---|")
    for variant, size in sizes.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[variant], seconds[first]))
        print(
            f"| {variant} | {size / 1024:.0f} | {size / sizes[first]:.2f}x "
            f"| {1e3 * statistics.median(seconds[variant]):.2f} | {ratio:.2f}x |"
        )


if __name__ == "__main__":
    main()
