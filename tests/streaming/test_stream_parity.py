"""What benchmarks.stream_parity compares with: it finds a missing, an extra and a different window."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import Any

from benchmarks import stream_parity
from pipelines.flight_delays import features

WINDOW = features.WINDOWS[1]  # With all three measures.


def of(flight: str, count: int, late: float | None, mean: float | None) -> dict[str, dict[str, Any]]:
    answers = {"count": count, "late_share": late, "mean_delay": mean}
    return {flight: {WINDOW.feature(measure): value for measure, value in answers.items()}}


def test_a_window_that_is_missing_extra_or_different_is_found() -> None:
    batch = of("a", 4, 0.25, 7.0) | of("b", 0, None, None)
    nothing = of("b", 0, math.nan, math.nan)
    same = of("a", 4, 0.25, 7.0 + 1e-10) | nothing
    differences = stream_parity.beside(WINDOW, batch, same)
    assert differences.equal and (differences.windows, differences.missing, differences.extra) == (2, 0, 0)

    lacking = stream_parity.beside(WINDOW, batch, of("a", 0, math.nan, math.nan) | nothing)
    assert (lacking.missing, lacking.extra, lacking.count, lacking.equal) == (1, 0, 4, False)
    assert stream_parity.beside(WINDOW, batch, nothing).missing == 1, "a flight that is not there"

    extra = stream_parity.beside(WINDOW, batch, same | of("b", 1, 0.0, 3.0) | of("c", 0, None, None))
    assert (extra.windows, extra.missing, extra.extra, extra.count, extra.equal) == (3, 0, 2, 1, False)

    wrong = stream_parity.beside(WINDOW, batch, same | of("a", 5, 0.25, 7.0 + 1e-8))
    assert (wrong.missing, wrong.extra, wrong.count, wrong.equal) == (0, 0, 1, False)
    assert 0.9e-8 < wrong.mean < 1.1e-8 and not stream_parity.Found(1, mean=wrong.mean).equal

    differences.add(lacking)
    assert (differences.windows, differences.missing, differences.count, differences.equal) == (4, 1, 4, False)
    assert not stream_parity.Found().equal, "nothing was compared"


def test_the_months_of_a_span() -> None:
    parts = stream_parity.months(date(2013, 1, 30), date(2013, 4, 1))
    assert [stream_parity.name_of(part) for part in parts] == ["2013-01", "2013-02", "2013-03"]
    assert parts[0].start == datetime(2013, 1, 30, 5, tzinfo=UTC)
    assert parts[-1].end == datetime(2013, 4, 1, 4, tzinfo=UTC), "summer time"
    assert [one.end for one in parts[:-1]] == [two.start for two in parts[1:]]
