"""Places that a pipeline names: they mean the same in every process, and what is remote is refused.

Relative paths of what is read begin at the folder of the file that names the pipeline; a pipeline root and a metadata
file that are relative are the launcher's, and begin at the state folder, so that nothing is written beside the code.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import constants
from tfx.proto.orchestration import pipeline_pb2

from airtight.errors import TerminalError

_LOCAL = "file://"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_IMPORTER = "tfx.dsl.components.common.importer.Importer"


def settle(ir: pipeline_pb2.Pipeline, folder: Path) -> None:
    """Makes the places in an IR mean the same everywhere, where its nodes run in that folder.

    Args:
      ir: The IR; changed in place.
      folder: Where relative paths of what is read begin.

    Raises:
      TerminalError: The pipeline root is remote.
    """
    _settle_root(ir)
    _remove_empty_folder(ir, folder)
    for entry in ir.nodes:
        if entry.pipeline_node.node_info.type.name == _IMPORTER:
            uri = entry.pipeline_node.parameters.parameters["artifact_uri"].field_value
            if uri.string_value and (uri.string_value.startswith(_LOCAL) or not _URL.match(uri.string_value)):
                uri.string_value = str(folder / uri.string_value.removeprefix(_LOCAL))


def _settle_root(ir: pipeline_pb2.Pipeline) -> None:
    value = ir.runtime_spec.pipeline_root
    if value.HasField("field_value"):
        # As TFX's compiler writes it: a run's own root is put in place of the parameter.
        value.runtime_parameter.MergeFrom(
            pipeline_pb2.RuntimeParameter(
                name=constants.PIPELINE_ROOT_PARAMETER_NAME,
                type=pipeline_pb2.RuntimeParameter.STRING,
                default_value=value.field_value,
            )
        )
    default = value.runtime_parameter.default_value
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
