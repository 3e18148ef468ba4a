"""One network trained by two streams: classification on the head, a metric loss on everything.

    images -> embedder -> features -> neck -> embedding (unit length)
                              |          '-> head classifier -> logits    (head stream)
                              '-> metric loss                             (whole stream)

The two losses pull one vector two ways, angular and Euclidean; the batch-normalisation neck between
them is the known cure (Luo 2019, arXiv:1903.07071, section 3.5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import tensorflow as tf

from longtail_tf import losses
from longtail_tf.compat import keras_version
from longtail_tf.errors import UserError
from longtail_tf.losses.pairwise import unit_vectors
from longtail_tf.losses.statistics import spread
from longtail_tf.models.cosine_head import CosineHead
from longtail_tf.models.head_terms import head_terms, shared_head_loss
from longtail_tf.models.replicas import all_replicas, batch_norm

layers = tf.keras.layers

HEAD_METRICS = ("head_loss", "head_accuracy")
WHOLE_METRICS = (
    "whole_loss",
    "active_share",
    "positive_distance",
    "negative_distance",
    "spread",
)

# labels int [B], logits float32 [B, H] -> scalar
ClassificationLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
# labels int [B], features float32 [B, D], source rows int [B] -> scalar
MetricLoss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


class TwoStreamModel(tf.keras.Model):
    """Embeds images; `fit` trains it on batches {"head": Batch, "whole": Batch}.

    A batch holds the streams it is trained on: both, or one alone for the baselines.

    `whole_embedder()` gives images -> features: the embedder, with the frozen trunk below it where
    there is one.

    Args:
      embedder: images [B, S, S, C] in 0..255 -> features [B, D], from `build_embedder`; or what
        is trained above a frozen trunk: its outputs [B, ...] -> features.
      num_head_classes: H; head classes are the ids 0 .. H-1. 0 for no head classifier.
      neck: batch normalisation between features and embedding.
      cosine_head: a cosine classifier instead of a linear one.
      keep_norms: the batch norms inside the embedder go on with the statistics they have, in
        training too; their scales and shifts are trained.
      input_dtype: of what `embed_images` takes: uint8 images, float16 trunk outputs.
      whole_embedder: images -> features, of which `embedder` is the part above a frozen trunk; it
        is neither trained nor saved from here.
    """

    def __init__(
        self,
        embedder: tf.keras.Model,
        *,
        num_head_classes: int,
        neck: bool = True,
        cosine_head: bool = False,
        keep_norms: bool = False,
        input_dtype: str = "uint8",
        whole_embedder: Optional[tf.keras.Model] = None,
        name: str = "two_stream_model",
    ) -> None:
        super().__init__(name=name)
        self.embedder = embedder
        # A function, as Keras saves every network that an attribute or property gives it.
        self.whole_embedder: Callable[[], tf.keras.Model] = lambda: whole_embedder or embedder
        self.num_head_classes = num_head_classes
        self.keep_norms = keep_norms
        self.embedding_dim = int(embedder.output_shape[-1])
        # No shift: prototypes compare angles about the origin (Luo 2019, section 3.5).
        self.neck = (
            batch_norm(center=False, momentum=0.9, epsilon=1e-5, name="neck") if neck else None
        )
        self.head: Any = None
        if num_head_classes:
            self.head = (
                CosineHead(num_head_classes, name="head")
                if cosine_head
                else layers.Dense(num_head_classes, use_bias=False, name="head")
            )
        # Until `compile` is called there is nothing to train with.
        self.head_optimizer: Any = None
        self.whole_optimizer: Any = None
        self.classification_loss: Any = None
        self.metric_loss: Any = None
        self.step = self.add_weight(
            name="step",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            aggregation=keras_version.ONLY_FIRST_REPLICA,  # every replica counts alike
        )
        # Traced once for every batch size, or each evaluation would trace again.
        self.embed_images = tf.function(
            self.embed_with_logits,
            input_signature=[tf.TensorSpec([None, *embedder.input_shape[1:]], input_dtype)],
            jit_compile=False,
        )
        self.call(tf.zeros([1, *embedder.input_shape[1:]]))
        if self.head is not None:
            self.head(tf.zeros([1, self.embedding_dim]))
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Images [B, S, S, C] in 0..255 -> unit-length embedding float32 [B, D]."""
        return unit_vectors(self.neck_output(self.features(images, training), training))

    def features(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Images -> features float32 [B, D]: what the metric loss compares."""
        training = training and not self.keep_norms
        return self.embedder(tf.cast(images, tf.float32), training=training)

    def neck_output(self, features: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features -> float32 [B, D] after the neck; the same without one."""
        return features if self.neck is None else self.neck(features, training=training)

    def embed_with_logits(
        self, images: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, Optional[tf.Tensor]]:
        """Unit embedding [B, D] and head logits [B, H] (None without a head), in one pass."""
        neck_output = self.neck_output(self.features(images, training), training)
        return unit_vectors(neck_output), None if self.head is None else self.head(neck_output)

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the model, the embedder as its own config."""
        return {
            "name": self.name,
            "embedder": tf.keras.layers.serialize(self.embedder),
            "num_head_classes": self.num_head_classes,
            "neck": self.neck is not None,
            "cosine_head": isinstance(self.head, CosineHead),
            "keep_norms": self.keep_norms,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> TwoStreamModel:
        """The model of `get_config`, with fresh weights."""
        embedder = tf.keras.layers.deserialize(config["embedder"], custom_objects=custom_objects)
        return cls(**{**config, "embedder": embedder})

    def compile(
        self,
        *,
        head_optimizer: Optional[tf.keras.optimizers.Optimizer] = None,
        whole_optimizer: Optional[tf.keras.optimizers.Optimizer] = None,
        classification_loss: Optional[ClassificationLoss] = None,
        metric_loss: Optional[MetricLoss] = None,
        schedule: str = "alternate",
        classification_weight: float = 1.0,
        metric_weight: float = 1.0,
        unit_features: bool = True,
        margin: float = 0.2,
        distance_metric: str = "L2",
        mine: str = "global",
        classify_whole: bool = False,
        compare_head: bool = False,
        stay_near: float = 0.0,
        jit_compile: bool = False,
    ) -> None:
        """Sets what `fit` trains with.

        Args:
          head_optimizer: of the head update; of the one update in a joint schedule.
          whole_optimizer: of the whole update. Its own, so that the two losses share no momentum
            and the triplet update neither moves nor decays the head classifier.
          classification_loss: function (labels, logits) -> scalar, or a `SampledCrossEntropy`.
          metric_loss: function (labels, features, source rows) -> scalar.
          schedule: "alternate" (head update, then whole update) or "joint" (one on the sum).
          classification_weight: factor of the classification loss.
          metric_weight: factor of the metric loss.
          unit_features: scale features to unit length before the metric loss.
          margin: margin by which the triplet statistics count a triplet as active.
          distance_metric: distance of those statistics.
          mine: where a replica finds its pairs under tf.distribute: "global" (the batches of all
            replicas) or "replica" (its own).
          classify_whole: in a joint schedule, images of head classes in the whole batch feed the
            classification loss too, from the same forward pass.
          compare_head: in a joint schedule, head images feed the metric loss too.
          stay_near: weight of half the squared distance of the embedder's weights from those it has
            now (Li 2018, arXiv:1802.01483, L2-SP); 0: none.
          jit_compile: compile the step with XLA; always passed on, as Keras 3 would default to
            "auto".

        Raises:
          UserError: a schedule that does not exist, or does not let streams share a forward pass.
        """
        if schedule not in ("alternate", "joint"):
            raise UserError(f"schedule={schedule!r}: expected 'alternate' or 'joint'.")
        if (classify_whole or compare_head) and schedule != "joint":
            name = "classify_whole" if classify_whole else "compare_head"
            raise UserError(f"{name} needs one update on both losses: schedule='joint'.")
        optimizer = head_optimizer or whole_optimizer
        super().compile(optimizer=getattr(optimizer, "main", optimizer), jit_compile=jit_compile)
        self.head_optimizer, self.whole_optimizer = head_optimizer, whole_optimizer
        self.classification_loss, self.metric_loss = classification_loss, metric_loss
        self.schedule = schedule
        self.classification_weight, self.metric_weight = classification_weight, metric_weight
        self.unit_features = unit_features
        self.margin, self.distance_metric, self.mine = margin, distance_metric, mine
        self.classify_whole, self.compare_head = classify_whole, compare_head
        self.stay_near = stay_near
        self._start = _copies(self.embedder.trainable_variables) if stay_near else []
        names = HEAD_METRICS * (classification_loss is not None)
        names += WHOLE_METRICS * (metric_loss is not None)
        self._means = {name: tf.keras.metrics.Mean(name=name) for name in names}
        self._build_optimizers()

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """Running means of both streams since the last `reset_metrics`."""
        return list(self._means.values())

    def train_step(self, data: dict[str, Batch]) -> dict[str, tf.Tensor]:
        """One step: a head update then a whole update, or one joint update."""
        if self.schedule == "joint":
            self._update(data)
        else:
            for stream in ("head", "whole"):
                if stream in data:
                    self._update({stream: data[stream]})
        self.step.assign_add(1)
        return {name: mean.result() for name, mean in self._means.items()}

    def _update(self, streams: dict[str, Batch]) -> None:
        """One forward pass over the streams joined, one optimizer update on their summed loss."""
        images = tf.concat([batch[0] for batch in streams.values()], axis=0)
        num_head = batch_size(streams["head"]) if "head" in streams else 0
        with tf.GradientTape() as tape:
            features = self.features(images, training=True)
            # Run for the whole stream too: its statistics must see what recognition will see.
            neck_output = self.neck_output(features, training=True)
            loss = tf.constant(0.0)
            if "head" in streams:
                head_loss = self._head_loss(streams["head"], neck_output[:num_head])
                if self.classify_whole and "whole" in streams:
                    head_loss = shared_head_loss(
                        head_loss,
                        num_head,
                        self.classification_loss,
                        self.head,
                        labels=streams["whole"][1],
                        neck_output=neck_output[num_head:],
                    )
                loss += self.classification_weight * head_loss
            if "whole" in streams:
                compared = list(streams.values()) if self.compare_head else [streams["whole"]]
                seen = features if self.compare_head else features[num_head:]
                loss += self.metric_weight * self._whole_loss(*labels_and_rows(*compared), seen)
            if self.stay_near:
                loss += self.stay_near * self._distance_from_start()
            # Replicas' gradients are summed, so each brings its share of the mean.
            loss /= tf.distribute.get_replica_context().num_replicas_in_sync
        variables = self._variables_of("head" if "head" in streams else "whole")
        optimizer = self.head_optimizer if "head" in streams else self.whole_optimizer
        gradients = tape.gradient(loss, keras_version.tf_variables(variables))
        optimizer.apply_gradients(zip(gradients, variables))

    def _head_loss(self, batch: Batch, neck_output: tf.Tensor) -> tf.Tensor:
        labels = batch[1]
        loss_of, logits = head_terms(self.classification_loss, self.head, neck_output, self.step)
        loss = loss_of(labels)
        if len(batch) > 3:  # images mixed from two: each image's labels count by their share
            mixed_labels, weight = batch[3:]
            loss = weight * loss + (1 - weight) * loss_of(mixed_labels)
        guesses = tf.argmax(logits, axis=-1, output_type=labels.dtype)
        right = tf.equal(guesses, labels[: tf.shape(guesses)[0]])
        self._means["head_loss"].update_state(loss)
        self._means["head_accuracy"].update_state(tf.reduce_mean(tf.cast(right, tf.float32)))
        return loss

    def _whole_loss(self, labels: tf.Tensor, rows: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        if self.unit_features:
            features = unit_vectors(features)
        if self.mine == "global":
            features, labels, rows = (all_replicas(part) for part in (features, labels, rows))
        loss = self.metric_loss(labels, features, rows)
        statistics = losses.triplet_statistics(
            labels,
            features,
            margin=self.margin,
            distance_metric=self.distance_metric,
            source_rows=rows,
        )
        statistics["spread"] = spread(features)
        self._means["whole_loss"].update_state(loss)
        for name, value in statistics.items():
            self._means[name].update_state(value)
        return loss

    def _distance_from_start(self) -> tf.Tensor:
        now = keras_version.tf_variables(self.embedder.trainable_variables)
        return tf.add_n([tf.nn.l2_loss(weight - start) for weight, start in zip(now, self._start)])

    def _variables_of(self, stream: str) -> list[tf.Variable]:
        """What an update of this stream moves: the head update everything, the whole update the
        embedder alone, since the metric loss is taken before the neck."""
        variables = list(self.embedder.trainable_variables)  # what is frozen is not among them
        if stream == "head":
            variables += self.neck.trainable_variables if self.neck is not None else []
            variables += self.head.trainable_variables
        return variables

    def _build_optimizers(self) -> None:
        """Makes the slots now: a checkpoint restored later must find them."""
        if self.head_optimizer is not None:
            self.head_optimizer.build(self._variables_of("head"))
        if self.whole_optimizer is not None:
            self.whole_optimizer.build(self._variables_of("whole"))


# images, labels, source rows; in a mixed head batch also the second labels and the first's weight
Batch = tuple[tf.Tensor, ...]


def batch_size(batch: Batch) -> Any:
    """A number where it is known when tracing: the losses choose their fastest way by it."""
    known = batch[0].shape[0]
    return tf.shape(batch[0])[0] if known is None else known


def labels_and_rows(*batches: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels and source rows of the batches one after the other, each int [B]."""
    labels, rows = ([batch[part] for batch in batches] for part in (1, 2))
    return tf.concat(labels, axis=0), tf.concat(rows, axis=0)


def _copies(variables: list[Any]) -> list[tf.Tensor]:
    return [tf.constant(variable.numpy()) for variable in keras_version.tf_variables(variables)]
