"""Every setting of the commands beside the training reaches the part that it steers.

As `test_wiring` does for `train`: each command runs as it is, over stubs that note what they are
called with. A setting that a table lacks fails the test.
"""

from __future__ import annotations

import dataclasses
import pathlib
import types
from typing import Any, NamedTuple

import numpy as np
import pytest

from longtail_tf import classify, compare, convert, enroll, evaluate, export, inspect, report, serve
from longtail_tf.datasets.conversion.plan import Shard
from longtail_tf.errors import UserError
from longtail_tf.exporting import parity, rule_head, saved_model, server_files, tflite_files
from longtail_tf.inspection import batch_preview, check_report, dataset_check
from longtail_tf.recognition import enrollment, priors
from longtail_tf.runs import enrolled, evaluation, records, trained_run
from longtail_tf.runs.folder import RunFolder
from longtail_tf.settings.choices import RULES
from tests import fakes
from tests.spies import MISSING, Spies


class Row(NamedTuple):
    """A changed setting, the settings beside it, and where it must be seen: see `test_wiring`."""

    value: Any
    seen: Any
    expected: Any = MISSING
    beside: dict = {}


@pytest.fixture
def spies(monkeypatch):
    return Spies(monkeypatch)


def assert_rows_are_whole(rows, settings_class):
    fields = {field.name for field in dataclasses.fields(settings_class)}
    assert fields - set(rows) == set(), "say where the new setting must arrive"
    assert set(rows) - fields == set()


def assert_seen(row, name, before, after):
    """What the keys of a row give before and after the change."""
    for key in (row.seen,) if isinstance(row.seen, str) else row.seen:
        expected = row.value if row.expected is MISSING else row.expected
        same = after[key] == expected
        assert same if isinstance(same, bool) else same.all(), f"{key} got {after[key]}"
        assert before[key] is MISSING or before[key] != expected, f"{key}: the same before"


def values_of(spies, row):
    keys = (row.seen,) if isinstance(row.seen, str) else row.seen
    return {key: spies.value(key) for key in keys}


def nothing(*arguments, **named):
    """A stub."""


# inspect

INSPECT = {
    "data": Row("other.npz", "load_index.spec"),
    "exclude": Row("left_out.txt", "load_index.exclude"),
    "val_per_class": Row(3, "load_index.val_per_class"),
    "split_seed": Row(4, ("load_index.split_seed", "provenance.seed")),
    "classes_per_batch": Row(
        5, ("tail_facts.classes_per_batch", "write_batch_preview.classes_per_batch")
    ),
    "images_per_class": Row(
        3, ("tail_facts.images_per_class", "write_batch_preview.images_per_class")
    ),
    "head_batch_size": Row(
        7, ("tail_facts.head_batch_size", "write_batch_preview.head_batch_size")
    ),
    "embedding_dim": Row(9, "tail_facts.embedding_dim"),
    "png": Row("tail.png", "write_atomically.path"),
    "json": Row(True, "dumps.indent", 2),
    "check": Row(True, "check_dataset.data", "bars.npz"),
    "check_csv": Row("found.csv", "write_csv.path", beside={"check": True}),
    "quarantine": Row("bad.txt", "write_quarantine.path", beside={"check": True}),
    "show_batch": Row("seen.png", "write_batch_preview.path"),
    "head_ratio": Row(0.6, ("select_head.ratio", "write_batch_preview.num_head"), None),
    "image_size": Row(32, "write_batch_preview.image_size"),
    "head_augment": Row("crop_cutout", "write_batch_preview.head_augment"),
    "whole_augment": Row("crop_cutout", "write_batch_preview.whole_augment"),
}


def test_inspect_rows_are_whole():
    assert_rows_are_whole(INSPECT, inspect.InspectConfig)


