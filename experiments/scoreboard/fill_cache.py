"""Computes the views of a frozen trunk that a training with the same flags would compute first.

    python experiments/scoreboard/fill_cache.py --data=folder:photos --cache_dir=cache --run_dir=x

The scoreboard runs it once for each data set and seed, so that every training of them finds the
same views, and none of them pays for all. Nothing is written into --run_dir.
"""

from __future__ import annotations

from longtail_tf.config import Config
from longtail_tf.errors import UserError
from longtail_tf.settings import cli


def run(config: Config) -> None:
    """Fills --cache_dir.

    Raises:
      UserError: the settings name no folder for it, or nothing that stands still.
    """
    from longtail_tf.runs.folder import RunFolder
    from longtail_tf.runs.resolve import index_of, resolve_for
    from longtail_tf.training import loop, start

    loop.prepare_tensorflow(threads=config.threads)
    index = index_of(config)
    settings = resolve_for(config, index)
    if not settings.cache_dir or not settings.cached_views:
        raise UserError(
            "there is nothing to fill: give --cache_dir, and --train_from and --cached_views under "
            "which a trunk stands still."
        )
    start.starting_network(settings, index, num_head=1, folder=RunFolder(settings.run_dir))


if __name__ == "__main__":
    cli.launch(run, Config, __doc__)
