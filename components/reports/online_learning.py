"""The page of models that learn as labels come: a figure by day, all models side by side; one HTML file, no script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from components.measures.scores import roc_auc

ROLLING_DAYS = 7
_COLOURS = ("#2563eb", "#c2410c", "#15803d", "#7c3aed")
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1f2937; margin: 2rem auto; max-width: 1160px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .25rem 1rem .25rem 0; }
th { font-weight: 600; } td { border-bottom: 1px solid #e5e7eb; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
p.dim { color: #6b7280; } svg { display: block; } svg text { font: 11px system-ui, sans-serif; fill: #6b7280; }
"""
_PLOT = (1120, 280)
_MARGIN, _TOP = 40, 12
_TICKS = 7


@dataclass(frozen=True)
class Figure:
    """What answers are judged by.

    Args:
      title: What the page calls it.
      short: Likewise, in the heads of columns.
      value: Of labels [rows] and answers [rows]; NaN where it is not defined.
      lowest: Where the curve's axis begins.
      highest: Where it ends; 0 is with the greatest value of a day.
    """

    title: str
    short: str
    value: Callable[[np.ndarray, np.ndarray], float]
    lowest: float = 0.0
    highest: float = 0.0


def mean_absolute_error(labels: np.ndarray, answers: np.ndarray) -> float:
    """In the label's unit; NaN of no rows."""
    return float(np.abs(labels - answers).mean()) if len(labels) else float("nan")


AUC = Figure("ROC AUC", "AUC", roc_auc, 0.4, 1.0)
ERROR = Figure("Mean absolute error", "MAE", mean_absolute_error)


def by_day(
    days: np.ndarray, labels: np.ndarray, scores: Mapping[str, np.ndarray], figure: Figure = AUC, rolling: int = 1
) -> list[tuple[str, int, dict[str, float]]]:
    """The figure of each day's rows, or of those of some days up to it.

    Args:
      days: ISO days, [rows].
      labels: As the figure wants them, [rows].
      scores: By model, [rows]; NaN where it gave no answer, and such rows do not count for it.
      figure: What answers are judged by.
      rolling: Of how many of the days that there are.

    Returns:
      For each day in order: the day, how many rows, and the figure by model, NaN where it is not defined.
    """
    order = np.argsort(days, kind="stable")
    there, first = np.unique(days[order], return_index=True)
    ends = [*first[1:].tolist(), len(order)]
    rows = []
    for number, day in enumerate(there.tolist()):
        part = order[first[max(0, number - rolling + 1)] : ends[number]]
        values = {}
        for name, answers in scores.items():
            given = part[~np.isnan(answers[part])]
            values[name] = figure.value(labels[given], answers[given])
        rows.append((day, len(part), values))
    return rows


def page(
    title: str,
    days: np.ndarray,
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    counts: Mapping[str, int],
    figure: Figure = AUC,
) -> str:
    """Renders the report.

    Args:
      title: What it is about.
      days: Local day of each prediction whose label came, ISO, [rows].
      labels: As the figure wants them, [rows].
      scores: What each model said, [rows]; NaN where it was not asked. All models of two or more have a figure of the
        rows that all answered, too.
      counts: What became of what was predicted, in words.
      figure: What answers are judged by.

    Returns:
      A whole HTML document.
    """
    single, week = by_day(days, labels, scores, figure), by_day(days, labels, scores, figure, ROLLING_DAYS)
    answered = {name: ~np.isnan(answers) for name, answers in scores.items()}
    common = np.logical_and.reduce([answered[name] for name in scores if answered[name].any()] or [labels < 0])
    whole = []
    for name, answers in scores.items():
        own = answered[name]
        on_all = figure.value(labels[common], answers[common]) if own.any() else float("nan")
        whole.append(
            f"<tr><td>{_mark(name, scores)} {escape(name)}</td><td class=n>{int(own.sum()):,}</td>"
            f"{_number(figure.value(labels[own], answers[own]))}{_number(on_all)}</tr>"
        )
    head = "".join(f"<th class=n>{escape(name)}</th>" for name in scores)
    rows = "\n".join(
        f"<tr><td>{escape(day)}</td><td class=n>{count:,}</td>{''.join(map(_number, values.values()))}</tr>"
        for day, count, values in single
    )
    fates = "".join(f"<tr><td>{escape(name)}</td><td class=n>{count:,}</td></tr>" for name, count in counts.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>Each row is predicted at its cut-off, by what was learned from the labels known then; it is learned from when its
own label comes.</p>
<h2>{figure.title} of the whole</h2>
<table><tr><th>model</th><th class=n>predictions with a label</th><th class=n>{figure.short}</th>
<th class=n>on the {int(common.sum()):,} rows that all answered</th></tr>{"".join(whole)}</table>
<h2>{figure.title} by day</h2>
{_plot(single, week, list(scores), figure)}
<p class="dim">Dots: the rows of a day. Lines: those of {ROLLING_DAYS} days, up to and with that day.</p>
<table><tr><th>day</th><th class=n>rows</th>{head}</tr>
{rows}</table>
<h2>What became of the rows</h2>
<table>{fates}</table>
</body></html>
"""


def _mark(name: str, names: Mapping[str, object] | Sequence[str]) -> str:
    return f'<span style="color:{_COLOURS[list(names).index(name) % len(_COLOURS)]}">&#9679;</span>'


def _number(value: float) -> str:
    return "<td class=n>-</td>" if np.isnan(value) else f"<td class=n>{value:.4f}</td>"


def _plot(
    single: Sequence[tuple[str, int, dict[str, float]]],
    week: Sequence[tuple[str, int, dict[str, float]]],
    names: Sequence[str],
    figure: Figure,
) -> str:
    if not single:
        return "<p>No label has come yet.</p>"
    width, height = _PLOT
    across = (width - _MARGIN - 10) / max(1, len(single) - 1)
    lowest = figure.lowest
    values = [value for _, _, by_model in single for value in by_model.values() if not np.isnan(value)]
    highest = figure.highest or max([*values, lowest + 1e-9])

    def place(number: int, value: float) -> tuple[float, float]:
        share = (min(max(value, lowest), highest) - lowest) / (highest - lowest)
        return _MARGIN + number * across, height - share * (height - _TOP)

    drawn = []
    for tick in np.linspace(lowest, highest, _TICKS).tolist():
        y = place(0, tick)[1]
        drawn.append(f'<line x1="{_MARGIN}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        drawn.append(f'<text x="0" y="{y + 4:.1f}">{tick:.3g}</text>')
    for number, name in enumerate(names):
        colour = _COLOURS[number % len(_COLOURS)]
        known = [(n, row) for n, row in enumerate(week) if not np.isnan(row[2][name])]
        points = " ".join("{:.1f},{:.1f}".format(*place(n, row[2][name])) for n, row in known)
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for n, (day, count, by_model) in enumerate(single):
            if not np.isnan(by_model[name]):
                x, y = place(n, by_model[name])
                words = f"{escape(name)}, {escape(day)}: {by_model[name]:.4f} of {count} rows"
                drawn.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}" fill-opacity=".45">'
                    f"<title>{words}</title></circle>"
                )
    for number, anchor in ((0, "start"), (len(single) - 1, "end"))[: len(single)]:
        x = place(number, 1)[0]
        drawn.append(f'<text x="{x:.1f}" y="{height + 16}" text-anchor="{anchor}">{escape(single[number][0])}</text>')
    box = f'viewBox="0 0 {width} {height + 22}" width="100%"'
    return f'<svg {box} role="img" aria-label="{figure.title} by day">{"".join(drawn)}</svg>'