@pytest.mark.parametrize("name", INSPECT)
def test_a_setting_of_inspect_reaches_its_part(spies, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    fakes.write_npz(pathlib.Path("bars.npz"))
    fakes.write_npz(pathlib.Path("other.npz"))
    pathlib.Path("left_out.txt").write_text("")
    report_of = types.SimpleNamespace(num_errors=0, findings=())
    load = inspect.load_index
    spies.watch(inspect, "load_index", instead=lambda spec, **given: load(f"npz:{spec}", **given))
    spies.watch(inspect, "provenance", "tail_facts", "select_head")
    spies.watch(inspect, "write_atomically", instead=nothing)
    monkeypatch.setattr(inspect, "count_curve_png", lambda *_: b"")
    monkeypatch.setattr(
        inspect, "json", types.SimpleNamespace(dumps=lambda content, indent=None: "")
    )
    spies.watch(inspect.json, "dumps")
    spies.watch(batch_preview, "write_batch_preview", instead=nothing)
    spies.watch(dataset_check, "check_dataset", instead=lambda *_, **__: report_of)
    spies.watch(check_report, "write_csv", instead=nothing)
    spies.watch(check_report, "write_quarantine", instead=lambda *_: 0)
    monkeypatch.setattr(check_report, "report_json", lambda report: {})
    monkeypatch.setattr(check_report, "render_text", lambda report: "")
    row = INSPECT[name]
    shown = {} if name == "show_batch" else {"show_batch": "batch.png"}
    settings = {"data": "bars.npz", "classes_per_batch": 4, **shown, **row.beside}
    inspect.run(inspect.InspectConfig(**settings))
    before = values_of(spies, row)
    inspect.run(inspect.InspectConfig(**{**settings, name: row.value}))
    if name == "head_ratio":  # of 8 classes
        assert spies.value("select_head.ratio") == 0.6
        assert spies.value("write_batch_preview.num_head") == 4
        assert before == {"select_head.ratio": 0.2, "write_batch_preview.num_head": 1}
        return
    assert_seen(row, name, before, values_of(spies, row))


# A run that is not there: what `load_run` gives to the commands that take one.


class FakeRecognizer:
    """Notes what it is asked for."""

    threshold = 0.3
    num_classes, num_head = 3, 1

    def predict(self, rule, embeddings, head_logits, *, k, test_prior=None):
        shape = (len(embeddings), k)
        return types.SimpleNamespace(
            class_ids=np.zeros(shape, int), probabilities=np.full(shape, 0.5)
        )

    def is_unknown(self, embeddings):
        return np.ones(len(embeddings), bool)

    def available_rules(self, **_):
        return RULES


def fake_run(path="run"):
    unit = types.SimpleNamespace(numpy=lambda: np.ones((1, 4), np.float32))
    return types.SimpleNamespace(
        folder=RunFolder(path),
        config=types.SimpleNamespace(
            steps=7, seed=3, inference_rule="lda", k_top=4, image_size=8, backbone="resnet8"
        ),
        model=types.SimpleNamespace(head=None, embed_images=lambda pixels: (unit, None)),
        recognizer=FakeRecognizer(),
        class_names=["a", "b", "c"],
        class_counts=np.array([5, 4, 1]),
        num_head=1,
        channels=1,
        data_digest="d",
    )


FAKE_INDEX = types.SimpleNamespace(
    test=types.SimpleNamespace(labels=np.arange(3)), val=None, train=None, digest="d"
)


# evaluate

EVALUATE = {
    "run_dir": Row("other", "load_run.path"),
    "data": Row("npz:x", "load_data.spec", beside={"out": "out"}),
    "test_prior": Row("uniform", "read_test_prior.spec", beside={"out": "out"}),
    "out": Row("elsewhere", "evaluate_test.out", pathlib.Path("elsewhere")),
}


def test_evaluate_rows_are_whole():
    assert_rows_are_whole(EVALUATE, evaluate.EvaluateConfig)


@pytest.mark.parametrize("name", EVALUATE)
def test_a_setting_of_evaluate_reaches_its_part(spies, monkeypatch, name):
    spies.watch(trained_run, "load_run", instead=fake_run)
    spies.watch(enrolled, "load_data", instead=lambda *_: FAKE_INDEX)
    spies.watch(priors, "read_test_prior", instead=lambda spec, **_: spec)
    spies.watch(evaluation, "evaluate_test", instead=lambda *_, **__: {})
    monkeypatch.setattr(records, "show_results", nothing)
    row = EVALUATE[name]
    settings = {"run_dir": "run", **row.beside}
    evaluate.run(evaluate.EvaluateConfig(**settings))
    before = values_of(spies, row)
    evaluate.run(evaluate.EvaluateConfig(**{**settings, name: row.value}))
    assert_seen(row, name, before, values_of(spies, row))
    if name == "test_prior":
        assert spies.value("evaluate_test.test_prior") == "uniform"


# classify

CLASSIFY = {
    "images": Row(("b.png",), "run_answers.images", [b"b"]),
    "run_dir": Row("other", "run_answers.run_dir"),
    "model": Row("net.tflite", "device_answers.model"),
    "server": Row("host:1/net", "server_answers.address"),
    "inference_rule": Row("ncm", "run_answers.rule"),
    "test_prior": Row("uniform", "run_answers.test_prior"),
    "k_top": Row(2, "run_answers.k_top"),
    "unknown": Row(True, "run_answers.unknown"),
    "json": Row(True, "dumps.indent", 2),
}


def test_classify_rows_are_whole():
    assert_rows_are_whole(CLASSIFY, classify.ClassifyConfig)


def one_answer(*arguments, **named):
    return iter([{"classes": [], "unknown": True}])


@pytest.mark.parametrize("name", CLASSIFY)
def test_a_setting_of_classify_reaches_its_part(spies, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    for image in ("a", "b"):
        pathlib.Path(f"{image}.png").write_bytes(image.encode())
    monkeypatch.setattr(classify, "RunFolder", types.SimpleNamespace(open=nothing))
    spies.watch(classify, "run_answers", "device_answers", "server_answers", instead=one_answer)
    monkeypatch.setattr(
        classify, "json", types.SimpleNamespace(dumps=lambda content, indent=None: "")
    )
    spies.watch(classify.json, "dumps")
    row = CLASSIFY[name]
    settings = {"images": ("a.png",), "run_dir": "run"}
    classify.run(classify.ClassifyConfig(**settings))
    before = values_of(spies, row)
    if name in ("model", "server"):
        settings = {"images": ("a.png",)}
    classify.run(classify.ClassifyConfig(**{**settings, name: row.value}))
    assert_seen(row, name, before, values_of(spies, row))


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        (dict(k_top=2), "device_answers.k_top", 2),
        (dict(unknown=True), "device_answers.unknown", True),
    ],
)
def test_settings_of_a_device_file_reach_it(spies, monkeypatch, tmp_path, changes, key, expected):
    (tmp_path / "a.png").write_bytes(b"a")
    spies.watch(classify, "device_answers", instead=one_answer)
    settings = {"images": (str(tmp_path / "a.png"),), "model": "net.tflite"}
    classify.run(classify.ClassifyConfig(**settings))
    assert spies.value(key) != expected
    classify.run(classify.ClassifyConfig(**settings, **changes))
    assert spies.value(key) == expected


