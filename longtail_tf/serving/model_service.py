"""ModelService: GetModelStatus and HandleReloadConfigRequest."""

from __future__ import annotations

from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2

from longtail_tf.serving.model_config import configs_of
from longtail_tf.serving.model_store import ModelStore
from longtail_tf.serving.prediction_service import Call
from longtail_tf.serving.status import Code, ServingError, invalid_argument


class ModelService:
    """Tells the state of a `ModelStore` and changes what it serves."""

    def __init__(self, store: ModelStore):
        self._store = store

    def get_model_status(
        self, request: get_model_status_pb2.GetModelStatusRequest, call: Call
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Answers one version's state, or all of them, newest first."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        name = request.model_spec.name
        states = self._store.states(name)
        if request.model_spec.WhichOneof("version_choice") == "version":
            number = request.model_spec.version.value
            states = [state for state in states if state.version == number]
            if not states:
                raise ServingError(
                    Code.NOT_FOUND, f"Could not find version {number} of model {name}"
                )
        if not states:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for state in states:
            entry = response.model_version_status.add(version=state.version, state=state.state)
            entry.status.error_code = state.code
            entry.status.error_message = state.message
        return response

    def handle_reload_config(
        self, request: model_management_pb2.ReloadConfigRequest, call: Call
    ) -> model_management_pb2.ReloadConfigResponse:
        """Serves the models of the request instead of those served now."""
        self._store.reload(configs_of(request.config))
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = int(Code.OK)
        return response
