"""Configuration of the real TensorFlow Serving for an export folder.

Everything lands in `EXPORT/serving/`. Paths inside are those of the container, which mounts the
export folder read-only at /models.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from string import Template

from longtail_tf.exporting.client_examples import client_files
from longtail_tf.files import write_atomically

IMAGE = "tensorflow/serving:2.15.1"
KEPT_VERSIONS = 2  # the newest, and the one before it for a way back; both lie in memory
BATCH_TIMEOUT_MICROS = 2000
MAX_QUEUED_BATCHES = 100
MAX_BATCHES_AT_ONCE = 4

_MODELS = Template("""\
# Read by: tensorflow_model_server --model_config_file=/models/serving/models.config
model_config_list {
  config {
    name: $name
    base_path: $base_path
    model_platform: "tensorflow"
    model_version_policy { specific { $versions } }
$labels
  }
}
""")

_BATCHING = Template("""\
# Read by: tensorflow_model_server --enable_batching --batching_parameters_file=...
# The export holds a warm-up request for every allowed size.
max_batch_size { value: $largest }
batch_timeout_micros { value: $timeout }
max_enqueued_batches { value: $queued }
num_batch_threads { value: $threads }
$sizes
""")

_MONITORING = """\
# Read by: tensorflow_model_server --monitoring_config_file=...; served on the REST port only.
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""

_COMPOSE = Template("""\
# docker compose -f serving/docker-compose.yml up   (in the export folder)
services:
  tensorflow-serving:
    image: $image
    ports:
      - "127.0.0.1:8500:8500"  # gRPC
      - "127.0.0.1:8501:8501"  # REST and metrics
    volumes:
      - ../:/models:ro
    command:
$compose_flags
    restart: unless-stopped
""")

_KUBERNETES = Template("""\
# kubectl apply -f kubernetes.yaml
# Put the export folder on the volume claim first. A hot swap holds the old and the new version in
# memory: the limit leaves room for two.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: $k8s_name
  labels: {app: $k8s_name}
spec:
  replicas: 2
  selector:
    matchLabels: {app: $k8s_name}
  template:
    metadata:
      labels: {app: $k8s_name}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "8501"
        prometheus.io/path: /monitoring/prometheus/metrics
    spec:
      terminationGracePeriodSeconds: 60
      containers:
        - name: tensorflow-serving
          image: $image
          command: [tensorflow_model_server]
          args:
$k8s_flags
          ports:
            - {name: grpc, containerPort: 8500}
            - {name: rest, containerPort: 8501}
          # REST answers 200 before the model is available; the gRPC health service does not
          startupProbe:
            grpc: {port: 8500}
            periodSeconds: 5
            failureThreshold: 60
          readinessProbe:
            grpc: {port: 8500}
            periodSeconds: 5
          resources:
            requests: {cpu: "1", memory: 1Gi}
            limits: {memory: 4Gi}
          volumeMounts:
            - {name: models, mountPath: /models, readOnly: true}
      volumes:
        - name: models
          persistentVolumeClaim: {claimName: $k8s_name, readOnly: true}
---
apiVersion: v1
kind: Service
metadata:
  name: $k8s_name
spec:
  selector: {app: $k8s_name}
  ports:
    - {name: grpc, port: 8500, targetPort: grpc}
    - {name: rest, port: 8501, targetPort: rest}
""")

SERVER_OPTIONS = (
    "--port=8500",
    "--rest_api_port=8501",
    "--model_config_file=/models/serving/models.config",
    "--model_config_file_poll_wait_seconds=10",
    # a version label may be read before its version has loaded
    "--allow_version_labels_for_unavailable_models=true",
    "--enable_batching=true",
    "--batching_parameters_file=/models/serving/batching_parameters.txt",
    "--monitoring_config_file=/models/serving/monitoring.config",
    "--enable_grpc_healthcheck_service=true",
)


def write_server_files(
    export_dir: pathlib.Path,
    *,
    model_name: str,
    versions: Sequence[int],
    batch_sizes: Sequence[int],
    image_size: int,
    channels: int,
) -> list[pathlib.Path]:
    """Writes configuration and client examples into `export_dir/serving`; returns their paths.

    Args:
      export_dir: the folder that holds `model_name/`.
      model_name: name clients ask for.
      versions: published versions, rising; the last KEPT_VERSIONS are served.
      batch_sizes: batch sizes the server may form; those with warm-up requests.
      image_size: side of the network's input, px; used by the examples.
      channels: 1 or 3; used by the examples.
    """
    files = {
        "models.config": models_config(model_name, versions),
        "batching_parameters.txt": batching_parameters(batch_sizes),
        "monitoring.config": _MONITORING,
        "docker-compose.yml": _COMPOSE.substitute(
            image=IMAGE, compose_flags="\n".join(f'      - "{flag}"' for flag in SERVER_OPTIONS)
        ),
        "kubernetes.yaml": _KUBERNETES.substitute(
            image=IMAGE,
            k8s_name=kubernetes_name(model_name),
            k8s_flags="\n".join(f'            - "{flag}"' for flag in SERVER_OPTIONS),
        ),
        **client_files(model_name, image_size=image_size, channels=channels),
    }
    paths = []
    for name, text in files.items():
        paths.append(pathlib.Path(export_dir) / "serving" / name)
        write_atomically(paths[-1], text)
    return paths


def models_config(model_name: str, versions: Sequence[int]) -> str:
    """A ModelServerConfig text proto: the newest versions, labelled stable and previous."""
    served = sorted(versions)[-KEPT_VERSIONS:]
    labels = {"stable": served[-1], **({"previous": served[0]} if len(served) > 1 else {})}
    return _MODELS.substitute(
        name=json.dumps(model_name),
        base_path=json.dumps(f"/models/{model_name}"),
        versions=" ".join(f"versions: {version}" for version in served),
        labels="\n".join(
            f'    version_labels {{ key: "{key}" value: {value} }}' for key, value in labels.items()
        ),
    )


def batching_parameters(batch_sizes: Sequence[int]) -> str:
    """A BatchingParameters text proto."""
    sizes = sorted(set(batch_sizes))
    return _BATCHING.substitute(
        largest=sizes[-1],
        timeout=BATCH_TIMEOUT_MICROS,
        queued=MAX_QUEUED_BATCHES,
        threads=MAX_BATCHES_AT_ONCE,
        sizes="\n".join(f"allowed_batch_sizes: {size}" for size in sizes),
    )


def kubernetes_name(model_name: str) -> str:
    """`model_name` as a DNS label: lower case letters, digits and -, at most 63."""
    name = "".join(c if c.isalnum() and c.isascii() else "-" for c in model_name.lower())
    return ("longtail-" + name)[:63].strip("-")
