"""gRPC status codes, the server's one error type, and how its messages are cut.

The codes are those of TensorFlow (`tf.errors`) and of gRPC: both use the same numbers. grpc is not
imported here, so that everything below the services can be tested without it.
"""

from __future__ import annotations

import enum
import re

MESSAGE_LIMIT_BYTES = 1024
_TRUNCATED = "...TRUNCATED"
# Eager and graph calls from Python wrap the kernel's message in a stack-trace paragraph and name
# the traced function; the C++ server, which has neither, sends the kernel's message alone.
_PREFIX = re.compile(r"\A\s*Graph execution error:\s*")
_DETECTED_AT = re.compile(
    r"Detected at node [^\n]*\n(?:<stack traces unavailable>\n|(?:\s*File [^\n]*\n\s*)*)"
)
_OP_SUFFIX = re.compile(r"\s*\[Op:\S+\]\s*(?:name: \S*)?\s*\Z")


class Code(enum.IntEnum):
    """gRPC status codes used by the two services."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ServingError(Exception):
    """A request or a load that ends with a status code and a message for the client."""

    def __init__(self, code: Code, message: str):
        super().__init__(message)
        self.code = code
        self.message = clean_message(message)


def invalid_argument(message: str) -> ServingError:
    """The error for a request that can never succeed as it was sent."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def from_exception(error: BaseException) -> ServingError:
    """A `ServingError` for anything TensorFlow raises; TensorFlow's own code is kept.

    Args:
      error: a `tf.errors.OpError` (has `error_code` and `message`), a `MemoryError`, or a defect.
    """
    if isinstance(error, ServingError):
        return error
    if isinstance(error, MemoryError):
        return ServingError(Code.RESOURCE_EXHAUSTED, "the server has not enough memory for this.")
    code = getattr(error, "error_code", None)
    if isinstance(code, int) and code in Code.__members__.values():
        return ServingError(Code(code), str(getattr(error, "message", error)))
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def clean_message(text: str) -> str:
    """The kernel's own words, cut to what fits a gRPC trailer.

    The real server cuts at 1024 *bytes*: percent-encoded trailers of more would break the client's
    8 KiB header limit.
    """
    text = _PREFIX.sub("", text)
    text = _DETECTED_AT.sub("", text)
    text = _OP_SUFFIX.sub("", text)
    raw = text.encode("utf-8", "replace")
    if len(raw) > MESSAGE_LIMIT_BYTES:
        text = raw[:MESSAGE_LIMIT_BYTES].decode("utf-8", "ignore") + _TRUNCATED
    return text
