"""What Airflow loads from this folder: the plugin's name, so that `airflow plugins` shows it, and its pages in the UI.

`.airflowignore` beside it keeps the plugin loader, which imports files by path, away from the package.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """The pages, imported when the first is asked for: every process of Airflow loads this file, one serves."""
    from plugins.tfx_airflow.pages.app import app

    await app(scope, receive, send)


class AirtightPlugin(AirflowPlugin):
    """Airtight: TFX pipelines as Airflow DAGs."""

    name = "airtight"
    fastapi_apps = [{"app": pages, "url_prefix": "/airtight", "name": "Airtight"}]  # noqa: RUF012
    # Airflow shows a tab on every DAG, run and task (3.3 has no filter): the pages say which they are of.
    external_views = [  # noqa: RUF012
        {"name": name, "href": f"/airtight/{{DAG_ID}}/{page}", "destination": "dag", "url_route": page}
        for name, page in (("Year", "year"), ("Stream", "stream"))
    ]
    # Not the frames that Airflow makes of external views: no link leads out of those.
    react_apps = [  # noqa: RUF012
        {"name": name, "bundle_url": f"airtight/tab.js?{route}", "destination": place, "url_route": route}
        for name, route, place in (
            ("Model", "model", "dag"),
            ("Gates", "gates", "dag_run"),
            ("Report", "report", "task_instance"),
        )
    ]
