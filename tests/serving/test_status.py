from __future__ import annotations

import grpc
import pytest
import tensorflow as tf

from longtail_tf.serving.status import Code, ServingError, clean_message, from_exception


def test_codes_are_grpcs_and_tensorflows():
    assert {code.name: int(code) for code in Code} == {
        status.name: status.value[0] for status in grpc.StatusCode
    }
    assert tf.errors.NotFoundError(None, None, "x").error_code == Code.NOT_FOUND


def test_messages_are_cut_at_1024_bytes_as_the_real_server_does():
    assert clean_message("x" * 1024) == "x" * 1024
    assert clean_message("x" * 1025) == "x" * 1024 + "...TRUNCATED"
    cut = clean_message("é" * 1000)  # two bytes each; never half a character
    assert cut == "é" * 512 + "...TRUNCATED"


def test_the_noise_of_python_calls_is_stripped():
    """The message an eager SavedModel call really gives, and the one the C++ server gives."""

    @tf.function
    def decode(raw):
        return tf.io.decode_png(raw)

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode(tf.constant(b"not a png"))
    assert "Detected at node" in caught.value.message
    refused = from_exception(caught.value)
    assert refused.code == Code.INVALID_ARGUMENT
    assert "Detected at" not in refused.message
    assert "Graph execution" not in refused.message
    assert "[Op:" not in refused.message
    assert refused.message.startswith("Unknown image file format")


def test_a_stack_trace_is_stripped_with_its_heading():
    text = (
        "Graph execution error:\n\nDetected at node a/b/Op defined at (most recent call last):\n"
        '  File "x.py", line 3, in f\n\n  File "y.py", line 4, in g\n\nthe reason\n'
        "\t [[{{node a}}]]"
        " [Op:__inference_f_12]"
    )
    assert clean_message(text) == "the reason\n\t [[{{node a}}]]"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ServingError(Code.ABORTED, "as it is"), Code.ABORTED, "as it is"),
        (MemoryError(), Code.RESOURCE_EXHAUSTED, "not enough memory"),
        (ZeroDivisionError("by zero"), Code.INTERNAL, "ZeroDivisionError: by zero"),
        (tf.errors.DataLossError(None, None, "half a file"), Code.DATA_LOSS, "half a file"),
    ],
)
def test_any_exception_becomes_a_code_and_a_message(error, code, text):
    refused = from_exception(error)
    assert refused.code == code
    assert text in refused.message
