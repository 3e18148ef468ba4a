"""Serve exported models over gRPC, as TensorFlow Serving does: same protocol, clients and files.

    python -m longtail_tf.serve --model_base_path=RUN/export/flowers --model_name=flowers

For development, tests and small use, on one machine. In production the real
`tensorflow_model_server` takes the same export folder, models.config and batching parameters, and
nothing changes for the client. Stops cleanly on SIGTERM. Needs the extra:
`pip install 'longtail_tf[serving]'`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import signal
import threading
from typing import TYPE_CHECKING

from absl import logging

from longtail_tf.errors import UserError
from longtail_tf.settings import cli, setting

if TYPE_CHECKING:
    from longtail_tf.serving.batching_parameters import BatchingParameters
    from longtail_tf.serving.model_config import ModelConfig
    from longtail_tf.serving.server import Server


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Settings of the server; the names are those of tensorflow_model_server where it has them."""

    model_base_path: str = setting("", "Folder that holds the version folders (1, 2, ...).")
    model_name: str = setting("default", "Name that clients ask for, with --model_base_path.")
    model_config_file: str = setting(
        "", "Several models, version policies and labels: a models.config text file."
    )
    model_config_file_poll_wait_seconds: float = setting(
        0.0, "How often the config file is read again; 0 never.", unit="s"
    )
    allow_version_labels_for_unavailable_models: bool = setting(
        False, "Let a version label name a version that is not loaded (yet)."
    )
    host: str = setting("127.0.0.1", "Interface to listen on; 0.0.0.0 lets other machines in.")
    port: int = setting(8500, "gRPC port; 0 lets the system choose, the line printed tells which.")
    file_system_poll_wait_seconds: float = setting(
        1.0, "How often the model folders are looked at for new versions; 0 never.", unit="s"
    )
    enable_batching: bool = setting(True, "Merge requests that wait while the model runs.")
    batching_parameters_file: str = setting(
        "", "Batch and queue sizes: the export's batching_parameters.txt."
    )
    max_message_bytes: int = setting(2**31 - 1, "Largest request.", unit="bytes")
    drain_seconds: float = setting(
        30.0, "How long requests that run may take to finish after SIGTERM.", unit="s"
    )


def run(config: ServeConfig) -> None:
    """Serves until SIGTERM or Ctrl-C, then drains."""
    server = start(config)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(f"serving on {server.address}", flush=True)
    while not stop.wait(3600.0):  # a wait without a limit could not be interrupted on all systems
        pass
    logging.info("draining: new requests are refused, running ones finish")
    server.stop(config.drain_seconds)


def start(config: ServeConfig) -> Server:
    """Starts a server and returns it running; `server.stop()` ends it.

    Raises:
      UserError: settings, folders or files that cannot be served.
    """
    _need_serving_extra()
    models, batching = _models(config), _batching(config)  # before seconds of imports
    from longtail_tf.serving.model_store import ModelStore
    from longtail_tf.serving.server import ConfigFollower, Server
    from longtail_tf.serving.status import ServingError

    store = ModelStore(
        models,
        batching=batching,
        allow_labels_for_unavailable=config.allow_version_labels_for_unavailable_models,
    )
    server = Server(
        store,
        host=config.host,
        port=config.port,
        batching=batching,
        max_message_bytes=config.max_message_bytes,
        poll_wait_s=config.file_system_poll_wait_seconds,
    )
    try:
        server.start()
    except ServingError as error:
        server.stop(0.0)
        raise UserError(
            f"{error.message}: correct the version_labels in {config.model_config_file}, or set "
            "--allow_version_labels_for_unavailable_models."
        ) from error
    if not store.is_ready():
        missing = ", ".join(model.name for model in models if not store.is_available(model.name))
        logging.warning("no version of %s is available yet; waiting for one", missing)
    if config.model_config_file and config.model_config_file_poll_wait_seconds > 0:
        server.every(
            config.model_config_file_poll_wait_seconds,
            ConfigFollower(config.model_config_file, models, store),
            what=f"reading {config.model_config_file}",
        )
    return server


def _models(config: ServeConfig) -> list[ModelConfig]:
    from longtail_tf.serving.model_config import read_model_config, single_model

    if bool(config.model_base_path) == bool(config.model_config_file):
        given = "both" if config.model_base_path else "neither"
        raise UserError(
            f"{given} of --model_base_path and --model_config_file were given: give one, the "
            "folder above the version folders or a models.config file."
        )
    if config.model_config_file:
        return read_model_config(config.model_config_file)
    return single_model(config.model_name, config.model_base_path)


def _batching(config: ServeConfig) -> BatchingParameters | None:
    from longtail_tf.serving.batching_parameters import (
        BatchingParameters,
        read_batching_parameters,
    )

    if not config.enable_batching:
        if config.batching_parameters_file:
            raise UserError(
                "--batching_parameters_file was given with --enable_batching=false: drop one."
            )
        return None
    if config.batching_parameters_file:
        return read_batching_parameters(config.batching_parameters_file)
    return BatchingParameters()


def _need_serving_extra() -> None:
    """Raises the sentence that says what to install; looks only, importing takes seconds."""
    missing = [
        package
        for package in ("grpc", "grpc_health", "grpc_reflection", "tensorflow_serving")
        if importlib.util.find_spec(package) is None
    ]
    if missing:
        raise UserError(
            f"serving needs packages that are not installed ({', '.join(missing)}): "
            "pip install 'longtail_tf[serving]'"
        )


def main() -> None:
    """Command line."""
    cli.launch(run, ServeConfig, __doc__)


if __name__ == "__main__":
    main()
