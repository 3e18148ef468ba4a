"""Checks that every export must pass before it gets its version number.

Each gate either returns or raises `ExportGateError` with a sentence; the export is then removed.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from longtail_tf.exporting.serving_module import ServingModule
from longtail_tf.metrics.calibration import log_softmax

# Largest difference of an embedding coordinate or a score between Keras and the export. Grappler
# fuses convolution and normalisation, which moves float32 sums by about 1e-6.
TOLERANCE = 1e-4
RELOAD_TIMEOUT_SECONDS = 900
RELOAD_SCRIPT = pathlib.Path(__file__).with_name("reload_check.py")


class ExportGateError(RuntimeError):
    """The export is not fit to serve; nothing was published."""


def run_gates(
    folder: pathlib.Path,
    *,
    module: ServingModule,
    recognizer: Any,
    image_files: Sequence[bytes],
    warmup_count: int,
) -> dict[str, Any]:
    """Runs every gate on the version folder `folder`.

    Args:
      folder: the written, not yet published version folder.
      module: the module that was saved there.
      recognizer: the `Recognizer` whose arrays it took; scores again, in numpy.
      image_files: encoded real images, each decodable.
      warmup_count: warm-up records that must replay.

    Returns:
      What was measured, ready for JSON.

    Raises:
      ExportGateError: a gate failed.
    """
    check_ops(folder)
    floor = check_size(folder, module)
    expected = keras_outputs(module, recognizer, image_files)
    outputs = reload_fresh(folder, image_files=image_files, images=expected["images"])
    if int(outputs["warmup_records"]) != warmup_count:
        raise ExportGateError(
            f"{outputs['warmup_records']} warm-up records were replayed, {warmup_count} were "
            "written: the warm-up file is damaged."
        )
    difference = check_parity(outputs, expected)
    return {
        "images": len(image_files),
        "variable_bytes": floor,
        "warmup_records": warmup_count,
        "largest_difference_from_keras": difference,
        "operations": len(ops_of(str(folder))),
    }


def check_ops(folder: pathlib.Path) -> None:
    """Only operations that TF Serving has, none that runs Python, draws numbers or writes."""
    foreign = ops_of(str(folder)) - ALLOWED_OPS
    if foreign:
        raise ExportGateError(
            f"The graph holds operations no export may have: {', '.join(sorted(foreign))}. "
            "Use layers made of TensorFlow's own operations (no py_function, no tensorflow-addons "
            "layer, no random operation at inference)."
        )


def check_size(folder: pathlib.Path, module: ServingModule) -> int:
    """The variables file is at least as large as the variables; returns their bytes."""
    floor = sum(v.shape.num_elements() * v.dtype.size for v in module.used_variables)
    stored = sum(path.stat().st_size for path in folder.glob("variables/variables.data-*"))
    if stored < floor or not floor:
        raise ExportGateError(
            f"The export stores {stored} bytes of variables, the network and prototypes have "
            f"{floor}: weights were lost while saving."
        )
    return floor


def keras_outputs(
    module: ServingModule, recognizer: Any, image_files: Sequence[bytes]
) -> dict[str, np.ndarray]:
    """What evaluation gives: the Keras network, then the recognizer in numpy."""
    from longtail_tf.images import preprocess

    images = tf.stack(
        [
            preprocess.preprocess_bytes(
                tf.constant(file), image_size=module.image_size, channels=module.channels
            )
            for file in image_files
        ]
    )
    embedding, head_logits = module.embed(images)
    logits = None if head_logits is None else head_logits.numpy()
    scores = recognizer.scores(module.rule_head.rule, embedding.numpy(), logits)
    threshold = -np.inf if module.unknown_threshold is None else module.unknown_threshold
    return {
        "images": images.numpy(),
        "embedding": embedding.numpy(),
        "probabilities": np.exp(log_softmax(scores)),
        "margin": recognizer.best_prototype_scores(embedding.numpy()) - threshold,
    }


def reload_fresh(
    folder: pathlib.Path, *, image_files: Sequence[bytes], images: np.ndarray
) -> dict[str, np.ndarray]:
    """Runs `reload_check` in a process of its own and returns what the signatures gave.

    Raises:
      ExportGateError: it did not load, or one of its checks failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = f"{scratch}/inputs.npz", f"{scratch}/outputs.npz"
        np.savez(
            inputs,
            blob=np.frombuffer(b"".join(image_files), np.uint8),
            lengths=[len(file) for file in image_files],
            images=images,
        )
        command = [sys.executable, "-I", str(RELOAD_SCRIPT), str(folder), inputs, outputs]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RELOAD_TIMEOUT_SECONDS, check=False
        )
        if done.returncode:
            said = [line[6:] for line in done.stderr.splitlines() if line.startswith("GATE: ")]
            reason = said[-1] if said else done.stderr.strip()[-2000:]
            raise ExportGateError(f"The export fails in a fresh process: {reason}")
        with np.load(outputs) as arrays:
            return dict(arrays)


