"""Names of the inference rules, importable without NumPy."""

from __future__ import annotations

# Those that correct a head classifier of every class; see `all_class_rules`.
ALL_CLASS_RULES = ("head_adjusted", "tau_norm", "lws", "crt")
# Those that ask the head classifier, whichever classes it has.
ANY_HEAD_RULES = ("head_only", "gated_lda")
AUTO_RULE = "auto"  # chosen by images the network was not trained on (`recognition.rule_choice`)
RULES = ("ncm", "knn", "gated", "linear", "lda", *ANY_HEAD_RULES, *ALL_CLASS_RULES)
# Those that multiply the embedding by a matrix of one column a class.
MATRIX_RULES = ("linear", "lda", "crt")
# Rules that another is made of, whose temperatures it needs.
PARTS = {"gated_lda": ("lda", "head_only")}
# Those that say nothing without the head's logits.
HEAD_LOGIT_RULES = (*ANY_HEAD_RULES, "head_adjusted", "tau_norm", "lws")


_CROPS = ("crop", "crop_flip", "resized_crop", "resized_crop_flip")
_ADDED = ("", "_cutout", "_randaugment", "_randaugment_cutout")

AUGMENTATIONS = ("none", *(crop + added for added in _ADDED for crop in _CROPS))
MIXING_AUGMENTATIONS = (
    "crop_mixup",
    "crop_flip_mixup",
    "crop_cutmix",
    "crop_flip_cutmix",
)


DISTANCE_METRICS = ("L2", "squared-L2", "angular")

METRIC_LOSSES = (
    "triplet_semihard",
    "triplet_hard",
    "triplet_hard_soft",
    "supcon",
    "multi_similarity",
    "prototype",
    "tfa_npairs",
    "tfa_lifted_struct",
    "tfa_contrastive",
)

# Of the metric losses, those that can take further pairs from a cross-batch memory.
MEMORY_LOSSES = (
    "triplet_semihard",
    "triplet_hard",
    "triplet_hard_soft",
    "supcon",
    "multi_similarity",
)

CLASSIFICATION_LOSSES = (
    "cross_entropy",
    "logit_adjusted",
    "class_balanced",
    "focal",
    "ldam",
)

# Of the classification losses, those that make up for a class's number of images.
BALANCING_LOSSES = ("logit_adjusted", "class_balanced")

# Of the classification losses, those for which evenly smoothed labels make sense.
SMOOTHABLE_LOSSES = ("cross_entropy", "class_balanced")
