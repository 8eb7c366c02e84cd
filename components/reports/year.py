"""A year of runs at a glance: one HTML file with its plots as SVG, no script, nothing fetched."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from components.modelling.metric_names import metrics_of

BLUE, ORANGE, GREY, RED = "#1f5fa8", "#c8781e", "#9aa5b1", "#a8231f"
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1c2430; margin: 2rem auto; max-width: 80rem; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.dim, .dim { color: #5a6573; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #dfe4ea; text-align: left; }
th { border-bottom: 2px solid #dfe4ea; vertical-align: bottom; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.yes { color: #1d7a3d; } .no { color: #a8231f; font-weight: 600; } .warn { color: #9a6a00; }
.scroll { overflow-x: auto; }
"""


@dataclass(frozen=True)
class Gate:
    """What a gate said.

    Args:
      passed: Whether it passed; None where it has not spoken.
      message: Its verdict in words.
    """

    passed: bool | None = None
    message: str = ""


class Gain(NamedTuple):
    """By how much the candidate is better than the champion, with its one-sided 95 % bounds."""

    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.lower:+.4f}, {self.upper:+.4f}]"


class Metric(NamedTuple):
    """One metric of the task on an interval.

    Args:
      title: What it is called.
      value: The candidate's.
      champion: The champion's; None where it was not measured.
      gain: The candidate's over that champion, as evaluate measured it; positive where the candidate is better.
    """

    title: str
    value: float
    champion: float | None = None
    gain: Gain | None = None


def measured(properties: Mapping[str, Any]) -> tuple[Metric, ...]:
    """The metrics of an evaluation.

    Args:
      properties: Its custom properties.
    """
    metrics = []
    for name, title in metrics_of(properties).items():
        gain = [properties[key] for end in ("", "_lower", "_upper") if (key := f"{name}_gain{end}") in properties]
        champion = properties.get(f"champion_{name}")
        known = Gain(*map(float, gain)) if len(gain) == len(Gain._fields) else None
        metrics.append(Metric(title, float(properties[name]), None if champion is None else float(champion), known))
    return tuple(metrics)


@dataclass(frozen=True)
class Month:
    """One interval's run. Figures that are not known are None.

    Args:
      name: The interval, short.
      run: The run's id.
      data: Which versions of the lake's tables were read.
      rows: Rows of the interval's main table.
      learned: Rows that the model learned from.
      gates: What each gate said, by its node's id, in order.
      version: Version that was pushed, 0 for none.
      took_over: Whether it serves its time; False where it was registered only, for a release or beside a promotion.
      refusal: Why nothing was pushed, in words; empty where it was.
      metrics: Its metrics on the interval, the first one foremost.
      champion: Version of the champion, which is what served when the interval began; 0 where that is not known.
      drift: Share of the features that drifted.
      drifted: Whether the drift report says so.
      seconds: What each node took, by id, in seconds; nothing for what the cache answered.
      warm: Whether the fit began with the champion's weights.
      digests: SHA-256 of what the run made, by name, to tell whether two runs made the same.
    """

    name: str
    run: str
    data: str = ""
    rows: int | None = None
    learned: int | None = None
    gates: dict[str, Gate] = field(default_factory=dict)
    version: int = 0
    took_over: bool = True
    refusal: str = ""
    metrics: tuple[Metric, ...] = ()
    champion: int = 0
    drift: float | None = None
    drifted: bool | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    warm: bool = False
    digests: dict[str, str] = field(default_factory=dict)

    def metric(self, title: str) -> Metric | None:
        """One of `metrics`, where it was measured."""
        return next((metric for metric in self.metrics if metric.title == title), None)


def page(title: str, months: Sequence[Month], more: str = "") -> str:
    """Renders the report.

    Args:
      title: What it is about.
      months: The runs, in the order of their intervals.
      more: HTML that is put before the table, such as a `comparison`.

    Returns:
      A whole HTML document.
    """
    pushed = sum(bool(month.version) for month in months)
    stopped = [month.name for month in months if any(gate.passed is False for gate in month.gates.values())]
    summary = f"Intervals: {len(months)}, models pushed: {pushed}"
    summary += f"; stopped by a gate: {', '.join(stopped)}" if stopped else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1><p>{escape(summary)}.</p>
{_plots(months) if months else ""}{more}
<h2>Interval by interval</h2><div class="scroll">{_table(months)}</div>
<p class="dim">The champion is the version that served when the interval began; both are measured on the interval
itself. The gain is positive where the candidate is better. Seconds are those of the nodes that ran; several ran side by
side.</p>
</body></html>
"""


_SECONDS = "train, s"


def _titles(months: Iterable[Month]) -> list[str]:
    """Of all metrics that were measured, the foremost first."""
    return list(dict.fromkeys(metric.title for month in months for metric in month.metrics))


def _figure(month: Month, name: str) -> float | None:
    if name == _SECONDS:
        return month.seconds.get("train")
    metric = month.metric(name)
    return metric.value if metric else None


def comparison(runs: Mapping[str, Sequence[Month]]) -> str:
    """Several pipelines side by side, interval by interval, as an HTML table.

    Args:
      runs: For each pipeline's name its runs. Means and sums are of the intervals of which all have the figure.
    """
    of = [{month.name: month for month in months} for months in runs.values()]
    names = sorted({name for months in of for name in months})
    head, rows = "<th>interval</th>", dict.fromkeys((*names, "mean", "sum"), "")
    for figure in (*_titles(month for months in runs.values() for month in months), _SECONDS):
        form = ",.0f" if figure == _SECONDS else ".4f"
        head += "".join(f"<th class=n>{figure}<br>{escape(name)}</th>" for name in runs)
        by_interval = {
            name: [_figure(months[name], figure) if name in months else None for months in of] for name in names
        }
        whole = [values for values in by_interval.values() if None not in values]
        columns = list(zip(*whole, strict=True)) or [()] * len(of)
        by_interval["mean"] = [sum(column) / len(column) if column else None for column in columns]
        by_interval["sum"] = [sum(column) if column and figure == _SECONDS else None for column in columns]
        for name, values in by_interval.items():
            rows[name] += "".join(_number(value, form) for value in values)
    lines = "".join(f"<tr><td>{escape(name)}</td>{cells}</tr>" for name, cells in rows.items())
    return f"""<h2>Side by side</h2><div class="scroll"><table><tr>{head}</tr>{lines}</table></div>
