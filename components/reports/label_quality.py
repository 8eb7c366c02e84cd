"""The page of a model's quality by day, as far as labels have come: one HTML file with a plot, no script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from components.measures.paired import CONFIDENCE
from components.reports.pictures import GREY, picture, titled
from components.reports.style import STYLE
from components.tasks import Task
from components.watch.quality_days import RIPE, UNRIPE, DayQuality

_OWN_STYLE = "body { max-width: 1160px; } td.words { max-width: 360px; }"
_BLUE, _ORANGE, _RED = "#1f5fa8", "#c8781e", "#b91c1c"
_SHOWN_DAYS = 366


def summary(task: Task, days: Sequence[DayQuality]) -> str:
    """The newest ripe day, and what is open, in a sentence."""
    there = [day for day in days if day.rows]
    if not there:
        return "Not enough data: no prediction is known of any day."
    ripe = [day for day in sorted(there, key=lambda day: day.day) if day.state == RIPE]
    if not ripe:
        return (
            f"Not enough data: none of {len(there)} days is ripe; the last, {there[-1].day}, is {there[-1].in_words}."
        )
    last, (name, metric) = ripe[-1], next(iter(task.metrics.items()))
    value = (last.figures.get(name) or [None])[0]
    words = "is not defined" if value is None else f"{value:.4g}"
    open_days = [f"{day.day} {day.in_words}" for day in there if day.state != RIPE]
    rest = f" Open: {', '.join(open_days[-5:])}." if open_days else ""
    return f"The last ripe day is {last.day}: {metric.title} {words} over {last.labelled:,} labels.{rest}"


def page(model: str, task: Task, days: Sequence[DayQuality], known_by: str) -> str:
    """Renders the days.

    Args:
      model: The model's name.
      task: Of its labels.
      days: All that are known.
      known_by: Labels that were known before this instant count, ISO 8601.

    Returns:
      A whole HTML document.
    """
    days = sorted(days, key=lambda day: day.day)[-_SHOWN_DAYS:]
    titles = {name: metric.title for name, metric in task.metrics.items()}
    titles |= {name: title for name, (title, _) in task.figures.items()}
    plots = "\n".join(_plot(name, titles[name], days) for name in task.metrics)
    ripe = [day for day in days if day.state == RIPE]
    title = f"Quality of {model}, day by day"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}{_OWN_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="said">{escape(summary(task, days))}</p>
<p class="dim">By the labels that were known before {escape(known_by)}. Bars are the one-sided {CONFIDENCE:.0%} bounds
of a block bootstrap within the day. Hollow days are not ripe yet; orange is what was expected before labels came.</p>
{plots}
<h2>What became of the predictions</h2>
{_fates(days)}
<h2>Days</h2>
{_table(days, titles)}
<h2>Estimates without labels, against the truth later</h2>
{_errors(ripe, titles)}
{_slices(ripe[-1], titles) if ripe else ""}
</body></html>
"""


def _plot(name: str, title: str, days: Sequence[DayQuality]) -> str:
    figure = Figure(figsize=(10.5, 3), layout="constrained")
    axes = figure.subplots()
    for state, face in ((RIPE, _BLUE), ("ripening", "white")):
        shown = [(day, day.figures[name]) for day in days if day.state == state and _known(day, name)]
        if not shown:
            continue
        values = np.array([[np.nan if v is None else v for v in measured] for _, measured in shown], np.float64)
        spread = np.nan_to_num(np.abs(values[:, 1:] - values[:, :1]).T)
        axes.errorbar(
            _dates(day for day, _ in shown),
            values[:, 0],
            yerr=spread,
            fmt="o",
            ms=4,
            lw=1,
            color=_BLUE,
            mfc=face,
            label=state,
        )
    if estimated := [day for day in days if name in day.estimate]:
        expected = [day.estimate[name] for day in estimated]
        axes.plot(_dates(estimated), expected, color=_ORANGE, lw=1.2, label="estimate without labels")
    titled(axes, title, "", title)
    return picture(figure, f"{title} by day")


