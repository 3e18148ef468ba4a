"""The indices of many shards: those kept before are used, the others are made in parallel."""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Mapping, Sequence

from absl import logging

from longtail_tf.datasets.shard_index import CachedIndex, Scan, kept_index, make_index
from longtail_tf.datasets.wording import plural

_SECONDS_A_LINE = 5.0


def cached_shard_indices(
    paths: Sequence[str], *, keys: Mapping[str, str], scan: Scan, threads: int = 0
) -> list[CachedIndex]:
    """The index of every shard, in the order of `paths`.

    Where several shards are at fault, the error is that of the first of them in order, whatever
    the threads; indices made until then stay, so the next start goes on from there.

    Args:
      paths: the shards.
      keys: the options that an index depends on.
      scan: builds an index by reading a shard; called from several threads.
      threads: shards read at the same time; 0 is one for each processor.
    """
    # One after the other: reading a row count takes no time, and threads take memory.
    indices = [kept_index(path, keys=keys, scan=scan) for path in paths]
    missing = [i for i, index in enumerate(indices) if index is None]
    if missing:
        pool = concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count() or 1)
        try:
            made = [pool.submit(make_index, paths[i], keys=keys, scan=scan) for i in missing]
            _tell_progress(made, [os.path.getsize(paths[i]) for i in missing])
            for i, index in zip(missing, made):
                indices[i] = index.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return [index for index in indices if index is not None]


def _tell_progress(
    made: Sequence[concurrent.futures.Future[CachedIndex]], sizes: Sequence[int]
) -> None:
    """Waits for all, or for the first fault, with a line now and then where that takes long."""
    total, start = sum(sizes), time.monotonic()
    logging.info(
        "Indexing %s (%s MB): once, the index is kept",
        plural(len(made), "shard"), f"{total / 1e6:,.0f}",
    )  # fmt: skip
    waiting = set(made)
    while waiting:
        _, waiting = concurrent.futures.wait(
            waiting, _SECONDS_A_LINE, concurrent.futures.FIRST_EXCEPTION
        )
        done = [future.done() for future in made]
        if any(future.exception() for future in made if future.done()):
            return
        read = sum(size for size, is_done in zip(sizes, done) if is_done)
        seconds = time.monotonic() - start
        if waiting and read:
            logging.info(
                "%d of %d shards indexed, %s of %s MB, %s MB/s, %s s left",
                sum(done), len(made), f"{read / 1e6:,.0f}", f"{total / 1e6:,.0f}",
                f"{read / 1e6 / seconds:,.0f}", f"{seconds * (total - read) / read:,.0f}",
            )  # fmt: skip
