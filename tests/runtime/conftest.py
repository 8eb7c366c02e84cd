"""A state folder for each test."""

from pathlib import Path

import pytest

from airtight.home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AIRTIGHT_METADATA", raising=False)
    return Home.current()
