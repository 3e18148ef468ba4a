"""No call runs into the interpreter's shutdown."""

from __future__ import annotations

import threading
import time

import pytest

from longtail_tf.images import exit_guard


@pytest.fixture
def calls(monkeypatch):
    calls = exit_guard._Calls()
    monkeypatch.setattr(exit_guard, "_calls", calls)
    return calls


def test_calls_pass_until_the_exit_and_give_the_substitute_after(calls):
    guarded = exit_guard.until_exit(lambda x: x + 1, afterwards="nothing")
    assert guarded(1) == 2
    calls.finish()
    assert guarded(1) == "nothing"


def test_the_exit_waits_for_a_call_under_way(calls):
    begun, ended = threading.Event(), []

    def slow():
        begun.set()
        time.sleep(0.3)
        ended.append(True)

    thread = threading.Thread(target=exit_guard.until_exit(slow, afterwards=None))
    thread.start()
    begun.wait()
    calls.finish()
    assert ended
    thread.join()


def test_a_failed_call_is_not_waited_for(calls):
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        exit_guard.until_exit(fail, afterwards=None)()
    start = time.monotonic()
    calls.finish()
    assert calls.exiting and time.monotonic() - start < exit_guard._PATIENCE_S / 2


def test_a_call_that_never_ends_is_given_up(calls, monkeypatch):
    monkeypatch.setattr(exit_guard, "_PATIENCE_S", 0.2)
    with calls:
        calls.finish()
