"""The inference rule as a graph: embeddings in, one score per class out.

The same arithmetic as `Recognizer.scores`, in TensorFlow; `tests/exporting/test_rules.py`
and the parity gate of every export hold the two together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.settings.choices import (
    ALL_CLASS_RULES,
    ANY_HEAD_RULES,
    HEAD_LOGIT_RULES,
    MATRIX_RULES,
    PARTS,
    RULES,
)

GRAPH_RULES = tuple(rule for rule in RULES if rule != "knn")
NEVER = -1e9  # score of a class that the rule cannot name


class RuleHead(tf.Module):
    """Scores classes from a unit embedding, by one inference rule.

    Arrays are variables, not constants: a graph may not exceed 2 GB, variables may.
    """

    def __init__(self, recognizer: Any, *, rule: str) -> None:
        """Takes the arrays of a fitted recognizer.

        Args:
          recognizer: a fitted `recognition.fit.Recognizer`.
          rule: one of GRAPH_RULES.

        Raises:
          UserError: the rule cannot be put into a graph, or was not fitted.
        """
        super().__init__(name="rule_head")
        check_rule(recognizer, rule)
        self.rule = rule
        self.num_classes = int(recognizer.num_classes)
        self.num_head = int(recognizer.num_head)
        self.temperature = float(recognizer.temperatures.get(rule, 1.0))
        self.gate_weight = float(recognizer.gate_weight) if rule == "gated" else 0.0
        # Every rule keeps the prototypes: they say what is unknown (Recognizer.is_unknown).
        self.prototypes = _constant(recognizer.prototypes, "prototypes")
        self.head_temperature = 1.0
        if rule in MATRIX_RULES:
            self._take_matrix(*recognizer.matrix(rule))
        if rule == "gated_lda":
            of_lda, of_head = (float(recognizer.temperatures.get(p, 1.0)) for p in PARTS[rule])
            self._take_matrix(*(part / np.float32(of_lda) for part in recognizer.matrix("lda")))
            self.head_temperature, self.gate_weight = of_head, 1.0
        scales, offsets = recognizer.head_correction(rule)
        self.scales, self.offsets = _optional(scales, "scales"), _optional(offsets, "offsets")

    @property
    def needs_head_logits(self) -> bool:
        """Whether scores depend on the head classifier."""
        return self.rule in HEAD_LOGIT_RULES or (self.rule == "gated" and self.gate_weight != 0.0)

    def prototype_scores(self, embedding: tf.Tensor) -> tf.Tensor:
        """Cosine [N, C] of unit embeddings [N, D] to each class's prototype."""
        return tf.matmul(embedding, self.prototypes, transpose_b=True)

    def scores(self, embedding: tf.Tensor, head_logits: tf.Tensor | None) -> tf.Tensor:
        """Calibrated logits [N, C] of unit embeddings [N, D] and head logits [N, H]."""
        if self.rule in (*MATRIX_RULES, "gated_lda"):
            raw = tf.matmul(embedding, self.kernel) + self.kernel_bias
            if self.rule == "gated_lda":
                raw = self._gated(raw, head_logits)
        elif self.rule == "head_only":
            missing = [[0, 0], [0, self.num_classes - self.num_head]]
            raw = tf.pad(tf.nn.log_softmax(head_logits, axis=-1), missing, constant_values=NEVER)
        elif self.rule in HEAD_LOGIT_RULES:
            raw = head_logits if self.scales is None else head_logits * self.scales
            raw = raw if self.offsets is None else raw + self.offsets
        else:
            raw = self.prototype_scores(embedding)
            if self.needs_head_logits:
                raw = self._gated(raw, head_logits)
        return raw / self.temperature

    def _take_matrix(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        self.kernel = _constant(kernel, "kernel")
        self.kernel_bias = _constant(bias, "kernel_bias")

    def _gated(self, scores: tf.Tensor, head_logits: Any) -> tf.Tensor:
        head = scores[:, : self.num_head]
        opinion = tf.nn.log_softmax(head_logits / self.head_temperature, axis=-1)
        ranked = head + self.gate_weight * opinion
        is_head = tf.argmax(scores, axis=-1) < self.num_head
        # the winner changes within the head classes only: its score stays the image's best score
        best = tf.reduce_max(scores, axis=-1, keepdims=True)
        ranked += best - tf.reduce_max(ranked, axis=-1, keepdims=True)
        gated = tf.concat([ranked, scores[:, self.num_head :]], axis=-1)
        return tf.where(is_head[:, tf.newaxis], gated, scores)


def check_rule(recognizer: Any, rule: str, *, has_head: bool = True) -> None:
    """Whether `rule` can be exported.

    Args:
      recognizer: as `RuleHead` takes it.
      rule: an inference rule.
      has_head: whether the network has a head classifier; without one the head is but a name.

    Raises:
      UserError: it cannot, or the recognizer was not fitted for it.
    """
    if rule == "knn":
        raise UserError(
            "--inference_rule=knn cannot be exported: its gallery is every training image; export "
            f"one of {', '.join(GRAPH_RULES)} (the run's own rule is the default)."
        )
    if rule not in GRAPH_RULES:
        raise UserError(
            f"--inference_rule={rule} is not known: choose one of {', '.join(GRAPH_RULES)}."
        )
    made_of = "lda" if rule == "gated_lda" else rule
    if made_of in ("linear", "lda") and recognizer.matrix(made_of)[0] is None:
        raise UserError(
            f"--inference_rule={rule} was not fitted in this run: choose another rule, or run "
            "longtail_tf.train again, which fits every rule."
        )
    if rule in ANY_HEAD_RULES:
        if not (recognizer.num_head and has_head):
            raise UserError(
                f"--inference_rule={rule} needs a head classifier, and this run has no head "
                "stream: choose --inference_rule=lda or ncm."
            )
        if recognizer.head_outdated:
            raise UserError(
                f"--inference_rule={rule} asks the head classifier, which does not know the head "
                "class that was replaced: choose --inference_rule=lda or ncm."
            )
    if rule in ALL_CLASS_RULES and rule not in recognizer.available_rules():
        raise UserError(
            f"--inference_rule={rule} was not fitted in this run: it needs a head classifier of "
            "every class (--head_all) that is not corrected in the same way already; choose "
            "another rule."
        )


def _optional(array: Any, name: str) -> tf.Variable | None:
    return None if array is None else _constant(array, name)


def _constant(array: Any, name: str) -> tf.Variable:
    return tf.Variable(np.asarray(array, np.float32), trainable=False, name=name)
