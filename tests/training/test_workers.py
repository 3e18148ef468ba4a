"""Two worker processes fail as one; one process needs nobody."""

from __future__ import annotations

import os
import sys
import textwrap

import pytest

from longtail_tf.errors import UserError
from longtail_tf.training import workers
from tests import replica_runs, stacks, waiting

# Each refusal is one meeting of both workers, so one pair of processes can go through them all.
SCRIPT = textwrap.dedent(
    """
    import os, sys
    from longtail_tf.errors import UserError
    from longtail_tf.training import workers

    team = workers.Team(replicas="workers")
    strategy = team.strategy
    index = workers.process_of(strategy)
    assert workers.count_of(strategy) == 2 and team.is_chief == (index == 0)
    assert workers.any_of(strategy, index == 1) and not workers.any_of(strategy, False)

    def told(action):
        try:
            with team:
                action()
        except UserError as error:
            print(error, flush=True)

    def cannot_start():
        if index == 1:
            raise UserError("worker 1 has no data")
        team.agree()

    folder, free = sys.argv[1:]

    def claims_a_folder_in_use():
        with team.claim(folder, resume=False):
            raise AssertionError("claimed")

    def cannot_build():
        with team.claim(free + "_network", resume=False):
            if index == 1:
                raise UserError("worker 1 has no weights")
            team.agree()

    def loses_a_worker():
        with team.claim(free, resume=False) as claimed:
            assert (str(claimed.path) == free) == (index == 0)
            team.agree()
            if index == 1:
                sys.stdout.flush()
                os._exit(7)
            workers.any_of(strategy, False)

    workers.check_same(strategy, {"data": "abc"})
    told(lambda: team.agree({"settings": 1, "data": index}))
    told(cannot_start)
    told(claims_a_folder_in_use)
    told(cannot_build)
    told(loses_a_worker)
    """
)


@stacks.needs_workers
def test_workers_fail_as_one_and_say_why(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("x")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "used"), str(tmp_path / "free")]
    first, second = (
        waiting.started(command, env={**os.environ, "TF_CONFIG": tf_config})
        for tf_config in replica_runs.tf_configs()
    )
    with first as first_child, second as second_child:
        chief, worker = first_child.finish(), second_child.finish()
    assert (chief.returncode, worker.returncode) == (0, 7), worker.stderr[-3000:]
    different = "the workers of TF_CONFIG have different data (replicas 1 against replica 0)"
    another = "another worker of TF_CONFIG cannot start: see what it says"
    chief, worker = chief.stdout.splitlines(), worker.stdout.splitlines()
    assert different in chief[0] and different in worker[0]
    assert another in chief[1] and worker[1] == "worker 1 has no data"
    assert "is not empty" in chief[2] and another in worker[2]
    assert another in chief[3] and worker[3] == "worker 1 has no weights"
    assert "another worker of TF_CONFIG was lost" in chief[4] and "free --resume" in chief[4]


def test_one_process_is_its_own_chief(tmp_path):
    with workers.Team(replicas="one") as team:
        assert team.is_chief and workers.count_of(team.strategy) == 1
        assert workers.any_of(team.strategy, True) and not workers.any_of(team.strategy, False)
        with team.claim(tmp_path / "run", resume=False) as folder:
            team.agree({"data": "abc"})
            assert folder.path == tmp_path / "run"
    with pytest.raises(UserError, match="mine"), workers.Team(replicas="one"):
        raise UserError("mine")
