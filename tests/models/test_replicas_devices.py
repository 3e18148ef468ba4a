"""Two devices of one process train what one replica trains."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import train
from longtail_tf.config import Config
from longtail_tf.datasets import load_index
from longtail_tf.errors import UserError
from longtail_tf.runs import streams
from tests import fakes, replica_runs, stacks

# One forward pass for both losses, each over both batches.
PLUS = dict(
    head_num_classes=None,
    head_all=True,
    schedule="joint",
    classify_whole=True,
    compare_head=True,
    metric_loss="supcon",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one replica and of two devices: alternate with validation, and as longtail_plus."""
    folder = tmp_path_factory.mktemp("runs")
    data = fakes.write_npz(folder / "bars.npz")
    settings = dict(data=data, eval_every=2)
    plain = [
        dict(run_dir=str(folder / "one"), **settings),
        dict(run_dir=str(folder / "two"), replicas="devices", **settings),
    ]
    plus = [
        dict(run_dir=str(folder / "plus_one"), data=data, **PLUS),
        dict(run_dir=str(folder / "plus_two"), data=data, replicas="devices", **PLUS),
    ]
    # A process of its own each: TensorFlow remembers the shapes of the first strategy's collectives
    # and fails on those of a second one.
    for pair in (plain, plus):
        replica_runs.finish(pair)
    return folder


@pytest.mark.parametrize("kind", ["", "plus_"])
def test_two_devices_end_at_the_weights_and_numbers_of_one(runs, kind):
    replica_runs.assert_same_training(runs / f"{kind}two", runs / f"{kind}one")


def test_training_loads_no_heavy_module_that_it_does_not_use(runs):
    # The report's map of embeddings is drawn by scikit-learn. Keras 3 itself imports matplotlib.
    known = {"sklearn", "matplotlib"} if stacks.KERAS_3 else {"sklearn"}
    assert set(json.loads((runs / "loaded.json").read_text())) <= known


def test_two_devices_leave_the_same_files_and_see_the_same_images(runs):
    ours, theirs = ({p.name for p in (runs / name).iterdir()} for name in ("two", "one"))
    assert ours == theirs
    ours, theirs = (
        json.loads((runs / name / "evaluation.json").read_text()) for name in ("two", "one")
    )
    assert ours["images_seen"] == theirs["images_seen"] and ours["step"] == 4
    assert ours["rules"].keys() == theirs["rules"].keys()


def test_validation_between_steps_works_on_replicas(runs):
    (ours,), (theirs,) = (
        [record for record in replica_runs.records(runs / name) if "val" in record]
        for name in ("two", "one")
    )
    # Not the same numbers: the running variances of the fused kernel are the unbiased ones.
    assert ours["step"] == theirs["step"] == 2 and ours["val"].keys() == theirs["val"].keys()


class TwoReplicas:
    """What `distributed_streams` touches of a strategy: two processes of two replicas."""

    num_replicas_in_sync = 4

    def distribute_datasets_from_function(self, of_process):
        return [
            of_process(tf.distribute.InputContext(2, process, self.num_replicas_in_sync))
            for process in range(2)
        ]


@pytest.mark.parametrize("augment", ["crop", "crop_mixup"])
def test_replicas_in_turn_get_the_parts_of_their_process_slice(tmp_path, augment):
    index = load_index(fakes.write_npz(tmp_path / "bars.npz"))
    config = Config(
        data="x",
        run_dir="y",
        head_num_classes=3,
        head_batch_size=8,
        classes_per_batch=8,
        images_per_class=2,
        image_size=8,
        head_augment=augment,
        whole_augment="crop",
    )
    shards = []

    def make(shard):
        shards.append(shard)
        return streams.pixel_inputs(config, index).streams(
            head=streams.head_sampler(config, index.train, num_head=3),
            whole=streams.whole_sampler(config, index.train),
            start_step=5,
            shard=shard,
        )

    first, second = streams.distributed_streams(TwoReplicas(), make)
    assert shards == [(0, 2), (1, 2)]
    for process, dataset in enumerate((first, second)):
        slices = make((process, 2)).take(2)
        parts = iter(dataset.take(4))
        for batch in slices:
            of_replicas = [next(parts), next(parts)]
            for stream, values in batch.items():
                for i, value in enumerate(values):
                    each = [part[stream][i].numpy() for part in of_replicas]
                    if value.shape.rank == 0:  # the weight of a mixed batch goes to both
                        assert each[0] == each[1] == value.numpy()
                    else:
                        assert len(each[0]) == len(each[1])
                        np.testing.assert_array_equal(np.concatenate(each), value)
            for part in of_replicas:
                assert len(set(part["whole"][1].numpy())) == 2


def test_one_replica_gets_the_streams_as_they_are():
    made = streams.distributed_streams(tf.distribute.get_strategy(), lambda shard: ("all", shard))
    assert made == ("all", None)


def config_of(**changes):
    return Config(**{**replica_runs.TINY, "data": "x", "run_dir": "y", **changes})


@pytest.mark.parametrize(
    ("changes", "replicas", "message"),
    [
        (dict(), 4, "--classes_per_batch=4 does not give each of the 4 replicas the same number "
         r"of classes, at least 2 \(one class alone has no negatives\): set --classes_per_batch=8"),
        (dict(classes_per_batch=5), 2, "set --classes_per_batch=4, or train fewer replicas"),
        (dict(head_batch_size=7), 2, "--head_batch_size=7 does not give each of the 2 replicas "
         "the same number of images, at least 1: set --head_batch_size=6"),
        (dict(head_batch_size=6, head_sampling="pk"), 2, "set --head_batch_size=8"),
        (dict(head_batch_size=1, metric_loss="none"), 2, "set --head_batch_size=2"),
    ],
)  # fmt: skip
def test_batches_that_cannot_be_shared_out_are_refused(changes, replicas, message):
    with pytest.raises(UserError, match=message):
        streams.check_shares(config_of(**changes), replicas=replicas)


@pytest.mark.parametrize(
    ("changes", "replicas"),
    [
        (dict(), 2),
        (dict(classes_per_batch=5, head_batch_size=7), 1),
        (dict(classification_loss="none", head_num_classes=None, head_batch_size=7), 2),
        (dict(metric_loss="none", classes_per_batch=3), 2),
        (dict(head_sampling="pk", head_batch_size=8), 2),
    ],
)
def test_batches_that_can_be_shared_out_pass(changes, replicas):
    streams.check_shares(config_of(**changes), replicas=replicas)


def test_one_device_is_one_replica_and_any_batch_will_do(tmp_path):
    """A machine with one device may have --replicas=devices in its flagfile."""
    result = train.run(
        config_of(
            data=fakes.write_npz(tmp_path / "bars.npz"),
            run_dir=str(tmp_path / "run"),
            replicas="devices",
            schedule="joint",
            metric_loss="supcon",
            classes_per_batch=3,
            steps=1,
        )
    )
    assert result.metrics is not None
