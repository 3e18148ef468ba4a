"""Names of the inference rules, importable without NumPy."""

from __future__ import annotations

# Those that correct a head classifier of every class; see `all_class_rules`.
ALL_CLASS_RULES = ("head_adjusted", "tau_norm", "lws", "crt")
RULES = ("ncm", "knn", "gated", "linear", "head_only", *ALL_CLASS_RULES)
# Those that say nothing without the head's logits.
HEAD_LOGIT_RULES = ("head_only", "head_adjusted", "tau_norm", "lws")
