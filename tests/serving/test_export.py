"""The real exporter's folder, served: export, warm-up, config files and client fit together."""

from __future__ import annotations

import numpy as np
import pytest

from longtail_tf.exporting import saved_model, server_files
from longtail_tf.serving.batching_parameters import read_batching_parameters
from longtail_tf.serving.client import Client
from tests import export_model, rounding
from tests.serving_models import serving


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    trained = export_model.trained()
    return saved_model.export_saved_model(
        export_dir=tmp_path_factory.mktemp("export"),
        model_name="digits",
        version=None,
        image_files=export_model.test_files(12),
        batch_sizes=(1, 4),
        info={"seed": 7},
        model=trained.model,
        recognizer=trained.recognizer,
        class_names=export_model.NAMES,
        image_size=export_model.SIZE,
        channels=export_model.CHANNELS,
    )[0]


def test_an_export_is_served_with_its_answers_and_its_valid_output(exported):
    import tensorflow as tf

    files = export_model.test_files(9)
    loaded = tf.saved_model.load(str(exported))
    expected = loaded.signatures["serving_default"](image_bytes=tf.constant(files))
    running = serving(model_base_path=str(exported.parent), model_name="digits")
    with running as server, Client(server.address, "digits", batch_size=4) as client:
        answers = list(client.classify([*files[:5], b"bad", *files[5:]]))
        vectors = np.stack(list(client.embed(files)))
    assert answers[5].error
    good = [answer for answer in answers if answer.error is None]
    assert len(good) == len(files)
    for answer, ids, scores in zip(good, expected["class_ids"].numpy(), expected["scores"].numpy()):
        rounding.assert_same_top(
            list(zip(answer.class_ids, answer.scores)), list(zip(ids, scores)),
            atol=rounding.NETWORK,
        )  # fmt: skip
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_exporters_batching_parameters_are_read(tmp_path):
    path = tmp_path / "batching_parameters.txt"
    path.write_text(server_files.batching_parameters((4, 1)))
    parameters = read_batching_parameters(str(path))
    assert (parameters.allowed_batch_sizes, parameters.max_batch_size) == ((1, 4), 4)
    assert parameters.max_enqueued_batches == server_files.MAX_QUEUED_BATCHES
