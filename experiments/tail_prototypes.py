"""Do corrections of tail prototypes pay? Measured on the embeddings of finished runs.

    python experiments/tail_prototypes.py --runs=runs/scoreboard/digits/alternate/0,...

Each option is one line of arithmetic on class means; the plain mean is what longtail_tf ships.
Printed: balanced and few-shot accuracy of the nearest prototype, on validation images (to choose
by) and on test images (to report).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from longtail_tf.settings import cli, setting


@dataclasses.dataclass(frozen=True)
class TailConfig:
    """Settings."""

    runs: str = setting("", "Run folders, comma-separated.")
    augmented_views: int = setting(8, "Augmented copies of each image of a class under K = 4.")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def shrunk(means: np.ndarray, counts: np.ndarray, strength: float) -> np.ndarray:
    """Towards the mean of all classes, as if `strength` more images lay there."""
    weight = (counts / (counts + strength))[:, None]
    return unit(weight * means + (1 - weight) * means.mean(axis=0))


def pushed(means: np.ndarray, counts: np.ndarray, num_head: int, strength: float) -> np.ndarray:
    """Tail prototypes away from their nearest head prototype, by strength / n."""
    moved, head = means.copy(), means[:num_head]
    nearest = head[np.argmax(means[num_head:] @ head.T, axis=1)]
    moved[num_head:] -= (strength / counts[num_head:])[:, None] * nearest
    return unit(moved)


def run(config: TailConfig) -> None:
    """Prints one table a run."""
    for folder in config.runs.split(","):
        measure(folder, config.augmented_views)


def measure(folder: str, views: int) -> None:
    from longtail_tf.metrics import balanced_accuracy, shot_accuracy
    from longtail_tf.recognition.embedding_pass import embed_split
    from longtail_tf.recognition.prototypes import class_prototypes, fit_prototypes
    from longtail_tf.runs.trained_run import load_run

    trained = load_run(folder)
    index = trained.load_data()
    pixels = {"image_size": trained.config.image_size, "channels": trained.channels}
    train, val, test = (
        embed_split(trained.model, split, **pixels)
        for split in (index.train, index.val, index.test)
    )
    counts, classes = index.class_counts.astype(float), index.num_classes
    means = class_prototypes(train.embeddings, train.labels, classes)
    each = np.arange(classes)
    options = {"mean (shipped)": (means, each, 0.0)}
    centred = fit_prototypes(
        train.embeddings, train.labels, classes, variant="cl2n", per_class=1, min_images=50, seed=0
    )
    options["centred mean (cl2n)"] = (centred.prototypes, each, centred.center)
    for strength in (0.3, 1.0, 3.0):
        options[f"shrunk by {strength:g}"] = (shrunk(means, counts, strength), each, 0.0)
    if trained.num_head:
        for strength in (0.1, 0.3, 1.0):
            moved = pushed(means, counts, trained.num_head, strength)
            options[f"pushed by {strength:g} / n"] = (moved, each, 0.0)
    extra, labels = augmented(trained, index, views)
    if len(labels):
        both = np.concatenate([train.embeddings, extra])
        averaged = class_prototypes(both, np.concatenate([train.labels, labels]), classes)
        options[f"+ {views} augmented views under K"] = (averaged, each, 0.0)
    for split in (2, 4):
        several = fit_prototypes(
            train.embeddings, train.labels, classes, variant="l2", per_class=split, min_images=50,
            seed=0,
        )  # fmt: skip
        owners = several.prototype_classes
        options[f"up to {split} prototypes a class"] = (several.prototypes, owners, 0.0)
    print(f"\n{folder}\n| prototypes | val balanced | val few | test balanced | test few |")
    print("|---|---|---|---|---|")
    for name, (prototypes, owners, center) in options.items():
        cells = []
        for part in (val, test):
            nearest = np.argmax(unit(part.embeddings - center) @ prototypes.T, axis=1)
            few = shot_accuracy(part.labels, owners[nearest], index.class_counts)["few"]
            balanced = balanced_accuracy(part.labels, owners[nearest])
            cells += [f"{100 * balanced:.1f}", "-" if few is None else f"{100 * few:.1f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def augmented(trained, index, views: int):
    """Embeddings of augmented copies of the images of classes with fewer than 4."""
    import tensorflow as tf

    from longtail_tf.images.augment import WHOLE_STREAM, augment
    from longtail_tf.images.preprocess import preprocess_images

    rows = np.flatnonzero(index.class_counts[index.train.labels] < 4)
    if not len(rows) or index.train.encoded:
        return np.zeros((0, trained.config.embedding_dim), np.float32), np.zeros(0, np.int32)
    images = preprocess_images(index.train.read(rows), image_size=trained.config.image_size)
    found = [
        trained.model.embed_images(
            augment(
                images,
                name=trained.config.whole_augment,
                seed=0,
                stream=WHOLE_STREAM,
                step=tf.constant(view, tf.int64),
            )
        )[0].numpy()
        for view in range(views)
    ]
    return np.concatenate(found), np.tile(index.train.labels[rows], views)


if __name__ == "__main__":
    cli.launch(run, TailConfig, __doc__)
