"""Whether two executions wrote the same, by what it says where the bytes differ.

Places, times and how much was read are no result. What only draws a result for people (pages, TensorBoard's logs) has
to be there. Numbers are equal within `CLOSE`.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from airtight.files import digest_of_file

CLOSE = 1e-6
"""Numbers that differ by less, relative to the larger or at all, are equal."""
_OF_THE_RUN = re.compile(r"(.*_)?(seconds|uri|read)|audit_.*")
"""Names of values in JSON, and of properties, that tell of a place, of the clock, or of how much was read."""
_OF_THE_STORE = re.compile(
    r"name|state|tfx_version|pipeline_name|producer_component|is_external|__.*|(.*_)?(id|digest)|content_digest(_files)?"
)
"""Names of properties that number artifacts, or digest what is compared by itself."""
_DERIVED = re.compile(r".*\.html|events\.out\.tfevents\..*")
_LOGS = "events.out.tfevents."
_SAVED_MODEL = "saved_model.pb"
_PLACE = re.compile(r"(/|[a-z0-9]+://)\S+")
"""A text that is nothing but a path or an address."""
_CONSTANTS = ("Const", "HostConst")
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = b"VARIABLE_VALUE"
_LONG = 60


def places(then: Path, now: Path) -> list[str]:
    """What differs between two folders, or two files, of the same artifact; nothing where they say the same.

    Args:
      then: As it was written first.
      now: As it was written again.

    Returns:
      One line for each file that differs, in the order of their names.
    """
    old, new = _files(then), _files(now)
    differences = [f"{name} is there no longer" for name in sorted(set(old) - set(new))]
    differences += [f"{name} is new" for name in sorted(set(new) - set(old))]
    common = {name for name in set(old) & set(new) if not _same(old[name], new[name])}
    models = [str(Path(name).parent) for name in old if Path(name).name == _SAVED_MODEL and name in new]
    for model in sorted(models):
        inside = {name for name in common if Path(name).is_relative_to(model)}
        if inside:
            differences += [f"{model}: {difference}" for difference in _saved_model(then / model, now / model)]
        common -= {name for name in inside if _is_of_saved_model(Path(name).relative_to(model))}
    for name in sorted(common):
        difference = _compared_by(name)(old[name], new[name], (then, now))
        differences += [f"{name}: {difference}"] if difference else []
    return differences


def properties(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the properties of two artifacts: texts and numbers, none that are of the run or the store.

    Args:
      then: As they were recorded.
      now: As they are now.
    """
    differences = []
    for name in sorted(set(then) | set(now)):
        if _OF_THE_RUN.fullmatch(name) or _OF_THE_STORE.fullmatch(name) or _equal(then.get(name), now.get(name)):
            continue
        differences.append(f"property {name} {_was(then.get(name, 'not there'), now.get(name, 'not there'))}")
    return differences


def _files(place: Path) -> dict[str, Path]:
    """Files by relative name; a log whose name tells time, host and process is told by its folder."""
    if not place.is_dir():
        return {place.name: place} if place.exists() else {}
    files = {}
    for file in sorted(place.rglob("*")):
        if file.is_file():
            name = file.relative_to(place)
            files[str(name.with_name(_LOGS + "*") if file.name.startswith(_LOGS) else name)] = file
    return files


def _same(then: Path, now: Path) -> bool:
    return bool(_DERIVED.fullmatch(then.name)) or digest_of_file(then) == digest_of_file(now)


_Compare = Callable[[Path, Path, tuple[Path, Path]], str]


def _compared_by(name: str) -> _Compare:
    return {".json": _json, ".parquet": _parquet, ".gz": _gzip}.get(Path(name).suffix, _bytes)


def _bytes(then: Path, now: Path, roots: tuple[Path, Path]) -> str:
    return _of_bytes(then.read_bytes(), now.read_bytes(), roots)


def _gzip(then: Path, now: Path, roots: tuple[Path, Path]) -> str:
    # A header tells the time.
    return _of_bytes(gzip.decompress(then.read_bytes()), gzip.decompress(now.read_bytes()), roots)


