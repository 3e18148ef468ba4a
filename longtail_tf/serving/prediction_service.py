"""PredictionService: Predict, Classify, GetModelMetadata; Regress and MultiInference refused.

Methods take and return the official messages and raise `ServingError`; `rpc` puts them on the
network. Codes and words are those of tensorflow_serving/servables/tensorflow (2.15).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from longtail_tf.serving import tensor_protos
from longtail_tf.serving.model_store import ModelStore
from longtail_tf.serving.servable import Servable
from longtail_tf.serving.signatures import (
    DEFAULT_SIGNATURE,
    Arrays,
    Signature,
    checked_inputs,
    serialized_examples,
)
from longtail_tf.serving.status import Code, ServingError, invalid_argument

_SIGNATURE_DEF = "signature_def"


class Call(NamedTuple):
    """What a method knows about its caller."""

    deadline: float | None = None  # time.monotonic() after which nobody wants the answer
    cancelled: Callable[[], bool] = bool


class PredictionService:
    """Answers from the models of a `ModelStore`."""

    def __init__(self, store: ModelStore):
        self._store = store

    def predict(
        self, request: predict_pb2.PredictRequest, call: Call
    ) -> predict_pb2.PredictResponse:
        """Runs a signature; answers its outputs, or those in `output_filter`, in typed fields."""
        _need_model_spec(request)
        with self._store.lease(request.model_spec) as servable:
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            signature = servable.signatures.get(name)
            if signature is None:
                raise ServingError(
                    Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
                )
            arrays = checked_inputs(signature, request.inputs)
            wanted = _wanted_outputs(signature, request.output_filter)
            results = servable.infer(
                signature, arrays, deadline=call.deadline, cancelled=call.cancelled
            )
            response = predict_pb2.PredictResponse()
            _fill_model_spec(response.model_spec, servable, name)
        for alias in wanted:
            tensor_protos.fill(response.outputs[alias], results[alias])
        return response

    def classify(
        self, request: classification_pb2.ClassificationRequest, call: Call
    ) -> classification_pb2.ClassificationResponse:
        """Runs a classification signature over tf.Examples."""
        _need_model_spec(request)
        with self._store.lease(request.model_spec) as servable:
            signature = _example_signature(servable, request.model_spec)
            if len(signature.outputs) not in (1, 2):
                raise invalid_argument(
                    f"Expected one or two output Tensors, found {len(signature.outputs)}"
                )
            _need_inputs_key(signature, "classification")
            if not {"classes", "scores"} & set(signature.outputs):
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    "Expected classification signature outputs to contain at least one of "
                    f'"classes" or "scores". Signature was: {signature.definition}',
                )
            examples = serialized_examples(request.input)
            results = servable.infer(
                signature, {"inputs": examples}, deadline=call.deadline, cancelled=call.cancelled
            )
            response = classification_pb2.ClassificationResponse()
            _fill_model_spec(response.model_spec, servable, signature.name)
        _fill_classifications(response.result, results, len(examples))
        return response

    def regress(self, request: regression_pb2.RegressionRequest, call: Call) -> Any:
        """Refuses: no signature of this project is a regression."""
        _need_model_spec(request)
        with self._store.lease(request.model_spec) as servable:
            signature = _example_signature(servable, request.model_spec)
            if len(signature.outputs) != 1:
                raise invalid_argument("Expected one output Tensor.")
            _need_inputs_key(signature, "regression")
        raise ServingError(Code.UNIMPLEMENTED, "Regress is not implemented by this server.")

    def multi_inference(self, request: inference_pb2.MultiInferenceRequest, call: Call) -> Any:
        """Refuses; a client sends one Classify for each task instead."""
        if not request.tasks:
            raise invalid_argument("Inference request must have at least one task.")
        for task in request.tasks:
            if not task.model_spec.name:
                raise invalid_argument("Found ModelSpec with an empty model name.")
            with self._store.lease(task.model_spec):
                pass
        raise ServingError(
            Code.UNIMPLEMENTED,
            "MultiInference is not implemented by this server: send one Classify for each task.",
        )

    def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, call: Call
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Answers the model's SignatureDefMap, packed in an Any."""
        _need_model_spec(request)
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self._store.lease(request.model_spec) as servable:
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature.definition)
            _fill_model_spec(response.model_spec, servable, "")
        response.metadata[_SIGNATURE_DEF].Pack(signatures)
        return response


def _need_model_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _fill_model_spec(spec: Any, servable: Servable, signature_name: str) -> None:
    spec.name, spec.signature_name = servable.name, signature_name
    spec.version.value = servable.version


def _wanted_outputs(signature: Signature, output_filter: Any) -> list[str]:
    wanted: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {{{','.join(signature.outputs)}}}."
            )
        if alias in wanted:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        wanted.append(alias)
    return wanted or list(signature.outputs)


def _example_signature(servable: Servable, model_spec: Any) -> Signature:
    name = model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    return signature


def _need_inputs_key(signature: Signature, kind: str) -> None:
    spec = signature.inputs.get("inputs")
    if spec is None:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f"No {kind} inputs found in SignatureDef: {signature.definition}",
        )
    if spec.dtype != tensor_protos.STRING:
        raise invalid_argument(
            f"Expects arg[0] to be {tensor_protos.dtype_name(spec.dtype)} but string is provided"
        )


def _fill_classifications(result: Any, results: Arrays, num_examples: int) -> None:
    classes, scores = results.get("classes"), results.get("scores")
    for name, array, kind, dtype in (
        ("classes", classes, "O", "DT_STRING"),
        ("scores", scores, "f", "DT_FLOAT"),
    ):
        if array is None:
            continue
        if array.ndim != 2:
            raise invalid_argument(
                f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}"
            )
        if array.dtype.kind != kind or (kind == "f" and array.dtype != np.float32):
            raise invalid_argument(f"Expected {name} Tensor of {dtype}. Got: {array.dtype}")
        if len(array) != num_examples:
            raise invalid_argument(
                f"Expected {name} output batch size of {num_examples}. Got: {len(array)}"
            )
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise invalid_argument(
            "Tensors class and score should match in dim_size(1). Got "
            f"{classes.shape[1]} vs. {scores.shape[1]}"
        )
    for row in range(num_examples):
        listed = result.classifications.add().classes
        labels = [] if classes is None else classes[row].tolist()
        values = [] if scores is None else scores[row].tolist()
        for place in range(max(len(labels), len(values))):
            entry = listed.add()
            if labels:
                entry.label = labels[place].decode("utf-8", "replace")
            if values:
                entry.score = values[place]
