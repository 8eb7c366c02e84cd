"""Looks at a SavedModel before it is loaded: what it is made of, how large it is, and what its graph would do.

A graph is a program. What a model computes is its owner's affair; what it reaches beyond itself is the server's: files
other than its own, the network, and the Python interpreter. Such operations are refused where a request, or loading,
would come by them. Elsewhere they are dead wood: every SavedModel holds a way to save itself, which nobody calls here.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import attr_value_pb2, graph_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from serving.errors import Code, ServingError

GRAPH, GRAPH_AS_TEXT, GRAPH_IN_PARTS = "saved_model.pb", "saved_model.pbtxt", "saved_model.cpb"
MAX_GRAPH_BYTES = (1 << 31) - 1
"""Protobuf's limit of a message."""
MEMORY_INFO = Path("/proc/meminfo")
MEMORY_LIMIT, MEMORY_USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")

# By family, so that later versions of an operation are of it too.
_PYTHON = r"PyFunc|PyFuncStateless|EagerPyFunc"
_FILES = (
    r"ReadFile|WriteFile|MatchingFiles|WholeFileReader|TextLineReader|FixedLengthRecordReader|TFRecordReader|"
    r"LMDBReader|Save|SaveSlices|Restore|RestoreSlice|MergeV2Checkpoints|LoadAndRemapMatrix|GenerateVocabRemapping|"
    r"ImmutableConst|RecordInput|Skipgram|DumpTensor|CalibrationStatisticsSaver|FixedUnigramCandidateSampler|"
    r"CreateSummaryFileWriter|CreateSummaryDbWriter|PrintV2|FileSystemSetConfiguration|"
    r"(?:Experimental)?(?:TextLine|FixedLengthRecord|TFRecord|CSV|LMDB|Sql|MatchingFiles|Load|Save|Cache|Snapshot|"
    r"SnapshotNested|SnapshotChunk)Dataset|SnapshotDatasetReader|ListSnapshotChunksDataset|"
    r"(?:Experimental)?DatasetToTFRecord|DistributedSave"
)
_NETWORK = (
    r"DataServiceDataset|RegisterDataset|RpcClient|RpcServer|RpcServerStart|RpcServerRegister|RpcCall|RpcCheckRemote"
    r"\w*|RpcGetValue|DebugIdentity|DebugNanCount|DebugNumericSummary|RemoteCall|Send|Recv|_Send|_Recv|_HostSend|_HostRecv"
)
BEYOND = re.compile(rf"(?:{_PYTHON}|{_FILES}|{_NETWORK})(?:V\d+)?")
"""Names of the operations that reach beyond the model."""
_LOADING = frozenset({"RestoreV2"})
"""What the restoring part of a SavedModel is made of."""
_TABLE_FILES = {"InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1}
"""Operations that read a file which has to be one of the model's assets, and which of their inputs names it."""


def vet(path: Path, base_path: Path, max_bytes: int, allowed: frozenset[str]) -> None:
    """Refuses a version that should not be loaded.

    Args:
      path: The version's folder.
      base_path: The model's folder; nothing outside it is read.
      max_bytes: Of all its files; 0 for what fits in free memory.
      allowed: Operations that it may use although they reach beyond it.

    Raises:
      ServingError: What is wrong with it and, where one may want it all the same, which flag allows it.
    """
    refuse_escapes(path, base_path)
    _refuse_size(path, max_bytes)
    for meta_graph in _read(path).meta_graphs:
        refuse_operations(meta_graph, allowed)


def refuse_escapes(path: Path, base_path: Path) -> None:
    """Refuses a version that is, or holds, a link out of the model's base path, or anything but files and folders.

    Raises:
      ServingError: PERMISSION_DENIED, naming the entry.
    """
    base = base_path.resolve()
    for folder, folders, files in os.walk(path):
        for entry in (Path(folder), *(Path(folder, name) for name in (*folders, *files))):
            if not entry.resolve().is_relative_to(base):
                raise ServingError(Code.PERMISSION_DENIED, f"{entry} leads out of the base path {base}")
            kind = entry.stat().st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # A pipe would be waited for without end.
                raise ServingError(Code.PERMISSION_DENIED, f"{entry} is no file and no folder")


def refuse_operations(meta_graph: meta_graph_pb2.MetaGraphDef, allowed: frozenset[str]) -> None:
    """Refuses a graph that a request, or loading, would take beyond the model.

    Raises:
      ServingError: PERMISSION_DENIED, naming operations and flag.
    """
    graph = _Graph(meta_graph.graph_def)
    assets = {asset.tensor_info.name.split(":")[0] for asset in meta_graph.asset_file_def}
    signatures = meta_graph.signature_def.values()
    serving = [info.name for told in signatures for info in (*told.inputs.values(), *told.outputs.values())]
    serving += [*_initialisers(meta_graph), *assets]
    found = {node.op for node in graph.reached(serving) if _is_beyond(node)}
    restore = graph.reached([meta_graph.saver_def.restore_op_name])
    found |= {node.op for node in restore if _is_beyond(node)} - _LOADING
    found -= allowed
    if found:
        raise ServingError(
            Code.PERMISSION_DENIED,
            f"The model uses {', '.join(sorted(found))}, which reach beyond it: to files, the network or Python. "
            f"If that is meant to be, start the server with --allow_ops={','.join(sorted(found))}",
        )
    if foreign := graph.foreign_files(assets) - allowed:
        raise ServingError(
            Code.PERMISSION_DENIED,
            f"The model fills a table from a file that is none of its assets ({', '.join(sorted(foreign))})",
        )


def _is_beyond(node: node_def_pb2.NodeDef) -> bool:
    if node.op == "PrintV2" and not node.attr["output_stream"].s.startswith(b"file:"):
        return False  # Writes to the server's log.
    return BEYOND.fullmatch(node.op) is not None


def _refuse_size(path: Path, max_bytes: int) -> None:
    total = sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)
    if max_bytes and total > max_bytes:
        raise ServingError(
            Code.RESOURCE_EXHAUSTED, f"The version has {total} bytes, --max_model_bytes allows {max_bytes}"
        )
    free = free_memory()
    if free is not None and total > free:
        raise ServingError(
            Code.RESOURCE_EXHAUSTED, f"The version has {total} bytes, and there are {free} bytes of free memory"
        )


