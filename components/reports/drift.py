"""The page that a person opens to see what drifted: one HTML file with its plots as SVG, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from airtight.verdict import Check, Verdict
from components.measures.drift import Drift, in_words
from components.reports.style import STYLE

_OWN_STYLE = """
body { max-width: 1180px; }
tr.drifted td:first-child { border-left: 4px solid var(--warn); }
tr.drifted .mark { color: var(--warn); font-weight: 600; }
td small { color: var(--dim); display: block; max-width: 30rem; } td.name { min-width: 19rem; }
"""
_BAR_PLOT = (240, 46)
_LINE_PLOT = (1120, 200)
_MARGIN = 34


def page(
    title: str,
    verdict: Verdict,
    drifts: Sequence[Drift],
    means: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]],
    psi_limit: float,
) -> str:
    """Renders the report.

    Args:
      title: What it is about, with the interval.
      verdict: What was decided; a check with a feature's name is that feature's.
      drifts: Every aspect of every feature; shown with the largest drift first.
      means: By label its mean by day, (ISO day, mean), of "reference" and "interval".
      psi_limit: What the index may be beyond its noise.

    Returns:
      A whole HTML document.
    """
    of_feature = {check.name: check for check in verdict.checks}
    ordered = sorted(drifts, key=lambda drift: -drift.psi)
    rows = "\n".join(_row(drift, of_feature[drift.feature.name], psi_limit) for drift in ordered)
    compared = {drift.feature.name for drift in drifts}
    others = [check for name, check in of_feature.items() if name not in compared]
    overall = "\n".join(f"<li>{escape(str(check))}</li>" for check in others)
    lines = "\n".join(f"<h2>Mean of {escape(name)}, day by day</h2>\n{_lines(own)}" for name, own in means.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}{_OWN_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="said">{escape(str(verdict))}</p>
<ul>{overall}</ul>
<p>Grey is the <span class="old">reference</span> (the rows that the model trained on), blue the
<span class="new">interval</span>.</p>
{lines}
<h2>Features, the most drifted first</h2>
<table><thead><tr><th>feature</th><th>share of rows in each bin</th><th class="n">PSI</th><th class="n">bound</th>
<th class="n">other distances</th><th class="n">missing</th><th>new categories</th></tr></thead>
<tbody>
{rows}
</tbody></table>
<p class="dim">PSI, the population stability index, sums (q - p) ln(q / p) over the bins: tenths of the reference for a
number, the most frequent values for a category, and one bin for missing values; of a text by its length and its words,
of several categories in a cell by each and by how many, of a vector by its norm, of an image by its bytes. Below 0.1
is little, above 0.25 much. KS is the largest gap between the distribution functions, Wasserstein the mean distance in
standard deviations of the reference, Jensen-Shannon a distance from 0 to 1. The bars tell their bin when pointed at.
</p>
</body></html>
"""


def _row(drift: Drift, check: Check, psi_limit: float) -> str:
    feature = drift.feature
    unit = f" ({feature.unit})" if feature.unit else ""
    bound = f"&lt;= {psi_limit + drift.noise:.3g}"
    distances = drift.distances | ({"largest mean shift": drift.shift} if drift.feature.kind == "vector" else {})
    others = "<br>".join(f"{escape(name)} {value:.3f}" for name, value in distances.items())
    new = f"{escape(in_words(drift.new))} ({drift.new_share:.2%} of rows)" if drift.new else ""
    return f"""<tr class="{"steady" if check.passed else "drifted"}">
<td class="name">{escape(drift.name)} <span class="mark">{"" if check.passed else "drifted"}</span>
<small>{escape(feature.description)}{escape(unit)}</small></td>
<td>{_bars(drift)}</td><td class="n">{drift.psi:.3f}</td><td class="n">{bound}</td><td class="n">{others}</td>
<td class="n">{drift.missing[0]:.1%} → {drift.missing[1]:.1%}</td><td>{new}</td></tr>"""


def _bars(drift: Drift) -> str:
    """Two bars for each bin, side by side."""
    width, height = _BAR_PLOT
    highest = max(drift.reference.max(), drift.interval.max(), 1e-9)
    step = width / len(drift.bins)
    bars = []
    for place, (name, old, new) in enumerate(zip(drift.bins, drift.reference, drift.interval, strict=True)):
        tip = f"<title>{escape(name)}: {old:.1%} → {new:.1%}</title>"
        for share, colour, shift in ((old, "--old", 0.08), (new, "--new", 0.5)):
            tall = height * share / highest
            bars.append(
                f'<rect x="{(place + shift) * step:.1f}" y="{height - tall:.1f}" width="{step * 0.4:.1f}" '
                f'height="{tall:.1f}" fill="var({colour})">{tip}</rect>'
            )
    return f'<svg width="{width}" height="{height}" role="img" aria-label="shares by bin">{"".join(bars)}</svg>'


def _lines(means: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """The two series one after the other on one axis of days."""
    width, height = _LINE_PLOT
    days = sorted({day for series in means.values() for day, _ in series})
    if not days:
        return "<p>There is none: labels are no numbers, or rows have no time.</p>"
    values = [mean for series in means.values() for _, mean in series]
    lowest, highest = min(0.0, *values), max(0.0, *values)
    span = (highest - lowest) or 1.0

    def up(mean: float) -> float:
        return height - (mean - lowest) / span * (height - 10)

    shares = lowest == 0 and highest <= 1
    across = (width - _MARGIN) / max(1, len(days) - 1)
    place = {day: _MARGIN + number * across for number, day in enumerate(days)}
    drawn = []
    for part in (0.0, 0.5, 1.0):
        y = up(lowest + part * span)
        drawn.append(f'<line x1="{_MARGIN}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        drawn.append(f'<text x="0" y="{min(height, y + 4):.1f}">{_number(lowest + part * span, shares)}</text>')
    for series, colour in ((means.get("reference", []), "--old"), (means.get("interval", []), "--new")):
        points = " ".join(f"{place[day]:.1f},{up(mean):.1f}" for day, mean in series)
        drawn.append(f'<polyline points="{points}" fill="none" stroke="var({colour})" stroke-width="1.6"/>')
        if series:
            y = up(float(np.mean([mean for _, mean in series])))
            ends = f'x1="{place[series[0][0]]:.1f}" x2="{place[series[-1][0]]:.1f}" y1="{y:.1f}" y2="{y:.1f}"'
            drawn.append(f'<line {ends} stroke="var({colour})" stroke-dasharray="5 4"/>')
    for day in (days[0], days[-1]):
        anchor = "start" if day == days[0] else "end"
        drawn.append(f'<text x="{place[day]:.1f}" y="{height + 16}" text-anchor="{anchor}">{escape(day)}</text>')
    box = f'viewBox="0 0 {width} {height + 20}" width="100%"'
    return f'<svg {box} role="img" aria-label="mean of the label by day">{"".join(drawn)}</svg>'


def _number(value: float, shares: bool) -> str:
    return f"{value:.0%}" if shares else f"{value:.3g}"
