"""Every setting of a training run, once: default, unit, choices, help.

`config.Config` is these fields, checked.
"""

from __future__ import annotations

import dataclasses
from typing import Optional

from longtail_tf.settings.choices import (
    AUGMENTATIONS,
    BACKBONES,
    CLASSIFICATION_LOSSES,
    METRIC_LOSSES,
    MIXING_AUGMENTATIONS,
    RULES,
)
from longtail_tf.settings.declare import setting
from longtail_tf.settings.methods import METHODS


@dataclasses.dataclass(frozen=True)
class TrainingFields:
    """What one training run is told, as given; the help of a field says what it does."""

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
        "Side of the square images the network sees; unset: the size of array data, 128 for "
        "files.",
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
    steps: int = setting(2000, "Length of the training: train steps.", unit="steps")
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
    head_only_steps: int = setting(
        0,
        "Train the head stream alone for so many steps before the whole stream joins.",
        unit="steps",
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
        "Network; auto: resnet20 up to 64 px, resnet18v2 above.",
        choices=("auto", *BACKBONES),
    )
    width: Optional[int] = setting(
        None,
        "First-stage channels of the CIFAR-stem nets (resnet8 to resnet56); unset: 16.",
        unit="channels",
    )
    embedding_dim: int = setting(128, "Length of an embedding.", unit="numbers")
    neck: bool = setting(
        True, "Batch-normalisation neck: metric loss before it, classification after it."
    )
    cosine_head: bool = setting(
        False, "Head classifier on cosines with a learned scale, instead of a plain one."
    )
    weights: str = setting(
        "",
        "Start the backbone from imagenet (downloads), from another run folder, or from a "
        ".weights.h5 file; empty: random weights.",
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
    learning_rate: float = setting(0.1, "Peak learning rate.")
    momentum: float = setting(0.9, "Momentum of SGD (Nesterov).", unit="0..1")
    weight_decay: float = setting(5e-4, "Decoupled weight decay; not on biases and norms.")
    lr_schedule: str = setting(
        "cosine", "Learning rate after the warm-up.", choices=("cosine", "constant")
    )
    warmup_steps: int = setting(100, "Linear learning-rate warm-up.", unit="steps")

    weight_average: float = setting(
        0.0,
        "Recognise with a running average of the weights, of this decay a step (0.999: about the "
        "last thousand steps); 0: with the last weights.",
        unit="0..1",
    )

    # recognition
    inference_rule: str = setting(
        "gated", "Rule that names the class; all that apply are evaluated.", choices=RULES
    )
    k_top: int = setting(5, "Candidates named per image.", unit="classes")
    prototype_variant: str = setting(
        "l2",
        "Class means of unit embeddings (l2), of centred unit embeddings (cl2n), or plain "
        "Euclidean means.",
        choices=("l2", "cl2n", "plain"),
    )
    prototypes_per_class: int = setting(
        1, "At most so many prototypes for a class with many images, by k-means.", unit="prototypes"
    )
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
