"""Our pages in Airflow's UI, for users who may read the DAG that a page is about.

They are served from Airflow's origin, some of them as they lie in the state folder, so each comes with a policy under
which no script runs and nothing is loaded: whoever can write a report acts in nobody's session.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from airtight.errors import AirtightError
from airtight.home import Home
from airtight.supervised import TRAIN, find
from plugins.tfx_airflow import stream_page
from plugins.tfx_airflow.airflow_compat import may_read_dag
from streaming.engine import job_records, stream_status
from streaming.engine.flink_rest import Flink

_STREAM = "_stream"
"""What the id of a DAG that keeps a stream running ends with, after the stream's name."""
_NOTHING_BUT_STYLE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
POLICY = f"sandbox; {_NOTHING_BUT_STYLE}"
"""Reports bring their style and their pictures with them, and have neither scripts nor links."""
LIVE_POLICY = f"sandbox allow-same-origin allow-scripts; {_NOTHING_BUT_STYLE}"
"""A page that reloads itself: a browser reloads only what may run scripts, and sends Airflow's cookie only from
Airflow's origin. `default-src` still refuses every script."""

_NO_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body style="font: 15px system-ui, sans-serif; margin: 3rem">
<h1 style="font-size: 1.3rem">{title}</h1>
<p>{text}</p></body></html>"""
_NONE_YET = (
    "Its task <code>report</code> writes it when a run has pushed its model, and so does <code>make year</code>."
)
_OF_ANOTHER = (
    "This tab shows the runs of a pipeline's training DAG. Airflow shows it on every DAG; that of this pipeline's "
    "training is <code>{dag_id}</code>."
)
_OF_NONE = (
    "This tab shows the runs of a supervised pipeline's training DAG, once its task <code>report</code> has written "
    "the page. Airflow shows the tab on every DAG, also on those that train none."
)

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
    return HTMLResponse(file.read_text(encoding="utf-8") if known else _no_year(dag_id))


@app.get("/{dag_id}/stream")
def stream(dag_id: str) -> Any:
    """The state of the stream that the DAG `<stream>_stream` keeps running, at this moment."""
    return HTMLResponse(_stream(dag_id), headers={"Content-Security-Policy": LIVE_POLICY})


@app.get("/{dag_id}/stream/report")
def report(dag_id: str) -> Any:
    """The page that a stream itself writes, such as how the models do that learn from it."""
    file = _report(dag_id)
    return HTMLResponse(file.read_text(encoding="utf-8") if file else stream_page.no_report(dag_id))


def _no_year(dag_id: str) -> str:
    """The page where a DAG has none, or none yet: a plugin's tabs are on every DAG."""
    title, text = f"There is no page about {dag_id}", _OF_NONE
    # Another id would be the import string of any module.
    if dag_id.isidentifier():
        with contextlib.suppress(AirtightError):
            settings, part = find(dag_id)
            title, text = f"There is no page about {dag_id} yet", _NONE_YET
            if part != TRAIN:
                title, text = f"{dag_id} has no page of its own", _OF_ANOTHER.format(dag_id=escape(settings.name))
    return _NO_PAGE.format(title=escape(title), text=text)


def _stream(dag_id: str) -> str:
    name = _name(dag_id)
    if not name:
        return stream_page.of_none(dag_id)
    record, file = job_records.load(name), _report(dag_id)
    if record is None:
        return stream_page.report_alone(dag_id) if file else stream_page.none_yet(dag_id)
    try:
        return stream_page.page(record, stream_status.status(Flink(), record), file is not None)
    except AirtightError as error:
        return stream_page.broken(record, str(error))


def _report(dag_id: str) -> Path | None:
    name = _name(dag_id)
    file = Home.current().reports(name) / "stream.html"
    return file if name and file.is_file() else None


def _name(dag_id: str) -> str:
    """The stream's, which names a file; "" for a DAG that keeps no stream running."""
    name = dag_id.removesuffix(_STREAM)
    return "" if name == dag_id or "/" in name or name.startswith(".") else name
