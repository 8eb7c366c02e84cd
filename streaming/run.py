"""Runs a pipeline of Beam of which every input ends, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

Build = Callable[[beam.Pipeline], Any]
"""Adds the steps to an empty pipeline."""


def in_process(build: Build) -> None:
    """Runs it to the end.

    Raises:
      AirtightError: A step raised it.
    """
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([]))
    build(pipeline)
    pipeline.run().wait_until_finish()
