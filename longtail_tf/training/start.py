"""Where a training begins: the network that is trained, and what goes into it.

From random weights all of it is trained, on pixels. From pretrained weights a trunk can stand still
(`--train_from`): its outputs are computed once and cached, and only the top above it is trained.
The embedding then starts where the features that the backbone already has compare best.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from longtail_tf.config import ResolvedConfig
from longtail_tf.datasets import DatasetIndex
from longtail_tf.errors import UserError
from longtail_tf.images.inputs import Inputs, TrunkInputs
from longtail_tf.images.trunk_cache import TrunkCache, cache_bytes, cached_outputs
from longtail_tf.metrics.array_checks import unit_rows
from longtail_tf.models import networks
from longtail_tf.models.parts import pooled_features, projection, whitening
from longtail_tf.models.two_stream_model import TwoStreamModel
from longtail_tf.recognition.prototypes import class_prototypes
from longtail_tf.recognition.whitening import fit_whitening
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.streams import pixel_inputs
from longtail_tf.runs.trained_run import build_embedder, copy_weights, two_streams_over
from longtail_tf.training.progress import CacheProgress

HEAD_LENGTH = 10.0  # of a class vector at the start, times the root of the embedding's length


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """A network that is ready to be compiled, and its inputs.

    Attributes:
      model: what is trained; takes pixels, or the outputs of a frozen trunk.
      inputs: its training streams and un-augmented batches.
      trunk_seconds: an image takes through the frozen trunk, where that was measured.
    """

    model: TwoStreamModel
    inputs: Inputs
    trunk_seconds: float = 0.0


def starting_network(
    config: ResolvedConfig,
    index: DatasetIndex,
    *,
    num_head: int,
    folder: RunFolder,
) -> Start:
    """Builds the network with the weights it starts from, and fills the cache of its frozen trunk.

    Variables are made in the scope of the strategy that trains them, which the caller enters.

    Args:
      config: settings; `train_from` names what is trained.
      index: the data set.
      num_head: classes of the head classifier.
      folder: of the run; the outputs of a frozen trunk go into it, or into --cache_dir.

    Raises:
      UserError: weights or a cut that do not exist or do not fit; a disk that is full.
    """
    model, trunk = _network(config, index, num_head=num_head)
    inputs: Inputs = pixel_inputs(config, index)
    if trunk is not None:
        cache_folder = pathlib.Path(config.cache_dir or folder.trunk_cache)
        inputs = _trunk_inputs(trunk, config, index, cache_folder=cache_folder)
    _set_start(model, inputs, config, index)
    return Start(model, inputs, getattr(inputs, "seconds_an_image", 0.0))


def network_over(
    inputs: Inputs, config: ResolvedConfig, index: DatasetIndex, *, num_head: int
) -> Start:
    """As `starting_network`, over inputs that are there already."""
    model, _ = _network(config, index, num_head=num_head)
    _set_start(model, inputs, config, index)
    return Start(model, inputs)


def remove_own_cache(folder: RunFolder) -> None:
    """Deletes the trunk outputs that a finished run keeps in its own folder."""
    shutil.rmtree(folder.trunk_cache, ignore_errors=True)


def plain_copy(
    begun: Start, config: ResolvedConfig, index: DatasetIndex, *, num_head: int
) -> Start:
    """The same network in float32 and in one replica, with none of its training state."""
    plain = dataclasses.replace(config, precision="float32", weights="none")
    model, _ = _network(plain, index, num_head=num_head)
    copy_weights(begun.model, model)
    return Start(model, begun.inputs)


def _network(
    config: ResolvedConfig, index: DatasetIndex, *, num_head: int
) -> tuple[TwoStreamModel, Optional[tf.keras.Model]]:
    """The network that is trained, and the trunk below it where that is computed beforehand."""
    tf.keras.utils.set_random_seed(config.seed)
    embedder = build_embedder(
        config, channels=index.channels, precision=config.precision, weights=config.weights
    )
    if config.train_from == "all":
        return two_streams_over(embedder, config, num_head=num_head), None
    trunk, top = networks.split_embedder(embedder, config.trunk_below)
    if not config.cached_views and config.steps:
        return two_streams_over(embedder, config, num_head=num_head), None
    settings = {"input_dtype": "float16", "whole_embedder": embedder}
    return two_streams_over(top, config, num_head=num_head, **settings), trunk


def _set_start(
    model: TwoStreamModel, inputs: Inputs, config: ResolvedConfig, index: DatasetIndex
) -> None:
    if config.embedding_start == "whitened":
        start_where_features_compare_best(
            model, inputs, num_classes=index.num_classes, seed=config.seed
        )


def fitting_views(
    wanted: int, *, num_images: int, num_val: int, shape: tuple[int, ...], megabytes: int
) -> int:
    """How many views of each training image fit the disk budget, at most `wanted`.

    Raises:
      UserError: not even one does.
    """
    left = megabytes * 2**20 - cache_bytes(num_val, 0, shape) - cache_bytes(num_images, 0, shape)
    views = min(wanted, left // max(1, cache_bytes(num_images, 0, shape)))
    if views < 1:
        needed = cache_bytes(num_images, 1, shape) + cache_bytes(num_val, 0, shape)
        raise UserError(
            f"the outputs of the frozen trunk, {' x '.join(map(str, shape))} numbers an image, "
            f"need at least {needed / 2**20:,.0f} MB of disk, and --cache_disk_megabytes="
            f"{megabytes}: raise it, freeze more with --train_from=head, or compute them at each "
            "step with --cached_views=0."
        )
    return int(views)


def _trunk_inputs(
    trunk: tf.keras.Model,
    config: ResolvedConfig,
    index: DatasetIndex,
    *,
    cache_folder: pathlib.Path,
) -> TrunkInputs:
    shape = tuple(int(size) for size in trunk.output_shape[1:])
    views = config.cached_views and fitting_views(
        config.cached_views,
        num_images=len(index.train),
        num_val=len(index.val or ()),
        shape=shape,
        megabytes=config.cache_disk_megabytes,
    )
    caches: dict[str, TrunkCache] = {}
    rates: list[float] = []
    for name in ("train", "val"):
        split = getattr(index, name)
        if split is None:
            continue
        caches[name] = cached_outputs(
            trunk,
            split,
            folder=cache_folder,
            data_digest=index.digest,
            split_name=name,
            image_size=config.image_size,
            channels=index.channels,
            views=views if name == "train" else 0,
            augment=config.whole_augment,
            seed=config.seed,
            max_bad_share=config.max_bad_share,
            show_progress=(progress := CacheProgress(name)),
        )
        rates.append(progress.rate)
    inputs = TrunkInputs(caches, seed=config.seed)
    inputs.seconds_an_image = 1 / max(rates) if max(rates) else 0.0
    return inputs


def start_where_features_compare_best(
    model: TwoStreamModel, inputs: Inputs, *, num_classes: int, seed: int, batch_size: int = 256
) -> None:
    """Sets whitening, projection, neck and head classifier from the features before any training.

    The projection is a rotation of the whitened features, drawn by `seed`, so that no number of the
    embedding is weak: the neck would blow up the weak ones, as it gives each the same variance. The
    head classifier starts at the class means.

    Args:
      model: a network whose embedder has the layer "whitening".
      inputs: its inputs; of them the training images as they are.
      num_classes: C.
      seed: of the rotation.
      batch_size: images a step.
    """
    pooled = pooled_features(model.embedder)
    parts = [
        (pooled(tf.cast(batch, tf.float32)).numpy(), np.asarray(labels))
        for batch, labels in inputs.plain_batches("train", batch_size=batch_size)
    ]
    features, labels = (np.concatenate(part) for part in zip(*parts))
    fixed: Any = whitening(model.embedder)
    last: Any = projection(model.embedder)
    found = fit_whitening(features, labels, num_classes, dimension=fixed.units)
    draws = np.random.default_rng(seed).normal(size=(last.units, last.units))
    rotation = np.linalg.qr(draws)[0].astype(np.float32)
    fixed.set_weights([found.kernel, found.bias])
    last.set_weights([rotation])
    start = (features @ found.kernel + found.bias) @ rotation
    if model.neck is not None:
        scale = model.neck.get_weights()[0]
        model.neck.set_weights([scale, start.mean(axis=0), start.var(axis=0)])
    if model.head is not None:
        seen = model.neck_output(tf.constant(start, tf.float32)).numpy()
        means = class_prototypes(unit_rows(seen), labels, num_classes)[: model.num_head_classes]
        kernel, *rest = model.head.get_weights()
        model.head.set_weights([HEAD_LENGTH / np.sqrt(last.units) * means.T, *rest])
