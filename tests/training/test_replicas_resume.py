"""Two devices, stopped by a signal and resumed, end where one replica ends: AdamW, joint."""

from __future__ import annotations

import json

from tests import fakes, replica_runs


def test_stopped_and_resumed_devices_end_where_one_replica_ends(tmp_path):
    settings = dict(
        data=fakes.write_npz(tmp_path / "bars.npz"),
        schedule="joint",
        optimizer="adamw",
        learning_rate=0.01,
    )
    two = dict(run_dir=str(tmp_path / "two"), replicas="devices", **settings)
    (out,) = replica_runs.finish(
        [
            dict(run_dir=str(tmp_path / "one"), **settings),
            dict(two, stop_at=2),
            dict(two, resume=True),
        ]
    )
    ended = [json.loads(line)["ended"] for line in out.splitlines()]
    assert ended == [True, False, True]
    assert [record["step"] for record in replica_runs.records(tmp_path / "two")] == [1, 2, 3, 4]
    replica_runs.assert_same_training(tmp_path / "two", tmp_path / "one")
