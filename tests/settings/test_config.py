from __future__ import annotations

import dataclasses
import types

import pytest

from longtail_tf.config import Config
from longtail_tf.errors import UserError
from longtail_tf.runs.resolve import FROM_PRETRAINED, resolve, resolve_for

GOOD = dict(data="digits_lt", run_dir="runs/x", head_ratio=0.2)


def test_defaults_with_a_head_rule_are_valid():
    config = Config(**GOOD)
    assert config.has_head_stream and config.has_whole_stream


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config(**GOOD).steps = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(data=""), "--data is missing"),
        (dict(run_dir=""), "--run_dir is missing"),
        (dict(head_ratio=None, schedule="joint"), "no head rule is given.*--head_ratio"),
        (dict(head_min_count=20), "--head_min_count=20 and --head_ratio=0.2 are given together"),
        (dict(head_auto=True), "--head_ratio=0.2 and --head_auto are given together"),
        (dict(head_all=True), "--head_ratio=0.2 and --head_all are given together"),
        (dict(images_per_class=1), "--images_per_class=1, but a triplet needs a positive"),
        (dict(classes_per_batch=1), "--classes_per_batch=1, but a triplet needs a negative"),
        (dict(steps=0), "--steps=0: expected 1 or more"),
        (dict(false_accept_rate=0.0), "--false_accept_rate=0.0: expected a share between 0 and 1"),
        (dict(eval_every=-1), "--eval_every=-1: expected 0 or more"),
        (dict(cache_megabytes=-1), "--cache_megabytes=-1: expected 0 or more"),
        (dict(max_bad_share=-0.1), "--max_bad_share=-0.1: expected 0 to 1"),
        (dict(max_bad_share=1.1), "--max_bad_share=1.1: expected 0 to 1"),
        (dict(max_bad_share=float("nan")), "--max_bad_share=nan: expected 0 to 1"),
        (dict(seed=-1), "--seed=-1: expected 0 or more"),
        (dict(seed=2**31), "--seed=2147483648: set it below"),
        (dict(head_batch_size=0), "--head_batch_size=0: expected 1 or more"),
        (dict(embedding_dim=1), "--embedding_dim=1: expected 2 or more"),
        (dict(image_size=4), "--image_size=4: expected 8 or more"),
        (dict(learning_rate=0.0), "--learning_rate=0.0: expected a finite number, above 0"),
        (dict(learning_rate=float("nan")), "--learning_rate=nan: expected a finite number"),
        (dict(margin=-0.1), "--margin=-0.1: expected a finite number, 0 or more"),
        (dict(momentum=1.0), "--momentum=1.0: expected 0 or more, below 1"),
        (dict(label_smoothing=1.0), "--label_smoothing=1.0: expected 0 or more, below 1"),
        (dict(steps=10, warmup_steps=11), "--warmup_steps=11 is longer than the whole training"),
        (dict(classification_loss="none", metric_loss="none"), "leave nothing to train"),
        (dict(head_sampling="pk", head_batch_size=30), "to be a multiple of --images_per_class=4"),
        (dict(classify_whole=True), "--classify_whole shares one forward pass.*--schedule=joint"),
        (
            dict(classify_whole=True, schedule="joint", metric_loss="none"),
            "--classify_whole shares one forward pass.*a --metric_loss",
        ),
        (
            dict(classification_loss="none", inference_rule="gated_lda"),
            "--inference_rule=gated_lda asks the head classifier",
        ),
        (dict(compare_head=True), "--compare_head shares one forward pass.*--schedule=joint"),
        (
            dict(compare_head=True, schedule="joint", head_augment="crop_mixup"),
            "--compare_head takes head images as of one class each, and --head_augment=crop_mixup",
        ),
        (
            dict(classify_whole=True, schedule="joint", head_sampled_classes=5),
            "--head_sampled_classes=5 was given with --classify_whole",
        ),
        (
            dict(metric_loss="prototype", replicas="devices", mine="replica"),
            "--metric_loss=prototype was given with --replicas=devices --mine=replica",
        ),
        (dict(steps=5, passes=2.0), "--steps=5 and --passes=2.0 each say how long"),
        (dict(passes=1.0, time_budget="5m"), "--passes=1.0 and --time_budget=5m each say how long"),
        (dict(time_budget="soon"), "--time_budget=soon: expected hours, minutes and seconds"),
        (dict(time_budget="0m"), "--time_budget=0m: expected hours, minutes and seconds"),
        (dict(passes=0.0), "--passes=0.0: expected a finite number, above 0"),
        (dict(backbone_rate=-1.0), "--backbone_rate=-1.0: expected a finite number, 0 or more"),
        (dict(stay_near=float("nan")), "--stay_near=nan: expected a finite number, 0 or more"),
        (dict(cached_views=-1), "--cached_views=-1: expected 0 or more"),
        (dict(embedding_dim=1), "--embedding_dim=1: expected 2 or more"),
        (dict(class_power=1.5), "--class_power=1.5: expected 0 to 1"),
        (dict(classification_loss="ldam"), "is defined on cosines: add --cosine_head"),
        (dict(backbone="resnet50v2", width=32), "--width=32 is for resnet8"),
        (dict(memory_size=-1), "--memory_size=-1: expected 0 or more"),
        (
            dict(memory_size=64, metric_loss="tfa_npairs"),
            "--memory_size=64 was given with --metric_loss=tfa_npairs, which takes no pairs from",
        ),
        (dict(memory_size=64, metric_loss="none"), "--metric_loss=none, which takes no pairs"),
        (dict(memory_size=64, unit_features=False), "only unit vectors are remembered"),
        (
            dict(memory_size=64, replicas="devices", mine="replica"),
            "share one memory of the global batches: set --mine=global",
        ),
        (dict(head_sampled_classes=-1), "--head_sampled_classes=-1: expected 0 or more"),
        (
            dict(head_sampled_classes=8, classification_loss="focal"),
            "--classification_loss=focal: only cross_entropy can be taken over a sample",
        ),
        (dict(head_sampled_classes=8, label_smoothing=0.1), "spreads labels over every head class"),
        (dict(head_sampled_classes=8, cosine_head=True), "scales every class vector in each step"),
        (dict(head_sampled_classes=8, replicas="devices"), "with other classes than the rest"),
        (
            dict(weights="imagenet", backbone="resnet20"),
            "for which there are none: set --backbone to one of efficientnet_lite0",
        ),
        (
            dict(weights="imagenet", backbone="net.keras"),
            "--backbone=net.keras, which starts from the weights it brings: leave --weights out",
        ),
        (dict(backbone="resnet21"), "there is no such backbone; did you mean resnet32"),
        (dict(backbone="resnet20", train_from="block11"), "resnet20 has no part 'block11'"),
    ],
)
def test_bad_settings_are_refused_in_words(change, message):
    with pytest.raises(UserError, match=message):
        Config(**{**GOOD, **change})


