"""A checkout for new pipelines alone, and its pipelines as part of the package `pipelines`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path) -> Path:
    for folder in ("pipelines", "dags"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def importable(root, monkeypatch):
    """The new pipeline as part of the package `pipelines`, for this test alone."""
    import pipelines

    monkeypatch.setattr(pipelines, "__path__", [*pipelines.__path__, str(root / "pipelines")])
    yield
    for name in [name for name in sys.modules if name.startswith("pipelines.bike")]:
        del sys.modules[name]
