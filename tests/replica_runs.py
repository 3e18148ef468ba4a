"""Tiny training runs in a process of their own, for the tests of replicas and workers.

    python -m tests.replica_runs '[{"run_dir": ..., "replicas": "devices"}, ...]'

Devices and workers must be known before TensorFlow starts, hence the process. The CPU is split
into two logical devices. A run with "stop_at" sends itself SIGTERM when that step is recorded.
`loaded.json` beside the run folders names the heavy modules that training them loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import sys

import numpy as np

from tests import fakes, waiting

TINY = dict(
    head_num_classes=3,
    steps=4,
    warmup_steps=1,
    eval_every=0,
    checkpoint_every=100,
    log_every=1,
    **fakes.TINY_NET,
)


HEAVY = {"tensorflow_addons", "keras_cv", "matplotlib", "grpc", "tensorflow_datasets", "sklearn"}


def finish(*processes: list, environments: tuple = ({},)) -> list:
    """What each process printed that made its runs, one after the other; all must go well."""
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                waiting.started(
                    [sys.executable, "-m", "tests.replica_runs", json.dumps(runs)],
                    env={**os.environ, **environment},
                )
            )
            for runs, environment in zip(processes, environments)
        ]
        for child in children:  # one that failed may leave the others waiting for it
            child.wait_until(lambda: any(each.process.poll() for each in children))
        failed = [child.err for child in children if child.process.poll()]
        assert not failed, failed[-1][-4000:]
        return [child.out for child in children]


def tf_configs() -> list:
    """TF_CONFIG of two workers on free ports."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        for index in range(2)
    ]


def assert_same_training(ours: pathlib.Path, theirs: pathlib.Path) -> None:
    """The weights are equal to a thousandth of what training changed, the records to rounding."""
    from longtail_tf.runs.trained_run import build_model, load_run

    mine, other = load_run(str(ours)), load_run(str(theirs))
    fresh = build_model(
        other.config, channels=1, num_head=other.num_head, precision="float32"
    ).trainable_variables
    for now, then, start in zip(
        mine.model.trainable_variables, other.model.trainable_variables, fresh
    ):
        np.testing.assert_allclose(now, then, rtol=1e-3, atol=1e-4)
        if now.shape.rank > 1:  # kernels start at random, so a fresh one is far from a trained one
            assert np.abs(then - start).max() > 0.05
    for a, b in zip(records(ours), records(theirs)):
        assert a.keys() == b.keys()
        for name in set(a) - {"images_per_s", "val"}:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(
        mine.recognizer.prototypes, other.recognizer.prototypes, rtol=1e-3, atol=1e-3
    )


def records(run_dir: pathlib.Path) -> list:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def _stop_at(step: int) -> None:
    from longtail_tf.training.callbacks import TrainingLog

    after_step = TrainingLog.after_step

    def after_step_and_stop(self: TrainingLog, now: int) -> None:
        after_step(self, now)
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)

    TrainingLog.after_step = after_step_and_stop


def _main(runs: list) -> None:
    import tensorflow as tf

    from longtail_tf import train
    from longtail_tf.config import Config
    from longtail_tf.training.callbacks import TrainingLog

    if any(run.get("replicas") == "devices" for run in runs):
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
    plain = TrainingLog.after_step
    for run in runs:
        step = run.pop("stop_at", None)
        if step is not None:
            _stop_at(step)
        result = train.run(Config(**{**TINY, **run}))
        TrainingLog.after_step = plain
        print(json.dumps({"run_dir": str(result.run_dir), "ended": result.metrics is not None}))
        loaded = sorted(HEAVY & set(sys.modules))
        (pathlib.Path(run["run_dir"]).parent / "loaded.json").write_text(json.dumps(loaded))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