def check_parity(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The reloaded export gives what Keras gives, one image at a time and all at once.

    Returns:
      The largest difference of a coordinate or score.

    Raises:
      ExportGateError: more than TOLERANCE apart, or another class first where it is not a tie.
    """
    largest = 0.0
    probabilities = expected["probabilities"]
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    ranked = np.take_along_axis(probabilities, order, axis=1)
    clear = (ranked[:, 0] - ranked[:, -1] > TOLERANCE) if ranked.shape[1] > 1 else True
    clear &= np.abs(expected["margin"]) > TOLERANCE
    wanted = np.where(expected["margin"] < 0, -1, order[:, 0])
    for batch in ("one", "many"):
        distance = np.abs(outputs[f"{batch}/embed/embedding"] - expected["embedding"]).max()
        for key in ("serving_default", "predict_images"):
            ids = outputs[f"{batch}/{key}/class_ids"][:, 0]
            if not outputs[f"{batch}/{key}/valid"].all():
                raise ExportGateError(
                    f"{key} calls a readable image invalid: the export decodes other than Keras."
                )
            wrong = int(np.sum((ids != wanted) & clear))
            if wrong:
                raise ExportGateError(
                    f"{key} names another class than Keras for {wrong} of {len(ids)} images "
                    f"({batch} at a time)."
                )
            gap = np.abs(outputs[f"{batch}/{key}/scores"][:, 0] - ranked[:, 0]).max()
            distance = max(distance, gap)
        largest = max(largest, float(distance))
        if distance > TOLERANCE:
            raise ExportGateError(
                f"The export differs from Keras by {distance:.3g} ({batch} at a time), more than "
                f"{TOLERANCE:g}: its preprocessing or weights are not those of the run."
            )
    return largest


_PLUMBING = """
Assert AssertV2 Case Cast Const Fill Identity IdentityN If LegacyCall NoOp PartitionedCall
Placeholder PlaceholderWithDefault StatefulPartitionedCall StatelessCase StatelessIf
StatelessWhile StopGradient While Switch Merge PreventGradient EnsureShape
"""
_VARIABLES = """
AssignVariableOp HashTableV2 InitializeTableFromTextFileV2 LookupTableFindV2 LookupTableImportV2
MergeV2Checkpoints ReadVariableOp RestoreV2 SaveV2 ShardedFilename VarHandleOp VarIsInitializedOp
StaticRegexFullMatch StringJoin Select SelectV2 Pack MutableHashTableV2 ResourceGather
DisableCopyOnRead
"""
_TENSORS = """
All Any ArgMax ArgMin BroadcastArgs BroadcastTo Concat ConcatV2 ExpandDims Gather GatherNd
GatherV2 GreaterEqual Greater InvertPermutation Less LessEqual LogicalAnd LogicalNot LogicalOr
MirrorPad NotEqual Equal OneHot OnesLike Pad PadV2 Range Rank Reshape ResizeBilinear Reverse
ReverseV2 ScaleAndTranslate ScatterNd Shape ShapeN Size Slice Split SplitV Squeeze StridedSlice
TensorScatterUpdate Tile TopKV2 Transpose Unpack Where ZerosLike LinSpace RightShift BitwiseAnd
"""
_ARITHMETIC = """
Abs Add AddN AddV2 AvgPool BatchMatMulV2 BatchToSpaceND BiasAdd ClipByValue Conv2D Cumsum
DepthwiseConv2dNative Div DivNoNan Einsum Elu Erf Exp Floor FloorDiv FloorMod FusedBatchNorm
FusedBatchNormV3 LeakyRelu Log Log1p LogSoftmax MatMul Max MaxPool MaxPoolV2 Maximum Mean Min
Minimum Mod Mul Neg Pow Prod RealDiv Reciprocal Relu Relu6 Rint Round Rsqrt Selu Sigmoid Sign
Softmax Softplus SpaceToBatchND Sqrt Square SquaredDifference Sub Sum Tanh TruncateDiv
_FusedConv2D _FusedMatMul
"""
_IMAGES_AND_STRINGS = """
AsString DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodePng DecodeRaw ExtractJpegShape
ParseExampleV2 StringFormat StringLength Substr
"""
_DATASETS = """
BatchDatasetV2 ConcatenateDataset DatasetToSingleElement IgnoreErrorsDataset MapDataset
OptionsDataset ParallelMapDatasetV2 RangeDataset TensorDataset TensorSliceDataset ZipDataset
"""

ALLOWED_OPS = frozenset(
    " ".join([_PLUMBING, _VARIABLES, _TENSORS, _ARITHMETIC, _IMAGES_AND_STRINGS, _DATASETS]).split()
)


def ops_of(folder: str) -> set[str]:
    """Names of all operations in the saved model in `folder`, its functions included."""
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415

    saved = saved_model_pb2.SavedModel()
    with tf.io.gfile.GFile(f"{folder}/saved_model.pb", "rb") as file:
        saved.ParseFromString(file.read())
    names = set()
    for meta_graph in saved.meta_graphs:
        graph = meta_graph.graph_def
        names |= {node.op for node in graph.node}
        functions = {function.signature.name for function in graph.library.function}
        for function in graph.library.function:
            names |= {node.op for node in function.node_def}
        names -= functions
    return names
