"""A made-up year of a model, for tests, pictures and benchmarks of the pages."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta

from airtight.home import Home
from tests.plugins.past_models import PastModels

RETRAINED = {date(2026, 3, 9): False, date(2026, 9, 6): True}
"""Days on which a watch had a model trained, and whether the gates let it pass."""
BACKFILLED = (date(2026, 1, 20), date(2026, 7, 20))
"""Days on which a backfilled watch wanted one, and triggered nothing."""
_WHY = "since 3 July the served model loses .031 a flight"


def year(home: Home, *, daily: bool = False, watched: int = 365) -> PastModels:
    """A made-up year: a run each month, or each day, a rollback, and a watch of the last days.

    Args:
      home: The state folder.
      daily: A training run for each day.
      watched: So many days are watched.
    """
    past, served = PastModels(home), 0
    first, now = date(2025, 11, 1), datetime(2026, 11, 1, 6, tzinfo=UTC)
    starts = [first + timedelta(days=n) for n in range(365)] if daily else [_month(first, n) for n in range(12)]
    for number, start in enumerate(starts):
        end = start + timedelta(days=1) if daily else _month(first, number + 1)
        began = datetime(end.year, end.month, end.day, 5, tzinfo=UTC)
        is_pushed = number % 7 != 5
        how = {"pushed": is_pushed, "cached": ("ingest", "validate") if number % 4 == 3 else ()}
        version = past.train(start, end, number, began=began, served=served, factor=1 + number % 5 / 4, **how)
        if number == 8 and version:
            past.promote(
                *(version, served), at=began + timedelta(days=3), reason="complaints about Newark", by="ada at 09:12"
            )
        else:
            served = version or served
        for day, passes in () if daily else RETRAINED.items():
            if end <= day < _month(first, number + 2):
                week, began = day - timedelta(days=6), datetime(day.year, day.month, day.day, 5, 1, tzinfo=UTC)
                how = {"pushed": passes, "run_id": f"watch__{day}__1a2b3c4d", "began": began + timedelta(days=1)}
                served = past.train(week, day + timedelta(days=1), 30 + number, served=served, **how) or served
    days = [now.date() - timedelta(days=watched - n) for n in range(watched)]
    for number, day in enumerate(days):
        at = datetime(day.year, day.month, day.day, 5, tzinfo=UTC) + timedelta(days=1)
        alarm = "dep_delay: 10 % of the rows are -1" if number % 97 == 40 else "rows: 212, the least were 641"
        past.watch(
            day,
            at=at,
            alarm=alarm if number % 97 == 40 or number % 61 == 17 else "",
            blocking=number % 97 == 40,
            retrain=_WHY if day in (*RETRAINED, *BACKFILLED) else "",
            run="backfill" if day in BACKFILLED else "scheduled",
        )
    if days:
        past.quality(((day, 0.79 + 0.015 * math.sin(n / 25)) for n, day in enumerate(days)), at=now)
        lost, kept = "it loses .02 a flight to the former one", "seven ripe days, and it loses no more"
        past.outcome(202608010400001, 202607010400001, at=now - timedelta(days=89), outcome="take_back", reason=lost)
        past.outcome(202609070400001, 202609010400001, at=now - timedelta(days=45), outcome="kept", reason=kept)
    past.close()
    return past


def _month(first: date, number: int) -> date:
    months = first.year * 12 + first.month - 1 + number
    return date(months // 12, months % 12 + 1, 1)
