"""The queue, with models that are plain functions held back by events: no timing is assumed."""

from __future__ import annotations

import threading
import time
from concurrent import futures

import numpy as np
import pytest

from longtail_tf.errors import UserError
from longtail_tf.serving.batching import BatchQueue
from longtail_tf.serving.batching_parameters import BatchingParameters, read_batching_parameters
from longtail_tf.serving.status import Code, ServingError
from tests.waiting import HANG_S, wait_for


class Doubler:
    """y = 2x; records batch sizes; waits for `go`; refuses negative numbers."""

    def __init__(self):
        self.sizes, self.go, self.entered = [], threading.Event(), threading.Semaphore(0)

    def __call__(self, key, arrays):
        self.entered.release()
        assert self.go.wait(HANG_S)
        self.sizes.append(len(arrays["x"]))
        if (arrays["x"] < 0).any():
            raise ServingError(Code.INVALID_ARGUMENT, "negative")
        return {"y": 2 * arrays["x"], "key": np.array([key] * len(arrays["x"]), object)}


@pytest.fixture
def pool():
    with futures.ThreadPoolExecutor(64) as executor:
        yield executor


@pytest.fixture
def queue_of(pool):
    """Makes queues that close after the test, before the pool waits for whom they keep waiting."""
    made = []

    def make(run, **parameters):
        settings = {"num_batch_threads": 1, "max_batch_size": 4, "max_enqueued_batches": 100}
        queue = BatchQueue(run, BatchingParameters(**{**settings, **parameters}), name="test")
        made.append((run, queue))
        return queue

    yield make
    for run, queue in made:
        if isinstance(run, Doubler):
            run.go.set()
        queue.close()


def _fill(queue, pool, requests, run, key="k"):
    """Submits one request that occupies the thread, then `requests`, in order, waiting."""
    first = pool.submit(queue.submit, "first", {"x": np.zeros(1)})
    assert run.entered.acquire(timeout=HANG_S)
    submitted = []
    for request in requests:
        before = queue._waiting_rows
        last = pool.submit(queue.submit, key, {"x": np.asarray(request, float)})
        submitted.append(last)
        wait_for(lambda n=before, last=last: queue._waiting_rows != n or last.done())
    return first, submitted


def test_what_waits_is_merged_and_each_gets_its_own_rows(queue_of, pool):
    run = Doubler()
    queue = queue_of(run)
    first, submitted = _fill(queue, pool, [[1], [2, 3], [4], [5], [6, 7, 8]], run)
    run.go.set()
    answers = [request.result(HANG_S)["y"].tolist() for request in submitted]
    assert answers == [[2], [4, 6], [8], [10], [12, 14, 16]]
    assert run.sizes == [1, 4, 4]  # never more than max_batch_size, requests never torn


def test_only_equal_signatures_dtypes_and_shapes_are_merged(queue_of, pool):
    run = Doubler()
    queue = queue_of(run, max_batch_size=100)
    first, submitted = _fill(queue, pool, [[[1.0, 2.0]], [[1.0, 2.0]], [[1.0]]], run)
    other = pool.submit(queue.submit, "other", {"x": np.ones((1, 2))})
    small = pool.submit(queue.submit, "k", {"x": np.ones((1, 2), np.float32)})
    run.go.set()
    for request in [*submitted, other, small]:
        request.result(HANG_S)
    assert sorted(run.sizes) == [1, 1, 1, 1, 2]
    assert set(other.result()["key"]) == {"other"}
    assert small.result()["y"].dtype == np.float32


def test_a_bad_member_fails_alone(queue_of, pool):
    run = Doubler()
    queue = queue_of(run)
    first, submitted = _fill(queue, pool, [[1], [-1], [3]], run)
    run.go.set()
    assert submitted[0].result(HANG_S)["y"].tolist() == [2]
    assert submitted[2].result(HANG_S)["y"].tolist() == [6]
    with pytest.raises(ServingError, match="negative") as caught:
        submitted[1].result(HANG_S)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert run.sizes == [1, 3, 1, 1, 1]


def test_a_full_queue_refuses_with_resource_exhausted(queue_of, pool):
    run = Doubler()
    queue = queue_of(run, max_enqueued_batches=2)  # 8 examples may wait
    first, submitted = _fill(queue, pool, [[1, 1, 1, 1], [2, 2, 2, 2]], run)
    with pytest.raises(ServingError, match="queue .* is full; task size is 1") as caught:
        queue.submit("k", {"x": np.zeros(1)})
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    run.go.set()
    assert submitted[1].result(HANG_S)["y"].tolist() == [4] * 4


def test_a_request_larger_than_a_batch_runs_in_pieces(queue_of):
    run = Doubler()
    run.go.set()
    queue = queue_of(run, max_enqueued_batches=1)
    answer = queue.submit("k", {"x": np.arange(10.0)})
    assert answer["y"].tolist() == [2.0 * i for i in range(10)]
    assert run.sizes == [4, 4, 2]


def test_batches_are_padded_to_allowed_sizes_and_cut_again(queue_of, pool):
    run = Doubler()
    run.go.set()
    queue = queue_of(run, max_batch_size=8, allowed_batch_sizes=(1, 4, 8))
    for rows in (1, 2, 4, 5, 8):
        assert len(queue.submit("k", {"x": np.ones(rows)})["y"]) == rows
    assert run.sizes == [1, 4, 4, 8, 8]