def test_answers_of_a_run_are_asked_of_its_recogniser(spies, monkeypatch):
    """Rule, candidates and prior; and unknowns only where they are asked for."""
    monkeypatch.setattr(trained_run, "load_run", fake_run)
    monkeypatch.setattr(priors, "read_test_prior", lambda spec, **_: spec)
    spies.watch(FakeRecognizer, "predict")
    image = fakes.png_bytes(np.zeros((8, 8, 1), np.uint8))
    for rule, unknown in (("", False), ("ncm", True)):
        [answer] = classify.run_answers(
            "run", [image], rule=rule, k_top=2, unknown=unknown, test_prior="uniform"
        )
        assert spies.value("predict.rule") == (rule or "lda")  # of its own settings
        assert (spies.value("predict.k"), spies.value("predict.test_prior")) == (2, "uniform")
        assert answer["unknown"] == unknown and len(answer["classes"]) == 2


# report, compare

REPORT = {
    "run_dir": Row("other", ("read_run.run_dir", "write_report.run_dir")),
    "out": Row("page.html", "write_report.out"),
    "data": Row("npz:x", "_load_index.data"),
    "pictures": Row(False, "write_report.index", None),
    "projector": Row("vectors", "write_projector_files.folder"),
}
COMPARE = {
    "runs": Row("c,d", "read_run.run_dir", "d"),
    "out": Row("page.html", "write_atomically.path"),
    "projector": Row("vectors", "write_projector_files.folder", pathlib.Path("vectors/b")),
}


