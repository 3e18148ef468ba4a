"""Several processes that train together: who writes, and how they fail, stop and finish as one.

Everything here is a formality under a strategy of one process.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.files import Path
from longtail_tf.runs.folder import RunFolder


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run folder; the only process is."""
    return index_of(strategy) == 0


def index_of(strategy: tf.distribute.Strategy) -> int:
    """This process among those of the strategy, 0 for the chief."""
    if not _has_peers(strategy):
        return 0
    resolver = strategy.cluster_resolver
    spec = resolver.cluster_spec().as_dict()
    return resolver.task_id + (len(spec.get("chief", [])) if resolver.task_type == "worker" else 0)


def count_of(strategy: tf.distribute.Strategy) -> int:
    """Number of processes."""
    if not _has_peers(strategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(spec.get(job, [])) for job in ("chief", "worker"))


def any_of(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Whether `flag` is set in any process. Every process must ask at the same time."""
    return flag if not _has_peers(strategy) else bool(_gathered(strategy, int(flag)).any())


@contextlib.contextmanager
def failing_together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Ends every process with a sentence when one cannot go on; they would wait for it for ever.

    Raises:
      UserError: that of the context, or that another process has one.
    """
    refused = None
    try:
        yield
    except UserError as error:
        refused = error
    if any_of(strategy, refused is not None):
        raise refused or UserError(
            "another worker of TF_CONFIG cannot start: see what it says, and start all of them "
            "again."
        )


@contextlib.contextmanager
def claimed_folder(
    strategy: tf.distribute.Strategy, path: Path, *, resume: bool
) -> Iterator[RunFolder]:
    """The run folder for the chief; for another worker a scratch folder, removed at the end.

    Workers save checkpoints at the same time, as some variables are sums over all of them, but
    only one may keep the files.

    Raises:
      UserError: as `RunFolder.claim`, in every process; or, later, a process was lost.
    """
    with contextlib.ExitStack() as stack, _told_when_lost(strategy, path):
        with failing_together(strategy):
            if is_chief(strategy):
                folder = stack.enter_context(RunFolder.claim(path, resume=resume))
            else:
                scratch = tempfile.TemporaryDirectory(prefix="longtail_tf_worker_")
                folder = RunFolder(stack.enter_context(scratch))
        yield folder


def check_same(strategy: tf.distribute.Strategy, values: Mapping[str, Any]) -> None:
    """Refuses workers that would train different things.

    Args:
      strategy: of the training.
      values: what must be equal in every process, by name; compared by their `repr`.

    Raises:
      UserError: one of them differs.
    """
    if not _has_peers(strategy):
        return
    for name, value in values.items():
        digest = hashlib.sha256(repr(value).encode()).digest()
        found = _gathered(strategy, int.from_bytes(digest[:7], "big"))
        if (found != found[0]).any():
            raise UserError(
                f"the workers of TF_CONFIG have different {name} (replicas "
                f"{', '.join(map(str, np.flatnonzero(found != found[0])))} against replica 0): "
                "give all of them the same flags, data and run folder."
            )


@contextlib.contextmanager
def _told_when_lost(strategy: tf.distribute.Strategy, path: Path) -> Iterator[None]:
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if not _has_peers(strategy):
            raise
        raise UserError(
            f"another worker of TF_CONFIG was lost ({str(error).splitlines()[0][:200]}): see what "
            f"it says, and start all of them again with --run_dir={path} --resume."
        ) from error


def _has_peers(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _gathered(strategy: tf.distribute.Strategy, number: int) -> np.ndarray:
    """`number` of every replica, int64 [R]."""
    replicas = strategy.num_replicas_in_sync

    def own_place(context: tf.distribute.ReplicaContext) -> tf.Tensor:
        row = np.zeros(replicas, np.int64)
        row[context.replica_id_in_sync_group] = number
        return tf.constant(row)

    rows = strategy.experimental_distribute_values_from_function(own_place)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, rows, axis=None).numpy()