def test_a_metric_loss_alone_needs_no_head_rule():
    assert not Config(data="x", run_dir="y", classification_loss="none").has_head_stream


def test_pk_settings_do_not_matter_without_a_whole_stream():
    Config(**GOOD, metric_loss="none", images_per_class=1)


def test_resolve_fills_what_depends_on_the_data():
    config = resolve(
        Config(**GOOD), num_classes=10, num_images=500, side=8, is_files=False, flip_is_valid=False
    )
    assert config.image_size == 8
    assert config.classes_per_batch == 10
    assert (config.head_augment, config.whole_augment) == ("crop", "crop")
    assert (config.backbone, config.width, config.margin) == ("resnet20", 16, 0.2)


PHOTOS = dict(num_images=2000, num_classes=50, side=240, is_files=True, flip_is_valid=True)


def test_photos_start_from_imagenet_weights_at_224_px_on_a_frozen_trunk():
    config = resolve(Config(**GOOD, unit_features=False), **PHOTOS)
    assert (config.image_size, config.backbone, config.width) == (224, "efficientnet_lite0", None)
    assert (config.weights, config.train_from, config.cached_views) == ("imagenet", "auto", 4)
    assert (config.classes_per_batch, config.head_augment) == (16, "resized_crop_flip")
    assert config.margin == 0.3
    assert (config.embedding_dim, config.steps) == (256, -(-6 * 2000 // 128))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (dict(weights="none"), ("resnet18v2", "none", "all", 0.1, 1.0, 2000)),
        (dict(backbone="resnet50v2"), ("resnet50v2", "none", "all", 0.1, 1.0, 2000)),
        (dict(train_from="all", steps=5), ("efficientnet_lite0", "imagenet", "all", 0.05, 0.1, 5)),
        (dict(image_size=48), ("resnet20", "none", "all", 0.1, 1.0, 2000)),
        (dict(image_size=48, weights="imagenet"),
         ("efficientnet_lite0", "imagenet", "auto", 0.05, 1.0, 94)),
        (dict(backbone="efficientnet_lite0", weights="runs/a", train_from="head", passes=2),
         ("efficientnet_lite0", "runs/a", "head", 0.05, 1.0, 32)),
    ],
)  # fmt: skip
def test_what_training_starts_from_sets_what_is_not_given(change, expected):
    config = resolve(Config(**GOOD, **change), **PHOTOS)
    assert expected == (
        config.backbone, config.weights, config.train_from, config.learning_rate,
        config.backbone_rate, config.steps,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (dict(), "-1..1"),
        (dict(backbone="resnet50v2", weights="imagenet"), "0..1"),
        (dict(backbone="resnet50v2", weights="file.weights.h5"), "0..1"),
        (dict(backbone="keras_resnet50"), "caffe"),
        (dict(backbone="net.keras"), "0..255"),
        (dict(backbone="net.keras", pixel_range="imagenet"), "imagenet"),
    ],
)
def test_the_pixel_range_belongs_to_the_backbone(change, expected):
    assert resolve(Config(**GOOD, **change), **PHOTOS).pixel_range == expected