def test_report_and_compare_rows_are_whole():
    assert_rows_are_whole(REPORT, report.ReportConfig)
    assert_rows_are_whole(COMPARE, compare.CompareConfig)


@pytest.mark.parametrize("name", REPORT)
def test_a_setting_of_report_reaches_its_part(spies, name):
    spies.watch(report, "read_run", "write_report", instead=lambda *_, **__: pathlib.Path("x"))
    spies.watch(report, "_load_index", instead=lambda *_: ("an index", ""))
    spies.watch(report, "write_projector_files", instead=nothing)
    row = REPORT[name]
    settings = {"run_dir": "run"}
    report.run(report.ReportConfig(**settings))
    before = values_of(spies, row)
    report.run(report.ReportConfig(**{**settings, name: row.value}))
    if name == "pictures":
        assert before == {"write_report.index": "an index"}
        assert spies.value("write_report.index") is None
        assert spies.value("write_report.no_pictures").startswith("Example images were switched")
        return
    assert_seen(row, name, before, values_of(spies, row))


@pytest.mark.parametrize("name", COMPARE)
def test_a_setting_of_compare_reaches_its_part(spies, monkeypatch, name):
    spies.watch(compare, "read_run", instead=lambda path: types.SimpleNamespace(name=path))
    spies.watch(compare, "write_atomically", "write_projector_files", instead=nothing)
    for part in ("compare_runs", "as_text", "as_page"):
        monkeypatch.setattr(compare, part, lambda *_, **__: "")
    row = COMPARE[name]
    settings = {"runs": "a, b"}
    compare.run(compare.CompareConfig(**settings))
    before = values_of(spies, row)
    compare.run(compare.CompareConfig(**{**settings, name: row.value}))
    assert_seen(row, name, before, values_of(spies, row))
    assert spies.number("read_run") == 4


# export

EXPORT = {
    "run_dir": Row("other", "load_run.path"),
    "export_dir": Row("out", ("export_saved_model.export_dir", "write_server_files.export_dir"),
                      pathlib.Path("out")),
    "model_name": Row("shop", ("export_saved_model.model_name", "write_server_files.model_name",
                               "write_device_files.model_name")),
    "version": Row(5, "export_saved_model.version"),
    "data": Row("npz:x", "load_data.spec"),
    "inference_rule": Row("ncm", ("export_saved_model.rule", "check_rule.rule")),
    "k_top": Row(2, "export_saved_model.top_k"),
    "unknown": Row(True, ("export_saved_model.unknown_threshold",
                          "write_device_files.unknown_threshold"), 0.3),
    "unknown_threshold": Row(0.7, ("export_saved_model.unknown_threshold",
                                   "write_device_files.unknown_threshold")),
    "strict": Row(True, "Limits.strict"),
    "max_image_bytes": Row(99, "Limits.image_bytes"),
    "max_image_pixels": Row(88, "Limits.image_pixels"),
    "batch_sizes": Row("4,2", ("export_saved_model.batch_sizes", "write_server_files.batch_sizes"),
                       (2, 4)),
    "tflite": Row("int8", "write_device_files.variants", ("int8",)),
    "gate_images": Row(6, "spread_rows.count"),
    "calibration_images": Row(11, "write_device_files.calibration_images"),
    "parity_images": Row(12, "write_device_files.parity_images"),
}  # fmt: skip


