"""Which models to serve: from flags, from a models.config file, or from a reload request."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from longtail_tf.errors import UserError
from longtail_tf.serving.status import Code, ServingError, invalid_argument
from longtail_tf.text_files import read_text

_MOST_BYTES = 16 << 20
_EXAMPLE = (
    'model_config_list { config { name: "m" base_path: "/models/m" model_platform: "tensorflow" } }'
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One served model.

    `versions` is the policy: "latest" with `num_latest`, "all", or "specific" with
    `specific_versions`. `labels` maps version labels to numbers.
    """

    name: str
    base_path: str
    versions: str = "latest"
    num_latest: int = 1
    specific_versions: tuple[int, ...] = ()
    labels: tuple[tuple[str, int], ...] = ()


def single_model(name: str, base_path: str) -> list[ModelConfig]:
    """The configuration that --model_name and --model_base_path stand for.

    Raises:
      UserError: an empty name, or a folder that is not there.
    """
    if not name:
        raise UserError("--model_name is empty: give the name that clients ask for.")
    _check_base_path(name, base_path, where="--model_base_path")
    return [ModelConfig(name=name, base_path=base_path)]


def read_model_config(path: str) -> list[ModelConfig]:
    """Reads a models.config text file, the same that `tensorflow_model_server` takes.

    Raises:
      UserError: it cannot be read or parsed, or asks for what cannot be served.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        text = read_text(path, most_bytes=_MOST_BYTES)
    except (OSError, UserError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--model_config_file={path} cannot be read ({reason}): give a text file such as the "
            f"export's models.config, for example: {_EXAMPLE}"
        ) from error
    message = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, message)
        configs = configs_of(message)
    except (text_format.ParseError, ServingError) as error:
        raise UserError(
            f"{path} is not a models.config for this server ({error}); a valid one: {_EXAMPLE}"
        ) from error
    for config in configs:
        _check_base_path(config.name, config.base_path, where=path)
    return configs


def configs_of(message: Any) -> list[ModelConfig]:
    """The models in a ModelServerConfig proto.

    Raises:
      ServingError: INVALID_ARGUMENT, in the real server's words where it has any.
    """
    if message.WhichOneof("config") != "model_config_list":
        raise invalid_argument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
            "ModelConfigList is currently supported"
        )
    configs: list[ModelConfig] = []
    for entry in message.model_config_list.config:
        if any(config.name == entry.name for config in configs):
            raise invalid_argument(
                f"Illegal to list model {entry.name} multiple times in config list"
            )
        configs.append(_config_of(entry))
    return configs


def _config_of(entry: Any) -> ModelConfig:
    if not entry.name or not entry.base_path:
        raise invalid_argument("each model config needs a name and a base_path")
    is_tensorflow = entry.model_platform == "tensorflow" or (
        not entry.model_platform and entry.model_type == 1
    )
    if not entry.model_platform and not entry.model_type:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform."
        )
    if not is_tensorflow:
        raise invalid_argument(
            f"Model {entry.name} requests unsupported platform "
            f"{entry.model_platform or entry.model_type}"
        )
    if not os.path.isabs(entry.base_path):
        raise invalid_argument(
            f"Expected model {entry.name} to have an absolute path or URI; got base_path()="
            f"{entry.base_path}"
        )
    policy = entry.model_version_policy
    choice = policy.WhichOneof("policy_choice") or "latest"
    if choice not in ("latest", "all", "specific"):
        raise ServingError(Code.UNIMPLEMENTED, f"version policy {choice} is not supported")
    return ModelConfig(
        name=entry.name,
        base_path=entry.base_path,
        versions=choice,
        num_latest=max(1, policy.latest.num_versions) if choice == "latest" else 1,
        specific_versions=tuple(sorted(set(policy.specific.versions))),
        labels=tuple(sorted(entry.version_labels.items())),
    )


def _check_base_path(name: str, base_path: str, *, where: str) -> None:
    if not os.path.isdir(base_path):
        raise UserError(
            f"{where}: the base path {base_path!r} of model {name!r} is not a folder; it must be "
            "the folder that holds the version folders (1, 2, ...)."
        )
    if os.path.isfile(os.path.join(base_path, "saved_model.pb")):
        raise UserError(
            f"{where}: {base_path!r} is a version folder (it holds saved_model.pb); give the "
            f"folder above it, {os.path.dirname(os.path.abspath(base_path))!r}."
        )
