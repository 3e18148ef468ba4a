"""What a time budget buys, and what a run costs."""

from __future__ import annotations

import pytest

from longtail_tf.config import Config
from longtail_tf.datasets import load_index
from longtail_tf.errors import UserError
from longtail_tf.runs.resolve import resolve_for
from longtail_tf.training import plan
from longtail_tf.training.plan import Costs, Work, fitted, seconds_needed
from tests import fakes

COSTS = Costs(trunk=0.004, top=0.002)
CACHED = Work(train=2000, others=3000, cached=True, tried=False)


def test_seconds_are_those_of_each_part():
    trunk = 0.004 * 2000 * (1 + 3)
    looks = 0.002 * 2000 + 0.006 * 3000  # training images through the top, the others through all
    steps = 5 * 2000 * 3 * 0.002
    expected = plan.OVERHEAD_SECONDS + trunk + looks + steps
    assert seconds_needed(COSTS, CACHED, views=3, passes=5.0) == pytest.approx(expected)
    tried = CACHED._replace(tried=True)
    more = 0.002 * 2000 * (1 + 3) + plan.TRIAL_COST * steps
    assert seconds_needed(COSTS, tried, views=3, passes=5.0) == pytest.approx(expected + more)
    plain = CACHED._replace(cached=False)
    pixels = plan.OVERHEAD_SECONDS + 0.006 * 5000 + 5 * 2000 * (0.004 + 3 * 0.002)
    assert seconds_needed(COSTS, plain, views=0, passes=5.0) == pytest.approx(pixels)


@pytest.mark.parametrize("budget", [90, 110, 130, 200, 500, 5000])
@pytest.mark.parametrize(
    "work", [CACHED, CACHED._replace(tried=True), CACHED._replace(cached=False)]
)
def test_what_fits_fills_the_budget_and_no_more(budget, work):
    found = fitted(budget, COSTS, work, views=4)
    if found is None:
        least = seconds_needed(COSTS, work, views=1 if work.cached else 0, passes=1.0)
        assert least > budget
        return
    views, passes = found
    assert 1 <= views <= 4 if work.cached else views == 0
    assert 1 <= passes <= plan.MOST_PASSES
    taken = seconds_needed(COSTS, work, views=views, passes=passes)
    assert taken <= budget + 1e-6
    if passes < plan.MOST_PASSES:
        assert taken == pytest.approx(budget)


def test_views_are_given_up_before_passes_fall_below_two():
    enough = seconds_needed(COSTS, CACHED, views=4, passes=2.0)
    assert fitted(enough + 1e-6, COSTS, CACHED, views=4)[0] == 4
    views, passes = fitted(enough - 5, COSTS, CACHED, views=4)
    assert views < 4 and passes >= 2


def settings(tmp_path, **changes):
    data = fakes.write_npz(tmp_path / "bars.npz")
    index = load_index(data)
    base = dict(data=data, run_dir=str(tmp_path / "run"), backbone="resnet8", width=4)
    return resolve_for(Config(**base, **changes), index), index


def test_a_budget_sets_steps_warm_up_and_views(tmp_path, monkeypatch):
    config, index = settings(tmp_path, train_from="stage3", cached_views=4, time_budget="1m")
    monkeypatch.setattr(plan, "measured", lambda *_: Costs(trunk=1e-4, top=1e-3))
    found = plan.within_budget(config, index, seconds=60)
    assert found.cached_views == 4
    passes = found.steps * config.images_per_step / len(index.train)
    assert 1 <= passes <= plan.MOST_PASSES and found.warmup_steps == found.steps // 10


def test_too_short_a_time_says_how_long_it_takes(tmp_path, monkeypatch):
    config, index = settings(tmp_path)
    monkeypatch.setattr(plan, "measured", lambda *_: Costs(trunk=0.0, top=10.0))
    with pytest.raises(
        UserError, match="--time_budget=1min0s is too short for .* images: one pass"
    ):
        plan.within_budget(config, index, seconds=60)


def test_a_machine_is_measured_on_a_few_images(tmp_path):
    config, index = settings(tmp_path, train_from="stage3", cached_views=2)
    costs = plan.measured(config, index)
    assert 0 < costs.trunk < 60 and 0 < costs.top < 60