def _of_bytes(old: bytes, new: bytes, roots: tuple[Path, Path]) -> str:
    old, new = (content.replace(str(root).encode(), b"") for content, root in zip((old, new), roots, strict=True))
    if old == new:
        return ""
    first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    return f"other bytes from {first} on ({len(old)} bytes then, {len(new)} now)"


def _json(then: Path, now: Path, roots: tuple[Path, Path]) -> str:
    try:
        old, new = (json.loads(file.read_text(encoding="utf-8")) for file in (then, now))
    except ValueError:
        return _bytes(then, now, roots)
    differences = list(_values(_placeless(old, roots[0]), _placeless(new, roots[1]), ""))
    if not differences:
        return ""
    name, a, b = differences[0]
    distances = [(abs(a - b), name) for name, a, b in differences if _is_number(a) and _is_number(b)]
    more = f" and {len(differences) - 1} more values" if len(differences) > 1 else ""
    largest = ""
    if len(distances) > 1:
        distance, where = max(distances)
        largest = f"; the largest difference is {distance:g}, at {where}"
    return f"{name} {_was(a, b)}{more}{largest}"


def _placeless(value: Any, root: Path) -> Any:
    if isinstance(value, str):
        return value.replace(str(root), "")
    if isinstance(value, dict):
        return {name: _placeless(held, root) for name, held in value.items() if not _OF_THE_RUN.fullmatch(name)}
    return [_placeless(held, root) for held in value] if isinstance(value, list) else value


