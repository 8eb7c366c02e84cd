"""From what a pipeline is called to the function that makes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from airtight import fingerprint, supervised
from airtight.import_string import load


def module_of(source: str) -> str:
    """The module that makes a pipeline.

    A folder of `pipelines/` has a function in `pipeline.py`, or else settings (`airtight.supervised`), of which the
    pipelines of several parts are made, each with an id of its own.

    Args:
      source: Id of a pipeline of `pipelines/`, or `package.module:attribute`.
    """
    if ":" in source:
        return source.partition(":")[0]
    ordinary = f"pipelines.{source}.pipeline"
    return ordinary if fingerprint.folder_of(ordinary) else supervised.module_of(source) or ordinary


def function_of(source: str) -> Callable[..., Any]:
    """The function that makes a pipeline; it takes the pipeline's arguments.

    Raises:
      TerminalError: There is none.
    """
    if ":" in source:
        attribute = load(source)
        is_settings = isinstance(attribute, supervised.Supervised)
        return functools.partial(load(attribute.builder), attribute) if is_settings else attribute
    module = module_of(source)
    if module == f"pipelines.{source}.pipeline":
        return load(f"{module}:create_pipeline")
    settings, part = supervised.find(source)
    return functools.partial(load(settings.builder), settings, part)
