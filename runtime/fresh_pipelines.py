"""Pipelines compiled from what there is now, by the launcher where they have to be compiled.

Standard library only: Airflow's DAG files use it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from airtight import fingerprint
from airtight.errors import AirtightError, TransientError
from airtight.home import Home
from runtime import compiled_store
from runtime.client import call
from runtime.compiled_pipeline import CompiledPipeline
from runtime.protocol import CompileRequest

log = logging.getLogger(__name__)


def fresh(
    pipeline: str,
    home: Home,
    *,
    arguments: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = log.info,
) -> CompiledPipeline:
    """Gives a pipeline compiled from what there is now; compiles it if there is none.

    Which one is current does not matter: another process, with another environment, may have published its own.

    Args:
      pipeline: Id of a pipeline of `pipelines/`, `package.module:function`, or the path of an IR file.
      home: The state folder.
      arguments: What the function is called with, JSON values.
      say: Takes one line when it is compiled.

    Raises:
      AirtightError: The pipeline does not compile, or the launcher sees other files than this process.
    """
    return fresh_all([(pipeline, arguments)], home, say=say)[0]


def fresh_all(
    pipelines: Sequence[tuple[str, Mapping[str, Any] | None]],
    home: Home,
    *,
    say: Callable[[str], None] = log.info,
) -> list[CompiledPipeline]:
    """Gives several pipelines as `fresh` gives one; those that must be compiled share one request.

    Args:
      pipelines: The pipelines, each with its arguments.
      home: The state folder.
      say: Takes one line for each that is compiled.

    Raises:
      AirtightError: As `fresh`; of several that do not compile, the first one's.
    """
    sources = [(compiled_store.absolute(pipeline), arguments) for pipeline, arguments in pipelines]
    known = [compiled_store.usable(pipeline, home, arguments) for pipeline, arguments in sources]
    stale = [source for source, compiled in zip(sources, known, strict=True) if compiled is None]
    for pipeline, arguments in stale:
        say(f"Compiling the pipeline {pipeline}, because {_why_stale(pipeline, home, arguments)}.")
    if stale:
        call(_compile_request(stale, home), home.launcher_socket).raise_if_failed()
    return [compiled or _made(*source, home) for source, compiled in zip(sources, known, strict=True)]


def _made(pipeline: str, arguments: Mapping[str, Any] | None, home: Home) -> CompiledPipeline:
    """What was compiled just now."""
    if compiled := compiled_store.usable(pipeline, home, arguments):
        return compiled
    reason = _why_stale(pipeline, home, arguments)
    raise TransientError(
        f"The pipeline {pipeline} was compiled, and is not what this process sees: {reason}.",
        expected="the same files, environment and packages here and where it is compiled",
        received=f"a difference between process {os.getpid()} and the launcher: {reason}",
        remedy="Deploy the same checkout to both; a file that changes by itself should not be read by create_pipeline.",
    )


def _compile_request(pipelines: Sequence[tuple[str, Mapping[str, Any] | None]], home: Home) -> CompileRequest:
    """Asks for pipelines as this process would compile them: with its environment and its path."""
    paths = (os.path.abspath(path) for path in sys.path)
    own = tuple(path for path in paths if os.path.isdir(path) and not fingerprint.is_foreign(Path(path)))
    (pipeline, arguments), *others = ((pipeline, dict(arguments or {})) for pipeline, arguments in pipelines)
    return CompileRequest(pipeline, str(home.path), arguments, dict(os.environ), own, tuple(others))


def _why_stale(pipeline: str, home: Home, arguments: Mapping[str, Any] | None) -> str:
    try:
        return compiled_store.current(pipeline, home, arguments).stale() or "another process published another one"
    except AirtightError:
        # Missing, or written by an older version: nothing is lost by making it again.
        return "it was never compiled here"
