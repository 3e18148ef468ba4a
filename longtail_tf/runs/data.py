"""The data set that the settings name."""

from __future__ import annotations

from longtail_tf.config import Config
from longtail_tf.datasets import DatasetIndex, load_index


def index_of(config: Config, spec: str = "") -> DatasetIndex:
    """The data set of the settings, or `spec` split and filtered as they say."""
    return load_index(
        spec or config.data,
        val_per_class=config.val_per_class,
        split_seed=config.split_seed,
        exclude=config.exclude,
    )
