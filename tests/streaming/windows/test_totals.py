"""Totals by minute and window against a plain computation, in process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.streaming.windows.shops import STREAM, orders, plain, run, written


@pytest.mark.parametrize("seed", range(2))
def test_versions_count_once_in_minutes_and_windows(tmp_path: Path, seed: int) -> None:
    messages = orders(400, seed)
    store = run(STREAM, messages, tmp_path / "store.sqlite")
    assert written(store) == plain(messages)
    assert written(store, 5) == plain(messages, 5, 5)
    assert written(store, 10) == plain(messages, 10, 2)