def test_a_network_that_brings_its_weights_is_trained_as_a_pretrained_one():
    config = resolve(Config(**GOOD, backbone="net.keras"), **PHOTOS)
    usual = FROM_PRETRAINED["learning_rate"]
    assert (config.weights, config.train_from, config.learning_rate) == ("none", "auto", usual)


@pytest.mark.parametrize(("side", "size"), [(500, 224), (223, 192), (100, 96), (65, 64), (40, 40)])
def test_photos_are_not_enlarged(side, size):
    assert resolve(Config(**GOOD), **{**PHOTOS, "side": side}).image_size == size


def test_a_short_training_warms_up_for_a_tenth_of_it():
    assert resolve(Config(**GOOD, steps=80), **PHOTOS).warmup_steps == 8
    assert resolve(Config(**GOOD, steps=5000), **PHOTOS).warmup_steps == 100
    assert resolve(Config(**GOOD, steps=80, warmup_steps=30), **PHOTOS).warmup_steps == 30


def test_resolve_twice_changes_nothing():
    facts = dict(num_classes=10, num_images=500, side=8, is_files=False, flip_is_valid=False)
    once = resolve(Config(**GOOD), **facts)
    assert resolve(once, **facts) == once


def test_resolve_refuses_more_classes_than_there_are():
    config = Config(**GOOD, classes_per_batch=11)
    with pytest.raises(UserError, match="--classes_per_batch=11, but the training set has 10"):
        resolve(config, num_classes=10, num_images=500, side=8, is_files=False, flip_is_valid=False)


def test_images_per_step_counts_the_streams_that_train():
    facts = dict(num_classes=10, num_images=500, side=8, is_files=False, flip_is_valid=False)
    assert resolve(Config(**GOOD), **facts).images_per_step == 64 + 10 * 4
    assert resolve(Config(**GOOD, metric_loss="none"), **facts).images_per_step == 64
    assert resolve(Config(**GOOD, classification_loss="none"), **facts).images_per_step == 40


@pytest.mark.parametrize(
    ("quartile_count", "num_classes", "expected"),
    [(1, 900, (16, 2)), (3, 900, (10, 3)), (50, 900, (8, 4)), (50, 5, (5, 4))],
)
def test_images_per_class_may_follow_the_count_curve(quartile_count, num_classes, expected):
    config = resolve(
        Config(**GOOD, images_per_class=0),
        num_classes=num_classes,
        num_images=500,
        side=8,
        is_files=False,
        flip_is_valid=False,
        quartile_count=quartile_count,
    )
    assert (config.classes_per_batch, config.images_per_class) == expected


@pytest.mark.parametrize("rule", ["linear", "lws", "crt"])
def test_a_rule_that_will_not_be_fitted_is_refused_before_the_training(rule):
    settings = {**GOOD, "head_ratio": None, "head_all": True, "inference_rule": rule}
    index = types.SimpleNamespace(
        train=range(20_001), num_classes=10_000, image_shape=(8, 8, 1), flip_is_valid=False,
        quartile_count=3,
    )  # fmt: skip
    with pytest.raises(UserError, match=f"{rule} is not fitted on 20,001 images x 10,000 classes"):
        resolve_for(Config(**settings), index)
    index.train = range(20_000)
    assert resolve_for(Config(**settings), index).inference_rule == rule


@pytest.mark.parametrize(("num_classes", "head"), [(2, "all"), (500, "all"), (501, "half")])
def test_head_auto_takes_every_class_of_a_small_set_and_half_of_a_large_one(num_classes, head):
    config = resolve(
        Config(**{**GOOD, "head_ratio": None}, head_auto=True),
        num_classes=num_classes,
        num_images=500,
        side=8,
        is_files=False,
        flip_is_valid=False,
    )
    assert not config.head_auto
    assert (config.head_all, config.head_ratio) == ((True, None) if head == "all" else (False, 0.5))
