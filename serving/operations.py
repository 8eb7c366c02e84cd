"""Which of TensorFlow's operations stay within the model: judged by the registry, and by family where they keep state.

An operation without state can reach beyond the model only by what it is told: a file, an address, native code. All of
that comes as text, so that each text attribute and each text input has to be of a kind that is known to be harmless;
what a later TensorFlow adds under another name is refused until somebody has looked at it. Of the operations that keep
state the families below are allowed.
"""

from __future__ import annotations

import functools
import re

from tensorflow.core.framework import node_def_pb2, op_def_pb2, types_pb2
from tensorflow.python.framework import op_def_registry

_TEXT_ATTRIBUTES = frozenset(
    """
    align bad_indices_policy batch_padding_policy batching_queue combiner compression_type config config_proto container
    context_dense_keys context_sparse_keys data_format dct_method dense_keys density_unit deterministic
    dimension_numbers direction dst_format encoding equation errors executor_type feature_list_dense_keys
    feature_list_dense_missing_assumed_empty feature_list_sparse_keys field_delim fill fill_mode format frame_name
    input_encoding input_mode input_order input_quant_mode interpolation kernel_type left_pad loss_type message metadata
    method mixed_priority_policy mode na_value noise output_encoding output_quant_mode padding pattern placeholder
    precision_config ragged_keys rewrite right_pad rnn_mode round_mode row_partition_types separator serialized_options
    set_operation     shared_name sharding sparse_keys split_type src_format template unit var_name xmp_metadata
    """.split()
)
"""Attributes that say how to compute, or are content."""
_TEXT_INPUTS = frozenset(
    """
    bytes contents context_dense_keys context_ragged_keys context_sparse_keys data debug_name delimiter dense_keys
    feature_list_dense_keys feature_list_dense_missing_assumed_empty feature_list_ragged_keys feature_list_sparse_keys
    handle input input_bytes inputs json_examples keys method names pattern ragged_keys records rewrite sep serialized
    serialized_sparse sparse_keys split_types string_tensor table_handle
    """.split()
)
"""Inputs that are content, or handles of what the model itself has made."""

_VARIABLES = (
    r"Var(?:Is)?\w*(?:HandleOp|InitializedOp)|Variable(?:Shape)?|ReadVariableOp|Assign\w*VariableOp|DestroyResourceOp|"
    r"Resource(?:Gather|GatherNd|CountUpTo|StridedSliceAssign|Scatter\w+|Apply\w+|SparseApply\w+)|TemporaryVariable|"
    r"DisableCopyOnRead|Empty|GuaranteeConst|DeepCopy"
)
_TABLES = (
    r"(?:Anonymous)?(?:Mutable)?(?:Dense)?HashTable(?:OfTensors)?|LookupTable\w+|"
    r"InitializeTable(?:FromDataset)?"
)
_CONTROL = (
    r"StatefulPartitionedCall|If|Case|While|Assert|Print|CheckNumerics|TensorArray\w*|Stack(?:Push|Pop|Close)?|"
    r"DeviceIndex|_Arg|_Retval|(?:AddMany|Add|TakeMany)Sparse(?:To|From)TensorsMap|AddSparseToTensorsMap|Timestamp"
)
_RANDOM = (
    r"Random(?!ShuffleQueue)\w+|Stateful(?:Uniform|UniformInt|UniformFullInt|StandardNormal|TruncatedNormal|RandomBinomial)|Rng\w+|"
    r"TruncatedNormal|ParameterizedTruncatedNormal|Multinomial|NonDeterministicInts|StatelessRandomGetAlg|"
    r"(?:All|Uniform|LogUniform|LearnedUnigram|ThreadUnsafeUnigram)CandidateSampler|SampleDistortedBoundingBox|"
    r"(?:Dummy|Anonymous|AnonymousRandom)SeedGenerator|DeleteSeedGenerator|DeleteRandomSeedGenerator"
)
_DATA = (
    r"(?:Experimental)?(?:Tensor|TensorSlice|SparseTensorSlice|Range|Random|List|Shuffle|ShuffleAndRepeat|Reduce|"
    r"Generator|GroupByReducer|GlobalShuffle)Dataset|DatasetToSingleElement|(?:Anonymous|OneShot)?Iterator|"
    r"IteratorGetNext\w*|MakeIterator|DeleteIterator|(?:Dummy|Anonymous|Delete)MemoryCache|DummyIterationCounter"
)
_LAYERS = r"CudnnRNN\w*|(?:Is)?BoostedTrees\w+"
_WITH_STATE = re.compile(rf"(?:{_VARIABLES}|{_TABLES}|{_CONTROL}|{_RANDOM}|{_DATA}|{_LAYERS})(?:V\d+)?")
"""By family, so that later versions of an operation are of it too."""

TABLE_FILES = {"InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1}
"""Operations that read a file, which has to be one of the model's assets, and which of their inputs names it."""
_NATIVE_OR_DEADLY = r"Xla(?:CustomCall|Launch|CallModule|HostCompute)\w*|_Xla\w+|Abort|SleepOp|SleepIdentityOp"
_OUTWARD = re.compile(rf"(?:MatchingFiles|ReaderRead\w*|\w*PyFunc\w*|{_NATIVE_OR_DEADLY})(?:V\d+)?")
"""What its attributes and inputs do not give away."""


def stays_within(node: node_def_pb2.NodeDef) -> bool:
    """Whether a node computes from what the model holds and is given, and reaches nothing else."""
    if node.op == "PrintV2":
        stream = node.attr["output_stream"]
        # Other streams are the server's log; a placeholder is whatever the caller of the function binds it to.
        if stream.placeholder or stream.s.startswith(b"file:"):
            return False
    return _stays_within(node.op)


@functools.cache
def _stays_within(name: str) -> bool:
    if name in TABLE_FILES:
        return True
    operation = op_def_registry.get(name)
    if operation is None:
        return True  # A function of the model, or unknown to TensorFlow, whose loader says so.
    if _OUTWARD.fullmatch(name):
        return False
    if operation.is_stateful:
        return _WITH_STATE.fullmatch(name) is not None
    return _is_told_nothing(operation)


def _is_told_nothing(operation: op_def_pb2.OpDef) -> bool:
    """Whether all text that the operation gets is of a kind that is known."""
    attributes = {attribute.name for attribute in operation.attr if attribute.type in ("string", "list(string)")}
    inputs = {argument.name for argument in operation.input_arg if argument.type == types_pb2.DT_STRING}
    return attributes <= _TEXT_ATTRIBUTES and inputs <= _TEXT_INPUTS
