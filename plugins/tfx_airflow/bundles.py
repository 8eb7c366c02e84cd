"""Gives a DAG file its compiled pipeline, compiled again when its sources have changed."""

from __future__ import annotations

import logging

from airtight.errors import AirtightError
from airtight.home import Home
from runtime.bundle import Bundle, path_of
from runtime.client import call
from runtime.protocol import CompileRequest

log = logging.getLogger(__name__)


def fresh(pipeline: str) -> Bundle:
    """Reads the bundle of a pipeline; compiles it first when it is missing or no longer says what the sources say.

    Args:
      pipeline: A folder of `pipelines/`, `package.module:function`, or the path of an IR file.

    Raises:
      AirtightError: The pipeline does not compile; Airflow shows it as the DAG file's import error.
    """
    home = Home.current()
    path = path_of(pipeline, home)
    try:
        bundle = Bundle.read(path)
        reason = bundle.stale()
    except AirtightError:
        # Missing, or written by an older version: nothing is lost by making it again.
        bundle, reason = None, "it was never compiled"
    if bundle is not None and not reason:
        return bundle
    log.info("Compiling the pipeline %s, because %s.", pipeline, reason)
    call(CompileRequest(pipeline, str(home.path)), home.launcher_socket).raise_if_failed()
    return Bundle.read(path)
