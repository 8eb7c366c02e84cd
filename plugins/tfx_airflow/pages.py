"""Pages of ours in Airflow's UI, for whoever may see the DAG that they are about."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from airtight.errors import AirtightError
from airtight.home import Home
from plugins.tfx_airflow import stream_page
from streaming import status as streams

_NONE_YET = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>No page yet</title></head>
<body style="font: 15px system-ui, sans-serif; margin: 3rem">
<h1 style="font-size: 1.3rem">There is no page about {dag_id} yet</h1>
<p>It is written when a run of the DAG has pushed its model, by its task <code>report</code>, or by
<code>make year</code>. DAGs that are no pipelines of ours have none.</p></body></html>"""

_ALLOWED = Depends(requires_access_dag(method="GET"))

app = FastAPI(title="Airtight", docs_url=None, redoc_url=None, openapi_url=None)


@app.get("/{dag_id}/year", dependencies=[_ALLOWED])
def year(dag_id: str) -> Any:
    """The page of all runs of a pipeline whose DAG has its name."""
    file = Home.current().reports(dag_id) / "year.html"
    # An id is a name, and names no other folder.
    known = "/" not in dag_id and not dag_id.startswith(".") and file.is_file()
    return HTMLResponse(file.read_text(encoding="utf-8") if known else _NONE_YET.format(dag_id=escape(dag_id)))


@app.get("/{dag_id}/stream", dependencies=[_ALLOWED])
def stream(dag_id: str) -> Any:
    """How the stream does at this moment that a DAG keeps running: `<stream>_stream`."""
    told = _record(dag_id)
    if told is None:
        return HTMLResponse(stream_page.none_yet(dag_id))
    try:
        return HTMLResponse(stream_page.page(told, streams.status(told)))
    except AirtightError as error:
        return HTMLResponse(stream_page.broken(told, str(error)))


@app.get("/{dag_id}/stream/report", dependencies=[_ALLOWED])
def report(dag_id: str) -> Any:
    """The page that a stream itself writes, such as how the models do that learn from it."""
    told = _record(dag_id)
    # The record is a file of the state folder, and names no other page than one of the reports.
    file = Path(told.report) if told is not None and told.report else None
    known = file is not None and file.resolve().is_relative_to(Home.current().reports("").resolve()) and file.is_file()
    return HTMLResponse(file.read_text(encoding="utf-8") if file and known else stream_page.no_report(dag_id))


def _record(dag_id: str) -> streams.Running | None:
    name = dag_id.removesuffix("_stream")
    known = name != dag_id and "/" not in name and not name.startswith(".")
    return streams.running(Home.current(), name) if known else None
