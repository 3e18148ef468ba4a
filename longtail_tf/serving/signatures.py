"""What a served model takes and gives, and holding a request's inputs against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from longtail_tf.serving import tensor_protos
from longtail_tf.serving.status import invalid_argument

DEFAULT_SIGNATURE = "serving_default"
Arrays = dict[str, np.ndarray]


class TensorSpec(NamedTuple):
    """One input or output of a signature."""

    tensor_name: str
    dtype: int  # TensorFlow's DataType number
    shape: tuple[int | None, ...] | None  # None: unknown rank; None inside: any size


class Signature(NamedTuple):
    """A signature with its inputs and outputs by alias, in the order of the aliases."""

    name: str
    definition: Any  # SignatureDef
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    run: Callable[..., list[Any]] | None  # None: it has outputs that are no tensors

    @property
    def has_batch_dimension(self) -> bool:
        """Whether requests may be merged: every input and output starts with a free dimension."""
        specs = [*self.inputs.values(), *self.outputs.values()]
        return bool(self.inputs) and all(spec.shape and spec.shape[0] is None for spec in specs)


def checked_inputs(signature: Signature, inputs: Mapping[str, Any]) -> Arrays:
    """Parses request inputs and holds them against the signature.

    Args:
      signature: what the model wants.
      inputs: alias -> TensorProto, as sent.

    Returns:
      Every input of the signature by alias; left-out ones take the signature's default.

    Raises:
      ServingError: INVALID_ARGUMENT: missing or extra inputs, wrong dtype or shape, empty batch.
    """
    defaults = getattr(signature.definition, "defaults", {})
    extra = sorted(set(inputs) - set(signature.inputs))
    missing = sorted(set(signature.inputs) - set(inputs) - set(defaults))
    if extra or missing:
        raise invalid_argument(
            f"input size does not match signature: {len(inputs)}!={len(signature.inputs)} "
            f"len({{{','.join(sorted(inputs))}}}) != len({{{','.join(signature.inputs)}}}). "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
        )
    feeds = sorted(spec.tensor_name for spec in signature.inputs.values())
    arrays: Arrays = {}
    for alias, spec in signature.inputs.items():
        proto = inputs[alias] if alias in inputs else defaults[alias]
        if proto.dtype != spec.dtype and proto.dtype:
            raise invalid_argument(
                f"Expects arg[{feeds.index(spec.tensor_name)}] to be "
                f"{tensor_protos.dtype_name(spec.dtype)} but "
                f'{tensor_protos.dtype_name(proto.dtype)} is provided (input "{alias}")'
            )
        try:
            arrays[alias] = tensor_protos.to_array(proto)
        except tensor_protos.TensorProtoError as error:
            raise invalid_argument(f"tensor parsing error: {alias} ({error})") from error
        _check_shape(alias, arrays[alias].shape, spec.shape)
    if signature.has_batch_dimension:
        _check_batch({alias: array.shape[0] for alias, array in arrays.items()})
    return arrays


def _check_shape(alias: str, shape: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> None:
    if wanted is None:
        return
    if len(shape) != len(wanted) or any(
        size is not None and size != sent for sent, size in zip(shape, wanted)
    ):
        shown = ",".join("?" if size is None else str(size) for size in wanted)
        raise invalid_argument(
            f'input "{alias}" has shape [{",".join(map(str, shape))}], '
            f"the signature wants [{shown}]"
        )


def _check_batch(sizes: dict[str, int]) -> None:
    if len(set(sizes.values())) > 1:
        raise invalid_argument(
            "Batching Run() input tensors must have equal 0th-dimension size; "
            + ", ".join(f"{alias} has {size}" for alias, size in sizes.items())
        )
    if 0 in sizes.values():
        raise invalid_argument(
            f"the batch is empty: {', '.join(sizes)} must hold at least one example."
        )


def spec_of(info: Any) -> TensorSpec:
    """The spec in a TensorInfo proto."""
    shape = None
    if info.HasField("tensor_shape") and not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim)
    return TensorSpec(info.name, info.dtype, shape)


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
