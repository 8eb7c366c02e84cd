"""Swaps, label moves and rollbacks under load, few of each; the figures are benchmarks.swaps'."""

from __future__ import annotations

import pytest

from benchmarks import swap_clients, swaps


@pytest.mark.slow
def test_changes_under_load_lose_no_request_and_versions_go_back_by_rollback_alone(tmp_path):
    report = swaps.trial(tmp_path, swap_clients.Threads, (5, 3, 1))
    assert report["failed"] == []
    assert report["backwards"] == []
    assert report["labels"] == [1, 2]
    assert report["REST"]["during"]["count"] and report["gRPC"]["during"]["count"]


def test_a_step_back_that_no_rollback_explains_is_seen():
    answers = [swap_clients.Answer(0.0, 0.1, version) for version in (1, 3, 2, 3, 1)]
    client = swap_clients.Client("gRPC", by_label=False, answers=answers)
    rollback = swaps.Change("rollback", 0.0, 1.0, 2)
    assert swaps.judge([client], [rollback])["backwards"] == ["gRPC: from 3 to 1"]
    assert len(swaps.judge([client], [])["backwards"]) == 2
