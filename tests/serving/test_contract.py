"""What clients of TensorFlow Serving rely on: answers, codes, words. Official stubs throughout."""

from __future__ import annotations

import concurrent.futures

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from tests.serving_models import (
    colour_scores,
    copy_version,
    held_back,
    png,
    predict_request,
    refusal,
    saved_once,
    serving,
    stubs,
)
from tests.waiting import HANG_S, wait_for

COLOURS = [(250, 10, 20), (3, 200, 40), (9, 8, 100), (255, 255, 0)]
NAMES = [b"red", b"green", b"blue"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "m"
    copy_version(saved_once(), base, 7)
    with serving(model_base_path=str(base), model_name="m") as running:
        yield running


@pytest.fixture(scope="module")
def service(server):
    prediction, _, channel = stubs(server.address)
    yield prediction
    channel.close()


@pytest.fixture(scope="module")
def models(server):
    _, management, channel = stubs(server.address)
    yield management
    channel.close()


def test_predict_answers_in_typed_fields_with_the_resolved_spec(service):
    request = predict_request(image_bytes=[png(c) for c in COLOURS])
    response = service.Predict(request, timeout=HANG_S)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 7, "serving_default")
    assert set(response.outputs) == {"labels", "class_ids", "scores"}
    for output in response.outputs.values():
        assert not output.tensor_content
        assert [dim.size for dim in output.tensor_shape.dim] == [4, 3]
    truth = np.array([colour_scores(colour) for colour in COLOURS])
    order = np.argsort(-truth, axis=1, kind="stable")
    scores = np.array(response.outputs["scores"].float_val).reshape(4, 3)
    np.testing.assert_allclose(scores, np.take_along_axis(truth, order, 1), atol=1e-6)
    assert list(response.outputs["class_ids"].int64_val) == order.ravel().tolist()
    assert list(response.outputs["labels"].string_val) == [NAMES[i] for i in order.ravel()]


def test_both_input_forms_give_the_same_answer(service):
    images = np.full((2, 4, 4, 3), 9, np.uint8)
    images[1, :, :, 0] = 200
    content = predict_request(signature="predict_images", images=images)
    assert content.inputs["images"].tensor_content
    typed = predict_request(signature="predict_images", images=images)
    typed.inputs["images"].ClearField("tensor_content")
    typed.inputs["images"].int_val.extend(images.ravel().tolist())
    assert service.Predict(typed, timeout=HANG_S) == service.Predict(content, timeout=HANG_S)


def test_output_filter_selects_and_keeps_the_order_free(service):
    request = predict_request(image_bytes=[png(COLOURS[0])])
    request.output_filter.append("scores")
    assert set(service.Predict(request, timeout=HANG_S).outputs) == {"scores"}


def test_embed_gives_unit_vectors(service):
    request = predict_request(signature="embed", image_bytes=[png(c) for c in COLOURS])
    output = service.Predict(request, timeout=HANG_S).outputs["embedding"]
    np.testing.assert_allclose(
        np.array(output.float_val).reshape(4, 3), [colour_scores(c) for c in COLOURS], atol=1e-6
    )


def _bad_signature():
    request = predict_request(image_bytes=[b""])
    request.model_spec.signature_name = "nope"
    return request


def _filtered(*aliases):
    request = predict_request(image_bytes=[png(COLOURS[0])])
    request.output_filter.extend(aliases)
    return request


def _labelled():
    request = predict_request(image_bytes=[b""])
    request.model_spec.version_label = "stable"
    return request


