"""`python -m longtail_tf.serve` as a process."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2

from longtail_tf import serve
from longtail_tf.errors import UserError
from tests import waiting
from tests.serving_models import (
    close_channels,
    copy_version,
    png,
    predict_request,
    refusal,
    saved_once,
    serving,
    stubs,
)
from tests.waiting import HANG_S, wait_for


@pytest.fixture
def base(tmp_path):
    copy_version(saved_once(), tmp_path / "m", 1)
    return tmp_path / "m"


@contextlib.contextmanager
def _started(*arguments):
    """The process, and the address on which it answers."""
    command = [sys.executable, "-m", "longtail_tf.serve", "--port=0", *arguments]
    with waiting.started(command) as child:
        line = child.wait_until(lambda: child.out.endswith("\n") and child.out)
        match = re.fullmatch(r"serving on (127\.0\.0\.1:\d+)\n", line or "")
        assert match, (line, child.err)
        try:
            yield child, match[1]
        finally:
            close_channels(match[1])


def test_sigterm_drains_and_exits_with_zero(base):
    with _started(f"--model_base_path={base}", "--model_name=m") as (child, address):
        prediction, management, channel = stubs(address)
        prediction.Predict(predict_request(image_bytes=[png((9, 1, 1))]), timeout=HANG_S)
        running = prediction.Predict.future(
            predict_request(signature="slow", x=np.ones(3, "f")), timeout=HANG_S
        )
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "m"
        management.GetModelStatus(status, timeout=HANG_S)  # so the one sent before it has arrived
        child.process.send_signal(signal.SIGTERM)
        response = running.result()  # the request under way is finished
        assert len(response.outputs["y"].float_val) == 3
        done = child.finish()
        assert done.returncode == 0
        assert done.stdout == f"serving on {address}\n"
        assert "draining" in done.stderr
        assert "Traceback" not in done.stderr
        code, _ = refusal(prediction.Predict, predict_request(image_bytes=[b""]))
        assert code == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "neither of --model_base_path and --model_config_file were given"),
        (["--model_base_path=/nope"], "base path '/nope' of model 'default' is not a folder"),
        (["--model_base_path=/nope", "--prt=1"], "there is no flag --prt: did you mean --port"),
    ],
)
def test_bad_settings_exit_with_two_and_a_sentence(arguments, text):
    done = subprocess.run(
        [sys.executable, "-m", "longtail_tf.serve", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_help_imports_neither_tensorflow_nor_grpc():
    code = (
        "import sys\nfrom longtail_tf import serve\nsys.argv = ['serve', '--help']\n"
        "serve.main()\nprint(sorted({'tensorflow', 'grpc'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--model_base_path" in done.stdout
    assert "127.0.0.1" in done.stdout
    assert done.stderr.strip().endswith("[]")


def test_a_taken_port_is_a_sentence(base):
    with serving(model_base_path=str(base), model_name="m") as running:
        port = running.address.rsplit(":", 1)[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}: another program"):
            serve.start(serve.ServeConfig(model_base_path=str(base), port=int(port)))


def test_a_missing_extra_is_a_sentence(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(UserError, match=r"pip install 'longtail_tf\[serving\]'"):
        serve.start(serve.ServeConfig(model_base_path=str(base)))


def test_both_ways_to_name_models_are_refused(base):
    config = serve.ServeConfig(model_base_path=str(base), model_config_file="x")
    with pytest.raises(UserError, match="both of --model_base_path and --model_config_file"):
        serve.start(config)


def test_batching_parameters_without_batching_are_refused(base):
    config = serve.ServeConfig(
        model_base_path=str(base), enable_batching=False, batching_parameters_file="x"
    )
    with pytest.raises(UserError, match="--batching_parameters_file was given with --enable_batch"):
        serve.start(config)


def _config(base, *labels, number=1):
    text = f'config {{ name: "m{number}" base_path: "{base}" model_platform: "tensorflow" '
    for label, version in labels:
        text += f'version_labels {{ key: "{label}" value: {version} }} '
    return text + "}"


def test_a_label_that_cannot_be_served_stops_the_start(base, tmp_path):
    path = tmp_path / "models.config"
    path.write_text(f"model_config_list {{ {_config(base, ('stable', 9))} }}")
    with pytest.raises(UserError, match="version 9 of model m1.*correct the version_labels in"):
        serve.start(serve.ServeConfig(model_config_file=str(path), port=0))


def test_the_config_file_is_followed(base, tmp_path):
    path = tmp_path / "models.config"
    path.write_text(f"model_config_list {{ {_config(base)} }}")
    with serving(model_config_file=str(path), model_config_file_poll_wait_seconds=0.05) as running:
        prediction, management, channel = stubs(running.address)
        ask = predict_request("m1", image_bytes=[png((9, 1, 1))])
        prediction.Predict(ask, timeout=HANG_S)
        path.write_text("half a fi")
        time.sleep(0.2)  # several looks at a broken file change nothing
        prediction.Predict(ask, timeout=HANG_S)
        path.write_text(f"model_config_list {{ {_config(base, ('stable', 1), number=2)} }}")
        labelled = predict_request("m2", image_bytes=[png((9, 1, 1))])
        labelled.model_spec.version_label = "stable"

        def answers():
            try:
                return prediction.Predict(labelled, timeout=HANG_S)
            except grpc.RpcError:
                return None

        assert wait_for(answers).model_spec.version.value == 1
        wait_for(lambda: refusal_code(prediction, ask) == "NOT_FOUND")
        channel.close()


def refusal_code(prediction, request):
    try:
        prediction.Predict(request, timeout=HANG_S)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def test_reload_requests_are_done_or_refused(base):
    with serving(model_base_path=str(base), model_name="m") as running:
        prediction, management, channel = stubs(running.address)
        request = model_management_pb2.ReloadConfigRequest()
        assert refusal(management.HandleReloadConfigRequest, request) == (
            "INVALID_ARGUMENT",
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
            "ModelConfigList is currently supported",
        )
        entry = request.config.model_config_list.config.add()
        entry.name, entry.base_path, entry.model_platform = "n", str(base), "tensorflow"
        entry.version_labels["stable"] = 3
        code, message = refusal(management.HandleReloadConfigRequest, request, timeout=HANG_S)
        assert code == "FAILED_PRECONDITION"
        assert message == (
            "Request to assign label to version 3 of model n, which is not currently available "
            "for inference"
        )
        entry.version_labels["stable"] = 1
        answer = management.HandleReloadConfigRequest(request, timeout=HANG_S)
        assert answer.status.error_code == 0
        ask = predict_request("n", image_bytes=[png((9, 1, 1))])
        ask.model_spec.version_label = "stable"
        prediction.Predict(ask, timeout=HANG_S)
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "m"  # it was served before: it has ended
        (ended,) = management.GetModelStatus(status, timeout=HANG_S).model_version_status
        assert ended.state == 50
        channel.close()


def test_it_listens_on_this_machine_only(base):
    with serving(model_base_path=str(base), model_name="m") as running:
        assert running.address.startswith("127.0.0.1:")
