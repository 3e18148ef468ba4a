"""Children of tests: waited for while they work, ended when they hang, never left behind."""

from __future__ import annotations

import sys

import psutil
import pytest

from tests import waiting


def python(code):
    return [sys.executable, "-c", code]


def test_a_child_gives_its_output_and_its_end():
    code = "import sys; print(sys.stdin.read()); print('why', file=sys.stderr); sys.exit(3)"
    done = waiting.run(python(code), stdin=b"said")
    assert (done.stdout, done.stderr, done.returncode) == ("said\n", "why\n", 3)


@pytest.mark.parametrize(
    "step", ["print(i, flush=True); time.sleep(0.2)", "n = sum(range(10**6))"], ids=["out", "cpu"]
)
def test_a_slow_child_is_waited_for_as_long_as_it_works(step):
    code = f"import time\nend = time.monotonic() + 3\ni = 0\nwhile time.monotonic() < end: {step}"
    assert waiting.run(python(code), hang_s=2).returncode == 0


def test_a_child_that_hangs_is_told_with_what_it_said():
    code = "import time; print('so far', flush=True); time.sleep(1000)"
    with pytest.raises(TimeoutError, match="hangs: 1 s without progress(.*\n)*so far"):
        waiting.run(python(code), hang_s=1)


def test_a_child_that_runs_in_circles_is_ended(monkeypatch):
    monkeypatch.setattr(waiting, "_MOST_CPU_S", 0.5)
    with pytest.raises(TimeoutError, match="s of processor time in all"):
        waiting.run(python("while True: pass"), hang_s=10)


def test_waiting_ends_with_the_process():
    with waiting.started(python("print('last word')")) as child:
        assert child.wait_until(lambda: "never said" in child.out) is None
        assert child.wait_until(lambda: child.out == "last word\n") is True


def test_a_child_and_its_own_children_go_whatever_happens():
    code = (
        "import subprocess, sys, time\n"
        "below = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        "print(below.pid, flush=True); time.sleep(1000)"
    )
    with pytest.raises(RuntimeError, match="a failing test"):
        with waiting.started(python(code)) as child:
            below = psutil.Process(int(child.wait_until(lambda: child.out.strip())))
            raise RuntimeError("a failing test")
    assert child.process.returncode == -9
    waiting.wait_for(lambda: not below.is_running() or below.status() == psutil.STATUS_ZOMBIE)


def test_a_condition_that_stays_false_is_told():
    with pytest.raises(TimeoutError, match="stayed false for 0.1 s"):
        waiting.wait_for(lambda: 0, hang_s=0.1)
    assert waiting.wait_for(lambda: "found") == "found"
