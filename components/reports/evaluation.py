"""The evaluation as one HTML file that needs nothing else: verdict, intervals, curves, table by slice."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from airtight.files import write_text
from airtight.verdict import Check, Verdict
from components.measures.comparison import Comparison
from components.measures.evaluation_rows import EvaluationRows
from components.measures.paired import CONFIDENCE
from components.measures.slices import CANDIDATE, CHAMPION, COUNT, MEAN_LABEL, Figures, Slice
from components.reports.pictures import GREY, GRID, picture
from components.tasks import Task

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #1c2430; margin: 2rem auto; max-width: 72rem;
  padding: 0 1.5rem; }}
h1 {{ font-size: 1.5rem; margin-bottom: .2rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
.verdict {{ padding: .8rem 1rem; border-radius: 6px; background: {background}; font-weight: 600; }}
table {{ border-collapse: collapse; margin-top: .6rem; }}
th, td {{ padding: .25rem .7rem; border-bottom: 1px solid #dfe4ea; text-align: left; }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
tr.all td {{ font-weight: 600; }} .champion {{ color: #a2611a; }} .bad {{ color: #a8231f; }} .good {{ color: #1d7a3d; }}
.warn {{ color: #9a6a00; }} img {{ max-width: 100%; }} p.small {{ color: #5a6573; font-size: .9rem; }}
</style></head><body><h1>{title}</h1><p class="small">{interval}</p><p class="verdict">{summary}</p>
<h2>What was checked</h2>{checks}{rest}</body></html>
"""


def write(
    path: Path,
    verdict: Verdict,
    rows: EvaluationRows,
    predictions: Mapping[str, np.ndarray],
    figures: Mapping[str, Figures],
    comparisons: Sequence[Comparison],
    champion: str = "",
) -> None:
    """Writes the report, atomically.

    Args:
      path: The HTML file.
      verdict: What was decided.
      rows: What was predicted.
      predictions: By model, [rows] or [rows, outputs]; empty where nothing could be measured.
      figures: By model and slice, of the same models.
      comparisons: With the champions and the baseline.
      champion: As which version the champion served; empty where that is not known.
    """
    rest = ""
    if champion:
        rest += f"<p>The champion, {html.escape(champion)}, is what served when the interval began.</p>"
    if comparisons:
        rest += f"<h2>Gain over the other models, on the same rows</h2>{_intervals(rows.task, comparisons)}"
    if figures:
        rest += f"<h2>Predictions over all rows</h2>{rows.task.report(rows, predictions)}"
        rest += f"<h2>Quality by slice</h2>{_slices(rows.task, figures)}"
    page = _PAGE.format(
        title=f"Evaluation: {'blessed' if verdict.passed else 'not blessed'}",
        background="#e2f3e6" if verdict.passed else "#fbe5e3",
        interval=html.escape(f"Data interval {verdict.interval}"),
        summary=html.escape(str(verdict)),
        checks=_checks(verdict.checks),
        rest=rest,
    )
    write_text(path, page)


def _intervals(task: Task, comparisons: Sequence[Comparison]) -> str:
    """One panel for each metric: the gain over each model with its bounds, and what the lower one must reach."""
    metrics = list(dict.fromkeys(compared.metric for compared in comparisons))
    rows = max(sum(compared.metric == metric for compared in comparisons) for metric in metrics)
    figure = Figure(figsize=(13, 1.1 + 0.42 * rows), layout="constrained")
    for panel, metric in zip(np.atleast_1d(figure.subplots(1, len(metrics))), metrics, strict=True):
        shown = [compared for compared in comparisons if compared.metric == metric]
        panel.axvline(0, color=GREY, lw=1, ls="--")
        for place, compared in enumerate(shown):
            panel.plot([compared.required] * 2, [place - 0.35, place + 0.35], color="#1c2430", lw=2)
            if compared.interval is not None:
                color = "#1d7a3d" if compared.passed else "#a8231f"
                panel.plot([compared.interval.lower, compared.interval.upper], [place] * 2, color=color, lw=2)
                panel.plot(compared.interval.gain, place, "o", color=color, ms=6)
        panel.set(title=f"gain in {task.metrics[metric].title}", ylim=(len(shown) - 0.4, -0.6))
        panel.set_yticks(range(len(shown)), [compared.other for compared in shown])
        panel.grid(axis="x", color=GRID, lw=0.6)
    note = (
        "<p class=small>Right of 0 the candidate is better. A dot is the gain, its line reaches from the lower to the "
        f"upper one-sided {CONFIDENCE:.0%} bound ({html.escape(comparisons[0].blocks)}), and the black mark is what "
        "the lower bound must reach (for the baseline beside a champion, the upper one).</p>"
    )
    return f"{note}{picture(figure, 'Gains with their intervals')}"


def _checks(checks: tuple[Check, ...]) -> str:
    head = (
        "<tr><th></th><th>check</th><th class=n>measured</th><th>bound</th><th class=n>compared with</th><th></th></tr>"
    )
    rows = []
    for check in checks:
        mark, css = ("holds", "good") if check.passed else ("fails", "bad")
        if not check.passed and check.severity == "warning":
            mark, css = "warns", "warn"
        cells = (
            f"<td class={css}>{mark}</td><td>{html.escape(check.name)}</td><td class=n>{_number(check.value)}</td>"
            f"<td>{html.escape(check.threshold)}</td><td class=n>{_number(check.baseline)}</td>"
            f"<td>{html.escape(check.note)}</td>"
        )
        rows.append(f"<tr>{cells}</tr>")
    return f"<table>{head}{''.join(rows)}</table>"


def _slices(task: Task, figures: Mapping[str, Figures]) -> str:
    models = [model for model in (CANDIDATE, CHAMPION) if model in figures]
    titles = {name: metric.title for name, metric in task.metrics.items()}
    titles |= {name: title for name, (title, _) in task.figures.items()}
    # What is of the rows alone is the same of every model.
    of_rows = [name for name in titles if name.endswith(MEAN_LABEL)]
    head = "<th>slice</th><th class=n>rows</th>"
    head += "".join(f"<th class=n>{html.escape(titles.pop(name))}</th>" for name in of_rows)
    for title in titles.values():
        head += f"<th class=n>{html.escape(title)}</th>"
        head += "<th class='n champion'>champion</th>" if len(models) > 1 else ""
    lines = []
    for key in sorted(figures[CANDIDATE], key=lambda key: (len(key), key)):
        own = figures[CANDIDATE][key]
        cells = f"<td>{html.escape(_words(key))}</td><td class=n>{own[COUNT]:,.0f}</td>"
        cells += "".join(f"<td class=n>{_number(own[name], 3)}</td>" for name in of_rows)
        for name in titles:
            for model in models:
                css = "n champion" if model == CHAMPION else "n"
                cells += f"<td class='{css}'>{_number(figures[model][key][name])}</td>"
        lines.append(f"<tr class={'all' if not key else 'slice'}>{cells}</tr>")
    note = "<p class=small>A dash: not defined, as for one class alone.</p>"
    return f"{note}<table><tr>{head}</tr>{''.join(lines)}</table>"


def _words(key: Slice) -> str:
    return ", ".join(f"{column} {value or '(missing)'}" for column, value in key) or "all rows"


def _number(value: float | None, digits: int = 4) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.{digits}f}"
