"""Conversion to TFLite: precision, input scale, operations, metadata, and the parity report."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.exporting import parity, tflite_convert, tflite_metadata
from longtail_tf.exporting.rule_head import RuleHead
from longtail_tf.exporting.tflite_convert import KINDS, VARIANTS, DeviceModule
from tests import export_model, rounding, stacks

COUNT = 200
COUNTS = np.array([300] * 4 + [50] * 3 + [5] * 3)


@pytest.fixture(scope="module")
def paths():
    return export_model.tflite_paths()


@pytest.fixture(scope="module")
def keras():
    trained = export_model.trained()
    images = trained.test_images[:COUNT]
    embeddings = trained.model(tf.constant(images), training=False).numpy()
    return images, embeddings, embeddings @ trained.recognizer.prototypes.T


def unclear(scores):
    """The share of images whose best two classes are as good as equal: rounding may name either."""
    best = -np.sort(-scores, axis=1)
    share = np.mean(best[:, 0] - best[:, 1] < 2 * rounding.NETWORK)
    assert share < 0.05
    return share


def outputs(path, images):
    interpreter = tf.lite.Interpreter(str(path))
    [key] = interpreter.get_signature_list()
    run = interpreter.get_signature_runner(key)
    dtype = run.get_input_details()["image"]["dtype"]
    return np.stack([run(image=image[None].astype(dtype))[KINDS[key]][0] for image in images])


@pytest.mark.parametrize("variant, agreement, difference", [
    ("float32", 1.0, rounding.NETWORK), ("float16", 0.995, 5e-3), ("dynamic", 0.97, 0.05),
    # The quantiser of TensorFlow 2.21 rounds more coarsely on this tiny network.
    ("int8", 0.97, 0.15 if stacks.KERAS_3 else 0.06),
])  # fmt: skip
def test_scores_are_those_of_keras(paths, keras, variant, agreement, difference):
    images, embeddings, scores = keras
    given = outputs(paths["classifier", variant], images)
    assert np.mean(given.argmax(axis=1) == scores.argmax(axis=1)) >= agreement - unclear(scores)
    assert np.abs(given - scores).max() <= difference
    embedded = outputs(paths["embedder", variant], images)
    assert np.abs(embedded - embeddings).max() <= difference
    assert len(set(given.argmax(axis=1))) == export_model.CLASSES  # a trained net, not a constant


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_shrink_with_precision(paths, kind):
    sizes = {variant: paths[kind, variant].stat().st_size for variant in VARIANTS}
    weights = 4 * sum(w.size for w in export_model.trained().model.embedder.get_weights())
    assert sizes["float32"] > weights * 0.9
    assert sizes["float16"] < 0.65 * sizes["float32"]
    assert sizes["dynamic"] < 0.45 * sizes["float32"]
    assert sizes["int8"] < 0.45 * sizes["float32"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_image_in_one_float_out_and_no_foreign_operation(paths, kind, variant):
    interpreter = tf.lite.Interpreter(str(paths[kind, variant]))
    [given] = interpreter.get_input_details()
    [made] = interpreter.get_output_details()
    assert given["shape"].tolist() == [1, 16, 16, 3]
    assert given["dtype"] == (np.uint8 if variant == "int8" else np.float32)
    assert made["dtype"] == np.float32
    assert made["shape"].tolist() == [1, {"classifier": 10, "embedder": 32}[kind]]
    used = {op["op_name"] for op in interpreter._get_ops_details()}
    known = "ADD CONV_2D DELEGATE DEQUANTIZE FULLY_CONNECTED L2_NORMALIZATION MEAN MUL QUANTIZE"
    assert used <= {*known.split(), "RSQRT", "SUM"}
    # written out in float, because GPU delegates refuse L2_NORMALIZATION
    assert ("RSQRT" in used) == (variant != "int8")
    if variant == "int8":
        assert given["quantization"] == (1.0, 0)


def test_unit_rows_leaves_a_zero_row_zero():
    rows = tf.constant([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(tflite_convert.unit_rows(rows), [[0.6, 0.8], [0.0, 0.0]], atol=1e-6)


def test_int8_embeddings_keep_their_length(paths, keras):
    """With a written-out sum of squares lengths drift to 0.63; see DeviceModule.function."""
    embedded = outputs(paths["embedder", "int8"], keras[0])
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=0.03)


def test_calibration_holds_black_and_white():
    images = np.full((12, 4, 4, 3), 100, np.uint8)
    calibration = tflite_convert.calibration_images(images)
    assert calibration.shape == (14, 4, 4, 3)
    assert calibration.dtype == np.uint8
    assert (calibration.min(), calibration.max()) == (0, 255)


@pytest.mark.parametrize("images", [None, np.zeros((9, 4, 4, 3), np.uint8)])
def test_int8_needs_real_images(images):
    with pytest.raises(UserError, match="calibration images came, int8 needs at least 10 real"):
        tflite_convert.calibration_images(images)


def test_an_input_that_does_not_take_raw_pixels_is_refused(monkeypatch):
    trained = export_model.trained()
    module = DeviceModule(
        trained.model, RuleHead(trained.recognizer, rule="ncm"), image_size=16, channels=3
    )
    monkeypatch.setattr(tflite_convert, "calibration_images", lambda images: images)
    narrow = np.clip(trained.train_images[:20], 20, 200)
    with pytest.raises(RuntimeError, match=r"input is uint8 with scale.*not uint8 with \(1.0, 0\)"):
        tflite_convert.convert(module, "classifier", "int8", narrow)


def test_a_precision_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="TFLite variant 'int4' is not known: choose from float32"):
        tflite_convert.convert(None, "classifier", "int4")


# metadata


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_reads_back_by_the_flatbuffer_layout(paths, kind):
    """An independent reader: walks the flatbuffer's tables by slot number."""
    from flatbuffers import encode, number_types, table

    from tensorflow.lite.python import schema_py_generated as schema  # isort: skip

    content = paths[kind, "int8"].read_bytes()
    model = schema.Model.GetRootAsModel(content, 0)
    entries = {model.Metadata(i).Name(): model.Metadata(i).Buffer()
               for i in range(model.MetadataLength())}  # fmt: skip
    raw = model.Buffers(entries[b"TFLITE_METADATA"]).DataAsNumpy().tobytes()
    assert raw[4:8] == b"M001"
    assert len(raw) < 1200
    root = table.Table(raw, encode.Get(number_types.UOffsetTFlags.packer_type, raw, 0))

    def at(parent, slot):
        return parent.Offset(4 + 2 * slot)

    def child(parent, slot):
        return table.Table(parent.Bytes, parent.Indirect(parent.Pos + at(parent, slot)))

    def item(parent, slot, index=0):
        start = parent.Vector(at(parent, slot)) + 4 * index
        return table.Table(parent.Bytes, parent.Indirect(start))

    def text(parent, slot):
        return parent.String(parent.Pos + at(parent, slot)).decode()

    assert text(root, 0) == f"digits {kind}"
    subgraph = item(root, 3)
    image, made = item(subgraph, 2), item(subgraph, 3)
    assert text(image, 0) == "image"
    content_type = image.Get(number_types.Uint8Flags,
                             child(image, 3).Pos + at(child(image, 3), 0))  # fmt: skip
    assert content_type == 2  # ImageProperties
    properties = child(child(image, 3), 1)
    assert properties.Get(number_types.Int8Flags, properties.Pos + at(properties, 0)) == 1  # RGB
    options = child(item(image, 4), 1)
    mean, std = (
        options.Get(number_types.Float32Flags, options.Vector(at(options, slot))) for slot in (0, 1)
    )
    assert (mean, std) == (0.0, 1.0)
    assert text(made, 0) == KINDS[kind]
    labels = item(made, 6)
    assert text(labels, 0) == "labels.txt"
    assert labels.Get(number_types.Int8Flags, labels.Pos + at(labels, 2)) == 2  # TENSOR_AXIS_LABELS


