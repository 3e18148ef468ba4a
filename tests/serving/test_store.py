"""Versions coming, going, broken and swapped. The store is polled by hand: nothing waits."""

from __future__ import annotations

import gc
import os
import shutil
import threading
import weakref

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.serving import model_store, versions
from longtail_tf.serving.batching_parameters import BatchingParameters
from longtail_tf.serving.model_config import ModelConfig, read_model_config, single_model
from longtail_tf.serving.model_store import ModelStore
from longtail_tf.serving.status import Code, ServingError
from longtail_tf.serving.versions import STATE_NAMES
from tests.serving_models import copy_version, png, predict_request, saved_once
from tests.waiting import HANG_S, wait_for


@pytest.fixture
def base(tmp_path):
    copy_version(saved_once(), tmp_path / "m", 1)
    return tmp_path / "m"


@pytest.fixture
def opened():
    """ModelStore(...) whose versions are closed after the test."""
    stores = []

    def make(*args, **kwargs):
        stores.append(ModelStore(*args, **kwargs))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def _config(base, **kwargs):
    return ModelConfig(name="m", base_path=str(base), **kwargs)


def _states(store, name="m"):
    return {state.version: STATE_NAMES[state.state] for state in store.states(name)}


def _served(store, **spec):
    """The version that answers a ModelSpec."""
    request = predict_request(**spec)
    with store.lease(request.model_spec) as servable:
        return servable.version


def test_a_new_version_takes_over_and_the_old_one_ends(base, opened):
    store = opened([_config(base)])
    store.load_all()
    assert (_states(store), _served(store)) == ({1: "AVAILABLE"}, 1)
    copy_version(saved_once(), base, 2)
    store.poll()
    assert _states(store) == {2: "START", 1: "AVAILABLE"}  # first seen: it may still be growing
    store.poll()
    assert _states(store) == {2: "AVAILABLE", 1: "END"}
    assert _served(store) == 2
    with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(m, 1\)"):
        _served(store, version=1)


def test_an_unloaded_version_is_freed_at_once(base, opened, monkeypatch):
    trimmed = []
    monkeypatch.setattr(model_store, "_malloc_trim", lambda: trimmed.append)
    store = opened([_config(base)])
    store.load_all()
    with store.lease(predict_request().model_spec) as servable:
        graph = weakref.ref(servable._session.graph)
    del servable
    copy_version(saved_once(), base, 2)
    gc.disable()  # the graph is tied in cycles: nobody else may untie them
    try:
        _wait_for_the_collector()
        store.poll(at_once=True)
        assert _states(store)[1] == "END" and graph() is None
    finally:
        gc.enable()
    assert trimmed == [0]


def _wait_for_the_collector():
    """While another thread still collects, gc.collect() returns without doing so."""

    class Ring:
        pass

    ring = Ring()
    ring.itself, gone = ring, weakref.ref(ring)
    del ring

    def collected():
        gc.collect()
        return gone() is None

    wait_for(collected)


def test_removing_the_newest_version_rolls_back(base, opened):
    copy_version(saved_once(), base, 2)
    store = opened([_config(base)])
    store.load_all()
    assert _served(store) == 2
    shutil.rmtree(base / "2")
    store.poll()
    store.poll()
    assert (_served(store), _states(store)) == (1, {2: "END", 1: "AVAILABLE"})


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, {12}),
        ({"num_latest": 2}, {3, 12}),
        ({"versions": "all"}, {1, 2, 3, 12}),
        ({"versions": "specific", "specific_versions": (1, 3, 99)}, {1, 3}),
    ],
)
def test_version_policies(tmp_path, policy, expected):
    for name in ("1", "2", "3", "012", "latest", "5.tmp", ".7", "-8", "9x"):
        (tmp_path / name).mkdir()
    found = versions.found_versions(str(tmp_path))
    assert set(found) == {1, 2, 3, 12}
    assert set(versions.wanted_versions(_config(tmp_path, **policy), found)) == expected


def test_a_half_written_version_waits_and_loads_when_complete(base, opened):
    store = opened([_config(base)])
    store.load_all()
    source, target = saved_once(), base / "2"
    target.mkdir()
    store.poll()
    shutil.copy(source / "saved_model.pb", target)
    store.poll()  # the files changed since the last look: not touched
    assert _states(store)[2] == "START"
    store.poll()  # nothing changed for one look: it is tried, and says why not
    assert _states(store) == {2: "END", 1: "AVAILABLE"}
    (broken, _) = store.states("m")
    assert broken.code != 0
    assert broken.message
    assert _served(store) == 1
    shutil.copytree(source / "variables", target / "variables")
    store.poll()
    store.poll()
    assert _states(store) == {2: "AVAILABLE", 1: "END"}


def _truncate(path, fraction=0.5):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * fraction)])


def _empty(version):
    for child in list(version.iterdir()):
        shutil.rmtree(child) if child.is_dir() else child.unlink()