def test_export_rows_are_whole():
    assert_rows_are_whole(EXPORT, export.ExportConfig)


def exported(*, before_publishing, **others):
    before_publishing()
    return pathlib.Path("x"), {"images": 3, "largest_difference_from_keras": 0.0}


@pytest.fixture
def export_spies(spies, monkeypatch):
    from longtail_tf.exporting import serving_module

    spies.watch(trained_run, "load_run", instead=fake_run)
    spies.watch(enrolled, "load_data", instead=lambda *_: FAKE_INDEX)
    spies.watch(rule_head, "check_rule", instead=nothing)
    spies.watch(parity, "spread_rows", instead=lambda *_, **__: [])
    monkeypatch.setattr(parity, "image_files", lambda *_: [])
    spies.watch(saved_model, "export_saved_model", instead=exported)
    spies.watch(server_files, "write_server_files", instead=nothing)
    spies.watch(tflite_files, "write_device_files", instead=lambda *_, **__: ([], [], ""))
    spies.watch(serving_module, "Limits")
    return spies


@pytest.mark.parametrize("name", EXPORT)
def test_a_setting_of_export_reaches_its_part(export_spies, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    row = EXPORT[name]
    settings = {"run_dir": "run"}
    export.run(export.ExportConfig(**settings))
    before = values_of(export_spies, row)
    export.run(export.ExportConfig(**{**settings, name: row.value}))
    assert_seen(row, name, before, values_of(export_spies, row))


def test_what_is_not_given_comes_from_the_run(export_spies, tmp_path, monkeypatch):
    """Rule and candidates of its settings: so `--inference_rule` and `--k_top` of the training
    reach what is exported."""
    monkeypatch.chdir(tmp_path)
    export.run(export.ExportConfig(run_dir="run"))
    assert export_spies.value("export_saved_model.rule") == "lda"
    assert export_spies.value("export_saved_model.top_k") == 4
    assert export_spies.value("export_saved_model.export_dir") == pathlib.Path("run/export")
    before = export_spies.number("write_device_files")
    export.run(export.ExportConfig(run_dir="run", tflite="none"))
    assert export_spies.number("write_device_files") == before


# enroll

ENROLL = {
    "run_dir": Row("other", "load_run.path"),
    "images": Row(("x.png", "y.png"), "embed_files.paths"),
    "add": Row("new", "save_enrolled.class_names", ["a", "b", "c", "new"]),
    "replace": Row("b", "replace_class.class_id", 1),
    "remove": Row("b", ("remove_class.class_id", "moved_ids.removed"), 1),
    "rename": Row("b", "save_enrolled.class_names", ["a", "d", "c"], beside={"to": "d"}),
    "to": Row("e", "save_enrolled.class_names", ["a", "e", "c"],
              beside={"rename": "b", "to": "d"}),
    "force": Row(True, "save_enrolled.class_names", ["a", "b", "c", "z"]),
    "out_dir": Row("out", "save_enrolled.out", pathlib.Path("out")),
    "export": Row(False, "run.config"),
    "model_name": Row("shop", "run.model_name"),
    "tflite": Row("int8", "run.tflite"),
}  # fmt: skip


def test_enroll_rows_are_whole():
    assert_rows_are_whole(ENROLL, enroll.EnrollConfig)


@pytest.mark.parametrize("name", ENROLL)
def test_a_setting_of_enroll_reaches_its_part(spies, monkeypatch, name):
    like = types.SimpleNamespace(nearer=0, images=1, class_id=0)
    spies.watch(trained_run, "load_run", instead=fake_run)
    spies.watch(enrolled, "embed_files", instead=lambda *_: (np.ones((1, 4)), ["sha"]))
    monkeypatch.setattr(enrolled, "done_already", nothing)
    monkeypatch.setattr(enrolled, "cost", lambda *_, **__: "no images")
    monkeypatch.setattr(enrolled, "next_folder", lambda run: pathlib.Path("next"))
    spies.watch(enrolled, "save_enrolled", instead=lambda *_, **__: fake_run("saved"))
    monkeypatch.setattr(enrollment, "resemblance", lambda *_, **__: like)
    keep = lambda recognizer, *_: recognizer  # noqa: E731
    for change in ("add_class", "replace_class", "remove_class"):
        spies.watch(enrollment, change, instead=keep)
    spies.watch(enrollment, "moved_ids")
    spies.watch(export, "run", instead=lambda *_, **__: types.SimpleNamespace(version_dir=None))
    row = ENROLL[name]
    settings = {"run_dir": "run", "images": ("p.png",), "add": "z"}
    if name == "force":
        like.nearer = 1
        with pytest.raises(UserError, match="--force"):
            enroll.run(enroll.EnrollConfig(**settings))
    else:
        if row.beside:
            settings = {"run_dir": "run", "rename": "a", "to": "d", **row.beside}
            if name == "rename":
                settings["rename"] = "a"
        enroll.run(enroll.EnrollConfig(**settings))
    for call in spies.calls["run"]:
        call.update(dataclasses.asdict(call["config"]))
    before = None if name in ("export", "force") else values_of(spies, row)
    count = spies.number("run")
    if name in ("replace", "remove"):
        del settings["add"]
    if name == "remove":
        del settings["images"]
    enroll.run(enroll.EnrollConfig(**{**settings, name: row.value}))
    if name == "export":
        assert count == 1 and spies.number("run") == 1
        return
    for call in spies.calls["run"]:
        call.update(dataclasses.asdict(call["config"]))
    if name == "force":
        assert spies.value("save_enrolled.class_names") == row.expected
        return
    assert_seen(row, name, before, values_of(spies, row))


# convert

CONVERT = {
    "data": Row("other.npz", "load_index.spec"),
    "out": Row("elsewhere", ("ShardWriter.folder", "claimed_folder.folder"), None),
    "exclude": Row("left_out.txt", "load_index.exclude"),
    "val_per_class": Row(3, "load_index.val_per_class"),
    "split_seed": Row(4, "load_index.split_seed"),
    "seed": Row(5, ("plan_shards.seed", "claimed_folder.seed")),
    "resize_px": Row(64, ("ShardWriter.resize_px", "claimed_folder.resize_px")),
    "jpeg_quality": Row(50, "ShardWriter.jpeg_quality"),
    "shard_megabytes": Row(2.5, "plan_shards.shard_bytes", 2_500_000),
    "workers": Row(3, "write_in_processes.workers"),
}


def test_convert_rows_are_whole():
    assert_rows_are_whole(CONVERT, convert.ConvertConfig)


@pytest.mark.parametrize("name", CONVERT)
def test_a_setting_of_convert_reaches_its_part(spies, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(convert.os, "cpu_count", lambda: 9)
    fakes.write_npz(pathlib.Path("bars.npz"))
    fakes.write_npz(pathlib.Path("other.npz"))
    pathlib.Path("left_out.txt").write_text("")
    load, claimed = convert.load_index, convert.claimed_folder
    spies.watch(convert, "load_index", instead=lambda spec, **given: load(f"npz:{spec}", **given))
    shard = Shard(name="train-0.tfrecord", split="train", rows=np.arange(3))
    spies.watch(convert, "plan_shards", instead=lambda *_, **__: [shard])
    spies.watch(convert, "ShardWriter", instead=nothing)
    spies.watch(convert, "claimed_folder", instead=claimed)
    spies.watch(convert, "write_in_processes", instead=lambda *_, **__: iter([3]))
    row = CONVERT[name]

    def values(out):
        call = spies.calls["claimed_folder"][-1]
        manifest = call["manifest"]
        call.update(manifest)
        found = values_of(spies, row)
        return {key: str(value) if name == "out" else value for key, value in found.items()}

    settings = {"data": "bars.npz", "out": "shards"}
    convert.run(convert.ConvertConfig(**settings))
    before = values("shards")
    after = {**settings, "out": "again", name: row.value}
    convert.run(convert.ConvertConfig(**after))
    if name == "out":
        row = row._replace(expected="elsewhere")
    assert_seen(row, name, before, values(after["out"]))
    if name == "jpeg_quality":  # it decides the bytes only of images that are shrunk
        assert spies.value("claimed_folder.jpeg_quality") is None


# serve

SERVE = {
    "model_base_path": Row("other", "single_model.base_path"),
    "model_name": Row("shop", "single_model.name"),
    "model_config_file": Row("models.config", "read_model_config.path"),
    "model_config_file_poll_wait_seconds": Row(2.5, "every.seconds"),
    "allow_version_labels_for_unavailable_models": Row(
        True, "ModelStore.allow_labels_for_unavailable"
    ),
    "host": Row("0.0.0.0", "Server.host"),
    "port": Row(0, "Server.port"),
    "file_system_poll_wait_seconds": Row(3.0, "Server.poll_wait_s"),
    "enable_batching": Row(False, ("Server.batching", "ModelStore.batching"), None),
    "batching_parameters_file": Row("sizes.txt", "Server.batching", "read sizes.txt"),
    "max_message_bytes": Row(999, "Server.max_message_bytes"),
    "drain_seconds": Row(1.5, "stop.drain_s"),
}


def test_serve_rows_are_whole():
    assert_rows_are_whole(SERVE, serve.ServeConfig)


@pytest.mark.parametrize("name", SERVE)
def test_a_setting_of_serve_reaches_its_part(spies, monkeypatch, name):
    pytest.importorskip("grpc")
    from longtail_tf.serving import batching_parameters, model_config, model_store, server

    model = types.SimpleNamespace(name="m")
    store = types.SimpleNamespace(is_ready=lambda: True)

    class Running:
        address = "here"

        def start(self):
            """Nothing listens."""

        def stop(self, drain_s):
            """Notes how long it may take."""

        def every(self, seconds, function, *, what):
            """Notes how often."""

    spies.watch(Running, "stop", "every", instead=nothing)
    spies.watch(model_config, "read_model_config", "single_model", instead=lambda *_: [model])
    spies.watch(
        batching_parameters, "read_batching_parameters", instead=lambda path: f"read {path}"
    )
    spies.watch(model_store, "ModelStore", instead=lambda *_, **__: store)
    spies.watch(server, "Server", instead=lambda *_, **__: Running())
    monkeypatch.setattr(server, "ConfigFollower", nothing)
    monkeypatch.setattr(serve.signal, "signal", nothing)
    monkeypatch.setattr(
        serve.threading, "Event", lambda: types.SimpleNamespace(set=nothing, wait=lambda s: True)
    )
    row = SERVE[name]
    settings = {"model_base_path": "models"}
    if name == "model_config_file_poll_wait_seconds":
        settings = {"model_config_file": "models.config"}
    serve.run(serve.ServeConfig(**settings))
    before = values_of(spies, row)
    if name == "model_config_file":
        settings = {}
    serve.run(serve.ServeConfig(**{**settings, name: row.value}))
    after = values_of(spies, row)
    if name == "enable_batching":
        assert all(value is not None for value in before.values())
        assert all(value is None for value in after.values())
        return
    assert_seen(row, name, before, after)
