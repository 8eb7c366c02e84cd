"""The state folder of real runs that the tests of the audit log and of the model card share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from airtight.home import Home


@pytest.fixture(scope="session")
def filled(tmp_path_factory) -> Path:
    from tests.commands.audited import make

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRTIGHT_HOME", "")
        patch.delenv("AIRTIGHT_MODEL_SERVER", raising=False)
        return make(tmp_path_factory.mktemp("filled")).path


@pytest.fixture
def audited_home(filled, monkeypatch) -> Home:
    """Its copy, whose artifacts lie where they were."""
    monkeypatch.delenv("AIRTIGHT_MODEL_SERVER", raising=False)
    home = Home.current()
    shutil.copytree(filled, home.path)
    return home
