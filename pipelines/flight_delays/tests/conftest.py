"""Fixtures of the flight pipeline's tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def flight_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole lake of 2013, built once (about 8 s); read it, never write it."""
    from pipelines.flight_delays.lake import build

    path = tmp_path_factory.mktemp("flights") / "lake"
    build(path)
    return path