def free_memory() -> int | None:
    """Bytes that this process can have still, by the machine and by its control group; None where neither tells."""
    told = []
    try:
        line = next(line for line in MEMORY_INFO.read_text().splitlines() if line.startswith("MemAvailable:"))
        told.append(int(line.split()[1]) << 10)
    except (OSError, StopIteration, ValueError):
        pass
    try:
        told.append(int(MEMORY_LIMIT.read_text()) - int(MEMORY_USED.read_text()))
    except (OSError, ValueError):  # No such file, or "max".
        pass
    return min(told) if told else None


def _read(path: Path) -> saved_model_pb2.SavedModel:
    """The description of a SavedModel, as TensorFlow's loader will read it: the binary one first.

    Raises:
      ServingError: It is not there, too large, or damaged.
    """
    if (path / GRAPH_IN_PARTS).exists():
        raise ServingError(Code.UNIMPLEMENTED, f"A graph in parts is not served: {path / GRAPH_IN_PARTS}")
    file = path / GRAPH
    if not file.is_file():
        if not (path / GRAPH_AS_TEXT).is_file():
            raise ServingError(
                Code.NOT_FOUND, f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
            )
        return _read_text(path / GRAPH_AS_TEXT)
    if file.stat().st_size > MAX_GRAPH_BYTES:
        raise ServingError(Code.INVALID_ARGUMENT, f"{file} is larger than a protobuf message may be")
    try:
        return saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except DecodeError as error:
        raise ServingError(Code.DATA_LOSS, f"Can't parse {file} as binary proto: {error}") from error


def _read_text(file: Path) -> saved_model_pb2.SavedModel:
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), saved_model_pb2.SavedModel())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ServingError(Code.DATA_LOSS, f"Can't parse {file} as text proto: {error}") from error


