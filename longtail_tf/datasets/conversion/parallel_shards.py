"""Shards written by several processes, with a count of the images that are done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from longtail_tf.datasets.conversion.plan import Shard, ShardWriter
from longtail_tf.errors import UserError

_REPORT_SECONDS = 0.5


def write_in_processes(
    writer: ShardWriter, shards: Sequence[Shard], *, workers: int
) -> Iterator[int]:
    """Writes the shards; yields the number of images done, about twice a second and at the end.

    Each worker takes the next shard until none is left. The first fault stops the others when
    their shard is whole, and is raised here; whole shards stay. Workers whose parent was killed
    end at their next images.
    """
    workers = min(workers, len(shards))
    if workers <= 1:
        yield from _write_here(writer, shards)
        return
    # Forked processes share the index; spawned ones would each get a copy of it.
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    taken, done, faults = context.Value("q", 0), context.Value("q", 0), context.SimpleQueue()
    arguments = (writer, shards, taken, done, faults, os.getpid())
    processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(workers)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            while process.is_alive():
                process.join(_REPORT_SECONDS)
                yield done.value
        if not faults.empty():
            raise faults.get()
        killed = [process.exitcode for process in processes if process.exitcode]
        if killed:
            raise UserError(
                f"a worker was ended from outside (exit code {killed[0]}), perhaps for want of "
                "memory; give the same command again to go on, with fewer --workers"
            )
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join()


def _write_here(writer: ShardWriter, shards: Sequence[Shard]) -> Iterator[int]:
    done = [0]

    def count(images: int) -> None:
        done[0] += images

    for shard in shards:
        writer.write(shard, count)
        yield done[0]


def _work(
    writer: ShardWriter, shards: Sequence[Shard], taken: Any, done: Any, faults: Any, parent: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends its workers

    def count(images: int) -> None:
        if os.getppid() != parent:
            raise SystemExit(1)
        with done.get_lock():
            done.value += images

    while True:
        with taken.get_lock():
            number = taken.value
            taken.value += 1
        if number >= len(shards):
            return
        try:
            writer.write(shards[number], count)
        except Exception as error:
            with taken.get_lock():
                taken.value = len(shards)
            faults.put(_that_can_be_sent(error))
            return


def _that_can_be_sent(error: Exception) -> Exception:
    """What a user can mend as it is; the traceback of a defect as the text of another."""
    if isinstance(error, UserError):
        return UserError(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    return RuntimeError(traceback.format_exc())
