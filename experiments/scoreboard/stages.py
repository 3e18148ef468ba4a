"""CPU seconds and peak memory of each stage of one training: the flags are longtail_tf.train's.

    python experiments/scoreboard/stages.py --data=folder:photos --run_dir=runs/photos

Prints a line a stage and writes RUN_DIR/stages.json. A stage does not count what it calls another
one for: the trials do not hold the filling of the cache. Peak memory is the resident set's, pages
of a memory-mapped cache included; Linux only.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from longtail_tf.config import Config
from longtail_tf.files import write_json
from longtail_tf.settings import cli

OTHER = "start-up and the rest"
_STATUS, _CLEAR = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


class Stages:
    """CPU seconds and peak memory by stage; stages may call each other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {OTHER: 0.0}
        self.peak_megabytes: dict[str, int] = {OTHER: 0}
        self._running = [OTHER]
        self._since = 0.0  # the imports count
        _CLEAR.write_text("5")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs inside is `name`'s."""
        self.turn()
        self._running.append(name)
        try:
            yield
        finally:
            self.turn()
            self._running.pop()

    def turn(self) -> None:
        """Gives the time since the last turn, and the peak, to the stage that ran."""
        name, now = self._running[-1], time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
        lines = _STATUS.read_text().splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        self.peak_megabytes[name] = max(self.peak_megabytes.get(name, 0), peak // 1024)
        _CLEAR.write_text("5")  # the peak begins anew

    def timing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its time given to `name`."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return timed


def run(config: Config) -> dict[str, Any]:
    """Trains as longtail_tf.train does; returns what stages.json holds."""
    from longtail_tf import report, train
    from longtail_tf.runs import evaluation
    from longtail_tf.training import choice, finish, loop, plan, start

    stages = Stages()
    for module, function, name in (
        (plan, "within_budget", "measuring the machine"),
        (start, "cached_outputs", "cache"),
        (choice, "decided", "trials"),
        (loop, "fit", "training"),
        (finish, "finished_run", "fitting the rules"),
        (evaluation, "evaluate_test", "evaluation"),
        (report, "write_report", "report"),
    ):
        setattr(module, function, stages.timing(name, getattr(module, function)))
    done = train.run(config)
    stages.turn()
    for name, seconds in stages.seconds.items():
        print(f"{name:<24}{seconds:8.1f} CPU s{stages.peak_megabytes[name]:8,} MB at most")
    print(f"{'all':<24}{sum(stages.seconds.values()):8.1f} CPU s")
    content = {
        "cpu_seconds": {name: round(seconds, 1) for name, seconds in stages.seconds.items()},
        "peak_megabytes": stages.peak_megabytes,
    }
    write_json(done.run_dir / "stages.json", content)
    return content


if __name__ == "__main__":
    cli.launch(run, Config, __doc__)