ONE = np.zeros((1, 4, 4, 3), np.uint8)
REFUSALS = [
    (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    (predict_request(name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    (predict_request(name="x"), "NOT_FOUND", "Servable not found for request: Latest(x)"),
    (predict_request(version=8), "NOT_FOUND", "Servable not found for request: Specific(m, 8)"),
    (_labelled(), "INVALID_ARGUMENT", "Unrecognized servable version label: stable"),
    (_bad_signature(), "FAILED_PRECONDITION", 'Serving signature key "nope" not found.'),
    (
        predict_request(),
        "INVALID_ARGUMENT",
        "input size does not match signature: 0!=1 len({}) != len({image_bytes}). Sent extra: {}. "
        "Missing but required: {image_bytes}.",
    ),
    (
        predict_request(image_bytes=[b"x"], more=[1.0]),
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=1 len({image_bytes,more}) != len({image_bytes}). "
        "Sent extra: {more}. Missing but required: {}.",
    ),
    (
        _filtered("nope"),
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: nope Outputs expected to be in the set "
        "{class_ids,labels,scores}.",
    ),
    (_filtered("scores", "scores"), "INVALID_ARGUMENT", "duplicate output tensor alias: scores"),
    (
        predict_request(image_bytes=[1.0]),
        "INVALID_ARGUMENT",
        'Expects arg[0] to be string but float is provided (input "image_bytes")',
    ),
    (
        predict_request(image_bytes=[[b"x"]]),
        "INVALID_ARGUMENT",
        'input "image_bytes" has shape [1,1], the signature wants [?]',
    ),
    (
        predict_request(signature="predict_images", images=ONE[:, :2]),
        "INVALID_ARGUMENT",
        'input "images" has shape [1,2,4,3], the signature wants [?,4,4,3]',
    ),
    (
        predict_request(signature="predict_images", images=ONE[:0]),
        "INVALID_ARGUMENT",
        "the batch is empty: images must hold at least one example.",
    ),
    (
        predict_request(signature="add", a=np.ones((1, 2), "f"), b=np.ones((2, 2), "f")),
        "INVALID_ARGUMENT",
        "Batching Run() input tensors must have equal 0th-dimension size; a has 1, b has 2",
    ),
]


@pytest.mark.parametrize(("request_", "code", "message"), REFUSALS)
def test_predict_refuses_with_the_real_servers_code_and_words(service, request_, code, message):
    assert refusal(service.Predict, request_) == (code, message)


@pytest.mark.parametrize("image", [b"", b"garbage", png(COLOURS[0])[:-30], b"\xff\xd8\xff\xe0" * 9])
def test_a_bad_image_is_an_invalid_argument_in_the_kernels_words(service, image):
    code, message = refusal(service.Predict, predict_request(image_bytes=[image]))
    assert code == "INVALID_ARGUMENT"
    assert "Detected at" not in message
    assert "{{node" in message
    assert len(message) <= 1024 + len("...TRUNCATED")


def test_a_kernels_shape_error_keeps_its_code(service):
    request = predict_request(signature="add", a=np.ones((2, 2), "f"), b=np.ones((2, 3), "f"))
    code, message = refusal(service.Predict, request)
    assert code == "INVALID_ARGUMENT"
    assert "required broadcastable shapes" in message or "Incompatible shapes" in message


def _classification(signature="classify", images=(), context=None):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", signature
    listed = request.input.example_list_with_context if context else request.input.example_list
    if context:
        listed.context.features.feature["image/encoded"].bytes_list.value.append(context)
    for image in images:
        example = listed.examples.add()
        if image is not None:
            example.features.feature["image/encoded"].bytes_list.value.append(image)
    return request


def test_classify_answers_labels_and_scores(service):
    response = service.Classify(_classification(images=[png(c) for c in COLOURS]), timeout=HANG_S)
    assert response.model_spec.version.value == 7
    assert response.model_spec.signature_name == "classify"
    for colour, listed in zip(COLOURS, response.result.classifications):
        truth = colour_scores(colour)
        assert [c.label for c in listed.classes] == [
            NAMES[i].decode() for i in np.argsort(-truth, kind="stable")
        ]
        np.testing.assert_allclose(
            [c.score for c in listed.classes], sorted(truth)[::-1], atol=1e-6
        )


def test_classify_merges_a_shared_context_into_each_example(service):
    request = _classification(images=[None, None], context=png(COLOURS[1]))
    response = service.Classify(request, timeout=HANG_S)
    assert [c.classes[0].label for c in response.result.classifications] == ["green", "green"]


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (classification_pb2.ClassificationRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (_classification(), "INVALID_ARGUMENT", "Input is empty."),
        (
            _classification("nope"),
            "INVALID_ARGUMENT",
            "No signature was found with the name: nope",
        ),
        (
            _classification(""),
            "INVALID_ARGUMENT",
            "Expected one or two output Tensors, found 3",
        ),
        (_classification("add"), "INVALID_ARGUMENT", "Expected one input Tensor."),
        (
            _classification("embed"),
            "FAILED_PRECONDITION",
            "No classification inputs found in SignatureDef: inputs {",
        ),
        (_classification(images=[b"bad"]), "INVALID_ARGUMENT", "Unknown image file format"),
        (_classification(images=[None]), "INVALID_ARGUMENT", ""),
    ],
)
def test_classify_refuses_as_the_real_server(service, request_, code, message):
    refused = refusal(service.Classify, request_)
    assert refused[0] == code
    assert refused[1].startswith(message)


def test_regress_is_refused(service):
    request = regression_pb2.RegressionRequest()
    assert refusal(service.Regress, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    request.model_spec.name = "x"
    assert refusal(service.Regress, request)[0] == "NOT_FOUND"
    request.model_spec.name = "m"
    assert refusal(service.Regress, request) == ("INVALID_ARGUMENT", "Expected one output Tensor.")
    request.model_spec.signature_name = "embed"
    code, message = refusal(service.Regress, request)
    assert code == "FAILED_PRECONDITION"
    assert message.startswith("No regression inputs found in SignatureDef")


def test_multi_inference_is_refused(service):
    request = inference_pb2.MultiInferenceRequest()
    assert refusal(service.MultiInference, request)[0] == "INVALID_ARGUMENT"
    request.tasks.add().method_name = "tensorflow/serving/classify"
    code, message = refusal(service.MultiInference, request)
    assert (code, message) == ("INVALID_ARGUMENT", "Found ModelSpec with an empty model name.")
    request.tasks[0].model_spec.name = "x"
    assert refusal(service.MultiInference, request)[0] == "NOT_FOUND"
    request.tasks[0].model_spec.name = "m"
    code, message = refusal(service.MultiInference, request)
    assert code == "UNIMPLEMENTED"
    assert "send one Classify for each task" in message


def test_metadata_is_the_saved_models_signature_map(service):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "m"
    request.metadata_field.append("signature_def")
    response = service.GetModelMetadata(request, timeout=HANG_S)
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 7)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    from tensorflow.core.protobuf import saved_model_pb2

    raw = (saved_once() / "saved_model.pb").read_bytes()
    saved = saved_model_pb2.SavedModel.FromString(raw).meta_graphs[0].signature_def
    assert dict(signatures.signature_def) == dict(saved)


def test_metadata_refusals(service):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    assert refusal(service.GetModelMetadata, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    request.model_spec.name = "m"
    assert refusal(service.GetModelMetadata, request) == (
        "INVALID_ARGUMENT",
        "GetModelMetadataRequest must specify at least one metadata_field",
    )
    request.metadata_field.append("weights")
    assert refusal(service.GetModelMetadata, request) == (
        "INVALID_ARGUMENT",
        "Metadata field weights is not supported",
    )
    request.metadata_field[0], request.model_spec.name = "signature_def", "x"
    assert refusal(service.GetModelMetadata, request)[0] == "NOT_FOUND"


def test_status_of_a_model_and_of_what_is_not_there(models):
    request = get_model_status_pb2.GetModelStatusRequest()
    assert refusal(models.GetModelStatus, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    request.model_spec.name = "m"
    (status,) = models.GetModelStatus(request, timeout=HANG_S).model_version_status
    assert (status.version, status.state, status.status.error_code) == (7, 30, 0)
    request.model_spec.version.value = 8
    assert refusal(models.GetModelStatus, request) == (
        "NOT_FOUND",
        "Could not find version 8 of model m",
    )
    request.model_spec.Clear()
    request.model_spec.name = "x"
    assert refusal(models.GetModelStatus, request) == (
        "NOT_FOUND",
        "Could not find any versions of model x",
    )


def test_a_deadline_that_passes_is_deadline_exceeded_and_the_server_lives_on(service, monkeypatch):
    request = predict_request(image_bytes=[png(COLOURS[0])])
    with held_back(monkeypatch):
        assert refusal(service.Predict, request, timeout=0.5)[0] == "DEADLINE_EXCEEDED"
    service.Predict(request, timeout=HANG_S)


def test_signatures_without_a_batch_dimension_are_run_alone(service):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        requests = [predict_request(signature="total", x=np.full(3, i, "f")) for i in range(16)]
        answers = list(pool.map(lambda r: service.Predict(r, timeout=HANG_S), requests))
    assert [a.outputs["total"].float_val[0] for a in answers] == [3.0 * i for i in range(16)]
    assert not answers[0].outputs["total"].tensor_shape.dim  # a scalar


@pytest.mark.parametrize("enable_batching", [True, False])
def test_concurrent_clients_get_their_own_answers_and_a_bad_image_fails_alone(
    tmp_path, rng, enable_batching
):
    copy_version(saved_once(), tmp_path / "m", 1)
    colours = rng.integers(1, 255, (120, 3))
    with serving(
        model_base_path=str(tmp_path / "m"), model_name="m", enable_batching=enable_batching
    ) as running:
        prediction, _, channel = stubs(running.address)

        def ask(row):
            if row % 10 == 3:
                return refusal(prediction.Predict, predict_request(image_bytes=[b"bad"]))
            answer = prediction.Predict(
                predict_request(image_bytes=[png(colours[row])]), timeout=HANG_S
            )
            return answer.outputs["scores"].float_val[0]

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(len(colours))))
        channel.close()
    for row, answer in enumerate(answers):
        if row % 10 == 3:
            assert answer[0] == "INVALID_ARGUMENT"
            assert "Unknown image file format" in answer[1]
        else:
            assert answer == pytest.approx(colour_scores(colours[row]).max(), abs=1e-6)


def test_too_much_at_once_is_resource_exhausted_while_status_still_answers(tmp_path, monkeypatch):
    copy_version(saved_once(), tmp_path / "m", 1)
    parameters = tmp_path / "batching_parameters.txt"
    parameters.write_text(
        "max_batch_size { value: 1 } max_enqueued_batches { value: 2 } "
        "num_batch_threads { value: 1 }"
    )
    with serving(
        model_base_path=str(tmp_path / "m"), model_name="m",
        batching_parameters_file=str(parameters),
    ) as running:  # fmt: skip
        prediction, management, channel = stubs(running.address)
        request = predict_request(image_bytes=[png(COLOURS[0])])
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "m"
        with held_back(monkeypatch) as arrived:
            pending = [prediction.Predict.future(request, timeout=HANG_S)]
            assert arrived.acquire(timeout=HANG_S)  # it runs; of the others two may wait
            pending += [prediction.Predict.future(request, timeout=HANG_S) for _ in range(11)]
            wait_for(lambda: sum(future.done() for future in pending) == 9)
            management.GetModelStatus(status, timeout=HANG_S)
        codes = [future.code().name for future in pending]
        channel.close()
    assert (codes.count("OK"), codes.count("RESOURCE_EXHAUSTED")) == (3, 9)


def test_a_request_over_the_message_limit_is_resource_exhausted(tmp_path):
    copy_version(saved_once(), tmp_path / "m", 1)
    with serving(
        model_base_path=str(tmp_path / "m"), model_name="m", max_message_bytes=10_000
    ) as running:
        prediction, _, channel = stubs(running.address)
        code, message = refusal(prediction.Predict, predict_request(image_bytes=[b"x" * 20_000]))
        assert code == "RESOURCE_EXHAUSTED"
        assert "larger than max" in message
        prediction.Predict(predict_request(image_bytes=[png(COLOURS[0])]), timeout=HANG_S)
        channel.close()


def test_large_messages_pass_in_both_directions(server):
    """Over gRPC's own 4 MiB default, which the real server does not have."""
    from longtail_tf.serving.client import Client

    wide = np.arange(1_500_000, dtype=np.float32)[None]
    with Client(server.address, "m") as client:
        answer = client.predict({"a": wide, "b": wide}, signature="add")
    np.testing.assert_array_equal(answer["sum"], 2 * wide)


def test_the_tensorflow_reader_understands_the_answer(service):
    response = service.Predict(predict_request(image_bytes=[png(COLOURS[0])]), timeout=HANG_S)
    assert tf.make_ndarray(response.outputs["labels"]).tolist()[0][0] == b"red"
