"""A running server under bad clients, bad requests and changing folders: it answers, and lives."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import sys
import threading

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from tests import waiting
from tests.serving_models import (
    copy_version,
    png,
    predict_request,
    refusal,
    saved_once,
    serving,
    stubs,
)
from tests.waiting import HANG_S, wait_for

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GOOD = predict_request(image_bytes=[png((200, 1, 1))])
# What a request that a client got wrong may be answered with. INTERNAL: bytes that are no message,
# as the C++ server answers them.
CLIENT_FAULTS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "INTERNAL"}


@pytest.fixture
def base(tmp_path):
    copy_version(saved_once(), tmp_path / "m", 1)
    return tmp_path / "m"


def _outcome(call, *args, **kwargs):
    try:
        return "OK", call(*args, **kwargs)
    except grpc.RpcError as error:
        return error.code().name, error.details()


def mutated_request(rng) -> bytes:
    """A request broken in one of the ways clients break them."""
    request = predict_pb2.PredictRequest.FromString(GOOD.SerializeToString())
    tensor = request.inputs["image_bytes"]
    kind = rng.integers(9)
    if kind == 0:  # bytes flipped anywhere
        raw = bytearray(request.SerializeToString())
        for place in rng.integers(0, len(raw), rng.integers(1, 8)):
            raw[place] = rng.integers(256)
        return bytes(raw)
    if kind == 1:  # cut
        raw = request.SerializeToString()
        return raw[: rng.integers(len(raw))]
    if kind == 2:  # noise
        return rng.bytes(int(rng.integers(1, 300)))
    if kind == 3:  # another dtype
        tensor.dtype = int(rng.integers(0, 30))
    elif kind == 4:  # a shape that is not there
        for size in rng.choice([0, 1, -1, 3, 2**31, 2**62], rng.integers(1, 5)):
            tensor.tensor_shape.dim.add(size=int(size))
    elif kind == 5:  # a truncated image
        tensor.string_val[0] = tensor.string_val[0][: rng.integers(len(tensor.string_val[0]))]
    elif kind == 6:  # names
        name = rng.bytes(int(rng.integers(0, 12))).decode("latin1")
        request.model_spec.signature_name = name
        request.model_spec.version.value = int(rng.integers(0, 3))
    elif kind == 7:  # content that does not fit
        tensor.tensor_content = rng.bytes(int(rng.integers(1, 40)))
    else:  # inputs and outputs that do not exist
        request.inputs[rng.bytes(3).hex()].CopyFrom(tensor)
        request.output_filter.append(rng.bytes(2).hex())
    return request.SerializeToString()


@pytest.mark.parametrize("seed", range(3))
def test_hundreds_of_malformed_requests_get_the_right_code(base, seed):
    rng = np.random.default_rng(seed)
    with serving(model_base_path=str(base), model_name="m") as running:
        prediction, _, channel = stubs(running.address)
        raw_call = channel.unary_unary(PREDICT)
        expected = prediction.Predict(GOOD, timeout=HANG_S)
        outcomes = {}
        for _ in range(200):
            raw = mutated_request(rng)
            code, details = _outcome(raw_call, raw, timeout=HANG_S)
            outcomes[code] = outcomes.get(code, 0) + 1
            assert code in CLIENT_FAULTS | {"OK"}, (code, details, raw)
            if code == "INTERNAL":
                assert details == "the request is not a tensorflow.serving.PredictRequest"
        assert outcomes["INVALID_ARGUMENT"] > 40
        assert prediction.Predict(GOOD, timeout=HANG_S) == expected
        channel.close()


@pytest.mark.parametrize(
    "method",
    [
        "PredictionService/Predict",
        "PredictionService/Classify",
        "PredictionService/Regress",
        "PredictionService/MultiInference",
        "PredictionService/GetModelMetadata",
        "ModelService/GetModelStatus",
        "ModelService/HandleReloadConfigRequest",
    ],
)
def test_bytes_that_are_no_message_are_internal_on_every_method(base, method):
    with serving(model_base_path=str(base), model_name="m") as running:
        _, _, channel = stubs(running.address)
        call = channel.unary_unary(f"/tensorflow.serving.{method}")
        code, details = _outcome(call, b"\xff\xff\xff\xff", timeout=HANG_S)
        channel.close()
    assert code == "INTERNAL"
    assert details.startswith("the request is not a tensorflow.serving.")


def test_an_unknown_method_is_unimplemented(base):
    with serving(model_base_path=str(base), model_name="m") as running:
        _, _, channel = stubs(running.address)
        call = channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
        assert _outcome(call, b"", timeout=HANG_S)[0] == "UNIMPLEMENTED"
        channel.close()


def test_no_request_fails_while_versions_are_swapped(base):
    with serving(model_base_path=str(base), model_name="m") as running:
        prediction, _, channel = stubs(running.address)
        stop, outcomes = threading.Event(), []

        def ask():
            while not stop.is_set():
                code, answer = _outcome(prediction.Predict, GOOD, timeout=HANG_S)
                outcomes.append((code, answer.model_spec.version.value if code == "OK" else answer))

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            try:
                for number in (2, 3, 4):
                    copy_version(saved_once(), base, number)
                    wait_for(lambda number=number: outcomes and outcomes[-1][1] == number)
            finally:
                stop.set()
            concurrent.futures.wait(asking)
        channel.close()
    assert {code for code, _ in outcomes} == {"OK"}
    assert {version for _, version in outcomes} == {1, 2, 3, 4}


def test_a_model_removed_while_serving_is_not_found_and_comes_back(base):
    with serving(model_base_path=str(base), model_name="m") as running:
        prediction, _, channel = stubs(running.address)
        prediction.Predict(GOOD, timeout=HANG_S)
        shutil.rmtree(base / "1")

        def refused():
            code, details = _outcome(prediction.Predict, GOOD, timeout=HANG_S)
            return None if code == "OK" else (code, details)

        told = "Servable not found for request: Latest(m)"
        assert wait_for(refused) == ("NOT_FOUND", told)
        copy_version(saved_once(), base, 2)
        wait_for(lambda: _outcome(prediction.Predict, GOOD, timeout=HANG_S)[0] == "OK")
        channel.close()


def test_a_corrupt_version_is_reported_and_the_old_one_serves(base):
    with serving(model_base_path=str(base), model_name="m") as running:
        prediction, management, channel = stubs(running.address)
        os.mkdir(base / "2")
        (base / "2" / "saved_model.pb").write_bytes(b"not a model")
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "m"

        def newest():
            return management.GetModelStatus(request, timeout=HANG_S).model_version_status[0]

        wait_for(lambda: newest().version == 2 and newest().state == 50)
        assert newest().status.error_code == 15  # DATA_LOSS
        assert "cannot be loaded" in newest().status.error_message
        assert prediction.Predict(GOOD, timeout=HANG_S).model_spec.version.value == 1
        channel.close()


KILLED_CLIENT = """
import sys
import grpc
channel = grpc.insecure_channel(sys.argv[1])
call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
pending = call.future(sys.stdin.buffer.read())
print("sent", flush=True)
pending.result()
"""


def test_a_killed_client_does_not_matter(base):
    with serving(model_base_path=str(base), model_name="m") as running:
        prediction, _, channel = stubs(running.address)
        slow = predict_request(signature="slow", x=np.ones(1, "f")).SerializeToString()
        for _ in range(2):
            command = [sys.executable, "-c", KILLED_CLIENT, running.address]
            with waiting.started(command, stdin=slow) as client:
                assert client.wait_until(lambda: client.out == "sent\n"), client.err
        assert prediction.Predict(GOOD, timeout=HANG_S).outputs["labels"].string_val[0] == b"red"
        channel.close()


def test_a_decompression_bomb_is_refused_or_answered_but_harms_nobody(base):
    """36 million pixels in 40 kB; the cap on pixels itself is in the exported graph."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (6000, 6000)).save(buffer, "PNG")
    with serving(model_base_path=str(base), model_name="m") as running:
        prediction, _, channel = stubs(running.address)
        bomb = predict_request(image_bytes=[buffer.getvalue()])
        code, _ = _outcome(prediction.Predict, bomb, timeout=0.5)
        assert code in ("OK", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT")
        assert prediction.Predict(GOOD, timeout=HANG_S).outputs["labels"].string_val[0] == b"red"
        channel.close()


def test_memory_does_not_grow_with_requests_and_swaps(base):
    psutil = pytest.importorskip("psutil", reason="reads this process's memory")
    me = psutil.Process()
    with serving(model_base_path=str(base), model_name="m") as running:
        _, _, channel = stubs(running.address)
        raw_call = channel.unary_unary(PREDICT)
        rng = np.random.default_rng(0)

        def work(number):
            for _ in range(150):
                _outcome(raw_call, GOOD.SerializeToString(), timeout=HANG_S)
                _outcome(raw_call, mutated_request(rng), timeout=HANG_S)
            copy_version(saved_once(), base, number)
            wait_for(lambda: list(running.store._serving["m"]) == [number])

        for number in (2, 3):
            work(number)
        before = me.memory_info().rss
        for number in (4, 5, 6):
            work(number)
        grown = me.memory_info().rss - before
        channel.close()
    assert grown < 40 * 2**20, f"{grown / 2**20:.1f} MiB more after 3 swaps and 900 requests"


def test_a_stopped_server_is_unavailable(base):
    with serving(model_base_path=str(base), model_name="m") as running:
        prediction, _, _ = stubs(running.address)
        prediction.Predict(GOOD, timeout=HANG_S)
    prediction, _, channel = stubs(running.address)
    with channel:
        assert refusal(prediction.Predict, GOOD)[0] == "UNAVAILABLE"