def _values(then: Any, now: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """The values that differ, with their names as in `epochs[0].loss`."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [*then, *(key for key in now if key not in then)]:
            inner = f"{name}.{key}" if name else key
            yield from _values(then.get(key, "not there"), now.get(key, "not there"), inner)
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for place, (a, b) in enumerate(zip(then, now, strict=True)):
            yield from _values(a, b, f"{name}[{place}]")
    elif isinstance(then, list) and isinstance(now, list):
        yield f"the length of {name or 'all'}", len(then), len(now)
    elif not _equal(then, now):
        yield name, then, now


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _equal(a: Any, b: Any) -> bool:
    if _is_number(a) and _is_number(b):
        return math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE) or (math.isnan(a) and math.isnan(b))
    return (_is_place(a) and _is_place(b)) or (type(a) is type(b) and bool(a == b))


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and bool(_PLACE.fullmatch(value))


def _was(then: Any, now: Any) -> str:
    return f"was {_short(then)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


def _parquet(then: Path, now: Path, _: tuple[Path, Path]) -> str:
    import pyarrow.parquet as pq

    old, new = pq.read_table(then), pq.read_table(now)
    if not old.schema.equals(new.schema):
        return f"other columns, {_was(dict(_columns(old)), dict(_columns(new)))}"
    if len(old) != len(new):
        return f"the number of rows {_was(len(old), len(new))}"
    differences = [
        f"column {name}, {difference}"
        for name in old.column_names
        if (difference := _arrays(*(np.asarray(table[name].to_numpy()) for table in (old, new))))
    ]
    return "; ".join(differences)


def _columns(table: Any) -> Iterator[tuple[str, str]]:
    return ((field.name, str(field.type)) for field in table.schema)


def _arrays(old: np.ndarray, new: np.ndarray) -> str:
    """How two arrays of one shape and type differ; "" where they do not."""
    if np.issubdtype(old.dtype, np.floating):
        equal = np.isclose(new, old, rtol=CLOSE, atol=CLOSE, equal_nan=True)
        if equal.all():
            return ""
        with np.errstate(invalid="ignore"):
            distances = np.abs(new - old)[~equal]
        distances = distances[np.isfinite(distances)]
        largest = f", by up to {distances.max():g}" if distances.size else ""
    else:
        equal, largest = np.atleast_1d(old == new), ""
        if equal.all():
            return ""
    return f"{int((~equal).sum())} of {equal.size} values{largest}"


def _is_of_saved_model(name: Path) -> bool:
    return name.name in (_SAVED_MODEL, "fingerprint.pb", "keras_metadata.pb") or name.parts[0] == "variables"


def _saved_model(then: Path, now: Path) -> list[str]:
    """How two SavedModels differ, in signatures, graphs and variables; a graph's names are counted up by a process."""
    old, new = _Model.read(then), _Model.read(now)
    differences = []
    if old.graph != new.graph:
        gone, fresh = old.graph - new.graph, new.graph - old.graph
        other = ", ".join(sorted({operation for operation, _ in gone + fresh}))
        differences.append(f"other graph: {gone.total()} nodes are gone, {fresh.total()} are new ({_short(other)})")
    return differences + list(_variables(old.variables, new.variables))


@dataclass(frozen=True)
class _Model:
    """What a SavedModel computes, and with what.

    Args:
      graph: How often each operation is in it, constants by their values; and its signatures.
      variables: By their names in the checkpoint.
    """

    graph: Counter[tuple[str, str]]
    variables: dict[str, np.ndarray]

    @classmethod
    def read(cls, folder: Path) -> _Model:
        """Reads it without loading it: no code of it runs."""
        import tensorflow as tf
        from tensorflow.core.protobuf import saved_model_pb2

        variables: dict[str, np.ndarray] = {}
        if (folder / "variables" / "variables.index").exists():
            reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
            names = sorted(reader.get_variable_to_shape_map())
            variables = {name: _array(reader.get_tensor(name)) for name in names}
        variables.pop(_OBJECTS, None)
        graph: Counter[tuple[str, str]] = Counter()
        for meta in saved_model_pb2.SavedModel.FromString((folder / _SAVED_MODEL).read_bytes()).meta_graphs:
            functions = [node for function in meta.graph_def.library.function for node in function.node_def]
            for node in (*meta.graph_def.node, *functions):
                held = tf.make_ndarray(node.attr["value"].tensor) if node.op in _CONSTANTS else None
                graph[node.op, "" if held is None or _tells_order(held) else _told_of(held)] += 1
            for name, signature in meta.signature_def.items():
                for role, tensors in (("input", signature.inputs), ("output", signature.outputs)):
                    for key, tensor in tensors.items():
                        graph[f"{role} of {name}", f"{key}: {tensor.dtype} {tensor.tensor_shape}"] += 1
        return cls(graph, variables)


def _array(held: Any) -> np.ndarray:
    # NumPy's own type for bytes loses zeros at their end.
    return np.array(held, dtype=object) if isinstance(held, bytes) else np.asarray(held)


def _tells_order(held: np.ndarray) -> bool:
    """Whether a constant is the list of the model's objects, whose order Keras takes from a set."""
    return held.dtype == object and held.ndim == 0 and _VALUE in bytes(held.item())


def _told_of(held: np.ndarray) -> str:
    values = repr(held.tolist()).encode() if held.dtype == object else held.tobytes()
    return f"{held.dtype} {held.shape} {sha256(values).hexdigest()}"


def _variables(then: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> Iterator[str]:
    """The variables that differ. Of those whose names differ in numbers alone, any may stand for any."""
    rest = dict(now)

    def partner(name: str, fits: Callable[[np.ndarray], bool]) -> np.ndarray | None:
        alike = [other for other in rest if _unnumbered(other) == _unnumbered(name)]
        for other in sorted(alike, key=lambda other: other != name):
            if fits(rest[other]):
                return rest.pop(other)
        return None

    def is_like(value: np.ndarray) -> Callable[[np.ndarray], bool]:
        return lambda other: other.shape == value.shape and other.dtype == value.dtype

    def is_equal(value: np.ndarray) -> Callable[[np.ndarray], bool]:
        return lambda other: is_like(value)(other) and not _arrays(value, other)

    unlike = {name: value for name, value in then.items() if partner(name, is_equal(value)) is None}
    for name, value in unlike.items():
        other = partner(name, is_like(value))
        yield f"variable {name} " + ("is there no longer" if other is None else f"differs in {_arrays(value, other)}")
    yield from (f"variable {name} is new" for name in rest)


def _unnumbered(name: str) -> str:
    return re.sub(r"\d+", "0", name)
