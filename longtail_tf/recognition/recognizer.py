"""`Recognizer`: what turns an embedding into a class, for every class, by any inference rule."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from longtail_tf.errors import UserError
from longtail_tf.metrics.calibration import log_softmax
from longtail_tf.metrics.nearest_neighbours import nearest_neighbours, top_k
from longtail_tf.recognition.array_record import load_record, save_record
from longtail_tf.recognition.inference_rules import (
    corrected_scores,
    gated_lda_scores,
    gated_scores,
    head_only_scores,
    vote_scores,
    vote_weights,
)
from longtail_tf.recognition.record_checks import check_fields
from longtail_tf.settings.choices import HEAD_LOGIT_RULES, MATRIX_RULES, RULES

FORMAT_VERSION = 2
# Fields of version 1 that are gone, and what each held where it meant nothing: several prototypes a
# class, and prototypes that were centred or plain means.
_RETIRED_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "prototype_classes": lambda classes: np.array_equal(classes, np.arange(np.size(classes))),
    "center": lambda center: center is None,
    "prototype_bias": lambda bias: bias is None,
}
_CHUNK_CELLS = 8 << 20  # images x classes scored at once: 32 MB of float32, a few in flight


class Predictions(NamedTuple):
    """The k best classes of each image, best first."""

    class_ids: np.ndarray  # int64 [N, k]
    scores: np.ndarray  # float32 [N, k], calibrated logits
    probabilities: np.ndarray  # float32 [N, k], softmax over all classes


@dataclasses.dataclass(frozen=True, eq=False)
class Recognizer:
    """Prototypes, gate, linear classifier, gallery and calibration, as plain arrays.

    Class ids are by falling training count, so that head classes are 0..num_head-1.

    Attributes:
      num_classes: C.
      num_head: H.
      class_counts: int64 [C], training images of each class.
      prototypes: float32 [C, D], unit norm.
      temperatures: rule -> what its raw scores are divided by; never changes a ranking.
      gate_weight: weight of the head's log-softmax in `gated`, 0..; 0 makes it `ncm`.
      linear_kernel: float32 [D, C]; None: rule `linear` was not fitted.
      linear_bias: float32 [C].
      lda_kernel: float32 [D, C]; None: rule `lda` was not fitted.
      lda_bias: float32 [C].
      lda_precision: float32 [D, D], makes the column of another class (`discriminant`).
      lda_center, lda_scatter: float32 [D] and a number, for the same.
      adjusted_offsets: float32 [C], added to head logits in `head_adjusted`; None, here and below:
        that rule was not fitted.
      tau_norm_scales: float32 [C], factors of head logits in `tau_norm`.
      lws_scales: float32 [C], factors of head logits in `lws`.
      crt_kernel: float32 [D, C] of `crt`.
      crt_bias: float32 [C].
      gallery: float32 [G, D], training embeddings; None: rule `knn` was not fitted.
      gallery_labels: int32 [G].
      neighbours: k of `knn`.
      vote_power: 0..1, see `inference_rules.vote_weights`.
      head_outdated: a head class was replaced since the training: no rule asks the head classifier.
      threshold: an image whose best prototype score is below is unknown; None: not calibrated.
    """

    num_classes: int
    num_head: int
    class_counts: np.ndarray
    prototypes: np.ndarray
    temperatures: dict[str, float] = dataclasses.field(default_factory=dict)
    gate_weight: float = 0.0
    linear_kernel: np.ndarray | None = None
    linear_bias: np.ndarray | None = None
    lda_kernel: np.ndarray | None = None
    lda_bias: np.ndarray | None = None
    lda_precision: np.ndarray | None = None
    lda_center: np.ndarray | None = None
    lda_scatter: float | None = None
    adjusted_offsets: np.ndarray | None = None
    tau_norm_scales: np.ndarray | None = None
    lws_scales: np.ndarray | None = None
    crt_kernel: np.ndarray | None = None
    crt_bias: np.ndarray | None = None
    gallery: np.ndarray | None = None
    gallery_labels: np.ndarray | None = None
    neighbours: int = 5
    vote_power: float = 0.5
    head_outdated: bool = False
    threshold: float | None = None

    def available_rules(self, *, has_head_logits: bool = True) -> tuple[str, ...]:
        """Returns the rules of `RULES` this recognizer can apply, in that order."""
        fitted = {
            "knn": self.gallery,
            "linear": self.linear_kernel,
            "lda": self.lda_kernel,
            "gated_lda": self.lda_kernel,
            "head_adjusted": self.adjusted_offsets,
            "tau_norm": self.tau_norm_scales,
            "lws": self.lws_scales,
            "crt": self.crt_kernel,
        }
        missing = {rule for rule, array in fitted.items() if array is None}
        if not has_head_logits or not self.num_head or self.head_outdated:
            missing.update(HEAD_LOGIT_RULES)
        return tuple(rule for rule in RULES if rule not in missing)

    def scores(
        self,
        rule: str,
        embeddings: np.ndarray,
        head_logits: np.ndarray | None = None,
        *,
        test_prior: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns calibrated logits of every class: their softmax is the confidence.

        Args:
          rule: one of `RULES`.
          embeddings: float32 [N, D], unit norm.
          head_logits: float32 [N, H]; needed by `HEAD_LOGIT_RULES`, and by `gated` when
            its weight is > 0.
          test_prior: float [C], how often each class is expected where the recognizer is used; its
            logarithm is added (Menon 2021, arXiv:2007.07314, section 4.1). None: all alike.

        Returns:
          float32 [N, C]. The whole table: use `predict` where C is large.
        """
        pieces = [part for _, part in self.score_chunks(rule, embeddings, head_logits)]
        result = np.concatenate(pieces) if pieces else np.zeros((0, self.num_classes), np.float32)
        return result if test_prior is None else result + self._log_prior(test_prior)

    def predict(
        self,
        rule: str,
        embeddings: np.ndarray,
        head_logits: np.ndarray | None = None,
        *,
        k: int = 1,
        test_prior: np.ndarray | None = None,
    ) -> Predictions:
        """Returns the k best classes of each image (all of them if there are fewer than k).

        Args are those of `scores`. Memory beside the inputs: about 150 MB, or 8 rows of C scores.
        """
        k = min(k, self.num_classes)
        prior = None if test_prior is None else self._log_prior(test_prior)
        parts = []
        for _, scores in self.score_chunks(rule, embeddings, head_logits):
            shifted = scores if prior is None else scores + prior
            found = top_k(shifted, k)
            parts.append(
                (
                    found,
                    np.take_along_axis(shifted, found, axis=1),
                    np.exp(np.take_along_axis(log_softmax(shifted), found, axis=1)),
                )
            )
        if not parts:
            empty = np.zeros((0, k), np.float32)
            return Predictions(np.zeros((0, k), np.int64), empty, empty)
        return Predictions(*(np.concatenate(columns) for columns in zip(*parts)))

    def best_prototype_scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns the score that `threshold` is compared with, float32 [N]."""
        found = [self._prototype_scores(embeddings[rows]) for rows in self._chunks(len(embeddings))]
        return np.concatenate([part.max(axis=1) for part in found] or [np.zeros(0, np.float32)])

    def is_unknown(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns bool [N]: no class is near enough to be named."""
        if self.threshold is None:
            raise UserError(
                "this recognizer has no rejection threshold; it is calibrated on validation "
                "images: train with a data set that has or can spare some"
            )
        return self.best_prototype_scores(embeddings) < np.float32(self.threshold)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything into one .npz, atomically; most of it is the gallery of `knn`."""
        save_record(path, self, kind="recognizer", version=FORMAT_VERSION)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recognizer:
        """Reads what `save` wrote; a sentence says what is missing, damaged or too new."""
        fields = load_record(
            path, cls, kind="recognizer", version=FORMAT_VERSION, retired=_RETIRED_FIELDS
        )
        return cls(**check_fields(path, fields))

    def matrix(self, rule: str) -> tuple[Any, Any]:
        """Kernel float32 [D, C] and bias [C] of one of `MATRIX_RULES`; None where not fitted."""
        return getattr(self, f"{rule}_kernel"), getattr(self, f"{rule}_bias")

    def head_correction(self, rule: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What `rule` multiplies head logits with, and then adds, each float32 [C] or None."""
        scales = {"tau_norm": self.tau_norm_scales, "lws": self.lws_scales}.get(rule)
        return scales, self.adjusted_offsets if rule == "head_adjusted" else None

    def score_chunks(
        self, rule: str, embeddings: np.ndarray, head_logits: np.ndarray | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields (rows, calibrated logits [n, C]) a piece at a time; args as `scores`."""
        embeddings = self._checked(rule, embeddings, head_logits)
        temperature = np.float32(self.temperatures.get(rule, 1.0))
        for rows in self._chunks(len(embeddings)):
            logits = None if head_logits is None else head_logits[rows]
            yield rows, self._raw_scores(rule, embeddings[rows], logits) / temperature

    def _raw_scores(
        self, rule: str, embeddings: np.ndarray, head_logits: np.ndarray | None
    ) -> np.ndarray:
        if rule in HEAD_LOGIT_RULES and head_logits is not None:
            return self._head_scores(rule, embeddings, head_logits)
        if rule in MATRIX_RULES:
            kernel, bias = self.matrix(rule)
            return embeddings @ kernel + bias
        scores = self._prototype_scores(embeddings)
        if rule == "gated" and head_logits is not None:
            return gated_scores(scores, head_logits, self.gate_weight)
        if rule == "knn" and self.gallery is not None and self.gallery_labels is not None:
            rows, similarities = nearest_neighbours(embeddings, self.gallery, self.neighbours)
            classes = self.gallery_labels[rows]
            weights = vote_weights(similarities, classes, self.class_counts, self.vote_power)
            return vote_scores(weights, classes, scores)
        return scores

    def _head_scores(
        self, rule: str, embeddings: np.ndarray, head_logits: np.ndarray
    ) -> np.ndarray:
        if rule == "head_only":
            return head_only_scores(head_logits, self.num_classes)
        if rule == "gated_lda":
            kernel, bias = self.matrix("lda")
            return gated_lda_scores(
                embeddings @ kernel + bias,
                head_logits,
                lda_temperature=self.temperatures.get("lda", 1.0),
                head_temperature=self.temperatures.get("head_only", 1.0),
            )
        return corrected_scores(head_logits, *self.head_correction(rule))

    def _prototype_scores(self, embeddings: np.ndarray) -> np.ndarray:
        return embeddings @ self.prototypes.T

    def _chunks(self, count: int) -> Iterator[slice]:
        step = max(8, _CHUNK_CELLS // max(len(self.prototypes), 1))
        return (slice(start, start + step) for start in range(0, count, step))

    def _log_prior(self, test_prior: np.ndarray) -> np.ndarray:
        prior = np.asarray(test_prior, np.float64)
        if prior.shape != (self.num_classes,) or not (prior > 0).all():
            raise UserError(
                f"test_prior has shape {prior.shape}; expected a number above 0 for each of "
                f"{self.num_classes} classes"
            )
        return np.log(prior / prior.mean()).astype(np.float32)

    def _checked(
        self, rule: str, embeddings: np.ndarray, head_logits: np.ndarray | None
    ) -> np.ndarray:
        if rule not in RULES:
            raise UserError(
                f"inference rule {rule!r} is not known; choose one of {', '.join(RULES)}"
            )
        if rule not in self.available_rules():
            raise UserError(
                f"inference rule {rule!r} was not fitted here; available are "
                f"{', '.join(self.available_rules())}"
            )
        embeddings = np.asarray(embeddings, np.float32)
        dimension = self.prototypes.shape[1]
        if embeddings.ndim != 2 or embeddings.shape[1] != dimension:
            raise UserError(
                f"embeddings have shape {embeddings.shape}; the prototypes expect [N, {dimension}]"
            )
        if head_logits is None:
            if rule in HEAD_LOGIT_RULES or (rule == "gated" and self.gate_weight):
                raise UserError(f"inference rule {rule!r} needs head_logits; None came")
        elif head_logits.shape != (len(embeddings), self.num_head):
            raise UserError(
                f"head_logits have shape {head_logits.shape}; expected "
                f"({len(embeddings)}, {self.num_head}): one row an image, one column a head class"
            )
        return embeddings