def _fates(days: Sequence[DayQuality]) -> str:
    there = [day for day in days if day.rows]
    if not there:
        return "<p>There are none.</p>"
    figure = Figure(figsize=(10.5, 2.2), layout="constrained")
    axes = figure.subplots()
    at, bottom = _dates(there), np.zeros(len(there))
    for name, colour in (
        ("labelled", _BLUE),
        ("pending", "#cfd8e3"),
        ("never", GREY),
        ("contradicted", _RED),
        ("early", _ORANGE),
    ):
        shares = np.array([getattr(day, name) / day.rows for day in there])
        if shares.any():
            axes.bar(at, shares, bottom=bottom, color=colour, width=0.9, label=name)
            bottom += shares
    titled(axes, "", "", "share of predictions")
    return picture(figure, "what became of the predictions by day")


def _table(days: Sequence[DayQuality], titles: Mapping[str, str]) -> str:
    head = "".join(f'<th class="n">{escape(title)}</th>' for title in titles.values())
    rows = []
    for day in reversed(days):
        figures = day.figures if day.state != UNRIPE else {}
        cells = "".join(f'<td class="n">{_value(figures.get(name))}</td>' for name in titles)
        reopened = f", reopened {day.reopened} times" if day.reopened else ""
        counts = "".join(f'<td class="n">{count:,}</td>' for count in (day.rows, day.labelled, day.pending, day.never))
        rows.append(
            f"<tr><td>{day.day}</td><td>{escape(day.in_words)}{reopened}</td>{counts}{cells}"
            f'<td class="words">{escape(" ".join(day.notes))}</td></tr>'
        )
    return (
        '<table><tr><th>day</th><th>state</th><th class="n">predictions</th><th class="n">labels</th>'
        f'<th class="n">pending</th><th class="n">never</th>{head}<th>notes</th></tr>{"".join(rows)}</table>'
    )


def _errors(ripe: Sequence[DayQuality], titles: Mapping[str, str]) -> str:
    rows = []
    for name, title in titles.items():
        pairs = [(day.estimate_error[name], day.figures[name][0] or 0.0) for day in ripe if name in day.estimate_error]
        if pairs:
            errors, truth = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
            cells = (len(errors), np.abs(errors).mean(), errors.mean(), truth.std())
            rows.append(f"<tr><td>{escape(title)}</td>{''.join(f'<td class=n>{cell:.4g}</td>' for cell in cells)}</tr>")
    if not rows:
        return "<p>None is known yet: an estimate is fitted on ripe days, and judged when its own day is ripe.</p>"
    return (
        "<table><tr><th>metric</th><th class=n>ripe days</th><th class=n>mean absolute error</th>"
        "<th class=n>mean error</th><th class=n>standard deviation of the truth by day</th></tr>"
        f"{''.join(rows)}</table>"
    )


def _slices(day: DayQuality, titles: Mapping[str, str]) -> str:
    parts = [*day.slices, *({**one, "slice": ["version", _version(one)]} for one in day.versions)]
    if not parts:
        return ""
    head = "".join(f'<th class="n">{escape(title)}</th>' for title in titles.values())
    rows = "".join(
        f"<tr><td>{escape(part['slice'][0])}</td><td>{escape(part['slice'][1] or '(missing)')}</td>"
        f'<td class="n">{part["rows"]:,}</td>'
        + "".join(f'<td class="n">{_value(part.get("figures", {}).get(name))}</td>' for name in titles)
        + "</tr>"
        for part in parts
    )
    return (
        f"<h2>Slices of {day.day}</h2><p class=dim>Intervals by {escape(day.blocks)}.</p><table><tr><th>column</th>"
        f'<th>value</th><th class="n">labels</th>{head}</tr>{rows}</table>'
    )


def _dates(days: Iterable[DayQuality]) -> np.ndarray:
    return np.array([day.day for day in days], "datetime64[D]")


def _version(row: Mapping[str, Any]) -> str:
    return f"{row['version']}{' (asked beside)' if row['beside'] else ''}"


def _known(day: DayQuality, name: str) -> bool:
    return (day.figures.get(name) or [None])[0] is not None


def _value(measured: Sequence[float | None] | None) -> str:
    """Value with its bounds."""
    if not measured or measured[0] is None:
        return "-"
    value, lower, upper = measured
    bounds = f" <small>[{lower:.4g}, {upper:.4g}]</small>" if lower is not None and upper is not None else ""
    return f"{value:.4g}{bounds}"
