"""Our pages in Airflow's UI, for users who may read the DAG that a page is about.

They are served from Airflow's origin, some of them as they lie in the state folder, so each comes with a policy under
which no script runs and nothing is loaded: whoever can write a report acts in nobody's session.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from airtight.errors import AirtightError
from airtight.home import Home
from airtight.supervised import TRAIN, Supervised, find
from plugins.tfx_airflow.airflow_compat import dag_reader, is_signed_in, may_read_dag
from plugins.tfx_airflow.pages import metrics, model_page, reports, run_page, stream_page
from plugins.tfx_airflow.pages.rendering import render, to_dag
from plugins.tfx_airflow.pages.visible import MayRead, Visible
from streaming.engine import job_records, stream_status
from streaming.engine.flink_rest import Flink

if TYPE_CHECKING:
    import ml_metadata as mlmd

_STREAM = "_stream"
"""What the id of a DAG that keeps a stream running ends with, after the stream's name."""
_NOTHING_BUT_STYLE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
POLICY = f"sandbox; {_NOTHING_BUT_STYLE}"
"""Reports bring their style and their pictures with them, and have neither scripts nor links."""
LINKING_POLICY = f"sandbox allow-same-origin allow-top-navigation-by-user-activation; {_NOTHING_BUT_STYLE}"
"""Pages that are made here lead to others, to runs and to trigger forms, and to no script."""
LIVE_POLICY = f"sandbox allow-same-origin allow-scripts; {_NOTHING_BUT_STYLE}"
"""A page that reloads itself: a browser reloads only what may run scripts, and sends Airflow's cookie only from
Airflow's origin. `default-src` still refuses every script."""

_TAB = Path(__file__).with_name("tab.js")
_OF_NONE_OF_OURS = (
    "This tab shows the versions of a supervised pipeline, on its training DAG. Airflow shows the tab on every DAG, "
    "also on those that train none."
)
_NO_STORE = "No task has run a node of a pipeline with this state folder: there is no ML Metadata to read yet."
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

app = FastAPI(title="Airtight", docs_url=None, redoc_url=None, openapi_url=None)
of_dag = APIRouter(prefix="/{dag_id}", dependencies=[Depends(may_read_dag())])
"""Every page is of a DAG, and for those who may read it."""
_Reader = Annotated[MayRead, Depends(dag_reader())]


@app.middleware("http")
async def protect(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Gives every answer the policy, unless its route has set its own."""
    response = await call_next(request)
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers["X-Content-Type-Options"] = "nosniff"
    # What one user may read is kept for no other.
    response.headers["Cache-Control"] = "no-store"
    return response


@of_dag.get("/year")
def year(dag_id: str) -> Any:
    """The page of all runs of a pipeline whose DAG has its name."""
    file = Home.current().reports(dag_id) / "year.html"
    # An id is a name, and names no other folder.
    known = "/" not in dag_id and not dag_id.startswith(".") and file.is_file()
    return HTMLResponse(file.read_text(encoding="utf-8") if known else _no_year(dag_id))


@of_dag.get("/stream")
def stream(dag_id: str) -> Any:
    """The state of the stream that the DAG `<stream>_stream` keeps running, at this moment."""
    return HTMLResponse(_stream(dag_id), headers={"Content-Security-Policy": LIVE_POLICY})


@of_dag.get("/stream/report")
def report(dag_id: str) -> Any:
    """The page that a stream itself writes, such as how the models do that learn from it."""
    file = _report(dag_id)
    return HTMLResponse(file.read_text(encoding="utf-8") if file else stream_page.no_report(dag_id))


@of_dag.get("/model")
def model(dag_id: str, may_read: _Reader) -> Any:
    """The versions of the pipeline whose training DAG it is."""
    settings, part = _supervised(dag_id)
    if settings is None:
        return _ours(render("words.html", title=f"{dag_id} trains no model", texts=[_OF_NONE_OF_OURS], link=None))
    if part != TRAIN:
        text = f"This DAG belongs to the pipeline {settings.name}, whose page is on its training DAG."
        link = (f"{to_dag(settings.name)}/plugin/model", f"The page of {settings.name}")
        return _ours(render("words.html", title=f"{dag_id}: {part}", texts=[text], link=link))
    return _from_store(dag_id, may_read, lambda visible: model_page.page(visible, settings, Home.current()))


@of_dag.get("/runs/{run_id}", dependencies=[Depends(may_read_dag("RUN"))])
def run(dag_id: str, run_id: str, may_read: _Reader) -> Any:
    """What a DAG run's gates decided, and on what."""
    settings, _ = _supervised(dag_id)
    return _from_store(dag_id, may_read, lambda v: run_page.page(v, dag_id, run_id, settings, Home.current()))


@of_dag.get("/runs/{run_id}/tasks/{task_id}/{map_index}", dependencies=[Depends(may_read_dag("TASK_INSTANCE"))])
def task_report(dag_id: str, run_id: str, task_id: str, map_index: int, may_read: _Reader) -> Any:
    """The report that a task has written, as it lies in the state folder: it gets no leave to lead out of its frame."""
    made = _from_store(dag_id, may_read, lambda v: reports.page(v, dag_id, run_id, task_id, map_index))
    made.headers["Content-Security-Policy"] = POLICY
    return made


@app.get("/tab.js", dependencies=[Depends(is_signed_in())])
def tab() -> Response:
    """What makes the frames of our tabs; it says nothing of any DAG."""
    return Response(_TAB.read_text(encoding="utf-8"), media_type="text/javascript")


@app.get("/metrics", dependencies=[Depends(is_signed_in())])
def prometheus(may_read: _Reader) -> Response:
    """What Prometheus scrapes: of the launcher, and of the pipelines whose DAGs the reader may read."""
    home = Home.current()
    try:
        text = metrics.exposition(_store(home), home, may_read)
    except AirtightError as error:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
    return Response(text, media_type=metrics.CONTENT_TYPE)


app.include_router(of_dag)


def _ours(html: str) -> HTMLResponse:
    return HTMLResponse(html, headers={"Content-Security-Policy": LINKING_POLICY})


def _from_store(dag_id: str, may_read: MayRead, page: Callable[[Visible], str]) -> HTMLResponse:
    """A page of what the metadata store knows; a fault of reading it is told in words."""
    try:
        store = _store(Home.current())
        if store is None:
            return _ours(render("words.html", title=f"{dag_id}: nothing has run yet", texts=[_NO_STORE], link=None))
        return _ours(page(Visible(store, dag_id, may_read)))
    except AirtightError as error:
        title = "The page cannot be made"
        return _ours(render("words.html", title=title, texts=str(error).splitlines(), link=None))


def _store(home: Home) -> mlmd.MetadataStore | None:
    """The metadata store; None before there is one, for a page makes none."""
    from runtime import metadata_connection

    if metadata_connection.project_config(home).HasField("sqlite") and not home.metadata_db.is_file():
        return None
    return metadata_connection.project_store(home)


def _supervised(dag_id: str) -> tuple[Supervised | None, str]:
    """The pipeline that a DAG is part of, and the part; None for a DAG of none."""
    # Another id would be the import string of any module.
    with contextlib.suppress(AirtightError):
        return find(dag_id) if dag_id.isidentifier() else (None, "")
    return None, ""


def _no_year(dag_id: str) -> str:
    """The page where a DAG has none, or none yet: a plugin's tabs are on every DAG."""
    title, text = f"There is no page about {dag_id}", _OF_NONE
    settings, part = _supervised(dag_id)
    if settings is not None:
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
