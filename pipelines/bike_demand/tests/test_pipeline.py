"""The pipeline holds together, real days pass its expectations, and damaged ones do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from airtight.interval import Interval
from components import ingest
from components.data import packaged_data
from components.data.lake import Lake
from components.measures.judging import Finding as ExpectationResult
from components.measures.judging import judge
from components.supervised import create_pipeline
from components.tasks import task_of
from pipelines.bike_demand import lake
from pipelines.bike_demand.expectations import subjects
from pipelines.bike_demand.schema import LOOKBACK_H, SCHEMA
from pipelines.bike_demand.settings import SETTINGS

Judged = Callable[[dict[str, object]], list[ExpectationResult]]


def test_it_goes_from_the_lake_to_the_model_server() -> None:
    nodes = [node.id for node in create_pipeline(SETTINGS).components]
    assert nodes[0] == "ingest" and "push" in nodes
    assert list(task_of(SCHEMA).metrics) == ["mae", "pinball"]
    assert SETTINGS.lookback_days * 24 > LOOKBACK_H


@pytest.fixture
def judged(source: pd.DataFrame, spark: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judged:
    """What comes of the expectations where the values of one hour are others."""

    def answer(damage: dict[str, object]) -> list[ExpectationResult]:
        days = source[source.ts.between("2013-11-01 01:00:00", "2013-11-06 00:00:00")].reset_index(drop=True)
        for column, value in damage.items():
            days.loc[days.ts == "2013-11-03 10:00:00", column] = value
        monkeypatch.setattr(packaged_data, "read", lambda *_: days.to_csv(index=False).encode())
        lake.build(tmp_path)
        span = Interval.parse("2013-11-03/2013-11-06", SETTINGS.zone)
        reader = ingest._select(Lake(tmp_path), lake.TABLES, span, SETTINGS.zone, window_days=0, lake_version="now")
        return list(judge(subjects(reader, spark)))

    return answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "unmet"),
    [
        ({}, set()),
        (
            {"count": -1, "ts": "2013-11-03 09:00:00"},
            {"rides is at least 0 and at most 20000", "No two rows have the same hour"},
        ),
    ],
)
def test_real_days_pass_and_damage_blocks(judged: Judged, damage: dict[str, object], unmet: set[str]) -> None:
    results = judged(damage)
    assert len(results) == 2 * 7
    assert {result.sentence for result in results if not result.passed} == unmet
    assert {result.severity for result in results if not result.passed} <= {"blocking"}