def test_packed_files_are_read_by_plain_zip(paths):
    with zipfile.ZipFile(paths["embedder", "float16"]) as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        labels = archive.read("labels.txt").decode().split("\n")[:-1]
        prototypes = np.load(io.BytesIO(archive.read("prototypes.npy")))
        info = json.loads(archive.read("recognizer.json"))
    assert labels == export_model.NAMES
    np.testing.assert_array_equal(prototypes, export_model.trained().recognizer.prototypes)
    assert info["rule"] == "ncm"
    assert info["temperature"] == 0.1
    with zipfile.ZipFile(paths["classifier", "float16"]) as archive:
        assert sorted(archive.namelist()) == ["labels.txt", "model.sha256", "recognizer.json"]


def test_the_same_model_packs_to_the_same_bytes(paths):
    trained = export_model.trained()
    module = DeviceModule(
        trained.model, RuleHead(trained.recognizer, rule="ncm"), image_size=16, channels=3
    )
    raw = tflite_convert.convert(module, "embedder", "float32")
    description = tflite_metadata.Description("n", "d", "1", 16, 1, "embedding", "e")
    packed = [tflite_metadata.pack(raw, description, {"a.txt": b"a"}) for _ in range(2)]
    assert packed[0] == packed[1]
    run = tf.lite.Interpreter(model_content=packed[0]).get_signature_runner("embedder")
    plain = tf.lite.Interpreter(model_content=raw).get_signature_runner("embedder")
    image = trained.test_images[:1].astype(np.float32)
    np.testing.assert_array_equal(run(image=image)["embedding"], plain(image=image)["embedding"])


