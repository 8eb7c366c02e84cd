"""Our templates: what they have in common, and how numbers, instants and addresses are written."""

from __future__ import annotations

import functools
import math
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

_TEMPLATES = Path(__file__).with_name("templates")
_MINUTE, _HOUR = 60, 3600


def render(template: str, **values: Any) -> str:
    """A page, or a part of one, as HTML.

    Args:
      template: Name of the file.
      **values: What it shows; text is escaped.
    """
    return _environment().get_template(template).render(**values)


def to_dag(dag_id: str) -> str:
    """Address of a DAG's page, where its trigger form opens."""
    return f"/dags/{quote(dag_id, safe='')}"


def to_run(dag_id: str, run_id: str) -> str:
    """Address of our page of a run, within Airflow's UI."""
    return f"{to_dag(dag_id)}/runs/{quote(run_id, safe='')}/plugin/gates"


def to_report(dag_id: str, run_id: str, task_id: str) -> str:
    """Address of a task's report, within Airflow's UI."""
    return f"{to_dag(dag_id)}/runs/{quote(run_id, safe='')}/tasks/{quote(task_id, safe='')}/plugin/report"


def figure(number: float | None) -> str:
    """A number as people read it; a dash where there is none."""
    if number is None or not math.isfinite(number):
        return "-"
    if float(number).is_integer() and abs(number) >= 1:
        return f"{number:,.0f}"
    return f"{number:.4g}" if abs(number) < 1e-3 or abs(number) >= 1e4 else f"{number:.4f}"  # noqa: PLR2004


def duration(seconds: float) -> str:
    """A duration in the unit that fits it."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    return f"{seconds / _MINUTE:.1f} min" if seconds < _HOUR else f"{seconds / _HOUR:.1f} h"


def minute(instant: datetime | str) -> str:
    """An instant up to its minute; a dash where there is none."""
    text = instant.isoformat() if isinstance(instant, datetime) else instant
    return text[:16].replace("T", " ") or "-"


def second(instant: str) -> str:
    """An instant in UTC up to its second; words where there is none."""
    return instant[:19].replace("T", " ") or "none yet"


def run(run_id: str) -> str:
    """The beginning of a run's id: its kind and its day; an id of another form whole."""
    kind, _, day = run_id.partition("__")
    return f"{kind} {day[:10]}" if day else run_id


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "duration": duration, "minute": minute, "second": second, "run": run}
    environment.globals |= {"to_dag": to_dag, "to_run": to_run, "to_report": to_report}
    return environment
