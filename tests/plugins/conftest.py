"""A state folder whose tiny pipeline is compiled, for tests on Airflow's side."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from airtight.home import Home
from runtime.compile import compile_pipeline
from tests.plugins.airflow_services import Airflow
from tests.tiny_pipeline.running import TINY


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """A running Airflow with the DAGs of these tests, one for each module."""
    with Airflow(Home(tmp_path_factory.mktemp("home"))) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    compile_pipeline(TINY, Home.current())
    return Home.current()
