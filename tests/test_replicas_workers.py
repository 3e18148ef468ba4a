"""Two worker processes on this machine train what one process trains, and fail and stop as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from longtail_tf import distribution
from longtail_tf.errors import UserError
from tests import fakes, replica_runs


def tf_configs():
    """TF_CONFIG of two workers on free ports."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        for index in range(2)
    ]


def finish_all(processes):
    """Their output; no process is left behind, whatever happens."""
    processes = list(processes)  # all must have started before one can finish
    try:
        return [replica_runs.finish(process, timeout_s=300) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_workers_stop_as_one_resume_and_end_where_one_process_ends(tmp_path):
    """Only worker 1 gets the signal; only worker 0 writes the run folder."""
    settings = dict(
        data=fakes.write_npz(tmp_path / "bars.npz"), schedule="joint", metric_loss="supcon"
    )
    run = dict(run_dir=str(tmp_path / "two"), replicas="workers", **settings)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    outs = finish_all(
        replica_runs.start(
            [dict(run, **changes)], TF_CONFIG=tf_config, TMPDIR=str(scratch)
        )
        for changes, tf_config in zip((dict(), dict(stop_at=2)), tf_configs())
    )
    for out in outs:
        assert json.loads(out.splitlines()[-1]) == {"run_dir": run["run_dir"], "ended": False}
    assert not list(scratch.glob("longtail_tf_*"))
    assert [r["step"] for r in replica_runs.records(tmp_path / "two")] == [1, 2]

    run.update(resume=True, eval_every=3)
    outs = finish_all(
        replica_runs.start([run], TF_CONFIG=tf_config, TMPDIR=str(scratch))
        for tf_config in tf_configs()
    )
    assert [json.loads(out.splitlines()[-1])["ended"] for out in outs] == [True, False]
    assert not list(scratch.glob("longtail_tf_*"))

    one = dict(run_dir=str(tmp_path / "one"), **settings, eval_every=3)
    replica_runs.finish(replica_runs.start([one]))
    ours, theirs = ({p.name for p in (tmp_path / n).iterdir()} for n in ("two", "one"))
    assert ours == theirs
    replica_runs.assert_same_training(tmp_path / "two", tmp_path / "one")


# Each refusal is one meeting of both workers, so one pair of processes can go through them all.
SCRIPT = textwrap.dedent(
    """
    import os, sys
    from longtail_tf import distribution, workers
    from longtail_tf.errors import UserError

    strategy = distribution.strategy_of("workers")
    index = workers.index_of(strategy)
    assert workers.count_of(strategy) == 2 and workers.is_chief(strategy) == (index == 0)
    assert workers.any_of(strategy, index == 1) and not workers.any_of(strategy, False)

    def told(action):
        try:
            action()
        except UserError as error:
            print(error, flush=True)

    def cannot_start():
        with workers.failing_together(strategy):
            if index == 1:
                raise UserError("worker 1 has no data")

    folder, free = sys.argv[1:]

    def claims_a_folder_in_use():
        with workers.claimed_folder(strategy, folder, resume=False):
            raise AssertionError("claimed")

    def loses_a_worker():
        with workers.claimed_folder(strategy, free, resume=False) as claimed:
            assert (str(claimed.path) == free) == (index == 0)
            if index == 1:
                sys.stdout.flush()
                os._exit(7)
            workers.any_of(strategy, False)

    workers.check_same(strategy, {"data": "abc"})
    told(lambda: workers.check_same(strategy, {"settings": 1, "data": index}))
    told(cannot_start)
    told(claims_a_folder_in_use)
    told(loses_a_worker)
    """
)


def test_workers_fail_as_one_and_say_why(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("x")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "used"), str(tmp_path / "free")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CONFIG": tf_config},
        )
        for tf_config in tf_configs()
    ]
    try:
        (chief, _), (worker, worker_errors) = (
            process.communicate(timeout=200) for process in processes
        )
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 7], worker_errors[-3000:]
    different = "the workers of TF_CONFIG have different data (replicas 1 against replica 0)"
    another = "another worker of TF_CONFIG cannot start: see what it says"
    chief, worker = chief.splitlines(), worker.splitlines()
    assert different in chief[0] and different in worker[0]
    assert another in chief[1] and worker[1] == "worker 1 has no data"
    assert "is not empty" in chief[2] and another in worker[2]
    assert "another worker of TF_CONFIG was lost" in chief[3] and "--resume" in chief[3]


@pytest.mark.parametrize(
    ("tf_config", "message"),
    [
        ("", "--replicas=workers needs the environment variable TF_CONFIG, such as {"),
        ("{", "TF_CONFIG cannot be read .JSONDecodeError.*expected JSON such as"),
        ("[]", "TF_CONFIG cannot be read"),
        ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG cannot be read .KeyError: 'task'"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "names this process worker 1, which is no chief or worker of its cluster",
        ),
        (
            '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
            "names this process ps 0",
        ),
    ],
)
def test_a_tf_config_that_cannot_work_is_told(tf_config, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(UserError, match=message):
        distribution.strategy_of("workers")


def test_workers_after_tensorflow_has_started_are_told(monkeypatch):
    import tensorflow as tf

    tf.constant(0)
    monkeypatch.setenv("TF_CONFIG", tf_configs()[0])
    with pytest.raises(UserError, match="TensorFlow already runs in this process: start one fresh"):
        distribution.strategy_of("workers")


def test_one_process_is_its_own_chief():
    import tensorflow as tf

    from longtail_tf import workers

    strategy = distribution.strategy_of("one")
    assert strategy is tf.distribute.get_strategy()
    assert workers.is_chief(strategy) and workers.count_of(strategy) == 1
    assert workers.any_of(strategy, True) and not workers.any_of(strategy, False)
    with pytest.raises(UserError, match="mine"), workers.failing_together(strategy):
        raise UserError("mine")
