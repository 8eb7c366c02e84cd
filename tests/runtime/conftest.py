"""A state folder for each test, and the metadata store that goes with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from airtight.home import Home
from benchmarks.postgresql import Cluster, binaries


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """A PostgreSQL of the test session's own."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql).")
    cluster = Cluster(programs)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Home:
    """A fresh state folder; parametrized with "postgresql", its metadata lie in a fresh database there."""
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AIRTIGHT_METADATA", raising=False)
    if getattr(request, "param", "sqlite") == "postgresql":
        cluster = request.getfixturevalue("postgresql")
        cluster.start()
        monkeypatch.setenv("AIRTIGHT_METADATA", cluster.address())
    return Home.current()
