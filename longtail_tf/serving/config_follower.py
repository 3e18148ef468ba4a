"""Takes over a models.config file whenever it changes."""

from __future__ import annotations

from absl import logging

from longtail_tf.errors import UserError
from longtail_tf.serving.model_config import ModelConfig, read_model_config
from longtail_tf.serving.model_store import ModelStore
from longtail_tf.serving.status import ServingError


class ConfigFollower:
    """Called again and again: reads the file, and reloads the store when it says something new.

    Args:
      path: the models.config file.
      models: what it said when the store was made.
      store: follows it.
    """

    def __init__(self, path: str, models: list[ModelConfig], store: ModelStore):
        self._path, self._models, self._store = path, models, store
        self._complaint = ""

    def __call__(self) -> None:
        """One look; what is wrong is logged once, and what is served stays."""
        complaint = ""
        try:
            models = read_model_config(self._path)
            if models != self._models:
                self._store.reload(models)
                self._models = models
        except (UserError, ServingError) as error:
            complaint = str(error)
        if complaint and complaint != self._complaint:
            logging.error("the configuration is not (fully) taken over: %s", complaint)
        self._complaint = complaint
