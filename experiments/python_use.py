"""The parts as a library, in a notebook or your own training script.

    python experiments/python_use.py --data=digits_lt --steps=300

What `longtail_tf.train` does, in your own Keras code: your callbacks, your optimizer, your loop.
"""

from __future__ import annotations

import dataclasses

from longtail_tf.settings import cli, setting


@dataclasses.dataclass(frozen=True)
class ExampleConfig:
    """Settings of the example."""

    data: str = setting("digits_lt", "Data set, as for longtail_tf.train.")
    steps: int = setting(300, "Train steps.", unit="steps")


def run(config: ExampleConfig) -> float:
    """Trains, recognises every class, returns the balanced accuracy."""
    import numpy as np
    import tensorflow as tf

    from longtail_tf import losses
    from longtail_tf.datasets import load_index
    from longtail_tf.head_set import select_head
    from longtail_tf.images.inputs import PixelInputs
    from longtail_tf.images.pipeline import training_streams
    from longtail_tf.metrics.tables import format_rules_table
    from longtail_tf.models import networks
    from longtail_tf.models.two_stream_model import TwoStreamModel
    from longtail_tf.recognition.embedding_pass import embed_split, refresh_batch_norm
    from longtail_tf.recognition.fit import evaluate_rules, fit_recognizer
    from longtail_tf.recognition.prototypes import class_prototypes
    from longtail_tf.sampling import PKSampler, RandomSampler

    # 1. Data: labels and places of images. Class ids fall by count, so the head is 0 .. num_head-1.
    index = load_index(config.data)
    num_head = len(select_head(index.class_counts, ratio=0.3))
    pixels = {"image_size": index.image_shape[0], "channels": index.channels}

    # 2. Two streams, as one tf.data.Dataset.
    head_rows = np.flatnonzero(index.train.labels < num_head)
    streams = training_streams(
        index.train,
        head_sampler=RandomSampler(head_rows, batch_size=32, seed=0),
        whole_sampler=PKSampler(
            index.train.labels, classes_per_batch=10, images_per_class=4, seed=0
        ),
        head_augment="crop",
        whole_augment="crop",
        seed=0,
        **pixels,
    )

    # 3. A Keras model, compiled and fitted as any other.
    embedder = networks.build_embedder(backbone="resnet8", embedding_dim=64, **pixels)
    model = TwoStreamModel(embedder, num_head_classes=num_head)
    model.compile(
        head_optimizer=tf.keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        whole_optimizer=tf.keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        classification_loss=losses.classification_loss(
            "cross_entropy", class_counts=index.class_counts[:num_head]
        ),
        metric_loss=losses.metric_loss("triplet_semihard", margin=0.2, distance_metric="L2"),
    )
    model.fit(streams, steps_per_epoch=config.steps, epochs=1, verbose=0, shuffle=False)

    # 4. Every class recognised.
    plain = PixelInputs(
        index,
        image_size=pixels["image_size"],
        head_augment="none",
        whole_augment="none",
        seed=0,
        cache_bytes=0,
        max_bad_share=0.0,
    )
    refresh_batch_norm(
        model, lambda sampler: plain.plain_streams(sampler, seed=0), index.train.labels, seed=0
    )
    train, val, test = (
        embed_split(model, split, **pixels) for split in (index.train, index.val, index.test)
    )
    recognizer = fit_recognizer(
        train, val, num_classes=index.num_classes, num_head=num_head, seed=0
    )
    results = evaluate_rules(recognizer, test, train_counts=index.class_counts)
    print(format_rules_table(results))

    # 5. Or by hand: the nearest class mean is a matrix product.
    prototypes = class_prototypes(train.embeddings, train.labels, index.num_classes)
    nearest = np.argmax(test.embeddings @ prototypes.T, axis=1)
    print(f"nearest prototype by hand: {100 * np.mean(nearest == test.labels):.1f} % right")
    return results["gated"]["balanced"]


if __name__ == "__main__":
    cli.launch(run, ExampleConfig, __doc__)
