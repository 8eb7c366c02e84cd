"""What earlier runs of a pipeline made of the days before this run's interval, whatever was run when.

A watch makes each day's state of the day before's. The newest artifact of another run is not that: a backfill of March
would meet December's.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import ml_metadata as mlmd
from tfx import types

from airtight.errors import TerminalError
from runtime.cross_run import ByInterval, made_within

log = logging.getLogger(__name__)

SPAN_DAYS = 400
"""Days before the interval in which the latest artifact is looked for."""


class DaysBefore(ByInterval):
    """Gives what was made of the intervals before this run's, of each interval the newest.

    Inputs of the Resolver node, by key:
      dataset: This run's artifact with `interval_start`.
      days: Artifacts across runs, of a type with `interval_end`: those of the last `days` days, in the order of their
        intervals.
      Any other key: Likewise, but the latest one alone, or none.

    Args:
      days: Days before this run's interval.
    """

    def __init__(self, days: int = 1) -> None:
        self._days = days

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Picks the artifacts.

        Raises:
          TerminalError: This run has no dataset.
        """
        if not input_dict["dataset"]:
            raise TerminalError(
                "The days before cannot be known without this run's data interval.",
                expected="one artifact at the input `dataset`",
                received="none",
                remedy="Clear the node that makes the dataset, so that it runs.",
            )
        (dataset, *_) = input_dict["dataset"]
        start = datetime.fromisoformat(dataset.interval_start)
        resolved: dict[str, list[types.Artifact]] = {"dataset": input_dict["dataset"]}
        for key in input_dict:
            if key == "dataset":
                continue
            if key == "days":
                resolved[key] = made_within(store, key, start - timedelta(days=self._days), start)
            else:
                resolved[key] = made_within(store, key, start - timedelta(days=SPAN_DAYS), start)[-1:]
        log.info("Of the time before %s: %s.", start.isoformat(), {key: len(of) for key, of in resolved.items()})
        return resolved
