"""Where a training begins: what stands still, what is cached, and what the embedding starts as."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf import train
from longtail_tf.compat import keras_version
from longtail_tf.config import Config
from longtail_tf.datasets import load_index
from longtail_tf.errors import UserError
from longtail_tf.images.inputs import PixelInputs, TrunkInputs
from longtail_tf.models import networks
from longtail_tf.runs.folder import RunFolder
from longtail_tf.runs.resolve import resolve_for
from longtail_tf.runs.streams import head_sampler, head_size, whole_sampler
from longtail_tf.runs.trained_run import inference_copy, load_run
from longtail_tf.settings import cli
from longtail_tf.training import loop, start
from longtail_tf.training.start import fitting_views, network_over, plain_copy, starting_network
from tests import fakes, pretrained, rounding
from tests.recognition.test_whitening import in_loops

DIM = 6
# float16 keeps 11 bits of each number of a map; sums of some hundred of them, through at most four
# layers that may double what they get. A wrong weight or a picture too few is of order 0.1.
HALF = 16 * float(np.finfo(np.float16).eps)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data set, its index, and weights that others learned."""
    folder = tmp_path_factory.mktemp("world")
    spec = fakes.write_npz(folder / "bars.npz")
    return spec, load_index(spec), pretrained.write_resnet8(folder)


def settings_of(world, **changes):
    spec, index, weights = world
    settings = dict(
        data=spec, run_dir="x", weights=weights, head_num_classes=3, steps=3, warmup_steps=0,
        learning_rate=0.1, cached_views=2, **{**fakes.TINY_NET, "embedding_dim": DIM},
    )  # fmt: skip
    return resolve_for(Config(**{**settings, **changes}), index)


def begin(world, tmp_path, **changes):
    config = settings_of(world, **changes)
    index = world[1]
    num_head = head_size(config, index.class_counts)
    begun = starting_network(config, index, num_head=num_head, folder=RunFolder(tmp_path))
    return begun, config, num_head


def fit(begun, config, index, num_head):
    """The steps of the training and nothing else."""
    loop.compile_for(begun.model, config, index, num_head=num_head)
    streams = begun.inputs.streams(
        head=head_sampler(config, index.train, num_head=num_head),
        whole=whole_sampler(config, index.train),
        start_step=0,
    )
    begun.model.fit(streams, steps_per_epoch=config.steps, verbose=0, shuffle=False)


def pixels_of(index):
    return index.train.read(np.arange(len(index.train)))


def by_name(model):
    """Every weight of a network, by a name that tells its layer."""
    found = {}
    for layer in keras_version.all_layers(model):
        if not getattr(layer, "layers", None) and getattr(layer, "weights", None):
            for number, array in enumerate(layer.get_weights()):
                found[f"{layer.name}/{number}"] = np.array(array)
    return found


PARTS = ("all", "stage2", "stage3", "head", "none")


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("train_from", PARTS)
def test_what_lies_below_is_no_variable_of_the_training(world, tmp_path, train_from, views):
    begun, config, _ = begin(world, tmp_path, train_from=train_from, cached_views=views)
    above = {"all": ("stem", "stage1", "stage2", "stage3"), "stage2": ("stage2", "stage3"),
             "stage3": ("stage3",), "head": (), "none": ()}[train_from]  # fmt: skip
    expected = 0
    net = networks.backbone_of(begun.model.whole_embedder())
    for layer in net.layers:
        if layer.name.startswith(above) if above else False:
            is_norm = isinstance(layer, tf.keras.layers.BatchNormalization)
            expected += 2 if is_norm else len(layer.weights)
    expected += train_from != "none"  # the projection
    assert len(begun.model.embedder.trainable_variables) == expected
    cached = train_from != "all" and (views or train_from == "none")
    assert isinstance(begun.inputs, TrunkInputs if cached else PixelInputs)
    if cached:
        views = 0 if train_from == "none" else views
        assert {name: cache.views for name, cache in begun.inputs.caches.items()} == {
            "train": views,
            "val": 0,
        }
        shapes = {"stage2": (8, 8, 4), "stage3": (4, 4, 8)}
        shape = shapes.get(train_from, (pretrained.FEATURES,))
        assert begun.inputs.caches["train"].shape == shape
    assert config.cached_views == (0 if train_from in ("all", "none") else views)


