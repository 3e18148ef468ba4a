"""Server configuration that the real server's own message types read, and examples that parse."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess

import pytest
from google.protobuf import text_format

from longtail_tf.exporting import server_files

NAME = "clothes_v2"


@pytest.fixture
def folder(tmp_path):
    server_files.write_server_files(
        tmp_path, model_name=NAME, versions=[1, 2, 5], batch_sizes=(8, 1, 8), image_size=48,
        channels=3,
    )  # fmt: skip
    return tmp_path / "serving"


def test_models_config_serves_the_last_two_versions_with_labels(folder):
    config_pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    config = config_pb2.ModelServerConfig()
    text_format.Parse((folder / "models.config").read_text(), config)
    [model] = config.model_config_list.config
    assert (model.name, model.base_path) == (NAME, f"/models/{NAME}")
    assert model.model_platform == "tensorflow"
    assert list(model.model_version_policy.specific.versions) == [2, 5]
    assert dict(model.version_labels) == {"stable": 5, "previous": 2}


def test_one_version_has_one_label():
    config_pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    config = config_pb2.ModelServerConfig()
    text_format.Parse(server_files.models_config("m", [3]), config)
    assert dict(config.model_config_list.config[0].version_labels) == {"stable": 3}


def test_batching_parameters_allow_the_warmed_sizes(folder):
    text = (folder / "batching_parameters.txt").read_text()
    values = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert values == [
        "max_batch_size { value: 8 }",
        "batch_timeout_micros { value: 2000 }",
        "max_enqueued_batches { value: 100 }",
        "num_batch_threads { value: 4 }",
        "allowed_batch_sizes: 1",
        "allowed_batch_sizes: 8",
    ]


def test_monitoring_config_has_one_open_path(folder):
    text = (folder / "monitoring.config").read_text()
    assert text.count("{") == text.count("}") == 1
    assert 'path: "/monitoring/prometheus/metrics"' in text


def test_compose_and_kubernetes_start_the_server_with_the_files(folder):
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load((folder / "docker-compose.yml").read_text())
    service = compose["services"]["tensorflow-serving"]
    assert service["command"] == list(server_files.SERVER_OPTIONS)
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["volumes"] == ["../:/models:ro"]
    deployment, k8s_service = yaml.safe_load_all((folder / "kubernetes.yaml").read_text())
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"] == list(server_files.SERVER_OPTIONS)
    assert container["image"] == service["image"]
    assert container["readinessProbe"]["grpc"]["port"] == 8500
    assert deployment["metadata"]["name"] == "longtail-clothes-v2"
    selector = k8s_service["spec"]["selector"]
    assert selector == deployment["spec"]["template"]["metadata"]["labels"]
    for flag in server_files.SERVER_OPTIONS:
        if "/models/serving/" in flag:
            assert (folder / flag.rsplit("/", 1)[1]).is_file()


@pytest.mark.parametrize(
    "name, expected", [("A_b.C", "longtail-a-b-c"), ("x" * 90, "longtail-" + "x" * 54)]
)
def test_kubernetes_names_are_dns_labels(name, expected):
    assert server_files.kubernetes_name(name) == expected


def test_the_python_example_compiles_and_imports_only_what_it_names(folder):
    text = (folder / "clients" / "predict.py").read_text()
    compile(text, "predict.py", "exec")
    assert f'model_spec.name = "{NAME}"' in text
    if importlib.util.find_spec("tensorflow_serving"):
        namespace = {"__name__": "example"}
        exec(text, namespace)  # noqa: S102
        assert callable(namespace["main"])


@pytest.mark.parametrize("script", ["predict_rest.sh", "predict_grpcurl.sh"])
def test_shell_examples_send_the_image(folder, script, tmp_path):
    for tool in ("sh", "base64"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("curl", "grpcurl"):  # a stand-in that shows what it was given
        (tools / tool).write_text('#!/bin/sh\necho "$@"\ncat\n')
        (tools / tool).chmod(0o755)
    (tmp_path / "image.jpg").write_bytes(b"\xff\xd8\xff" * 100)
    done = subprocess.run(
        ["sh", str(folder / "clients" / script), str(tmp_path / "image.jpg")],
        env={"PATH": f"{tools}:/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "/9j/" in done.stdout
    assert NAME in done.stdout
    body = done.stdout[done.stdout.index("{") :]
    assert "\n/" not in body  # base64 in one line
    import json

    assert json.loads(body)
