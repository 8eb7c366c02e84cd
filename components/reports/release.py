"""The page that a person opens to see how a release went: one HTML file with its plots as SVG, no script."""

from __future__ import annotations

from html import escape

from airtight.rollout.arm_metrics import BINS, Counts, Side
from airtight.verdict import Check, Verdict
from components.measures.releases import shares
from components.reports.style import STYLE

_OWN_STYLE = """
body { max-width: 1000px; }
tr.fails td:first-child { border-left: 4px solid var(--bad); } tr.fails .mark { color: var(--bad); font-weight: 600; }
"""
_PLOT = (960, 220)
_BAR = (420, 22)
_LATENCIES = ("mean", "p50", "p99", "max")


def page(title: str, verdict: Verdict, outcome: str, counts: Counts) -> str:
    """Renders the report.

    Args:
      title: What it is about.
      verdict: The rules.
      outcome: What was decided and why, one sentence.
      counts: What the router counted.

    Returns:
      A whole HTML document.
    """
    rules = "\n".join(_rule(check) for check in verdict.checks)
    sides = (counts.stable, counts.candidate)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}{_OWN_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="said">{escape(outcome)}</p>
<p>Grey is the <span class="old">stable</span> version {counts.stable.version}, blue the
<span class="new">candidate</span> {counts.candidate.version}; mode {escape(counts.mode)}, share {counts.share:.1%}.</p>
<h2>Rules</h2>
<table><thead><tr><th>rule</th><th class="n">candidate</th><th class="n">stable</th><th class="n">bound</th>
<th></th></tr></thead><tbody>
{rules}
</tbody></table>
<h2>Requests</h2>
<table><thead><tr><th>side</th><th class="n">requests</th><th class="n">failed</th><th class="n">refused</th>
<th class="n">unserved</th><th class="n">answers by status</th><th class="n">numbers</th>
<th class="n">mean answer</th></tr></thead><tbody>
{_counted("stable", sides[0])}
{_counted("candidate", sides[1])}
</tbody></table>
<h2>Latency, milliseconds</h2>
<table><thead><tr><th></th><th>stable, candidate</th></tr></thead><tbody>
{"".join(_latency(name, sides) for name in _LATENCIES)}
</tbody></table>
<h2>Answers</h2>
{_histograms(sides)}
<p class="dim">Share of each side's numbers in bins of {1 / BINS:g}. A request failed when its answer was 5xx or none;
refused is 4xx; unserved is one that found no server with the version, and was answered by what is served. PSI, the
population stability index, sums (q - p) ln(q / p) over the bins: below 0.1 is little, above 0.25 much.
Bars tell their bin when pointed at.</p>
</body></html>
"""


def _rule(check: Check) -> str:
    fails = not check.passed
    return (
        f'<tr class="{"fails" if fails else "holds"}"><td>{escape(check.name)} '
        f'<span class="mark">{"fails" if fails else ""}</span></td>'
        f'<td class="n">{_figure(check.value)}</td><td class="n">{_figure(check.baseline)}</td>'
        f'<td class="n">{escape(check.threshold)}</td><td class="dim">{escape(check.note)}</td></tr>'
    )


def _counted(name: str, side: Side) -> str:
    codes = ", ".join(f"{code}: {count}" for code, count in sorted(side.codes.items()))
    cells = (side.requests, side.failed, side.refused, side.unserved, codes or "none", side.numbers, _figure(side.mean))
    return f"<tr><td>{name}</td>" + "".join(f'<td class="n">{escape(str(cell))}</td>' for cell in cells) + "</tr>"


def _latency(name: str, sides: tuple[Side, Side]) -> str:
    """Two bars, one under the other, as long as the figures."""
    width, height = _BAR
    figures = [side.latency_ms.get(name) for side in sides]
    highest = max((figure for figure in figures if figure is not None), default=0.0) or 1.0
    bars = []
    for place, (figure, colour) in enumerate(zip(figures, ("--old", "--new"), strict=True)):
        y = place * (height + 2)
        wide = width * (figure or 0.0) / highest
        bars.append(f'<rect x="0" y="{y}" width="{wide:.1f}" height="{height}" fill="var({colour})"/>')
        bars.append(f'<text x="{wide + 6:.1f}" y="{y + 15}">{_figure(figure)}</text>')
    box = f'width="{width + 80}" height="{2 * height + 2}"'
    return f'<tr><td>{name}</td><td><svg {box} role="img" aria-label="{name}">{"".join(bars)}</svg></td></tr>'


def _histograms(sides: tuple[Side, Side]) -> str:
    """Two bars for each bin, side by side."""
    if not any(side.numbers for side in sides):
        return "<p>No answer held a number.</p>"
    width, height = _PLOT
    both = [shares(side) for side in sides]
    highest = max(float(each.max()) for each in both) or 1.0
    names = [f"{place / BINS:.2f} to {(place + 1) / BINS:.2f}" for place in range(BINS)] + ["outside of 0 to 1"]
    step = width / len(names)
    drawn = []
    for place, name in enumerate(names):
        told = f"<title>{name}: {both[0][place]:.1%} and {both[1][place]:.1%}</title>"
        for values, colour, shift in ((both[0], "--old", 0.08), (both[1], "--new", 0.5)):
            tall = height * float(values[place]) / highest
            drawn.append(
                f'<rect x="{(place + shift) * step:.1f}" y="{height - tall:.1f}" width="{step * 0.4:.1f}" '
                f'height="{tall:.1f}" fill="var({colour})">{told}</rect>'
            )
    for place in range(0, BINS + 1, 4):
        drawn.append(f'<text x="{place * step:.1f}" y="{height + 15}">{place / BINS:.1f}</text>')
    drawn.append(f'<text x="{BINS * step:.1f}" y="{height + 15}" dx="6">others</text>')
    drawn.append(f'<text x="0" y="11">{highest:.0%}</text>')
    box = f'viewBox="0 0 {width} {height + 20}" width="100%"'
    return f'<svg {box} role="img" aria-label="answers of both sides">{"".join(drawn)}</svg>'


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
