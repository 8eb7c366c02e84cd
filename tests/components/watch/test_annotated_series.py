"""Covering and F1 beside several annotators, river's annotated series, and what detectors say of them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.annotated_series import DETECTORS, annotated, judged
from benchmarks.segmentation import covering, f1

PUBLISHED = {
    "Apple": (0.4246265030345013, 0.59375),
    "Bitcoin": (0.5162283249537621, 0.44961240310077516),
    "BrentSpotPrice": (0.2658176, 0.3146067415730337),
    "AirlinePassengers": (0.6298433048433048, 0.723404255319149),
    "Occupancy": (0.23562129218275363, 0.34077855775366944),
    "RunLog": (0.3035168628338615, 0.4455958549222798),
    "UKCoalEmploy": (0.35648072562358274, 0.5132743362831859),
}
"""Covering and F1 of the method "zero" in TCPDBench 3.0, `analysis/output/scores`."""
SERIES = {series.name: series for series in annotated()}


def test_covering_by_hand() -> None:
    # [0, 5) is best covered by [0, 4): 4/5. [5, 10) by [4, 10): 5/6. The whole, of an annotator of none, by 6/10.
    assert covering([[5]], [4], 10) == pytest.approx((5 * 4 / 5 + 5 * 5 / 6) / 10)
    assert covering([[5], []], [4], 10) == pytest.approx(((5 * 4 / 5 + 5 * 5 / 6) / 10 + 0.6) / 2)


def test_precision_is_beside_all_annotators_and_recall_the_mean_over_them() -> None:
    # Precision 2/3: 0 and 12 are hits of 0, 12 and 30. Both annotators are found.
    assert f1([[10], []], [12, 30]) == pytest.approx(0.8)
    # 16 is off by more than 5: precision 1/2, recall (1/2 + 1) / 2.
    assert f1([[10], []], [16]) == pytest.approx(0.6)


def test_a_change_point_is_a_hit_of_one_mark_only() -> None:
    assert f1([[10, 12]], [11]) == pytest.approx(0.8)


def test_what_annotators_agree_on_gives_one() -> None:
    assert covering([[3, 7], [3, 7]], [3, 7], 10) == f1([[3, 7], [3, 7]], [3, 7]) == 1
    assert covering([[], []], [], 10) == f1([[], []], []) == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_series_is_the_annotated_one(name: str) -> None:
    assert SERIES[name].scores([]) == pytest.approx(PUBLISHED[name], abs=1e-12)


def test_all_series_of_river_are_judged() -> None:
    assert set(SERIES) == set(PUBLISHED)


@pytest.mark.parametrize("detector", [name for name in DETECTORS if not name.startswith("none")])
def test_a_step_is_an_alarm_after_it_begins(detector: str) -> None:
    values = np.random.default_rng(1).normal(size=(300, 1))
    values[150:] += 5
    detect, sets = DETECTORS[detector]
    first, start = next(change for change in detect(values, **sets[0]) if change[0] >= 150)
    assert first < 185
    assert abs(start - 150) < 50


def test_an_oracle_is_no_worse_than_the_default() -> None:
    default, oracle = judged("own past (`data_alarms`)", SERIES["AirlinePassengers"])
    assert default[0] == pytest.approx([0.500, 0.526], abs=5e-4)
    assert (oracle >= default).all()
