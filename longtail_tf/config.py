"""`Config`: the settings of one training run, checked when made, so nothing meets a bad one later.

It goes from an entry point's `run(config)` through the rooms `runs` and `training`; every other
room takes explicit keyword arguments.
"""

from __future__ import annotations

import dataclasses

from longtail_tf.settings.checks import check
from longtail_tf.settings.declare import setting
from longtail_tf.settings.fields import TrainingFields
from longtail_tf.settings.methods import taking_methods


@taking_methods
@dataclasses.dataclass(frozen=True)
class Config(TrainingFields):
    """The settings of one training run; `settings.fields` says what each does.

    Raises:
      UserError: settings that do not fit together.
    """

    def __post_init__(self) -> None:
        check(self)


@dataclasses.dataclass(frozen=True)
class ResolvedConfig(Config):
    """A `Config` in which everything that depends on the data set is filled in (`runs.data`)."""

    image_size: int = setting(0, "Side of the square images the network sees.", unit="px")
    classes_per_batch: int = setting(0, "P: classes in a whole batch.", unit="classes")
    margin: float = setting(0.0, "Triplet margin.")
    steps: int = setting(0, "Length of the training: train steps.", unit="steps")
    warmup_steps: int = setting(0, "Linear learning-rate warm-up.", unit="steps")
    embedding_dim: int = setting(0, "Length of an embedding; 0: all features of the backbone.")
    learning_rate: float = setting(0.0, "Peak learning rate.")
    backbone_rate: float = setting(1.0, "Factor of the learning rate for the backbone.")
    clip_norm: float = setting(0.0, "Longest gradient of an update; 0: any.")
    stay_near: float = setting(0.0, "Weight of the distance from the pretrained weights.")
    backbone_norms: str = setting("batch", "Statistics of the backbone's batch norms.")
    embedding_start: str = setting("random", "Where the projection to the embedding starts.")
    weights: str = setting("none", "Where the backbone starts.")
    train_from: str = setting("all", "Where training begins.")
    cached_views: int = setting(0, "Augmented views of each image in the cache of a trunk.")

    @property
    def trunk_below(self) -> str:
        """The part of the backbone below which everything stands still; "head": all of it."""
        return "head" if self.train_from == "none" else self.train_from

    @property
    def images_per_step(self) -> int:
        """Images one train step sees, both streams together."""
        whole = self.classes_per_batch * self.images_per_class
        return self.head_batch_size * self.has_head_stream + whole * self.has_whole_stream
