from __future__ import annotations

import numpy as np
import pytest

from longtail_tf.config import Config
from longtail_tf.datasets import load_index
from longtail_tf.errors import UserError
from longtail_tf.images import inputs
from longtail_tf.runs import streams
from longtail_tf.runs.resolve import resolve_for
from tests import fakes


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return load_index(fakes.write_npz(tmp_path_factory.mktemp("data") / "bars.npz"))


def config(index, **changes):
    settings = dict(data="x", run_dir="y", head_num_classes=3, images_per_class=2)
    return resolve_for(Config(**{**settings, **changes}), index)


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        (dict(head_num_classes=3), 3),
        (dict(head_num_classes=None, head_ratio=0.5), 4),
        (dict(head_num_classes=None, head_min_count=10), 3),
        (dict(head_num_classes=None, head_all=True), 8),
        (dict(head_num_classes=None, classification_loss="none"), 0),
    ],
)
def test_head_size(index, rule, size):
    assert streams.head_size(config(index, **rule), index.class_counts) == size


def test_the_head_stream_holds_head_rows_only(index):
    for sampling in ("random", "pk", "balanced"):
        sampler = streams.head_sampler(
            config(index, head_sampling=sampling, head_batch_size=6), index.train, num_head=3
        )
        labels = np.concatenate([index.train.labels[sampler.batch(step)] for step in range(20)])
        assert set(labels) == {0, 1, 2}
        if sampling != "random":
            assert (np.bincount(labels) == 40).all()
            assert sampler.describe()["classes"] == 3


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_seen_counts_are_the_shares_of_what_the_classification_loss_meets(index, power):
    shared = config(index, schedule="joint", classify_whole=True, class_power=power)
    seen = streams.seen_counts(shared, index.class_counts, num_head=3)
    met = np.zeros(3)
    head = streams.head_sampler(shared, index.train, num_head=3)
    whole = streams.whole_sampler(shared, index.train)
    for step in range(400):
        for sampler in (head, whole):
            met += np.bincount(index.train.labels[sampler.batch(step)], minlength=8)[:3]
    np.testing.assert_allclose(seen / seen.sum(), met / met.sum(), atol=0.015)
    assert seen.sum() == pytest.approx(index.class_counts[:3].sum())
    plain = streams.seen_counts(config(index), index.class_counts, num_head=3)
    np.testing.assert_array_equal(plain, index.class_counts[:3])


def test_a_pk_head_batch_of_more_classes_than_the_head_is_reported(index):
    with pytest.raises(UserError, match="asks for 5 head classes a batch, but the head has 3"):
        streams.head_sampler(
            config(index, head_sampling="pk", head_batch_size=10), index.train, num_head=3
        )


def test_streams_that_are_off_are_absent(index):
    no_head = config(index, classification_loss="none")
    no_whole = config(index, metric_loss="none")
    assert streams.head_sampler(no_head, index.train, num_head=3) is None
    assert streams.whole_sampler(no_whole, index.train) is None


def test_batches_have_both_streams_with_rows_of_their_labels(index):
    settings = config(index, head_batch_size=6)
    dataset = streams.pixel_inputs(settings, index).streams(
        head=streams.head_sampler(settings, index.train, num_head=3),
        whole=streams.whole_sampler(settings, index.train),
        start_step=0,
    )
    batch = next(iter(dataset))
    assert batch["head"][0].shape == (6, 8, 8, 1) and batch["whole"][0].shape == (16, 8, 8, 1)
    for _, labels, rows in batch.values():
        np.testing.assert_array_equal(labels, index.train.labels[rows])


def test_memory_and_the_share_of_bad_images_reach_the_streams(index, monkeypatch):
    given = {}
    monkeypatch.setattr(inputs, "training_streams", lambda *_, **settings: given.update(settings))
    settings = config(index, cache_megabytes=3, max_bad_share=0.25)
    streams.pixel_inputs(settings, index).streams(head=None, whole=None, start_step=0)
    assert (given["cache_bytes"], given["max_bad_share"]) == (3 * 2**20, 0.25)
