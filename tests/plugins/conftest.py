"""A state folder whose tiny pipeline is compiled, for tests on Airflow's side."""

from pathlib import Path

import pytest

from airtight.home import Home
from runtime.compile import compile_pipeline
from tests.tiny_pipeline.running import TINY


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    compile_pipeline(TINY, Home.current())
    return Home.current()
