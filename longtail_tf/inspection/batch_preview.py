"""Pictures of what each stream really sees: one augmented batch of each, as a contact sheet."""

from __future__ import annotations

import pathlib

import numpy as np

from longtail_tf.contact_sheet import contact_sheet
from longtail_tf.datasets import DatasetIndex


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
) -> list[pathlib.Path]:
    """Writes NAME_head.png and NAME_whole.png for a path NAME.png: the batches of step 0.

    Args:
      index: the data set.
      path: PNG file; each stream's name is added to it.
      num_head: head classes are the ids below it; 0 leaves the head stream out.
      image_size: side of the images, px.
      head_batch_size: images of the head batch.
      classes_per_batch: P of the whole batch.
      images_per_class: K of the whole batch.
      head_augment: augmentation of the head stream.
      whole_augment: augmentation of the whole stream.
      seed: of sampling and augmentation; a training of that seed sees these very batches.

    Returns:
      The files written.
    """
    from longtail_tf.input_pipeline import plain_errors, training_streams
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
    written = []
    titles = {"head": f"head stream, {head_augment}", "whole": f"whole stream, {whole_augment}"}
    for stream, (images, labels, rows, *_) in batch.items():
        target = pathlib.Path(path)
        target = target.with_name(f"{target.stem}_{stream}{target.suffix or '.png'}")
        contact_sheet(
            images.numpy(),
            labels.numpy(),
            index.class_names,
            target,
            title=titles[stream],
            rows=rows.numpy(),
        )
        written.append(target)
    return written
