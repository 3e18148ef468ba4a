"""The batching parameters, in the text format of the real server's --batching_parameters_file."""

from __future__ import annotations

import dataclasses
import os
import re

from longtail_tf.errors import UserError
from longtail_tf.text_files import read_text

_ENTRY = re.compile(r"(\w+)\s*(?::?\s*\{\s*value\s*:\s*(\d+)\s*[;,]?\s*\}|:\s*(\d+))[;,]?")
_LARGEST = 10**9
_MOST_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """The parameters of the real server's --batching_parameters_file that are kept here."""

    max_batch_size: int = 32  # examples
    batch_timeout_micros: int = 0  # how long an idle thread waits for a fuller batch
    max_enqueued_batches: int = 16  # more waiting examples than this times max_batch_size: refused
    num_batch_threads: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    allowed_batch_sizes: tuple[int, ...] = ()  # batches are padded up to the next of these

    @property
    def queue_limit(self) -> int:
        """Examples that may wait."""
        return self.max_enqueued_batches * self.max_batch_size


def read_batching_parameters(path: str) -> BatchingParameters:
    """Reads the text file that `tensorflow_model_server --batching_parameters_file` takes.

    Raises:
      UserError: no such file, an unknown field, or values that contradict each other.
    """
    try:
        text = re.sub(r"#.*", "", read_text(path, most_bytes=_MOST_BYTES))
    except (OSError, UserError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--batching_parameters_file={path} cannot be read ({reason}): give the path "
            "of a text file such as the export's batching_parameters.txt."
        ) from error
    found: dict[str, list[int]] = {}
    for match in _ENTRY.finditer(text):
        found.setdefault(match[1], []).append(int(match[2] or match[3]))
    rest = _ENTRY.sub("", text).strip()
    known = {field.name for field in dataclasses.fields(BatchingParameters)}
    unknown = sorted(set(found) - known)
    if rest or unknown:
        raise UserError(
            f"{path} has {unknown[0] if unknown else rest.split()[0]!r}, which this server does "
            f"not know: it takes lines like 'max_batch_size {{ value: 32 }}' for "
            f"{', '.join(sorted(known))}."
        )
    sizes = tuple(found.pop("allowed_batch_sizes", ()))
    values = {name: numbers[-1] for name, numbers in found.items()}
    largest = max((*values.values(), *sizes), default=0)
    if largest > _LARGEST:
        raise UserError(f"{path} has the number {largest}: give numbers up to {_LARGEST:,}.")
    parameters = BatchingParameters(allowed_batch_sizes=sizes, **values)
    if list(sizes) != sorted(set(sizes)) or (sizes and sizes[-1] != parameters.max_batch_size):
        raise UserError(
            f"{path} has allowed_batch_sizes {list(sizes)} with max_batch_size "
            f"{parameters.max_batch_size}: they must rise and end with max_batch_size."
        )
    if min(parameters.max_batch_size, parameters.num_batch_threads, parameters.queue_limit) < 1:
        raise UserError(f"{path} has a zero where at least 1 is needed: sizes and threads.")
    return parameters