<p class="dim">Means and the sum are of the intervals for which every pipeline has the figure. Seconds are wall-clock:
runs that went side by side shared the machine.</p>"""


def _table(months: Sequence[Month]) -> str:
    gates, titles = list(dict.fromkeys(gate for month in months for gate in month.gates)), _titles(months)
    head = (
        "<th>interval</th><th class=n>rows</th><th class=n>learned<br>from</th>"
        + "".join(f"<th>{escape(gate)}</th>" for gate in gates)
        + "".join(
            f"<th class=n>{escape(title)}</th><th class=n>of the<br>champion</th><th class=n>gain<br>[95 % bounds]</th>"
            for title in titles
        )
        + "<th>champion</th><th class=n>drifted<br>features</th><th>pushed</th>"
        "<th class=n>node<br>seconds</th><th>data</th><th>run</th><th>why</th>"
    )
    rows = []
    for month in months:
        cells = [
            f"<td>{escape(month.name)}{' (warm)' * month.warm}</td>",
            _number(month.rows, ",d"),
            _number(month.learned, ",d"),
            *(_gate(month.gates.get(gate, Gate())) for gate in gates),
            *(_metric(month.metric(title)) for title in titles),
            f"<td>{month.champion or '-'}</td>",
            _number(month.drift, ".0%", "warn" if month.drifted else ""),
            f"<td>{month.version}{'' if month.took_over else ', registered only'}</td>"
            if month.version
            else f'<td class="dim">{escape(month.refusal or "no")}</td>',
            _number(sum(month.seconds.values()) or None, ",.0f"),
            f'<td class="dim">{escape(month.data)}</td>',
            f'<td class="dim"><small>{escape(month.run)}</small></td>',
            f'<td class="dim"><small>{escape(month.gates.get("evaluate", Gate()).message or "-")}</small></td>',
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _gate(gate: Gate) -> str:
    word, css = {True: ("passed", "yes"), False: ("stopped", "no"), None: ("-", "dim")}[gate.passed]
    return f'<td class="{css}" title="{escape(gate.message)}">{word}</td>'


def _metric(metric: Metric | None) -> str:
    value, champion, gain = (metric.value, metric.champion, metric.gain) if metric else (None, None, None)
    return f'{_number(value, ".4f")}{_number(champion, ".4f")}<td class="n">{gain or "-"}</td>'


def _number(value: float | None, form: str, css: str = "") -> str:
    return f'<td class="n {css}">{"-" if value is None else format(value, form)}</td>'


def _plots(months: Sequence[Month]) -> str:
    figure = Figure(figsize=(14, 8.4), layout="constrained")
    rows, quality, drift, time = figure.subplots(2, 2).flat
    places = range(len(months))
    rows.bar(places, [month.rows or 0 for month in months], color=BLUE)
    rows.set(title="Rows of the interval", ylim=(0, None))
    title = next(iter(_titles(months)), "quality")
    foremost = [month.metric(title) for month in months]
    _lines(quality, [metric.champion if metric else None for metric in foremost], ORANGE, "champion of then")
    _lines(quality, [metric.value if metric else None for metric in foremost], BLUE, "candidate")
    stopped = {place: m.value for place, m in enumerate(foremost) if m is not None and not months[place].version}
    quality.plot([*stopped], [*stopped.values()], "x", color=RED, ms=11, mew=2, label="not pushed")
    quality.set(title=f"{title} on the interval")
    quality.legend()
    colours = [ORANGE if month.drifted else GREY for month in months]
    drift.bar(places, [100 * (month.drift or 0) for month in months], color=colours)
    drift.set(title="Drifted features, per cent (orange: over the limit)", ylim=(0, 100))
    bottom = [0.0] * len(months)
    nodes = list(dict.fromkeys(node for month in months for node in month.seconds))
    for node in sorted(nodes, key=lambda node: -sum(month.seconds.get(node, 0) for month in months)):
        heights = [month.seconds.get(node, 0) for month in months]
        time.bar(places, heights, bottom=bottom, label=node)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    time.set(title="Seconds of each node")
    time.legend(fontsize=8, ncols=2)
    for axes in (rows, quality, drift, time):
        axes.set_xticks(places, [month.name for month in months], rotation=45, ha="right")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e7eb")
        axes.set_axisbelow(True)
        axes.yaxis.set_major_locator(MaxNLocator(6))
    return _svg(figure)


def _lines(axes: Axes, values: Sequence[float | None], colour: str, name: str) -> None:
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    axes.plot([place for place, _ in known], [value for _, value in known], marker="o", color=colour, label=name)


def _svg(figure: Figure) -> str:
    """The figure as an SVG element, the same bytes for the same figure."""
    buffer = io.StringIO()
    # Ids from the content instead of by chance.
    with mpl.rc_context({"svg.hashsalt": "airtight", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)
