"""A state folder with real runs: July was rolled back to June, another July was not blessed, August is registered."""

from __future__ import annotations

import os
from pathlib import Path

from airtight.home import Home
from commands import promote
from runtime import local
from runtime.compile import compile_pipeline
from runtime.protocol import Outcome

JUNE, JULY, AUGUST = 201307010400001, 201308010400001, 201309010400001
ENDS = {
    JUNE: ("2013-06-01", "2013-07-01"),
    JULY: ("2013-07-01", "2013-08-01"),
    AUGUST: ("2013-08-01", "2013-09-01"),
}
MODEL = "flight_delays"
PIPELINE = "tests.tiny_pipeline.audited:create_pipeline"


def run(home: Home, version: int, **values: str | int) -> dict[str, Outcome]:
    """Runs the month of a version."""
    start, end = (f"{day}T00:00:00-04:00" for day in ENDS[version])
    values = {"interval_start": start, "interval_end": end, "content": str(version), **values}
    return local.run(compile_pipeline(PIPELINE, home), home, str(version), values)


def make(folder: Path) -> Home:
    """Fills a state folder."""
    os.environ["AIRTIGHT_HOME"] = str(folder)
    home = Home.current()
    run(home, JUNE)
    run(home, JULY, champion=JUNE)
    assert promote.main(["--pipeline", MODEL, "previous", "--reason", "July is worse"]) == 0
    run(home, JULY, blessed=0, content="other")
    run(home, AUGUST, champion=JUNE)
    return home
