"""A state folder of a test's own, in which services may run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from airtight.home import Home
from benchmarks.own_services import free_settings
from services.settings import variable
from services.supervisor import Supervisor


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A short path, because a unix socket's is limited, and free ports; whatever runs there is ended."""
    folder = Path(tempfile.mkdtemp(prefix="airtight-", dir="/tmp"))
    monkeypatch.setenv("AIRTIGHT_HOME", str(folder))
    monkeypatch.setenv("AIRTIGHT_SPARK_MEMORY", "512m")
    # Nothing here lives long enough to be worth a second compilation, for speed.
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
    monkeypatch.delenv("AIRTIGHT_KAFKA", raising=False)
    for name, port in free_settings().items():
        monkeypatch.setenv(variable(name), str(port))
    yield Home(folder)
    Supervisor(Home(folder)).stop()
    shutil.rmtree(folder)
