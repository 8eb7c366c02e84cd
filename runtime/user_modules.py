"""Users' code that TFX's components take as a file: `module_file` of a Trainer, a Transform, an Evaluator.

TFX's runners pack the file, and every other module of its folder, into a wheel when they are started, and each node
installs that wheel. Here the file is read where it lies, so that a change counts for the next run without compiling;
what it imports of its own folder is found there, as it would be in the wheel.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tfx.proto.orchestration import pipeline_pb2

from airtight.errors import TerminalError

_FILE = "module_file"
_WHEEL = "module_path"


def check(node: pipeline_pb2.PipelineNode) -> None:
    """Looks whether the node's code is there, which TFX finds out in the middle of the node.

    Args:
      node: The node in a copy of the IR whose parameters are bound.

    Raises:
      TerminalError: The file, or the wheel that a runner made of it, is gone.
    """
    places = [("module file", _given(node, _FILE)), ("wheel", _given(node, _WHEEL).partition("@")[2])]
    for what, place in places:
        if place and "://" not in place and not Path(place).is_file():
            raise TerminalError(
                f"The {what} of {node.node_info.id} is not there.",
                expected=f"Python code at {place}",
                received="a folder" if Path(place).is_dir() else "nothing at that place",
                remedy="Put it there, or correct the pipeline and compile it again.",
            )


@contextlib.contextmanager
def importable(node: pipeline_pb2.PipelineNode) -> Iterator[None]:
    """Lets the node's module file import the modules beside it; what is installed goes first."""
    file = _given(node, _FILE)
    before = sys.path
    if file:
        sys.path = [*sys.path, str(Path(file).resolve().parent)]
    try:
        yield
    finally:
        sys.path = before


def _given(node: pipeline_pb2.PipelineNode, name: str) -> str:
    parameters = node.parameters.parameters
    return str(parameters[name].field_value.string_value) if name in parameters else ""
