"""Names of the inference rules, importable without NumPy."""

from __future__ import annotations

# Those that correct a head classifier of every class; see `all_class_rules`.
ALL_CLASS_RULES = ("head_adjusted", "tau_norm", "lws", "crt")
# Those that ask the head classifier, whichever classes it has.
ANY_HEAD_RULES = ("head_only", "gated_lda")
RULES = ("ncm", "knn", "gated", "linear", "lda", *ANY_HEAD_RULES, *ALL_CLASS_RULES)
# Those that multiply the embedding by a matrix of one column a class.
MATRIX_RULES = ("linear", "lda", "crt")
# Rules that another is made of, whose temperatures it needs.
PARTS = {"gated_lda": ("lda", "head_only")}
# Those that say nothing without the head's logits.
HEAD_LOGIT_RULES = (*ANY_HEAD_RULES, "head_adjusted", "tau_norm", "lws")
