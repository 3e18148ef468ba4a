"""A run that was stopped and resumed gives the bits of one that was not, whatever is trained."""

from __future__ import annotations

import json

import numpy as np
import pytest

from longtail_tf.runs.trained_run import load_run
from tests import fakes, replica_runs

KINDS = {
    "alternate": dict(),
    "joint": dict(schedule="joint"),
    "two_rates_adamw": dict(
        optimizer="adamw", learning_rate=0.01, backbone_rate=0.1, clip_norm=1.0, stay_near=0.1
    ),
    "head_alone": dict(metric_loss="none"),
    "whole_alone": dict(classification_loss="none", head_num_classes=None),
    "memory_sampled": dict(memory_size=20, head_sampled_classes=2),
    "reweighted": dict(metric_loss="none", reweight_from=0.5),
    "balanced": dict(metric_loss="none", head_sampling="balanced"),
    "shared_prototypes": dict(schedule="joint", classify_whole=True, metric_loss="prototype"),
    "compared_head_remembered": dict(
        schedule="joint", compare_head=True, metric_loss="supcon", memory_size=20
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of every kind a whole run, and one stopped at step 3 and resumed.

    In one process of their own: each training leaves some memory behind, which goes with it.
    """
    folder, asked = tmp_path_factory.mktemp("runs"), []
    data = fakes.write_npz(folder / "bars.npz")
    for kind, changes in KINDS.items():
        settings = dict(data=data, steps=6, **changes)
        parts = dict(run_dir=str(folder / f"{kind}_parts"), **settings)
        asked += [dict(run_dir=str(folder / f"{kind}_whole"), **settings)]
        asked += [dict(parts, stop_at=3), dict(parts, resume=True)]
    (out,) = replica_runs.finish(asked)
    ended = [json.loads(line)["ended"] for line in out.splitlines()]
    assert ended == [True, False, True] * len(KINDS)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_resume_gives_the_same_bits_as_an_uninterrupted_run(runs, kind):
    whole, parts = runs / f"{kind}_whole", runs / f"{kind}_parts"
    ours, theirs = load_run(str(whole)), load_run(str(parts))
    for a, b in zip(ours.model.get_weights(), theirs.model.get_weights()):
        np.testing.assert_array_equal(a, b)
    rules = [json.loads((run / "evaluation.json").read_text())["rules"] for run in (whole, parts)]
    assert rules[0] == rules[1]
    assert [record["step"] for record in replica_runs.records(parts)] == [1, 2, 3, 4, 5, 6]
