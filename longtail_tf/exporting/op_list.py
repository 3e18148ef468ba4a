"""The operations an export may hold: TensorFlow's own, stateless or read-only, no Python.

An allow-list, because TF Serving and the C API know neither tensorflow-addons' custom operations
nor `py_function`, and because a random or writing operation in a served graph is a defect.
"""

from __future__ import annotations

import tensorflow as tf

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
