"""The exported SavedModel: its gates, and that each gate can fail."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from longtail_tf.compat.keras_version import tf_variables
from longtail_tf.errors import UserError
from longtail_tf.exporting import gates, reload_check, saved_model, warmup
from longtail_tf.exporting.gates import ExportGateError
from tests import export_model, rounding

BATCH_SIZES = (1, 3)


def export(folder, **changes):
    trained = export_model.trained()
    arguments = {
        "export_dir": folder,
        "model_name": "digits",
        "version": None,
        "image_files": export_model.test_files(12),
        "batch_sizes": BATCH_SIZES,
        "info": {"seed": 7},
        "model": trained.model,
        "recognizer": trained.recognizer,
        "class_names": export_model.NAMES,
        "image_size": export_model.SIZE,
        "channels": export_model.CHANNELS,
    }
    return saved_model.export_saved_model(**{**arguments, **changes})


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export(tmp_path_factory.mktemp("export"), unknown_threshold=0.6)


@pytest.fixture
def copy(exported, tmp_path):
    """A version folder to spoil."""
    return shutil.copytree(exported[0], tmp_path / "1")


@functools.cache
def loaded_from(folder):
    return tf.saved_model.load(str(folder))


def reload(folder, count=4):
    files = export_model.test_files(count)
    images = export_model.trained().test_images[:count]
    return gates.reload_fresh(folder, image_files=files, images=images)


def test_the_export_passes_its_gates_and_says_what_was_measured(exported):
    folder, measured = exported
    assert folder.name == "1"
    assert measured["warmup_records"] == 4 * len(BATCH_SIZES)
    assert 0 < measured["largest_difference_from_keras"] < rounding.NETWORK
    facts = json.loads((folder / saved_model.INFO_FILE).read_text())
    assert facts["seed"] == 7
    assert facts["rule"] == "gated"
    assert facts["gates"] == measured
    assert [path.name for path in folder.parent.iterdir()] == ["1"]
    assert (folder / "assets" / "labels.txt").read_text().split("\n")[:-1] == export_model.NAMES


def test_signatures_are_those_of_the_design(exported):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((exported[0] / "saved_model.pb").read_bytes())
    [meta_graph] = saved.meta_graphs
    described = {
        key: (
            sorted((name, tf.as_dtype(info.dtype).name, len(info.tensor_shape.dim))
                   for name, info in signature.inputs.items()),
            sorted((name, tf.as_dtype(info.dtype).name, len(info.tensor_shape.dim))
                   for name, info in signature.outputs.items()),
            signature.method_name,
        )
        for key, signature in meta_graph.signature_def.items()
        if not key.startswith("__")
    }  # fmt: skip
    rows = [("class_ids", "int64", 2), ("labels", "string", 2), ("scores", "float32", 2),
            ("valid", "bool", 1)]  # fmt: skip
    predict = "tensorflow/serving/predict"
    assert described == {
        "serving_default": ([("image_bytes", "string", 1)], rows, predict),
        "predict_images": ([("images", "uint8", 4)], rows, predict),
        "embed": ([("image_bytes", "string", 1)],
                  [("embedding", "float32", 2), ("valid", "bool", 1)], predict),
        "classify": ([("inputs", "string", 1)],
                     [("classes", "string", 2), ("scores", "float32", 2)],
                     "tensorflow/serving/classify"),
    }  # fmt: skip


def test_a_moved_export_still_finds_its_labels(exported, tmp_path):
    moved = shutil.copytree(exported[0], tmp_path / "elsewhere" / "5")
    loaded = tf.saved_model.load(str(moved))
    rows = loaded.signatures["serving_default"](tf.constant(export_model.test_files(1)))
    assert rows["labels"].numpy()[0, 0].decode() in export_model.NAMES


def test_no_keras_object_and_no_training_function_is_saved(exported):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((exported[0] / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0]
    kinds = {node.WhichOneof("kind") for node in graph.object_graph_def.nodes}
    identifiers = {node.user_object.identifier for node in graph.object_graph_def.nodes}
    assert "user_object" in kinds
    assert not any("keras" in name for name in identifiers)
    names = [function.signature.name for function in graph.graph_def.library.function]
    assert not any("call_and_return" in name for name in names)


def test_saved_model_cli_reads_it(exported):
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show", "--dir"]
    command += [str(exported[0]), "--tag_set", "serve", "--signature_def", "embed"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "outputs['embedding']" in shown.stdout


# warm-up


def test_warmup_requests_are_what_the_serving_protos_say(exported):
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = str(exported[0] / warmup.FILE)
    records = [logs.PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(path)]
    seen = []
    for log in records:
        if log.HasField("predict_log"):
            request = log.predict_log.request
            [(name, tensor)] = request.inputs.items()
            seen.append((request.model_spec.signature_name, name, len(tf.make_ndarray(tensor))))
        else:
            request = log.classify_log.request
            examples = request.input.example_list.examples
            assert all(e.features.feature["image/encoded"].bytes_list.value[0] for e in examples)
            seen.append((request.model_spec.signature_name, "inputs", len(examples)))
        assert request.model_spec.name == "digits"
        assert log.SerializeToString(deterministic=True) != b""
    assert sorted(seen) == sorted(
        (key, name, size)
        for size in BATCH_SIZES
        for key, name in [("serving_default", "image_bytes"), ("embed", "image_bytes"),
                          ("predict_images", "images"), ("classify", "inputs")]
    )  # fmt: skip


@pytest.mark.parametrize("length", [0, 1, 127, 128, 300, 70000])
def test_the_hand_written_wire_format_is_protobufs(length):
    messages = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    tensor = tf.make_tensor_proto([b"x" * length])
    ours = messages.PredictionLog.FromString(warmup.predict_log("m", "s", "in", tensor))
    theirs = messages.PredictionLog()
    theirs.predict_log.request.model_spec.name = "m"
    theirs.predict_log.request.model_spec.signature_name = "s"
    theirs.predict_log.request.inputs["in"].CopyFrom(tensor)
    assert ours == theirs


# each gate can fail


def test_a_python_operation_is_refused(tmp_path):
    trained = export_model.trained()

    class Python:
        neck_output = features = None

        def embed_with_logits(self, images, training=False):
            embedding, logits = trained.model.embed_with_logits(images, training)
            return tf.ensure_shape(tf.py_function(lambda x: x, [embedding], tf.float32),
                                   embedding.shape), logits  # fmt: skip

    with pytest.raises(ExportGateError, match="operations no export may have: EagerPyFunc"):
        export(tmp_path, model=Python())
    assert not list(tmp_path.iterdir())


def test_a_random_operation_is_refused(tmp_path):
    trained = export_model.trained()

    class Random:
        def embed_with_logits(self, images, training=False):
            embedding, logits = trained.model.embed_with_logits(images, training)
            return embedding + 0 * tf.random.normal(tf.shape(embedding)), logits

    with pytest.raises(ExportGateError, match="may have: RandomStandardNormal"):
        export(tmp_path, model=Random())


def test_lost_weights_are_noticed(exported, copy):
    data = copy / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    variables = tf_variables(export_model.trained().model.variables)
    module = type("Module", (), {"used_variables": variables})
    with pytest.raises(ExportGateError, match="stores 1000 bytes of variables, the network"):
        gates.check_size(copy, module)
    with pytest.raises(ExportGateError, match="fails in a fresh process"):
        reload(copy)


def test_outputs_that_are_not_numbers_are_refused(tmp_path):
    trained = export_model.trained()
    prototypes = trained.recognizer.prototypes.copy()
    prototypes[3] = np.nan
    broken = dataclasses.replace(trained.recognizer, prototypes=prototypes)
    with pytest.raises(ExportGateError, match="values that are not finite"):
        export(tmp_path, recognizer=broken)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "record, said",
    [
        (warmup.predict_log("m", "embed", "pixels", tf.make_tensor_proto([b"x"])),
         "record 0 of signature embed fails"),
        (warmup.predict_log("m", "embed", "image_bytes", tf.make_tensor_proto([], tf.string)),
         "holds no image"),
        (warmup.predict_log("m", "none", "image_bytes", tf.make_tensor_proto([b"x"])),
         "signature none fails"),
        (b"\x08\x01", "not a readable PredictionLog"),
        (b"\x1a\x02\x0a\x00", "record 0 is of unknown kind 3"),
    ],
)  # fmt: skip
def test_a_damaged_warmup_request_is_refused(exported, copy, capsys, record, said):
    with tf.io.TFRecordWriter(str(copy / warmup.FILE)) as writer:
        writer.write(record)
    with pytest.raises(SystemExit, match="3"):
        reload_check.replay_warmup(str(copy), loaded_from(exported[0]))
    assert said in capsys.readouterr().err


def test_a_lost_warmup_request_is_noticed(exported, copy):
    warmup.write_warmup(str(copy), [])
    trained = export_model.trained()
    module = type("M", (), {
        "used_variables": [], "embed": lambda self, x: trained.model.embed_with_logits(x),
        "rule_head": type("R", (), {"rule": "gated"}), "unknown_threshold": None,
        "image_size": 16, "channels": 3})()  # fmt: skip
    module.used_variables = tf_variables([trained.model.step])
    with pytest.raises(ExportGateError, match="0 warm-up records were replayed, 8 were written"):
        gates.run_gates(copy, module=module, recognizer=trained.recognizer,
                        image_files=export_model.test_files(2), warmup_count=8)  # fmt: skip


def test_a_missing_signature_is_noticed(copy):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((copy / "saved_model.pb").read_bytes())
    del saved.meta_graphs[0].signature_def["embed"]
    (copy / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(ExportGateError, match="signature embed is missing, there are"):
        reload(copy, count=2)


def test_a_difference_between_the_loaders_is_noticed(exported, capsys):
    files = np.array(export_model.test_files(2), object)
    outputs = {
        f"many/embed/{name}": value.numpy()
        for name, value in loaded_from(exported[0]).signatures["embed"](tf.constant(files)).items()
    }
    outputs["many/embed/embedding"] = np.nextafter(outputs["many/embed/embedding"], 2)
    with pytest.raises(SystemExit, match="3"):
        reload_check.check_session_path(
            str(exported[0]), {"embed": {"image_bytes": files}}, outputs
        )
    assert "embed/embedding differs between the TF1 session" in capsys.readouterr().err


def outputs_and_expectation(exported):
    folder, _ = exported
    count = 6
    trained, files = export_model.trained(), export_model.test_files(count)
    embedding, logits = trained.model.embed_with_logits(tf.constant(trained.test_images[:count]))
    scores = trained.recognizer.scores("gated", embedding.numpy(), logits.numpy())
    expected = {
        "embedding": embedding.numpy(),
        "probabilities": tf.nn.softmax(scores).numpy(),
        "margin": trained.recognizer.best_prototype_scores(embedding.numpy()) - 0.6,
    }
    return gates.reload_fresh(
        folder, image_files=files, images=trained.test_images[:count]
    ), expected


def test_parity_notices_other_embeddings_classes_scores_and_decoding(exported):
    outputs, expected = outputs_and_expectation(exported)
    assert gates.check_parity(outputs, expected) < rounding.NETWORK

    def spoiled(name, change):
        return {**outputs, name: change(outputs[name])}

    with pytest.raises(ExportGateError, match=r"differs from Keras by 0.01 \(one at a time\)"):
        gates.check_parity(spoiled("one/embed/embedding", lambda x: x + 0.01), expected)
    with pytest.raises(ExportGateError, match=r"differs from Keras by 0.01 \(many at a time\)"):
        gates.check_parity(spoiled("many/serving_default/scores", lambda x: x - 0.01), expected)
    with pytest.raises(ExportGateError, match="names another class than Keras for 6 of 6"):
        gates.check_parity(spoiled("many/predict_images/class_ids", lambda x: x + 1), expected)
    with pytest.raises(ExportGateError, match="calls a readable image invalid"):
        gates.check_parity(spoiled("one/serving_default/valid", np.logical_not), expected)


def test_an_export_is_checked_with_at_least_two_images(tmp_path):
    with pytest.raises(UserError, match="1 images came to check the export with"):
        export(tmp_path, image_files=export_model.test_files(1))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet8", "resnet18v2", "mobilenetv3_small",
                                      "efficientnetv2_b0"])  # fmt: skip
def test_the_backbones_hold_allowed_operations_only(backbone, tmp_path):
    from longtail_tf.models.networks import build_embedder
    from longtail_tf.models.two_stream_model import TwoStreamModel

    embedder = build_embedder(backbone=backbone, image_size=32, channels=1, embedding_dim=8)
    model = TwoStreamModel(embedder, num_head_classes=4)
    function = tf.function(
        lambda x: model.embed_with_logits(x, training=False),
        input_signature=[tf.TensorSpec([None, 32, 32, 1], tf.uint8)], autograph=False,
    ).get_concrete_function()  # fmt: skip
    graph = function.graph.as_graph_def()
    ops = {node.op for node in graph.node}
    ops |= {node.op for f in graph.library.function for node in f.node_def}
    ops -= {f.signature.name for f in graph.library.function}
    assert ops <= gates.ALLOWED_OPS
