"""Every setting of a training run, once: default, unit, choices, help.

`config.Config` is these fields, checked.
"""

from __future__ import annotations

import dataclasses
from typing import Optional

from longtail_tf.settings.backbones import PIXEL_RANGES
from longtail_tf.settings.choices import (
    AUGMENTATIONS,
    AUTO_RULE,
    CLASSIFICATION_LOSSES,
    METRIC_LOSSES,
    MIXING_AUGMENTATIONS,
    RULES,
)
from longtail_tf.settings.declare import setting
from longtail_tf.settings.methods import METHODS


@dataclasses.dataclass(frozen=True)
class TrainingFields:
    """The settings of one training run, as given; the help of a field says what it does."""

    method: Optional[str] = setting(
        None,
        "Named method: values for other flags, which win where they are given too.",
        choices=tuple(METHODS),
    )

    # data
    data: str = setting(
        "",
        "Data set: folder:PATH, csv:PATH, npz:PATH, tfrecord:GLOB, tfds:NAME or a built-in "
        "(digits_lt, fashion_mnist_lt, cifar10_lt, cifar100_lt), options as ?name=value&...",
    )
    exclude: str = setting("", "File that lists images to leave out, one path or row a line.")
    val_per_class: int = setting(
        20,
        "Where the set has no validation split, at most this many training images of each "
        "class are carved out for it (10 % of a class, never its last image); 0 carves none.",
        unit="images",
    )
    split_seed: int = setting(0, "Seed of the splits we cut ourselves; not of the training.")
    image_size: Optional[int] = setting(
        None,
        "Side of the square images the network sees; unset: the size of array data; for files that "
        "of the backbone's weights (224), or less where the files are smaller.",
        unit="px",
    )
    cache_megabytes: int = setting(1024, "Memory for training images once read.", unit="MB")
    max_bad_share: float = setting(
        0.05,
        "Training stops when more of its images cannot be read; fewer are replaced.",
        unit="0..1",
    )

    # run
    run_dir: str = setting("", "Folder for everything this run leaves; must be new or empty.")
    resume: bool = setting(False, "Continue the interrupted run in --run_dir to the same weights.")
    seed: int = setting(0, "Seed of weights, sampling and augmentation.")
    steps: Optional[int] = setting(
        None,
        "Length of the training: train steps; unset: from --passes or --time_budget, or 2000 from "
        "random weights.",
        unit="steps",
    )
    passes: Optional[float] = setting(
        None,
        "Length of the training: how often it looks at as many images as there are.",
        unit="passes",
    )
    time_budget: str = setting(
        "",
        "Fit the passes, and the views of a cached trunk, into this time, evaluation included: "
        "10m, 1h30m.",
    )
    eval_every: int = setting(
        500, "Validation numbers every so many steps; 0: only at the end.", unit="steps"
    )
    checkpoint_every: int = setting(500, "Resumable checkpoint every so many steps.", unit="steps")
    log_every: int = setting(50, "A line in metrics.jsonl every so many steps.", unit="steps")
    tensorboard: bool = setting(False, "Write TensorBoard scalars into RUN_DIR/tensorboard.")
    threads: int = setting(
        0, "TensorFlow threads inside an operation; 0: all cores. Bits repeat only at one count."
    )

    # head set: exactly one
    head_min_count: Optional[int] = setting(
        None, "Head set: the classes with more than this many training images.", unit="images"
    )
    head_ratio: Optional[float] = setting(
        None, "Head set: this share of the classes, those with the most images.", unit="0..1"
    )
    head_num_classes: Optional[int] = setting(
        None, "Head set: this many classes, those with the most images.", unit="classes"
    )
    head_all: bool = setting(False, "Head set: every class (a plain classifier, for comparison).")
    head_auto: bool = setting(
        False,
        "Head set: every class of a set of up to 500, whose classifier costs next to nothing; the "
        "half with the most images of a larger one.",
    )

    # streams
    schedule: str = setting(
        "alternate",
        "Two updates a step, head then whole; or one update on the summed losses.",
        choices=("alternate", "joint"),
    )
    head_sampling: str = setting(
        "random",
        "How head batches are drawn: images alike, PK, or classes alike.",
        choices=("random", "pk", "balanced"),
    )
    head_batch_size: int = setting(64, "Images in a head batch.", unit="images")
    classes_per_batch: Optional[int] = setting(
        None,
        "P: classes in a whole batch; unset: 16 (with --images_per_class=0 as many as make about "
        "32 images), or every class of a smaller set.",
        unit="classes",
    )
    images_per_class: int = setting(
        4,
        "K: images of each class in a whole batch; 0: as many as three quarters of "
        "the classes have, 2 to 4.",
        unit="images",
    )
    class_power: float = setting(
        0.0,
        "Whole stream draws classes in proportion to count ** class_power; 0: all alike.",
        unit="0..1",
    )
    classify_whole: bool = setting(
        False,
        "Joint schedule: images of head classes in the whole batch feed the classification loss "
        "too, from the same forward pass.",
    )
    compare_head: bool = setting(
        False,
        "Joint schedule: head images feed the metric loss too, from the same forward pass.",
    )
    head_augment: str = setting(
        "auto",
        "Augmentation of head images; auto: crop_flip, or crop where a flip changes the "
        "class (digits, characters, grey arrays).",
        choices=("auto", *AUGMENTATIONS, *MIXING_AUGMENTATIONS),
    )
    whole_augment: str = setting(
        "auto", "Augmentation of whole images, as --head_augment.", choices=("auto", *AUGMENTATIONS)
    )

    # losses
    classification_loss: str = setting(
        "cross_entropy",
        "Loss of the head stream; none: no head stream.",
        choices=("none", *CLASSIFICATION_LOSSES),
    )
    classification_weight: float = setting(1.0, "Factor of the classification loss.")
    head_sampled_classes: int = setting(
        0, "Draw so many classes of a larger head to compare a head batch with (PartialFC); 0: all."
    )
    reweight_from: float = setting(
        1.0,
        "Share of the training after which the classification loss weighs classes by their "
        "effective number of images (deferred re-weighting); 1: never.",
        unit="0..1",
    )
    label_smoothing: float = setting(0.0, "Label smoothing of the cross entropy.", unit="0..1")
    metric_loss: str = setting(
        "triplet_semihard",
        "Loss of the whole stream; none: no whole stream.",
        choices=("none", *METRIC_LOSSES),
    )
    metric_weight: float = setting(1.0, "Factor of the metric loss.")
    margin: Optional[float] = setting(
        None, "Triplet margin; unset: 0.2 on unit vectors, 0.3 on plain ones."
    )
    distance_metric: str = setting(
        "L2", "Distance of the triplet losses.", choices=("L2", "squared-L2", "angular")
    )
    metric_temperature: float = setting(0.1, "Temperature of the contrastive metric losses.")
    memory_size: int = setting(0, "Earlier embeddings a whole batch is also paired with; 0: none.")
    unit_features: bool = setting(True, "Scale features to unit length before the metric loss.")

    # network
    backbone: str = setting(
        "auto",
        "Network: a name of the table of backbones; a Keras model of your own (FILE.keras, FILE.h5 "
        "or a SavedModel folder); or keras_hub:PRESET. auto: resnet20 up to 64 px; above "
        "efficientnet_lite0, or resnet18v2 with --weights=none.",
    )
    pixel_range: str = setting(
        "auto",
        "What the backbone is fed: pixels in -1..1, 0..1 or 0..255, less ImageNet's means and by "
        "its deviations (imagenet), or blue first and less its means (caffe). auto: what the table "
        "says of the backbone, or the run that --weights names; 0..255 for your own model.",
        choices=("auto", *PIXEL_RANGES),
    )
    width: Optional[int] = setting(
        None,
        "First-stage channels of the CIFAR-stem nets (resnet8 to resnet56); unset: 16.",
        unit="channels",
    )
    embedding_dim: Optional[int] = setting(
        None,
        "Length of an embedding; 0: all features of the backbone, without a projection; unset: 128 "
        "from random weights, 256 from pretrained ones.",
        unit="numbers",
    )
    neck: bool = setting(
        True, "Batch-normalisation neck: metric loss before it, classification after it."
    )
    cosine_head: bool = setting(
        False, "Head classifier on cosines with a learned scale, instead of a plain one."
    )
    weights: str = setting(
        "auto",
        "Start the backbone from imagenet, from another run folder, or from a weights file "
        "(.weights.h5, .h5, .keras; .pth of efficientnet_lite*); none: random, or what your own "
        "model holds; auto: imagenet where --backbone=auto takes a pretrained one, else none.",
    )
    train_from: str = setting(
        "auto",
        "Where training begins: all; the name of a part of the backbone, below which everything "
        "stands still; head, only the embedding; none, nothing; auto: what validation says of a "
        "pretrained backbone, all of a random one.",
    )
    backbone_norms: Optional[str] = setting(
        None,
        "Statistics of the batch norms inside the backbone while it is trained: those of each "
        "batch, or those they have (kept); unset: kept from pretrained weights.",
        choices=("batch", "kept"),
    )
    embedding_start: Optional[str] = setting(
        None,
        "Where the projection to the embedding starts: at random, or (whitened) where pretrained "
        "features are compared best before any training; unset: whitened from pretrained weights.",
        choices=("random", "whitened"),
    )
    cached_views: Optional[int] = setting(
        None,
        "Compute what a frozen trunk makes of each image once, in so many augmented views, and "
        "train on that; 0: read and augment images at each step; unset: as many as fit, up to 8.",
        unit="views",
    )
    cache_dir: str = setting(
        "",
        "Folder that keeps the outputs of frozen trunks for other runs; empty: in the run folder, "
        "and removed at the end.",
    )
    cache_disk_megabytes: int = setting(
        8192, "Disk for the outputs of a frozen trunk; fewer views are kept if need be.", unit="MB"
    )
    precision: str = setting(
        "float32", "Arithmetic of the backbone.", choices=("float32", "bfloat16")
    )
    replicas: str = setting(
        "one",
        "Copies of the network that share each batch: one; one for each device (GPU) of this "
        "machine; or one for each device of the workers (processes, machines) in TF_CONFIG.",
        choices=("one", "devices", "workers"),
    )
    mine: str = setting(
        "global",
        "Under several replicas, where the metric loss finds its pairs: in the batches "
        "of all of them, or in a replica's own.",
        choices=("global", "replica"),
    )
    jit_compile: bool = setting(False, "Compile the train step with XLA (slower on CPU).")

    # optimiser
    optimizer: str = setting("sgd", "Optimiser.", choices=("sgd", "adamw"))
    learning_rate: Optional[float] = setting(
        None, "Peak learning rate; unset: 0.1 from random weights, less from pretrained ones."
    )
    backbone_rate: Optional[float] = setting(
        None,
        "Factor of the learning rate for the backbone; unset: 1 from random weights, 0.1 where all "
        "of a pretrained one is trained, 1 where its trunk stands still.",
    )
    clip_norm: Optional[float] = setting(
        None,
        "Longest gradient of an update, all variables together; 0: any; unset: 0 from random "
        "weights, 1 from pretrained ones.",
    )
    stay_near: Optional[float] = setting(
        None,
        "Weight of the squared distance from the pretrained weights (L2-SP); unset: 0 from random "
        "weights.",
    )
    momentum: float = setting(0.9, "Momentum of SGD (Nesterov).", unit="0..1")
    weight_decay: float = setting(5e-4, "Decoupled weight decay; not on biases and norms.")
    lr_schedule: str = setting(
        "cosine", "Learning rate after the warm-up.", choices=("cosine", "constant")
    )
    warmup_steps: Optional[int] = setting(
        None,
        "Linear learning-rate warm-up; unset: 100, or a tenth of a shorter training.",
        unit="steps",
    )

    # recognition
    inference_rule: str = setting(
        "gated",
        "Rule that names the class; auto: chosen by images the network was not trained on. All "
        "that apply are evaluated.",
        choices=(AUTO_RULE, *RULES),
    )
    k_top: int = setting(5, "Candidates named per image.", unit="classes")
    false_accept_rate: float = setting(
        0.05,
        "Share of images of unknown classes that the rejection threshold may let through.",
        unit="0..1",
    )

    @property
    def has_head_stream(self) -> bool:
        """Whether a classification loss is trained."""
        return self.classification_loss != "none"

    @property
    def has_whole_stream(self) -> bool:
        """Whether a metric loss is trained."""
        return self.metric_loss != "none"