def _initialisers(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    """The operations that loading runs after the variables are there; newer SavedModels have them as a signature."""
    for key in ("saved_model_main_op", "legacy_init_op", "saved_model_train_op"):
        yield from meta_graph.collection_def[key].node_list.value if key in meta_graph.collection_def else ()


class _Graph:
    """Nodes of a graph and of its functions.

    Args:
      definition: As stored.
    """

    def __init__(self, definition: graph_pb2.GraphDef) -> None:
        self._nodes = {node.name: node for node in definition.node}
        self._functions = {function.signature.name: function for function in definition.library.function}
        # By function, and under the empty name the graph itself.
        self._scopes = {"": self._nodes} | {
            name: {node.name: node for node in function.node_def} for name, function in self._functions.items()
        }
        self._gradients = {gradient.function_name: gradient.gradient_func for gradient in definition.library.gradient}

    def reached(self, tensors: Iterable[str]) -> list[node_def_pb2.NodeDef]:
        """All nodes that are run for these tensors; of a function that is called, every node."""
        found: dict[str, node_def_pb2.NodeDef] = {}
        waiting = [_name(tensor) for tensor in tensors]
        while waiting:
            name = waiting.pop()
            node = self._nodes.get(name)
            if node is None or name in found:
                continue
            found[name] = node
            waiting += [_name(tensor) for tensor in node.input]
        return [*found.values(), *self._bodies(found.values())]

    def _bodies(self, callers: Iterable[node_def_pb2.NodeDef]) -> list[node_def_pb2.NodeDef]:
        seen: set[str] = set()
        nodes: list[node_def_pb2.NodeDef] = []
        waiting = [name for node in callers for name in self._called(node)]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            body = self._functions[name].node_def
            nodes += body
            waiting += [called for node in body for called in self._called(node)]
            waiting += [self._gradients[name]] if self._gradients.get(name) in self._functions else []
        return nodes

    def _called(self, node: node_def_pb2.NodeDef) -> list[str]:
        names = [node.op, *_functions_of(node.attr)]
        return [name for name in names if name in self._functions]

    def foreign_files(self, assets: set[str]) -> set[str]:
        """The operations that fill a table from a file that need not be one of the model's assets."""
        return {
            node.op
            for scope, nodes in self._scopes.items()
            for node in nodes.values()
            if node.op in _TABLE_FILES
            and not self._is_asset(node.input[_TABLE_FILES[node.op]], scope, assets, frozenset())
        }

    def _is_asset(self, tensor: str, scope: str, assets: set[str], seen: frozenset[str]) -> bool:
        """Whether a file's name comes from an asset, through as many calls as there are."""
        nodes, name = self._scopes[scope], _name(tensor)
        while name in nodes and nodes[name].op == "Identity":
            name = _name(nodes[name].input[0])
        if not scope and name in nodes and nodes[name].op == "ReadVariableOp":
            # TensorFlow 2 puts an asset's path into a variable when it initialises a model.
            given = [
                node.input[1]
                for node in nodes.values()
                if node.op == "AssignVariableOp" and _name(node.input[0]) == _name(nodes[name].input[0])
            ]
            return bool(given) and all(_name(tensor) in assets for tensor in given)
        if not scope:
            return name in assets
        arguments = [argument.name for argument in self._functions[scope].signature.input_arg]
        if name not in arguments or scope in seen:
            return False
        index = arguments.index(name)
        return all(
            len(node.input) > index and self._is_asset(node.input[index], calling, assets, seen | {scope})
            for calling, nodes in self._scopes.items()
            for node in nodes.values()
            if scope in self._called(node)
        )


def _functions_of(attributes: Mapping[str, attr_value_pb2.AttrValue]) -> Iterator[str]:
    for value in attributes.values():
        if value.HasField("func"):
            yield value.func.name
            yield from _functions_of(value.func.attr)
        for function in value.list.func:
            yield function.name
            yield from _functions_of(function.attr)


def _name(tensor: str) -> str:
    return tensor.lstrip("^").split(":")[0]
