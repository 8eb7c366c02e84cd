"""The page of a stream: what it is doing at this moment; one HTML file, no script, loaded again every ten seconds."""

from __future__ import annotations

from html import escape

from streaming.engine.job_records import JobRecord
from streaming.engine.stream_status import StreamStatus, iso

_AGAIN_S = 10
_REPORT = '<p><a href="stream/report">Its report</a></p>'
_STYLE = """
:root { color-scheme: light dark; --line: #d1d5db; --dim: #6b7280; --bad: #b91c1c; --good: #15803d; }
@media (prefers-color-scheme: dark) { :root { --line: #374151; --dim: #9ca3af; --bad: #f87171; --good: #4ade80; } }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 860px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.dim { color: var(--dim); }
.bad { color: var(--bad); font-weight: 600; } .good { color: var(--good); font-weight: 600; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem; margin: 1.5rem 0; }
dt { color: var(--dim); } dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: right; padding: .3rem .6rem; }
td:first-child, th:first-child { text-align: left; } td { border-top: 1px solid var(--line);
  font-variant-numeric: tabular-nums; } code { overflow-wrap: anywhere; }
"""


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
    state = job.job.state if job else "not known to Flink"
    is_well = job is not None and state == "RUNNING" and job.job.complete
    figures = {
        "Lag, messages": _number(status.lag),
        "Watermark": _when(status.watermark),
        **({"Dead letters": _number(status.dead_letters)} if record.dead_letters else {}),
    }
    failure = ""
    if job:
        newest = job.checkpoints
        figures |= {
            "Last checkpoint": _when(iso(newest.at) if newest.at else ""),
            "Its size, bytes": _number(newest.bytes),
            "Checkpoints failed": _number(newest.failed),
            "Failures": _number(job.failures),
            "Dropped as late": _number(job.dropped),
            "Heap in use": f"{status.heap_share:.0%}",
            "Python worker, MB": _number(round(job.worker_memory_mb)),
        }
        if job.store_whole_from:
            failure = f'<p class="bad">Its store has lost what was before {_when(iso(job.store_whole_from * 60))}</p>'
        if job.failure:
            failure += f'<p class="bad">It failed last at {_when(iso(job.failed))}: {escape(job.failure)}</p>'
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    rows = "".join(
        f"<tr><td>{escape(partition.topic)} {partition.number}</td><td>{_number(partition.lag)}</td>"
        f"<td>{_number(partition.committed)}</td><td>{_number(partition.end)}</td></tr>"
        for partition in status.partitions
    )
    away = f'<p class="bad">Of the broker: {escape(status.broker)}</p>' if status.broker else ""
    return _html(
        f"Stream {record.name}",
        f"""<p>It is <span class="{"good" if is_well else "bad"}">{escape(state)}</span>: job {escape(record.id)},
submitted {_when(record.submitted)}. The DAG <code>{escape(record.name)}_stream</code> keeps it running.
<span class="dim">As of {_when(status.at)}; all times are UTC, the watermark is event time.</span></p>
{failure}{away}{_REPORT if with_report else ""}
<dl>{shown}</dl>
<h2>Partitions</h2>
<table><tr><th>Partition</th><th>Lag</th><th>Committed offset</th><th>End</th></tr>{rows}</table>
<h2>Code</h2>
<p>Digest <code>{escape(record.code)}</code></p>""",
    )


def report_alone(dag_id: str) -> str:
    """The page of a stream that is no job of Flink, and writes a page of its own."""
    return _html(f"Stream of {dag_id}", _REPORT)


def no_report(dag_id: str) -> str:
    """The page where a stream has written no report."""
    return _html(f"There is no report of {dag_id} yet", "<p>It is written as the stream goes on, if it writes one.</p>")


def none_yet(dag_id: str) -> str:
    """The page of a stream that was never started."""
    return _html(f"There is no stream of {dag_id} yet", "<p>The DAG's task <code>ensure</code> starts it.</p>")


def of_none(dag_id: str) -> str:
    """The page of a DAG that keeps no stream running: a plugin's tabs are on every DAG."""
    text = (
        "This tab shows the stream that a DAG keeps running whose id ends with <code>_stream</code>. Airflow shows it "
        "on every DAG."
    )
    return _html(f"{dag_id} keeps no stream running", f"<p>{text}</p>")


def broken(record: JobRecord, words: str) -> str:
    """The page where Flink does not answer."""
    return _html(f"Stream {record.name}", f'<p class="bad">{escape(words)}</p>')


def _html(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{_AGAIN_S}">
<title>{escape(title)}</title>
<style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
{body}
</body></html>
"""


def _number(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _when(instant: str) -> str:
    return escape(instant.replace("T", " ").replace("+00:00", "")) or "none yet"
