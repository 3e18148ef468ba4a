"""What a status code means to the person at the keyboard."""

from __future__ import annotations


def sentence(code: str, details: str, *, address: str, model: str, timeout_s: float) -> str:
    """One sentence: what came, and what to do.

    Args:
      code: the gRPC code's name, "NOT_FOUND".
      details: the server's (or gRPC's) message; its first line is kept.
      address: HOST:PORT.
      model: the model asked for.
      timeout_s: the client's limit.
    """
    said = details.strip().split("\n")[0]
    sentences = {
        "UNAVAILABLE": f"no server answers at {address} ({said}): start one with python -m "
        "longtail_tf.serve, or correct the address.",
        "DEADLINE_EXCEEDED": f"{address} did not answer within {timeout_s:g} s: send fewer images "
        "at once, or allow more time.",
        "NOT_FOUND": f"{address} does not serve what was asked of model {model!r} ({said}): check "
        "the model's name and version, and whether it has loaded.",
        "RESOURCE_EXHAUSTED": f"{address} is overloaded or the request is too large ({said}): try "
        "again later.",
        "UNIMPLEMENTED": f"{address} is no TensorFlow Serving server, or an old one ({said}).",
        "INVALID_ARGUMENT": f"{address} refuses the request to model {model!r}: {said}",
        "FAILED_PRECONDITION": f"{address} refuses the request to model {model!r}: {said}",
    }
    return sentences.get(code, f"{address} failed with {code}: {said}")