@pytest.mark.parametrize("norms", ["kept", "batch"])
@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("train_from", ["stage3", "head", "all"])
def test_a_training_moves_what_is_trained_and_nothing_else(
    world, tmp_path, train_from, views, norms
):
    begun, config, num_head = begin(
        world, tmp_path, train_from=train_from, cached_views=views, backbone_norms=norms
    )
    whole = begun.model.whole_embedder()
    before = by_name(whole)
    neck = begun.model.neck.get_weights()
    head = begun.model.head.get_weights()[0]
    fit(begun, config, world[1], num_head)
    moved = {name for name, array in by_name(whole).items() if (array != before[name]).any()}
    trained = ("stem", "stage") if train_from == "all" else (train_from,)
    expected = {"features/0"}
    for name in before:
        is_of_trained = name.startswith(trained)
        is_statistic = "_norm/" in name and name[-1] in "23"  # moving mean and variance
        if is_of_trained and (norms == "batch" or not is_statistic):
            expected.add(name)
    assert moved == expected
    # The whitening below the projection is fixed; neck and head classifier are always trained.
    assert "whitening/0" in before
    for old, new in zip(neck, begun.model.neck.get_weights()):
        assert (old != new).any()
    assert (head != begun.model.head.get_weights()[0]).any()


def near(found, expected, atol):
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol * size)


@pytest.mark.parametrize("train_from", ["stage2", "stage3", "head"])
def test_the_joined_network_gives_from_pixels_what_the_top_gives_from_the_cache(
    world, tmp_path, train_from
):
    """After a training too, in which only the top was run."""
    begun, config, num_head = begin(world, tmp_path, train_from=train_from)
    index = world[1]
    fit(begun, config, index, num_head)
    model, cache = begun.model, begun.inputs.caches["train"]
    pixels = pixels_of(index)
    joined = model.whole_embedder()
    trunk, top = networks.split_embedder(joined, train_from)
    exact = joined(pixels).numpy()
    near(top(trunk(pixels)).numpy(), exact, rounding.NETWORK)
    near(model.features(tf.constant(cache.outputs[0])).numpy(), exact, HALF)
    assert np.abs(exact - exact.mean(axis=0)).max() > 0.3
    # What is evaluated, exported and served is the joined network.
    plain = plain_copy(begun, config, index, num_head=num_head)
    inferring = inference_copy(plain.model, config, channels=1)
    assert inferring.embedder.input_shape == (None, 8, 8, 1)
    ours, logits = inferring.embed_images(pixels)
    theirs, cached_logits = model.embed_images(tf.constant(cache.outputs[0]))
    near(ours.numpy(), theirs.numpy(), HALF)
    near(logits.numpy(), cached_logits.numpy(), HALF)


@pytest.mark.parametrize("views", [0, 2])
def test_a_plain_copy_is_the_same_network_without_its_training(world, tmp_path, views):
    begun, config, num_head = begin(
        world, tmp_path, train_from="stage3", cached_views=views, precision="bfloat16"
    )
    fit(begun, config, world[1], num_head)
    copy = plain_copy(begun, config, world[1], num_head=num_head)
    assert copy.inputs is begun.inputs
    assert int(copy.model.step) == int(begun.model.step) == 3
    for part in ("whole_embedder", "neck", "head"):
        ours, theirs = (getattr(each.model, part) for each in (copy, begun))
        if part == "whole_embedder":
            ours, theirs = ours(), theirs()
        for a, b in zip(ours.get_weights(), theirs.get_weights()):
            np.testing.assert_array_equal(a, b)
    assert copy.model.head_optimizer is None and copy.model.whole_optimizer is None
    conv = networks.backbone_of(copy.model.whole_embedder()).get_layer("stage3_block1_1_conv")
    assert conv.compute_dtype == "float32"
    theirs = networks.backbone_of(begun.model.whole_embedder()).get_layer("stage3_block1_1_conv")
    assert theirs.compute_dtype == "bfloat16"
    batch = next(iter(begun.inputs.plain_batches("train", batch_size=4)))[0]
    # bfloat16 keeps 8 bits.
    near(copy.model(batch).numpy(), begun.model(batch).numpy(), 0.06)


