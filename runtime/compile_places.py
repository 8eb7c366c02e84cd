"""Places that a pipeline names: they mean the same in every process, and what is remote is refused.

Relative paths of what is read begin at the folder of the file that names the pipeline; a pipeline root and a metadata
file that are relative are the launcher's, and begin at the state folder, so that nothing is written beside the code.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.proto.orchestration import pipeline_pb2

from airtight.errors import TerminalError

_LOCAL = "file://"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PATTERN = re.compile(r"[*?\[{]")
_IMPORTER = "tfx.dsl.components.common.importer.Importer"


def settle(ir: pipeline_pb2.Pipeline, folder: Path) -> bool:
    """Makes the places in an IR mean the same everywhere.

    Args:
      ir: The IR; changed in place.
      folder: Where relative paths of what is read begin.

    Returns:
      Whether its nodes have parameters that are such paths, and so must run in that folder.

    Raises:
      TerminalError: The pipeline root is remote.
    """
    _settle_root(ir)
    _remove_empty_folder(ir, folder)
    parameters = [value for entry in ir.nodes for value in entry.pipeline_node.parameters.parameters.values()]
    for entry in ir.nodes:
        if entry.pipeline_node.node_info.type.name == _IMPORTER:
            uri = entry.pipeline_node.parameters.parameters["artifact_uri"].field_value
            if uri.string_value and (uri.string_value.startswith(_LOCAL) or not _URL.match(uri.string_value)):
                uri.string_value = str(folder / uri.string_value.removeprefix(_LOCAL))
    texts = [
        value.field_value.string_value or value.runtime_parameter.default_value.string_value for value in parameters
    ]
    return any(_is_relative_path(part, folder) for text in texts for part in _parts(text))


def _settle_root(ir: pipeline_pb2.Pipeline) -> None:
    default = ir.runtime_spec.pipeline_root.runtime_parameter.default_value
    root = default.string_value
    if root.startswith(_LOCAL):
        default.string_value = root.removeprefix(_LOCAL)
    elif _URL.match(root):
        raise TerminalError(
            f"The pipeline {ir.pipeline_info.id} has a remote pipeline root.",
            expected="a folder of this machine, or of a file system that is mounted here; the steps write files there",
            received=root,
            remedy="Leave pipeline_root out, which takes the state folder, or name a mounted folder.",
        )


def _remove_empty_folder(ir: pipeline_pb2.Pipeline, folder: Path) -> None:
    """Removes the folder that TFX makes for a relative metadata file when it is named: the file will lie elsewhere."""
    config = metadata_store_pb2.ConnectionConfig()
    deployment = pipeline_pb2.IntermediateDeploymentConfig()
    if not ir.deployment_config.Unpack(deployment) or not deployment.metadata_connection_config.Unpack(config):
        return
    made = folder / Path(config.sqlite.filename_uri).parent
    while config.sqlite.filename_uri and made != folder and made.is_relative_to(folder):
        with contextlib.suppress(OSError):
            made.rmdir()
        made = made.parent


def _parts(text: str) -> Iterator[str]:
    """A text, and the texts in it where it is JSON, as TFX keeps protos and dicts."""
    yield text
    if text.startswith(("{", "[")):
        with contextlib.suppress(ValueError):
            yield from _leaves(json.loads(text))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)


def _is_relative_path(text: str, folder: Path) -> bool:
    """Whether a text names something that is there, seen from the folder; of a pattern, its fixed beginning."""
    match = _PATTERN.search(text)
    fixed = text[: match.start()].rpartition("/")[0] if match else text
    if not fixed.strip("./") or text.startswith("/") or _URL.match(text) or "\0" in text:
        return False
    try:
        return (folder / fixed).exists()
    except OSError:
        return False  # Too long for a name.