# parity


def test_the_report_counts_agreement_and_accuracy_by_band(paths, keras):
    images, _, scores = keras
    labels = export_model.trained().test_labels[:COUNT]
    few = {key: paths[key] for key in [("classifier", "float32"), ("embedder", "int8")]}
    rows = parity.parity_report(
        few, images=images, labels=labels, train_counts=COUNTS, keras_scores=scores
    )
    json.dumps(rows, allow_nan=False)
    assert [(row["kind"], row["variant"]) for row in rows] == [
        ("keras", "float32"), ("classifier", "float32"), ("embedder", "int8")]  # fmt: skip
    reference, float32, int8 = rows
    right = scores.argmax(axis=1) == labels
    assert reference["accuracy"]["all"] == pytest.approx(right.mean())
    few_shot = [right[labels == c].mean() for c in (7, 8, 9)]  # every class counts the same
    assert reference["accuracy"]["few"] == pytest.approx(np.mean(few_shot))
    assert float32["top1_agreement"] >= 1 - unclear(scores)
    if not unclear(scores):
        assert float32["accuracy"] == reference["accuracy"]
    assert float32["size_bytes"] == few["classifier", "float32"].stat().st_size
    assert int8["top1_agreement"] >= 0.97
    assert int8["meets"]
    assert int8["accuracy"]["all"] >= reference["accuracy"]["all"] - 0.01
    assert int8["accuracy"]["few"] >= reference["accuracy"]["few"] - 0.02
    assert int8["latency_ms"] > 0
    table = parity.parity_table(rows)
    assert len({len(line) for line in table.splitlines()}) == 1
    assert "embedder int8" in table


def test_a_file_that_disagrees_is_marked(paths, keras):
    images, _, scores = keras
    labels = export_model.trained().test_labels[:COUNT]
    rows = parity.parity_report(
        {("classifier", "float32"): paths["classifier", "float32"]}, images=images[:20],
        labels=labels[:20], train_counts=COUNTS, keras_scores=-scores[:20],
    )  # fmt: skip
    assert not rows[1]["meets"]
    assert rows[1]["top1_agreement"] < 0.2
    assert parity.parity_table(rows).endswith("below its agreement limit")


def test_the_converter_is_quiet_unless_it_fails(capfd, tmp_path):
    from longtail_tf.compat.quiet import quiet_converter

    import os  # isort: skip

    with quiet_converter():
        os.write(2, b"chatter")
    assert capfd.readouterr().err == ""
    with pytest.raises(ValueError, match="no"), quiet_converter():
        os.write(2, b"reason")
        raise ValueError("no")
    assert "reason" in capfd.readouterr().err


def test_saving_is_quiet_and_the_log_level_comes_back():
    from absl import logging

    from longtail_tf.compat.quiet import quiet_saving

    before = logging.get_verbosity(), tf.get_logger().level
    with quiet_saving():
        assert logging.get_verbosity() == logging.ERROR
        assert not tf.get_logger().isEnabledFor(30)
    assert (logging.get_verbosity(), tf.get_logger().level) == before
