"""Two worker processes on this machine train what one process trains."""

from __future__ import annotations

import json

import pytest

from longtail_tf import train
from longtail_tf.config import Config
from tests import fakes, replica_runs, stacks


def run_workers(runs, scratch):
    """What two workers printed, started together."""
    environments = tuple(
        dict(TF_CONFIG=tf_config, TMPDIR=str(scratch)) for tf_config in replica_runs.tf_configs()
    )
    return replica_runs.finish(*([run] for run in runs), environments=environments)


@stacks.needs_workers
@pytest.mark.slow
def test_workers_stop_as_one_resume_and_end_where_one_process_ends(tmp_path):
    """Only worker 1 gets the signal; only worker 0 writes the run folder."""
    settings = dict(
        data=fakes.write_npz(tmp_path / "bars.npz"),
        schedule="joint",
        metric_loss="supcon",
        memory_size=12,
    )
    run = dict(run_dir=str(tmp_path / "two"), replicas="workers", **settings)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    outs = run_workers([run, dict(run, stop_at=2)], scratch)
    for out in outs:
        assert json.loads(out.splitlines()[-1]) == {"run_dir": run["run_dir"], "ended": False}
    assert not list(scratch.glob("longtail_tf_*"))
    assert [r["step"] for r in replica_runs.records(tmp_path / "two")] == [1, 2]

    run.update(resume=True, eval_every=3)
    outs = run_workers([run, run], scratch)
    assert [json.loads(out.splitlines()[-1])["ended"] for out in outs] == [True, False]
    assert not list(scratch.glob("longtail_tf_*"))

    one = dict(run_dir=str(tmp_path / "one"), **settings, eval_every=3)
    train.run(Config(**{**replica_runs.TINY, **one}))
    ours, theirs = ({p.name for p in (tmp_path / n).iterdir()} for n in ("two", "one"))
    assert ours == theirs
    replica_runs.assert_same_training(tmp_path / "two", tmp_path / "one")
