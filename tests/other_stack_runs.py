"""What the cross-stack test does on each stack, the other one in a process of its own.

python -m tests.other_stack_runs train SPEC RUN
python -m tests.other_stack_runs use RUN OUT IMAGE...
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np


def train_run(spec: str, folder: pathlib.Path) -> None:
    """A run of a few seconds."""
    from longtail_tf import train
    from longtail_tf.config import Config

    train.run(
        Config(
            data=spec, run_dir=str(folder), head_num_classes=3, steps=30, warmup_steps=5,
            eval_every=0, checkpoint_every=30, head_batch_size=16, classes_per_batch=6,
            images_per_class=3, backbone="resnet8", width=8, embedding_dim=16,
        )
    )  # fmt: skip


def use(run: pathlib.Path, out: pathlib.Path, images: list[str]) -> None:
    """Evaluates, exports and classifies with `run`; what came of it goes to OUT/found.npz."""
    from longtail_tf import classify, evaluate, export
    from longtail_tf.classify import ClassifyConfig
    from longtail_tf.evaluate import EvaluateConfig
    from longtail_tf.export import ExportConfig
    from longtail_tf.recognition.embedding_pass import embed_split
    from longtail_tf.recognition.prototypes import class_prototypes
    from longtail_tf.runs.trained_run import load_run

    trained = load_run(str(run))
    index = trained.load_data()
    found = embed_split(trained.model, index.train, image_size=12, channels=1)
    rules = evaluate.run(EvaluateConfig(run_dir=str(run), out=str(out / "evaluation")))["rules"]
    answers = classify.run(ClassifyConfig(run_dir=str(run), images=tuple(images)))
    quick = {"batch_sizes": "1", "gate_images": 4, "parity_images": 8, "tflite": "float32,dynamic"}
    export.run(ExportConfig(run_dir=str(run), export_dir=str(out / "export"), **quick))
    parts = (trained.model.embedder, trained.model.neck, trained.model.head)
    weights = [array.ravel() for part in parts for array in part.get_weights()]
    np.savez(
        out / "found.npz",
        weights=np.concatenate(weights),
        prototypes=class_prototypes(found.embeddings, found.labels, index.num_classes),
        kept_prototypes=trained.recognizer.prototypes,
        logits=found.head_logits,
        balanced=[rules[name]["balanced"] for name in sorted(rules)],
        best=[answer["classes"][0]["name"] for answer in answers],
        scores=[[each["score"] for each in answer["classes"]] for answer in answers],
    )


if __name__ == "__main__":
    task, first, second, *rest = sys.argv[1:]
    if task == "train":
        train_run(first, pathlib.Path(second))
    else:
        pathlib.Path(second).mkdir(parents=True)
        use(pathlib.Path(first), pathlib.Path(second), rest)
