"""The page of a stream: what it is doing at this moment; one HTML file, no script, loaded again every ten seconds."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from plugins.tfx_airflow.pages.rendering import render, second
from streaming.engine.job_records import JobRecord
from streaming.engine.stream_status import StreamStatus, iso

_AGAIN_S = 10
_OF_NONE = Markup(
    "This tab shows the stream that a DAG keeps running whose id ends with <code>_stream</code>. Airflow shows it on "
    "every DAG."
)


def page(record: JobRecord, status: StreamStatus, with_report: bool = False) -> str:
    """How a stream does.

    Args:
      record: Its job's record.
      status: What Flink and the broker say.
      with_report: Whether the stream has a page of its own.

    Returns:
      A whole HTML document.
    """
    job = status.job
    figures = {
        "Lag, messages": _number(status.lag),
        "Watermark": second(status.watermark),
        **({"Dead letters": _number(status.dead_letters)} if record.dead_letters else {}),
    }
    failure, faults = "", [f"Of the broker: {status.broker}"] if status.broker else []
    if job:
        newest = job.checkpoints
        figures |= {
            "Last checkpoint": second(iso(newest.at) if newest.at else ""),
            "Its size, bytes": _number(newest.bytes),
            "Checkpoints failed": _number(newest.failed),
            "Failures": _number(job.failures),
            "Dropped as late": _number(job.dropped),
            "Heap in use": f"{status.heap_share:.0%}",
            "Python worker, MB": _number(round(job.worker_memory_mb)),
        }
        if job.store_whole_from:
            faults.append(f"Its store has lost what was before {second(iso(job.store_whole_from * 60))}.")
        if job.failure:
            failure = f"It failed last at {second(iso(job.failed))}: {job.failure}"
    return _page(
        f"Stream {record.name}",
        record=record,
        status=status,
        state=job.job.state if job else "not known to Flink",
        is_well=job is not None and job.job.state == "RUNNING" and job.job.complete,
        failure=failure,
        faults=faults,
        figures=figures,
        with_report=with_report,
    )


def report_alone(dag_id: str) -> str:
    """The page of a stream that is no job of Flink, and writes a page of its own."""
    return _page(f"Stream of {dag_id}", with_report=True)


def no_report(dag_id: str) -> str:
    """The page where a stream has written no report."""
    return _page(
        f"There is no report of {dag_id} yet", texts=["It is written as the stream goes on, if it writes one."]
    )


def none_yet(dag_id: str) -> str:
    """The page of a stream that was never started."""
    return _page(f"There is no stream of {dag_id} yet", texts=[Markup("The DAG's task <code>ensure</code> starts it.")])


def of_none(dag_id: str) -> str:
    """The page of a DAG that keeps no stream running: a plugin's tabs are on every DAG."""
    return _page(f"{dag_id} keeps no stream running", texts=[_OF_NONE])


def broken(record: JobRecord, words: str) -> str:
    """The page where Flink does not answer."""
    return _page(f"Stream {record.name}", faults=words.splitlines())


def _page(title: str, **values: Any) -> str:
    nothing: dict[str, Any] = {"status": None, "failure": "", "faults": [], "texts": [], "with_report": False}
    return render("stream.html", title=title, again_s=_AGAIN_S, **nothing | values)


def _number(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"