def features_of(begun):
    """Features as the backbone pools them, from what the training gets, float64; and labels."""
    batches = list(begun.inputs.plain_batches("train", batch_size=1000))
    inputs, labels = batches[0][0], np.asarray(batches[0][1])
    return np.asarray(inputs), labels


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("train_from", ["head", "stage3", "all"])
def test_the_embedding_starts_at_the_whitened_features_turned(world, tmp_path, train_from, views):
    """Products between images do not see a turn. The oracle is float64 loops over the features
    of the backbone alone, read from its own weights file."""
    begun, config, _ = begin(world, tmp_path, train_from=train_from, cached_views=views)
    assert config.embedding_start == "whitened"
    index = world[1]
    alone = networks.build_embedder(
        image_size=8, channels=1, embedding_dim=0, weights=world[2], **pretrained.RESNET8
    )
    labels = index.train.labels
    expected = in_loops(alone(pixels_of(index)).numpy(), labels, index.num_classes, DIM, 0.5)
    inputs, found_labels = features_of(begun)
    np.testing.assert_array_equal(found_labels, labels)
    found = begun.model.features(tf.constant(inputs)).numpy()
    assert found.shape == (len(labels), DIM)
    cached = isinstance(begun.inputs, TrunkInputs)
    near(found @ found.T, expected @ expected.T, 4 * HALF if cached else 1e-3)
    # So the nearest class means are those of the whitened features.
    nearest = [nearest_means(each.astype(np.float64), labels) for each in (found, expected)]
    assert (nearest[0] == nearest[1]).mean() > 0.97
    # It is turned: no number of it is weak, which the neck would blow up.
    spreads = found.std(axis=0), expected.std(axis=0)
    assert spreads[0].min() > spreads[1].min()
    [kernel] = start.projection(begun.model.embedder).get_weights()
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(DIM), atol=1e-5)


