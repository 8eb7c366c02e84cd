"""Looks at a SavedModel before it is loaded: what it is made of, how large it is, and what its graph would do.

A graph is a program. What a model computes is its owner's affair; what it reaches beyond itself is the server's: files
other than its own, the network, and the Python interpreter. Such operations are refused where a request, or loading,
would come by them. Elsewhere they are dead wood: every SavedModel holds a way to save itself, which nobody calls here.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from serving.errors import Code, ServingError
from serving.graph import Graph, node_name
from serving.operations import TABLE_FILES, stays_within
from serving.signature import is_callable

ASSETS = "saved_model_assets"
"""TensorFlow 1's collection of assets."""
ASSETS_FOLDER = "assets"
GRAPH, GRAPH_AS_TEXT, GRAPH_IN_PARTS = "saved_model.pb", "saved_model.pbtxt", "saved_model.cpb"
MAX_GRAPH_BYTES = (1 << 31) - 1
"""Protobuf's limit of a message."""
MEMORY_INFO = Path("/proc/meminfo")
MEMORY_LIMIT, MEMORY_USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")

WAIT_S = 60.0
"""A version waits no longer for others to be loaded that need the same memory."""

_LOADING = frozenset({"RestoreV2"})
"""What the restoring part of a SavedModel is made of."""


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
        _refuse_outside_assets(path, meta_graph)
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
    graph = Graph(meta_graph.graph_def)
    assets = {_tensor_name(asset.tensor_info.name) for asset in _assets(meta_graph)}
    signatures = meta_graph.signature_def.values()
    tensors = [
        info.name for signature in signatures for info in (*signature.inputs.values(), *signature.outputs.values())
    ]
    beyond = _beyond(graph, [*tensors, *_initialisers(meta_graph), *assets])
    beyond |= _beyond(graph, [meta_graph.saver_def.restore_op_name]) - _LOADING
    beyond -= allowed
    if beyond:
        names = sorted(beyond)
        raise ServingError(
            Code.PERMISSION_DENIED,
            f"The model uses {', '.join(names)}, which reach beyond it (to files, the network, Python or native code), "
            "or are not known to stay within it. "
            f"If that is intended, start the server with --allow_ops={','.join(names)}",
        )
    callable_ = [signature for signature in signatures if is_callable(signature)]
    late = [info.name for each in callable_ for info in (*each.inputs.values(), *each.outputs.values())]
    late.append(meta_graph.saver_def.restore_op_name)
    # The loader feeds the assets' paths while it initialises the model alone; else their nodes are what the graph says.
    unfed = {place.node.op for place in graph.reached(late)} & TABLE_FILES.keys()
    if foreign := sorted((_foreign_files(graph, assets) | unfed) - allowed):
        raise ServingError(
            Code.PERMISSION_DENIED,
            f"The model fills a table from a file that is none of its assets ({', '.join(foreign)}). "
            f"If that is intended, start the server with --allow_ops={','.join(foreign)}",
        )


def _beyond(graph: Graph, tensors: Iterable[str]) -> set[str]:
    return {place.node.op for place in graph.reached(tensors) if not stays_within(place.node)}


def size_on_disk(path: Path) -> int:
    """Bytes of all files of a version."""
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)


class Room:
    """Memory for versions that load at the same time: each is measured against what the others leave."""

    def __init__(self) -> None:
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Waits until the versions that are being loaded leave room for `size` bytes, and holds it for the block.

        Where they do not end in `WAIT_S`, the memory that is free then decides alone.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._fits(size), WAIT_S)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        free = free_memory()
        return free is None or self._taken + size <= free


def _refuse_size(path: Path, max_bytes: int) -> None:
    total = size_on_disk(path)
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
    limits = []
    try:
        line = next(line for line in MEMORY_INFO.read_text().splitlines() if line.startswith("MemAvailable:"))
        limits.append(int(line.split()[1]) << 10)
    except (OSError, StopIteration, ValueError):
        pass
    try:
        limits.append(int(MEMORY_LIMIT.read_text()) - int(MEMORY_USED.read_text()))
    except (OSError, ValueError):  # No such file, or "max".
        pass
    return min(limits) if limits else None


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


def _assets(meta_graph: meta_graph_pb2.MetaGraphDef) -> list[meta_graph_pb2.AssetFileDef]:
    """What the loader takes for assets: TensorFlow 1 lists them in a collection, which counts where no others are."""
    if meta_graph.asset_file_def or ASSETS not in meta_graph.collection_def:
        return list(meta_graph.asset_file_def)
    assets = []
    for packed in meta_graph.collection_def[ASSETS].any_list.value:
        asset = meta_graph_pb2.AssetFileDef()
        packed.Unpack(asset)
        assets.append(asset)
    return assets


def _refuse_outside_assets(path: Path, meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    """Refuses assets outside the folder of assets: the loader joins their names to it, whatever they are."""
    folder = path / ASSETS_FOLDER
    for asset in _assets(meta_graph):
        if not (folder / asset.filename).resolve().is_relative_to(folder.resolve()):
            raise ServingError(Code.PERMISSION_DENIED, f"The asset {asset.filename!r} lies outside {folder}")


def _initialisers(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    """The operations that loading runs after the variables are there; newer SavedModels have them as a signature."""
    for key in ("saved_model_main_op", "legacy_init_op", "saved_model_train_op"):
        yield from meta_graph.collection_def[key].node_list.value if key in meta_graph.collection_def else ()


def _foreign_files(graph: Graph, assets: set[str]) -> set[str]:
    """The operations that fill a table from a file that need not be one of the model's assets (tensors)."""
    return {
        place.node.op
        for place in graph.all_places()
        if place.node.op in TABLE_FILES
        and not _is_asset(graph, place.node.input[TABLE_FILES[place.node.op]], place.scope, assets, frozenset())
    }


def _tensor_name(tensor: str) -> str:
    """The tensor's name in one way of writing it: the first output of a node may go by the node's name."""
    return tensor if ":" in tensor else f"{tensor}:0"


def _is_asset(graph: Graph, tensor: str, scope: str, assets: set[str], seen: frozenset[str]) -> bool:
    """Whether a file's name comes from an asset, through as many calls as there are."""
    nodes, name = graph.scopes[scope], node_name(tensor)
    while name in nodes and nodes[name].op == "Identity":
        tensor = nodes[name].input[0]
        name = node_name(tensor)
    if not scope and name in nodes and nodes[name].op == "ReadVariableOp":
        # TensorFlow 2 puts an asset's path into a variable when it initialises a model. Two handles may be of one
        # variable, and a handle may be passed to a function: so all texts that any variable is given must be assets.
        given = [
            place
            for place in graph.all_places()
            if place.node.op == "AssignVariableOp" and place.node.attr["dtype"].type == types_pb2.DT_STRING
        ]
        return bool(given) and all(not p.scope and _tensor_name(p.node.input[1]) in assets for p in given)
    if not scope:
        return _tensor_name(tensor) in assets
    arguments = graph.arguments(scope)
    if name not in arguments or scope in seen:
        return False
    index = arguments.index(name)
    return all(
        len(caller.node.input) > index
        and _is_asset(graph, caller.node.input[index], caller.scope, assets, seen | {scope})
        for caller in graph.callers(scope)
    )
