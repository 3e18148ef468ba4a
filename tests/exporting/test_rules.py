"""The inference rules in the graph give what `Recognizer.scores` gives in numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from longtail_tf.errors import UserError
from longtail_tf.exporting.rule_head import GRAPH_RULES, RuleHead, check_rule
from longtail_tf.recognition.fit import Recognizer
from longtail_tf.settings.choices import ALL_CLASS_RULES

CLASSES, HEAD, DIM = 7, 3, 5
OF_EVERY_CLASS = ("adjusted_offsets", "tau_norm_scales", "lws_scales", "crt_kernel", "crt_bias")


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def recognizer_of(seed, *, gate_weight=0.3, head=HEAD):
    rng = np.random.default_rng(seed)
    return Recognizer(
        num_classes=CLASSES,
        num_head=head,
        class_counts=np.arange(CLASSES, 0, -1),
        prototypes=unit(rng.normal(size=(CLASSES, DIM))),
        temperatures={rule: 0.1 + i for i, rule in enumerate(GRAPH_RULES)},
        gate_weight=gate_weight,
        linear_kernel=rng.normal(size=(DIM, CLASSES)).astype(np.float32),
        linear_bias=rng.normal(size=CLASSES).astype(np.float32),
        lda_kernel=rng.normal(size=(DIM, CLASSES)).astype(np.float32),
        lda_bias=rng.normal(size=CLASSES).astype(np.float32),
        **{
            name: rng.normal(size=(DIM, CLASSES) if name == "crt_kernel" else CLASSES).astype("f4")
            for name in OF_EVERY_CLASS
            if head == CLASSES
        },
    )


@pytest.mark.parametrize("rule", GRAPH_RULES)
@pytest.mark.parametrize("gate_weight", [0.0, 0.3])
def test_scores_are_those_of_the_recognizer(rule, gate_weight):
    num_head = CLASSES if rule in ALL_CLASS_RULES else HEAD
    for seed in range(10):
        recognizer = recognizer_of(seed, head=num_head, gate_weight=gate_weight)
        rng = np.random.default_rng(seed + 100)
        embeddings = unit(rng.normal(size=(20, DIM)))
        logits = rng.normal(0, 3, size=(20, num_head)).astype(np.float32)
        head = RuleHead(recognizer, rule=rule)
        expected = recognizer.scores(rule, embeddings, logits)
        given = tf.constant(logits) if head.needs_head_logits else None
        np.testing.assert_allclose(
            head.scores(tf.constant(embeddings), given), expected, rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(
            tf.reduce_max(head.prototype_scores(tf.constant(embeddings)), axis=1),
            recognizer.best_prototype_scores(embeddings),
            atol=1e-5,
        )


def test_the_gate_re_ranks_only_within_the_head():
    recognizer = recognizer_of(0, gate_weight=1e4)
    head = RuleHead(recognizer, rule="gated")
    embeddings = unit(np.random.default_rng(1).normal(size=(200, DIM)))
    logits = np.random.default_rng(2).normal(0, 3, (200, HEAD)).astype(np.float32)
    plain = (embeddings @ recognizer.prototypes.T).argmax(axis=1)
    gated = head.scores(tf.constant(embeddings), tf.constant(logits)).numpy().argmax(axis=1)
    tail = plain >= HEAD
    assert np.array_equal(gated[tail], plain[tail])
    assert (gated[~tail] < HEAD).all()
    assert np.array_equal(gated[~tail], logits[~tail].argmax(axis=1))


def test_rules_that_cannot_be_exported_are_refused():
    recognizer = recognizer_of(0)
    with pytest.raises(UserError, match="knn cannot be exported: its gallery is every training"):
        RuleHead(recognizer, rule="knn")
    with pytest.raises(UserError, match="--inference_rule=best is not known: choose one of ncm"):
        RuleHead(recognizer, rule="best")
    for rule in ("linear", "lda"):
        without = dataclasses.replace(recognizer, **{f"{rule}_kernel": None})
        with pytest.raises(UserError, match=f"{rule} was not fitted in this run"):
            RuleHead(without, rule=rule)
    without = dataclasses.replace(recognizer, lda_kernel=None)
    with pytest.raises(UserError, match="gated_lda was not fitted in this run"):
        RuleHead(without, rule="gated_lda")
    for rule in ("head_only", "gated_lda"):
        with pytest.raises(UserError, match=f"{rule} needs a head classifier"):
            RuleHead(dataclasses.replace(recognizer, num_head=0), rule=rule)
        with pytest.raises(UserError, match=f"{rule} needs a head classifier"):
            check_rule(recognizer, rule, has_head=False)  # the head is but a name in the report
        with pytest.raises(UserError, match=f"{rule} asks the head classifier, which does not"):
            RuleHead(dataclasses.replace(recognizer, head_outdated=True), rule=rule)
    for rule in ALL_CLASS_RULES:
        with pytest.raises(UserError, match=f"{rule} was not fitted in this run: .*--head_all"):
            RuleHead(recognizer, rule=rule)
