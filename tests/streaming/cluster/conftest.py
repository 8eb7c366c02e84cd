"""One broker and one Flink session cluster of two TaskManagers for all tests of this folder.

Each test has its own topics, job and store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil
import pytest

from benchmarks.own_cluster import OwnCluster, own_cluster
from streaming.engine.flink_rest import ENDED, Flink
from tests.streaming.engine_counts import until


@pytest.fixture(scope="package")
def shared_cluster() -> Iterator[OwnCluster]:
    with own_cluster(taskmanagers=2) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: OwnCluster) -> Iterator[OwnCluster]:
    """The cluster, without jobs of other tests; records of jobs are in the test's own state folder."""
    yield shared_cluster
    flink = Flink()
    for job in flink.jobs():
        if job.state not in ENDED:
            flink.cancel(job.id)
    with contextlib.suppress(pytest.fail.Exception):
        until(lambda: not shared_cluster.workers(), "the Python workers end with their jobs", patience_s=30)
    # Beam's runner forgets a worker that it asked for where its task is interrupted before the worker has come.
    for worker in shared_cluster.workers():
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
