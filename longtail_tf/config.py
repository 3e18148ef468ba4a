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

    @property
    def images_per_step(self) -> int:
        """Images one train step sees, both streams together."""
        whole = self.classes_per_batch * self.images_per_class
        return self.head_batch_size * self.has_head_stream + whole * self.has_whole_stream
