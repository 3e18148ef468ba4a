"""Cross-batch memory in training: a metric loss that also remembers earlier batches.

Wang 2020, arXiv:1912.06798: features drift slowly, so those of the last batches are good partners
for the pairs of this one, and a small batch meets many more classes of a long tail.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from longtail_tf.losses import Memory, empty_memory, enqueue


class RememberingLoss:
    """A metric loss (labels, features, source rows) -> scalar with a memory of earlier batches.

    Each call compares the batch with itself and with the memory, then stores it. Make it under the
    strategy that trains. Under several replicas every one must bring the whole global batch
    (`mine="global"`), so that all store the same.

    Args:
      loss: of `losses.metric_loss`, one that takes a memory.
      size: embeddings remembered, at least 1.
      dimension: length of an embedding.

    Attributes:
      state: the memory as a trackable, for checkpoints. It is no weight of the network.

    Raises:
      UserError: size below 1.
    """

    def __init__(self, loss: Callable[..., tf.Tensor], *, size: int, dimension: int) -> None:
        self._loss = loss
        self._variables = {
            name: tf.Variable(
                value,
                trainable=False,
                name=f"memory_{name}",
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,  # all store alike
            )
            for name, value in empty_memory(size, dimension)._asdict().items()
        }
        self.state = tf.train.Checkpoint(**self._variables)

    @property
    def memory(self) -> Memory:
        """What is remembered now."""
        return Memory(**{n: tf.convert_to_tensor(v) for n, v in self._variables.items()})

    def __call__(self, labels: tf.Tensor, features: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """The loss of a batch against itself and the memory as it was before."""
        memory = self.memory
        loss = self._loss(labels, features, rows, memory=memory)
        for name, value in enqueue(memory, labels, features, rows)._asdict().items():
            self._variables[name].assign(value)
        return loss
