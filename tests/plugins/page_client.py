"""The pages' app without a server: requests in this process, as a user who may read some DAGs and not others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from unittest import mock

import httpx

OF_NO_DAG = ("/tab.js", "/metrics")
"""Paths of the routes that say nothing of a DAG in their address; the last only what who asks may read."""


@contextlib.contextmanager
def signed_in(
    hidden: Collection[str] = (), *, user: bool = True, runs: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Answers within the block as Airflow does for a user.

    Args:
      hidden: Ids of the DAGs that the user may not read.
      user: Whether there is one.
      runs: The states of the runs that Airflow knows, by their ids.
    """
    from airflow.api_fastapi.core_api import security
    from fastapi import HTTPException

    from plugins.tfx_airflow.pages import model_decisions
    from plugins.tfx_airflow.pages.app import app

    class Manager:
        def is_authorized_dag(self, details: Any = None, **_: Any) -> bool:
            return details.id not in hidden

    def get_user() -> None:
        if not user:
            raise HTTPException(401)

    with (
        mock.patch.object(security, "get_auth_manager", Manager),
        mock.patch.object(security.DagModel, "get_team_name", lambda dag_id: None),
        mock.patch.object(model_decisions, "recorded_run_states", lambda dag_id, run_ids: runs or {}),
        mock.patch.dict(app.dependency_overrides, {security.get_user: get_user}),
    ):
        yield


def get(app: Any, path: str) -> httpx.Response:
    """What an app answers to a path."""

    async def answer() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://there") as browser:
            return await browser.get(path)

    return asyncio.run(answer())


def address(path: str) -> str:
    """A route's path with something in each place."""
    return path.format(dag_id="any_stream", run_id="a_run", task_id="a_task", map_index=-1)
