"""Pictures of what each stream really sees: one augmented batch of each."""

from __future__ import annotations

import numpy as np

from longtail_tf.datasets import DatasetIndex
from longtail_tf.images.contact_sheet import streams_sheet


def write_batch_preview(
    index: DatasetIndex,
    path: str,
    *,
    num_head: int,
    image_size: int,
    head_batch_size: int,
    classes_per_batch: int,
    images_per_class: int,
    head_augment: str,
    whole_augment: str,
    seed: int = 0,
) -> None:
    """Draws the batches of step 0 into a PNG, one stream below the other.

    Args:
      index: the data set.
      path: PNG file to write.
      num_head: head classes are the ids below it; 0 leaves the head stream out.
      image_size: side of the images, px.
      head_batch_size: images of the head batch.
      classes_per_batch: P of the whole batch.
      images_per_class: K of the whole batch.
      head_augment: augmentation of the head stream.
      whole_augment: augmentation of the whole stream.
      seed: of sampling and augmentation; a training of that seed sees these very batches.
    """
    from longtail_tf.images.pipeline import plain_errors, training_streams
    from longtail_tf.sampling import PKSampler, RandomSampler

    head_rows = np.flatnonzero(index.train.labels < num_head)
    streams = training_streams(
        index.train,
        head_sampler=RandomSampler(head_rows, batch_size=head_batch_size, seed=seed)
        if num_head
        else None,
        whole_sampler=PKSampler(
            index.train.labels,
            classes_per_batch=classes_per_batch,
            images_per_class=images_per_class,
            seed=seed,
        ),
        image_size=image_size,
        channels=index.channels,
        head_augment=head_augment,
        whole_augment=whole_augment,
        seed=seed,
    )
    with plain_errors():
        batch = next(iter(streams))
    titles = {"head": f"head stream, {head_augment}", "whole": f"whole stream, {whole_augment}"}
    arrays = {stream: [part.numpy() for part in parts[:3]] for stream, parts in batch.items()}
    streams_sheet(arrays, index.class_names, path, titles=titles)
