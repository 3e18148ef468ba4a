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
from longtail_tf.models.replicas import strategy_of
from longtail_tf.runs.folder import RunFolder

# How TensorFlow tells that a peer is gone.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


class Team:
    """The processes of one training: this one alone, or the workers in TF_CONFIG.

    with workers.Team(replicas="one") as team:
        ...                                  # what may be refused: settings, data
        with team.claim(run_dir, resume=False) as folder:
            ...                              # build the network
            team.agree({"settings": settings})

    Where one process cannot go on, the others would wait for it for ever: at each `agree`, and at
    the end of the context, all of them learn of it and stop with a sentence.

    Attributes:
      strategy: of the training; TensorFlow's default one for a single replica.
    """

    def __init__(self, *, replicas: str) -> None:
        """Joins the other processes, if there are any.

        Raises:
          UserError: as `replicas.strategy_of`.
        """
        self.strategy = strategy_of(replicas)
        self._settled = False  # whether the others know of whatever is raised now
        self._run_dir: Path = "RUN_DIR"

    def __enter__(self) -> Team:
        self._settled = False
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, (UserError, OSError)) and not self._settled:
            any_of(self.strategy, True)  # what the others wait for at their next `agree`
        elif isinstance(error, _LOST) and _has_peers(self.strategy):
            raise UserError(
                f"another worker of TF_CONFIG was lost ({str(error).splitlines()[0][:200]}): see "
                f"what it says, and start all of them again with --run_dir={self._run_dir} "
                "--resume."
            ) from error

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run folder; the only process does."""
        return process_of(self.strategy) == 0

    def agree(self, values: Mapping[str, Any] | None = None) -> None:
        """Waits until every process is here, and compares what must be equal in all of them.

        Args:
          values: by name; compared by their `repr`.

        Raises:
          UserError: another process cannot go on, or a value differs.
        """
        refused = any_of(self.strategy, False)
        self._settled = True  # what is raised from here on is raised in every process
        if refused:
            raise UserError(
                "another worker of TF_CONFIG cannot start: see what it says, and start all of them "
                "again."
            )
        check_same(self.strategy, values or {})

    @contextlib.contextmanager
    def claim(self, path: Path, *, resume: bool) -> Iterator[RunFolder]:
        """The run folder for the chief; for another worker a scratch folder, removed at the end.

        Workers save checkpoints at the same time, as some variables are sums over all of them, but
        only one may keep the files.

        Raises:
          UserError: as `RunFolder.claim`, in every process.
        """
        self.agree()
        self._settled, self._run_dir = False, path
        with contextlib.ExitStack() as stack:
            if self.is_chief:
                folder = stack.enter_context(RunFolder.claim(path, resume=resume))
            else:
                scratch = tempfile.TemporaryDirectory(prefix="longtail_tf_worker_")
                folder = RunFolder(stack.enter_context(scratch))
            self.agree()
            self._settled = False
            yield folder


def process_of(strategy: tf.distribute.Strategy) -> int:
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