CORRUPTIONS = {
    "no saved_model.pb": (lambda v: (v / "saved_model.pb").unlink(), "Could not find SavedModel"),
    "an empty folder": (_empty, "Could not find SavedModel"),
    "half a saved_model.pb": (lambda v: _truncate(v / "saved_model.pb"), "cannot be loaded"),
    "no variables": (lambda v: shutil.rmtree(v / "variables"), ""),
    "no index": (lambda v: (v / "variables" / "variables.index").unlink(), ""),
    "no shard": (lambda v: (v / "variables" / "variables.data-00000-of-00001").unlink(), ""),
    "half a shard": (
        lambda v: _truncate(v / "variables" / "variables.data-00000-of-00001", 0.02),
        "",
    ),
    "a text file": (lambda v: (v / "saved_model.pb").write_bytes(b"hello"), "cannot be loaded"),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupt_version_never_disturbs_the_one_that_serves(base, opened, corruption):
    damage, reason = CORRUPTIONS[corruption]
    store = opened([_config(base)])
    store.load_all()
    damage(copy_version(saved_once(), base, 2))
    store.poll()
    store.poll()
    newest = store.states("m")[0]
    assert (newest.version, STATE_NAMES[newest.state]) == (2, "END")
    assert newest.code not in (0, int(Code.INTERNAL))
    assert newest.message
    assert reason in newest.message
    assert _served(store) == 1
    assert store.is_ready()


def test_a_corrupt_version_is_tried_again_later_and_at_once_when_it_changes(
    base, opened, monkeypatch
):
    store = opened([_config(base)])
    store.load_all()
    version = copy_version(saved_once(), base, 2)
    whole = (version / "saved_model.pb").read_bytes()
    (version / "saved_model.pb").write_bytes(b"broken")
    attempts = []
    load = store._load
    monkeypatch.setattr(store, "_load", lambda *args: attempts.append(args) or load(*args))
    clock = [1000.0]
    monkeypatch.setattr("longtail_tf.serving.model_store.time.monotonic", lambda: clock[0])
    for _ in range(5):
        store.poll()
    assert len(attempts) == 1
    clock[0] += 3.0  # the first retry is due after 2 s, the next after 4 more
    for _ in range(3):
        store.poll()
    assert len(attempts) == 2
    clock[0] += 3.0
    store.poll()
    assert len(attempts) == 2
    (version / "saved_model.pb").write_bytes(whole)
    store.poll()
    store.poll()
    assert _served(store) == 2


def test_an_unreadable_base_path_keeps_what_is_loaded(base, opened, tmp_path):
    store = opened([_config(base)])
    store.load_all()
    os.rename(base, tmp_path / "away")
    store.poll()
    assert _served(store) == 1
    os.rename(tmp_path / "away", base)
    shutil.rmtree(base / "1")  # the folder is there, its versions are gone: so they go
    store.poll()
    with pytest.raises(ServingError, match=r"Servable not found for request: Latest\(m\)"):
        _served(store)
    assert not store.is_ready()


def test_a_version_in_use_is_unloaded_only_when_the_last_request_is_done(base, opened):
    store = opened([_config(base)], batching=BatchingParameters(num_batch_threads=1))
    store.load_all()
    request = predict_request()
    with store.lease(request.model_spec) as old:
        copy_version(saved_once(), base, 2)
        store.poll()
        swapping = threading.Thread(target=store.poll)
        swapping.start()
        wait_for(lambda: _served(store) == 2)
        signature = old.signatures["serving_default"]  # still works: it waits for us
        images = np.array([png((9, 1, 1))], object)
        assert old.infer(signature, {"image_bytes": images})["labels"][0, 0] == b"red"
        assert swapping.is_alive()
    swapping.join(HANG_S)
    assert _states(store) == {2: "AVAILABLE", 1: "END"}


def test_labels_name_versions_and_unknown_ones_are_refused(base, opened):
    copy_version(saved_once(), base, 2)
    config = _config(base, versions="all", labels=(("canary", 2), ("stable", 1)))
    store = opened([config])
    store.load_all()
    request = predict_request()
    for label, number in config.labels:
        request.model_spec.version_label = label
        with store.lease(request.model_spec) as servable:
            assert servable.version == number
    request.model_spec.version_label = "nope"
    with pytest.raises(ServingError, match="Unrecognized servable version label: nope"):
        store.lease(request.model_spec).__enter__()


def test_a_label_for_a_version_that_is_not_there(base, opened):
    config = _config(base, labels=(("stable", 5),))
    with pytest.raises(ServingError, match="assign label to version 5 of model m, which is not"):
        opened([config]).load_all()
    store = opened([config], allow_labels_for_unavailable=True)
    store.load_all()
    request = predict_request()
    request.model_spec.version_label = "stable"
    with pytest.raises(ServingError, match=r"Servable not found .*Specific\(m, 5\)"):
        store.lease(request.model_spec).__enter__()


def test_reload_adds_moves_and_removes_models(base, opened, tmp_path):
    copy_version(saved_once(), tmp_path / "n", 4)
    store = opened([_config(base)])
    store.load_all()
    other = ModelConfig(name="n", base_path=str(tmp_path / "n"))
    store.reload([_config(base, labels=(("stable", 1),)), other])
    assert (_served(store), _served(store, name="n")) == (1, 4)
    store.reload([other])
    with pytest.raises(ServingError, match=r"Latest\(m\)"):
        _served(store)
    missing = ModelConfig(name="k", base_path=str(tmp_path / "nothing"))
    with pytest.raises(ServingError, match="Some models did not become available: {k}"):
        store.reload([other, missing])
    assert _served(store, name="n") == 4
    with pytest.raises(ServingError, match="assign label to version 9 of model n"):
        store.reload([ModelConfig(name="n", base_path=str(tmp_path / "n"), labels=(("s", 9),))])


def _write_warmup(version, *records):
    folder = version / "assets.extra"
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for record in records:
            writer.write(record)


def _record(request):
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    return log.SerializeToString()


def test_warmup_requests_are_replayed_before_traffic(base, opened, monkeypatch):
    from longtail_tf.serving.servable import Servable

    ran = []
    run = Servable.run
    monkeypatch.setattr(
        Servable, "run", lambda self, s, a: ran.append((self.version, s.name)) or run(self, s, a)
    )
    version = copy_version(saved_once(), base, 2)
    good = predict_request(image_bytes=[png((1, 2, 3))])
    _write_warmup(version, _record(good), _record(predict_request("m", "embed", None, **{
        "image_bytes": [png((1, 2, 3))]})))  # fmt: skip
    store = opened([_config(base)])
    store.load_all()
    assert ran == [(2, "serving_default"), (2, "embed")]
    assert _states(store) == {2: "AVAILABLE"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"\xff\xff\xff", "Failed to parse warmup record"),
        (_record(predict_request(image_bytes=[b"bad"])), "Unknown image file format"),
        (_record(predict_request(signature="nope")), 'signature key "nope" not found'),
        (b"", "Unsupported log_type for warmup: None"),
    ],
)
def test_a_version_that_fails_its_warmup_does_not_serve(base, opened, record, reason):
    store = opened([_config(base)])
    store.load_all()
    _write_warmup(copy_version(saved_once(), base, 2), record)
    store.poll()
    store.poll()
    assert _states(store) == {2: "END", 1: "AVAILABLE"}
    assert reason in store.states("m")[0].message


