"""Loads an exported version in a process that has TensorFlow and none of our code.

Run by the export gates as `python -I reload_check.py FOLDER INPUTS.npz OUTPUTS.npz`. It runs every
signature through both loaders, TF2's and the TF1 session path that TF Serving uses, compares them
bit by bit, replays the warm-up requests, and writes what came out. A failure is one line on stderr
that starts with "GATE: ".
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


PREDICT_LOG, CLASSIFY_LOG = 6, 2  # field numbers in PredictionLog
MAX_SENTENCE = 600  # TensorFlow's errors go on about nodes


class _NotOurs:
    """Refuses imports an export must not need."""

    blocked = ("longtail_tf", "keras_cv", "tensorflow_addons")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: D102
        if name.split(".")[0] in self.blocked:
            raise ImportError(f"{name} is blocked: an export must load without it")


if __name__ == "__main__":
    sys.meta_path.insert(0, _NotOurs())

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow.core.framework import tensor_pb2  # noqa: E402

Arrays = dict[str, Any]  # name -> numpy array


def main(folder: str, inputs_path: str, outputs_path: str) -> None:
    """Runs all checks; see the module docstring."""
    # one thread: sums of floats then have one order, and bits can be compared
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    inputs = np.load(inputs_path)
    cuts = np.cumsum(inputs["lengths"])[:-1]
    files = np.array([part.tobytes() for part in np.split(inputs["blob"], cuts)], object)
    examples = np.array([image_example(file) for file in files], object)
    requests = {
        "serving_default": {"image_bytes": files},
        "embed": {"image_bytes": files},
        "predict_images": {"images": inputs["images"]},
        "classify": {"inputs": examples},
    }
    loaded = tf.saved_model.load(folder)
    outputs = {}
    for key, request in requests.items():
        function = loaded.signatures.get(key)
        if function is None:
            fail(f"signature {key} is missing, there are {sorted(loaded.signatures)}")
        for name, value in run(function, request).items():
            outputs[f"many/{key}/{name}"] = value
        single = [run(function, {n: v[i : i + 1] for n, v in request.items()})
                  for i in range(len(files))]  # fmt: skip
        for name in single[0]:
            outputs[f"one/{key}/{name}"] = np.concatenate([row[name] for row in single])
    check_finite(outputs)
    check_session_path(folder, requests, outputs)
    outputs["warmup_records"] = np.array(replay_warmup(folder, loaded))
    plain: Arrays = {name: as_plain(value) for name, value in outputs.items()}
    np.savez(outputs_path, **plain)


def run(function: Any, request: dict[str, Any]) -> Arrays:
    """Outputs of a signature as numpy arrays."""
    tensors = function(**{name: tf.constant(value) for name, value in request.items()})
    return {name: value.numpy() for name, value in tensors.items()}


def check_finite(outputs: Arrays) -> None:
    """Every float that comes out is a number."""
    for name, value in outputs.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            fail(f"{name} holds {np.sum(~np.isfinite(value))} values that are not finite")


def check_session_path(folder: str, requests: dict[str, dict[str, Any]], outputs: Arrays) -> None:
    """The TF1 session gives the bits that the TF2 loader gave."""
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
    )
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], folder)
        for key, request in requests.items():
            if key not in meta.signature_def:
                fail(f"signature {key} is missing, there are {sorted(meta.signature_def)}")
            signature = meta.signature_def[key]
            feed = {signature.inputs[name].name: value for name, value in request.items()}
            fetch = {name: info.name for name, info in signature.outputs.items()}
            for name, value in session.run(fetch, feed).items():
                before = outputs[f"many/{key}/{name}"]
                if value.dtype == object:  # strings: compare what they say, not where they lie
                    same = np.array_equal(value, before)
                else:
                    same = value.dtype == before.dtype and value.tobytes() == before.tobytes()
                if not same:
                    fail(f"{key}/{name} differs between the TF1 session and the TF2 loader")


def replay_warmup(folder: str, loaded: Any) -> int:
    """Runs every warm-up request as the server would; returns how many there were."""
    path = os.path.join(folder, "assets.extra", "tf_serving_warmup_requests")
    count = 0
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        [(kind, log)] = fields(record)
        if kind not in (PREDICT_LOG, CLASSIFY_LOG):
            fail(f"warm-up record {count} is of unknown kind {kind}")
        [(_, request)] = fields(log)
        parts = fields(request)
        signature = dict(fields(parts[0][1]))[3].decode()
        if kind == PREDICT_LOG:  # inputs is a map, each entry a message of key and value
            feed = {}
            for number, entry in parts:
                if number == 2:
                    name, tensor = (value for _, value in fields(entry))
                    proto = tensor_pb2.TensorProto.FromString(tensor)
                    feed[name.decode()] = tf.make_ndarray(proto)
        else:  # input -> example_list -> examples
            [(_, example_list)] = fields(dict(parts)[2])
            feed = {"inputs": np.array([value for _, value in fields(example_list)], object)}
        try:
            check_finite(run(loaded.signatures[signature], feed))
        except (tf.errors.OpError, KeyError, TypeError, ValueError) as error:
            fail(f"warm-up record {count} of signature {signature} fails: {error}")
        count += 1
    return count


def fields(raw: bytes) -> list[tuple[int, bytes]]:
    """(field number, payload) of each field of a message whose fields are all length-delimited."""
    out, at = [], 0
    while at < len(raw):
        tag, at = varint(raw, at)
        length, at = varint(raw, at)
        if tag & 7 != 2 or at + length > len(raw):
            fail("a warm-up record is not a readable PredictionLog")
        out.append((tag >> 3, raw[at : at + length]))
        at += length
    return out


def varint(raw: bytes, at: int) -> tuple[int, int]:
    """A protobuf varint at `at`, and the position after it."""
    value = shift = 0
    while True:
        value |= (raw[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if raw[at - 1] < 0x80:
            return value, at


def image_example(file: bytes) -> bytes:
    """A serialized tf.Example of one encoded image."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    features = tf.train.Features(feature={"image/encoded": feature})
    return tf.train.Example(features=features).SerializeToString()


def as_plain(value: np.ndarray) -> np.ndarray:
    """Strings as UTF-8 text, so that the file needs no pickle."""
    if value.dtype != object:
        return value
    flat = [item.decode() for item in value.ravel()]
    return np.array(flat).reshape(value.shape)


def fail(sentence: str) -> NoReturn:
    """Ends the process with the sentence the gates show."""
    one_line = " ".join(sentence.split())[:MAX_SENTENCE]
    print(f"GATE: {one_line}", file=sys.stderr)
    sys.exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