def test_a_passed_deadline_is_answered_at_once_and_never_run(queue_of, pool):
    run = Doubler()
    queue = queue_of(run)
    first, _ = _fill(queue, pool, [], run)
    with pytest.raises(ServingError, match="Deadline") as caught:
        queue.submit("k", {"x": np.ones(1)}, deadline=time.monotonic() + 0.05)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    run.go.set()
    first.result(HANG_S)
    queue.close()
    assert run.sizes == [1]


def test_a_cancelled_request_is_never_run(queue_of, pool):
    run = Doubler()
    queue = queue_of(run)
    first, _ = _fill(queue, pool, [], run)
    gone = pool.submit(queue.submit, "k", {"x": np.ones(1)}, cancelled=lambda: True)
    wait_for(lambda: queue._waiting_rows)
    run.go.set()
    with pytest.raises(ServingError, match="cancelled") as caught:
        gone.result(HANG_S)
    assert caught.value.code == Code.CANCELLED
    assert run.sizes == [1]


def test_an_idle_thread_waits_batch_timeout_for_company(queue_of, pool):
    run = Doubler()
    run.go.set()
    queue = queue_of(run, batch_timeout_micros=3_600_000_000)
    submitted = [pool.submit(queue.submit, "k", {"x": np.ones(1)}) for _ in range(4)]
    for request in submitted:
        request.result(HANG_S)  # a full batch does not wait for the timeout
    assert run.sizes == [4]


def test_close_finishes_what_waits_and_refuses_what_comes(queue_of, pool):
    run = Doubler()
    queue = queue_of(run, batch_timeout_micros=3_600_000_000)
    waiting = pool.submit(queue.submit, "k", {"x": np.ones(1)})
    wait_for(lambda: queue._waiting_rows)
    run.go.set()
    queue.close()
    assert waiting.result(HANG_S)["y"].tolist() == [2]
    with pytest.raises(ServingError, match="being unloaded"):
        queue.submit("k", {"x": np.ones(1)})


def test_a_defect_answers_everybody_and_the_thread_lives_on(queue_of):
    def run(key, arrays):
        if key == "broken":
            raise ZeroDivisionError("a defect")
        return {"y": arrays["x"]}

    queue = queue_of(run)
    with pytest.raises(ServingError, match="a defect") as caught:
        queue.submit("broken", {"x": np.ones(1)})
    assert caught.value.code == Code.INTERNAL
    assert queue.submit("k", {"x": np.ones(1)})["y"].tolist() == [1]


def test_outputs_without_a_row_for_each_example_are_refused(queue_of):
    queue = queue_of(lambda key, arrays: {"y": np.ones(3)})
    with pytest.raises(ServingError, match='output "y" of a batch of 2 has shape') as caught:
        queue.submit("k", {"x": np.ones(2)})
    assert caught.value.code == Code.FAILED_PRECONDITION


@pytest.mark.parametrize("threads", [1, 3])
def test_many_threads_get_exactly_their_own_answers(queue_of, pool, threads, rng):
    queue = queue_of(
        lambda key, arrays: {"y": arrays["x"] + key},
        num_batch_threads=threads, max_batch_size=16, allowed_batch_sizes=(4, 16),
    )  # fmt: skip
    requests = [(int(rng.integers(3)), rng.normal(size=rng.integers(1, 20))) for _ in range(300)]
    answers = pool.map(lambda r: queue.submit(r[0], {"x": r[1]})["y"], requests)
    for (key, x), answer in zip(requests, answers):
        np.testing.assert_array_equal(answer, x + key)


GOOD = """
# as in TensorFlow Serving's guide
max_batch_size { value: 16 }
batch_timeout_micros: { value: 500 }
max_enqueued_batches { value: 3 }
num_batch_threads { value: 2 }
allowed_batch_sizes: 1
allowed_batch_sizes : 16
"""


def test_batching_parameters_are_read_as_the_real_server_writes_them(tmp_path):
    path = tmp_path / "batching_parameters.txt"
    path.write_text(GOOD)
    assert read_batching_parameters(str(path)) == BatchingParameters(
        max_batch_size=16,
        batch_timeout_micros=500,
        max_enqueued_batches=3,
        num_batch_threads=2,
        allowed_batch_sizes=(1, 16),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_batch_size { value: ten }", "has 'max_batch_size', which this server does not know"),
        ("max_bath_size { value: 10 }", "has 'max_bath_size'.*it takes lines like"),
        ("allowed_batch_sizes: 8", "must rise and end with max_batch_size"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: 4 allowed_batch_sizes: 2", "must rise"),
        ("max_batch_size { value: 0 }", "has a zero where at least 1 is needed"),
    ],
)
def test_bad_batching_parameters_are_refused(tmp_path, text, reason):
    path = tmp_path / "batching_parameters.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=reason):
        read_batching_parameters(str(path))


def test_a_missing_batching_parameters_file_is_named():
    with pytest.raises(UserError, match="--batching_parameters_file=/no/file cannot be read"):
        read_batching_parameters("/no/file")
