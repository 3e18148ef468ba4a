"""The Input message of Classify: tf.Examples, with or without a shared context."""

from __future__ import annotations

from typing import Any

import numpy as np

from longtail_tf.serving.status import invalid_argument


def serialized_examples(message: Any) -> np.ndarray:
    """Serialized examples [N] (object array of bytes) in an Input proto.

    A shared context is put before each example: protobuf merges concatenated messages.

    Raises:
      ServingError: INVALID_ARGUMENT when there is no example.
    """
    kind = message.WhichOneof("kind")
    examples: list[bytes] = []
    if kind == "example_list":
        examples = [example.SerializeToString() for example in message.example_list.examples]
    elif kind == "example_list_with_context":
        listed = message.example_list_with_context
        context = listed.context.SerializeToString()
        examples = [context + example.SerializeToString() for example in listed.examples]
    if not examples:
        raise invalid_argument("Input is empty.")
    array = np.empty(len(examples), object)
    array[:] = examples
    return array