def nearest_means(vectors, labels):
    means = np.stack([vectors[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    return np.square(vectors[:, None] - means).sum(axis=2).argmin(axis=1)


@pytest.mark.parametrize("views", [0, 2])
def test_the_neck_starts_at_mean_0_and_variance_1_of_the_training_images(world, tmp_path, views):
    begun, _, _ = begin(world, tmp_path, train_from="stage3", cached_views=views)
    inputs, _ = features_of(begun)
    seen = begun.model.neck_output(begun.model.features(tf.constant(inputs))).numpy()
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(seen.var(axis=0), 1, atol=4e-3)


def test_the_head_classifier_starts_at_the_class_means(world, tmp_path):
    """Of the embeddings, as the cosine rules compare them; 10 over the root of D long."""
    begun, config, num_head = begin(world, tmp_path, train_from="head")
    inputs, labels = features_of(begun)
    embeddings = begun.model(tf.constant(inputs)).numpy().astype(np.float64)
    kernel = begun.model.head.get_weights()[0]
    assert kernel.shape == (DIM, num_head) == (DIM, 3)
    for c in range(num_head):
        mean = np.zeros(DIM)
        for row, label in zip(embeddings, labels):
            if label == c:
                mean += row
        expected = 10 / np.sqrt(DIM) * mean / np.linalg.norm(mean)
        np.testing.assert_allclose(kernel[:, c], expected, atol=1e-3)


def test_the_seed_turns_the_embedding(world, tmp_path):
    kernels = []
    for seed in (0, 0, 1):
        begun, _, _ = begin(world, tmp_path / str(seed), train_from="head", seed=seed)
        kernels.append(start.projection(begun.model.embedder).get_weights()[0])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.1


def test_a_random_start_moves_no_part(world, tmp_path):
    begun, config, _ = begin(world, tmp_path, train_from="head", embedding_start="random")
    assert start.whitening(begun.model.embedder) is None
    [kernel] = start.projection(begun.model.embedder).get_weights()
    assert kernel.shape == (pretrained.FEATURES, DIM)
    gamma, mean, variance = begun.model.neck.get_weights()
    np.testing.assert_array_equal(
        np.stack([gamma, mean, variance]), [[1] * DIM, [0] * DIM, [1] * DIM]
    )


def test_without_neck_and_head_the_start_is_the_projection_alone(world, tmp_path):
    begun, _, _ = begin(
        world, tmp_path, train_from="head", neck=False, classification_loss="none",
        head_num_classes=None,
    )  # fmt: skip
    assert begun.model.neck is None and begun.model.head is None
    [kernel] = start.projection(begun.model.embedder).get_weights()
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(DIM), atol=1e-5)


def test_a_cosine_head_starts_at_the_class_means_too(world, tmp_path):
    begun, _, _ = begin(world, tmp_path, train_from="head", cosine_head=True)
    inputs, labels = features_of(begun)
    embeddings, logits = begun.model.embed_with_logits(tf.constant(inputs))
    means = np.stack([embeddings.numpy()[labels == c].mean(axis=0) for c in range(3)])
    expected = embeddings.numpy() @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    scale = logits.numpy()[:, 0].std() / expected[:, 0].std()
    np.testing.assert_allclose(logits.numpy(), scale * expected, atol=scale * 1e-3)


def test_an_embedding_longer_than_the_features_is_refused(world, tmp_path):
    with pytest.raises(UserError, match="--embedding_dim=17, but the backbone has only 16"):
        begin(world, tmp_path, train_from="head", embedding_dim=17)


def test_over_inputs_that_are_there_the_start_is_the_same(world, tmp_path):
    begun, config, num_head = begin(world, tmp_path, train_from="stage3")
    again = network_over(begun.inputs, config, world[1], num_head=num_head)
    assert again.inputs is begun.inputs
    for ours, theirs in zip(again.model.get_weights(), begun.model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_nothing_trained_is_all_features_as_they_are(world, tmp_path):
    begun, config, num_head = begin(world, tmp_path, train_from="none")
    assert (config.steps, config.embedding_dim, num_head) == (0, 0, 0)
    alone = networks.build_embedder(
        image_size=8, channels=1, embedding_dim=0, weights=world[2], **pretrained.RESNET8
    )
    pixels = pixels_of(world[1])
    expected = alone(pixels).numpy()
    cache = begun.inputs.caches["train"]
    near(begun.model.features(tf.constant(cache.outputs[0])).numpy(), expected, HALF)
    near(begun.model.whole_embedder()(pixels).numpy(), expected, rounding.NETWORK)


# Of a cache: bytes of 1 + views of each training image, and one of each validation image.


def bytes_taken(views, *, num_images, num_val, numbers):
    total = 0
    for _ in range(num_images):
        for _ in range(1 + views):
            total += 2 * numbers + 8  # float16, and where it came from
    for _ in range(num_val):
        total += 2 * numbers + 8
    return total


@pytest.mark.parametrize("megabytes", [1, 2, 3, 5, 8, 100])
@pytest.mark.parametrize("wanted", [1, 4, 8])
def test_as_many_views_are_kept_as_the_disk_may_hold(megabytes, wanted):
    sizes = dict(num_images=90, num_val=11)
    shape, numbers = (5, 5, 100), 2500
    budget = megabytes * 2**20
    fitting = [
        views
        for views in range(1, wanted + 1)
        if bytes_taken(views, numbers=numbers, **sizes) <= budget
    ]
    if fitting:
        found = fitting_views(wanted, shape=shape, megabytes=megabytes, **sizes)
        assert found == max(fitting)
    else:
        least = f"{bytes_taken(1, numbers=numbers, **sizes) / 2**20:,.0f}"
        match = (
            rf"5 x 5 x 100 numbers an image, need at least {least} MB of disk, and "
            rf"--cache_disk_megabytes={megabytes}: raise it"
        )
        with pytest.raises(UserError, match=match):
            fitting_views(wanted, shape=shape, megabytes=megabytes, **sizes)


def test_a_budget_to_the_byte_fits():
    each = 2 * (2**17 - 4) + 8  # a quarter of a megabyte
    assert each == 2**18
    sizes = dict(num_images=2, num_val=2, shape=(2**17 - 4,))
    assert fitting_views(9, megabytes=3, **sizes) == 4
    assert fitting_views(9, megabytes=2, **sizes) == 2


def test_the_cache_of_a_run_keeps_to_its_disk(world, tmp_path, monkeypatch):
    asked = []

    def fewer(wanted, **facts):
        asked.append((wanted, facts))
        return 1

    monkeypatch.setattr(start, "fitting_views", fewer)
    begun, _, _ = begin(world, tmp_path, train_from="stage3", cache_disk_megabytes=77)
    index = world[1]
    facts = dict(num_images=len(index.train), num_val=len(index.val), shape=(4, 4, 8), megabytes=77)
    assert asked == [(2, facts)]
    assert begun.inputs.caches["train"].views == 1


# Whole runs.

TINY = dict(
    head_num_classes=3, steps=6, warmup_steps=1, eval_every=0, checkpoint_every=100, log_every=1,
    cached_views=2, **{**fakes.TINY_NET, "embedding_dim": DIM},
)  # fmt: skip


def run_config(world, run_dir, **changes):
    spec, _, weights = world
    return Config(**{**TINY, "data": spec, "weights": weights, "run_dir": str(run_dir), **changes})


def stop_at(step, monkeypatch):
    """Sends SIGTERM to this process when the record of `step` is written."""
    append = RunFolder.append_metrics

    def append_and_stop(self, record):
        append(self, record)
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunFolder, "append_metrics", append_and_stop)


@pytest.mark.parametrize(
    "changes",
    [
        dict(train_from="stage3", backbone_rate=0.3, optimizer="adamw", learning_rate=0.01,
             stay_near=0.1),
        dict(train_from="head", schedule="joint"),
        dict(train_from="stage3", cached_views=0, backbone_norms="batch"),
    ],
    ids=["top", "embedding", "not_cached"],
)  # fmt: skip
def test_resume_gives_the_same_bits_as_an_uninterrupted_run(world, tmp_path, monkeypatch, changes):
    whole = train.run(run_config(world, tmp_path / "whole", **changes))
    with monkeypatch.context() as context:
        stop_at(3, context)
        stopped = train.run(run_config(world, tmp_path / "parts", **changes))
    assert stopped.metrics is None
    cached = changes.get("cached_views", 2)
    assert (stopped.run_dir / "trunk_cache").is_dir() == bool(cached)
    resumed = train.run(
        cli.parse(Config, [f"--flagfile={stopped.run_dir / 'config.flags'}", "--resume"])
    )
    ours, theirs = (load_run(str(each.run_dir)) for each in (whole, resumed))
    for a, b in zip(ours.model.get_weights(), theirs.model.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert resumed.metrics == whole.metrics
    lines = (resumed.run_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for folder in (whole.run_dir, resumed.run_dir):
        assert not (folder / "trunk_cache").exists()  # it is of no use to a finished run


def test_a_cache_of_its_own_place_serves_the_next_run(world, tmp_path, monkeypatch):
    shown = []

    class Shown:
        rate = 0.0

        def __init__(self, name):
            self.name = name

        def __call__(self, done, total):
            shown.append(self.name)

    monkeypatch.setattr(start, "CacheProgress", Shown)
    changes = dict(train_from="stage3", cache_dir=str(tmp_path / "cache"), steps=2)
    first = train.run(run_config(world, tmp_path / "a", **changes))
    assert set(shown) == {"train", "val"}
    shown.clear()
    second = train.run(run_config(world, tmp_path / "b", **changes))
    assert not shown
    assert first.metrics == second.metrics
    assert not (first.run_dir / "trunk_cache").exists()
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()) == [
        "train",
        "val",
    ]


def test_a_run_that_trains_nothing_reads_the_features(world, tmp_path):
    result = train.run(run_config(world, tmp_path / "run", train_from="none", steps=None,
                                  warmup_steps=None))  # fmt: skip
    run = load_run(str(result.run_dir))
    assert (run.config.steps, run.num_head, run.config.embedding_dim) == (0, 0, 0)
    assert run.model.head is None
    assert set(result.metrics) == {"ncm", "knn", "linear", "lda", "gated"}
    assert dataclasses.asdict(run.config)["train_from"] == "none"