CONFIG = """
model_config_list {{
  config {{
    name: "m" base_path: "{base}" model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 2 versions: 1 }} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
  }}
  config {{ name: "all" base_path: "{base}" model_platform: "tensorflow"
           model_version_policy {{ all {{}} }} }}
  config {{ name: "two" base_path: "{base}" model_type: TENSORFLOW
           model_version_policy {{ latest {{ num_versions: 2 }} }} }}
}}
"""


def test_models_config_is_read_as_the_real_server_reads_it(base, tmp_path):
    path = tmp_path / "models.config"
    path.write_text(CONFIG.format(base=base))
    assert read_model_config(str(path)) == [
        ModelConfig("m", str(base), "specific", 1, (1, 2), labels=(("canary", 2), ("stable", 1))),
        ModelConfig("all", str(base), "all"),
        ModelConfig("two", str(base), "latest", 2),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model_config_list { config { nam: 'm' } }", "no field named .*nam"),
        ("", "Only ModelConfigList is currently supported"),
        ("model_config_list { config { name: 'm' } }", "needs a name and a base_path"),
        ("model_config_list { config { name: 'm' base_path: 'BASE' } }", "setting neither"),
        (
            "model_config_list { config { name: 'm' base_path: 'BASE' model_platform: 'torch' } }",
            "requests unsupported platform torch",
        ),
        (
            "model_config_list { config { name: 'm' base_path: 'x' model_platform: 'tensorflow' "
            "} }",
            "have an absolute path",
        ),
        (
            "model_config_list { config { name: 'm' base_path: 'BASE' model_platform: 'tensorflow' "
            "} config { name: 'm' base_path: 'BASE' model_platform: 'tensorflow' } }",
            "list model m multiple times",
        ),
        (
            "model_config_list { config { name: 'm' base_path: '/nope' model_platform: 'tensorflow'"
            " } }",
            "base path '/nope' of model 'm' is not a folder",
        ),
    ],
)
def test_bad_models_configs_are_refused(base, tmp_path, text, reason):
    path = tmp_path / "models.config"
    path.write_text(text.replace("BASE", str(base)))
    with pytest.raises(UserError, match=reason):
        read_model_config(str(path))


def test_single_model_flags_are_checked(base, tmp_path):
    assert single_model("m", str(base)) == [ModelConfig("m", str(base))]
    with pytest.raises(UserError, match="--model_name is empty"):
        single_model("", str(base))
    with pytest.raises(UserError, match="is not a folder; it must be the folder that holds"):
        single_model("m", str(tmp_path / "nope"))
    with pytest.raises(
        UserError, match=f"is a version folder .* give the folder above it, '{base}'"
    ):
        single_model("m", str(base / "1"))
    with pytest.raises(UserError, match="--model_config_file=/nope cannot be read"):
        read_model_config("/nope")
