"""Our pages in Airflow's UI, for users who may read the DAG that a page is about.

They are served from Airflow's origin, some of them as they lie in the state folder, so each comes with a policy under
which no script runs and nothing is loaded: whoever can write a report acts in nobody's session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from airtight.errors import AirtightError
from airtight.home import Home
from plugins.tfx_airflow import stream_page
from plugins.tfx_airflow.airflow_compat import may_read_dag
from streaming import status as streams

_NOTHING_BUT_STYLE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
POLICY = f"sandbox; {_NOTHING_BUT_STYLE}"
"""Reports bring their style and their pictures with them, and have neither scripts nor links."""
LIVE_POLICY = f"sandbox allow-same-origin allow-scripts; {_NOTHING_BUT_STYLE}"
"""A page that reloads itself: a browser reloads only what may run scripts, and sends Airflow's cookie only from
Airflow's origin. `default-src` still refuses every script."""

_NONE_YET = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>No page yet</title></head>
<body style="font: 15px system-ui, sans-serif; margin: 3rem">
<h1 style="font-size: 1.3rem">There is no page about {dag_id} yet</h1>
<p>It is written when a run of the DAG has pushed its model, by its task <code>report</code>, or by
<code>make year</code>. DAGs that are no pipelines of ours have none.</p></body></html>"""

app = FastAPI(title="Airtight", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(may_read_dag())])


@app.middleware("http")
async def protect(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Gives every answer the policy, unless its route has set its own."""
    response = await call_next(request)
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@app.get("/{dag_id}/year")
def year(dag_id: str) -> Any:
    """The page of all runs of a pipeline whose DAG has its name."""
    file = Home.current().reports(dag_id) / "year.html"
    # An id is a name, and names no other folder.
    known = "/" not in dag_id and not dag_id.startswith(".") and file.is_file()
    return HTMLResponse(file.read_text(encoding="utf-8") if known else _NONE_YET.format(dag_id=escape(dag_id)))


@app.get("/{dag_id}/stream")
def stream(dag_id: str) -> Any:
    """The state of the stream that the DAG `<stream>_stream` keeps running, at this moment."""
    return HTMLResponse(_stream(dag_id), headers={"Content-Security-Policy": LIVE_POLICY})


@app.get("/{dag_id}/stream/report")
def report(dag_id: str) -> Any:
    """The page that a stream itself writes, such as how the models do that learn from it."""
    record = _record(dag_id)
    # The record is a file of the state folder, and names no other page than one of the reports.
    file = Path(record.report) if record is not None and record.report else None
    known = file is not None and file.resolve().is_relative_to(Home.current().reports("").resolve()) and file.is_file()
    return HTMLResponse(file.read_text(encoding="utf-8") if file and known else stream_page.no_report(dag_id))


def _stream(dag_id: str) -> str:
    record = _record(dag_id)
    if record is None:
        return stream_page.none_yet(dag_id)
    try:
        return stream_page.page(record, streams.status(record))
    except AirtightError as error:
        return stream_page.broken(record, str(error))


def _record(dag_id: str) -> streams.Running | None:
    name = dag_id.removesuffix("_stream")
    known = name != dag_id and "/" not in name and not name.startswith(".")
    return streams.running(Home.current(), name) if known else None
