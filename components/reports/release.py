"""The page that a person opens to see how a release went: one HTML file with its plots as SVG, no script."""

from __future__ import annotations

import itertools
from html import escape

from airtight.rollout.arm_metrics import BINS, Arm, Counts
from airtight.rollout.comparisons import ALPHA, Comparison
from airtight.rollout.state import SHADOW
from components.reports.style import STYLE

_OWN_STYLE = """
body { max-width: 1000px; }
tr.fails td:first-child { border-left: 4px solid var(--bad); } tr.fails .mark { color: var(--bad); font-weight: 600; }
"""
_PLOT = (960, 220)
_BAR = (420, 22)
_LATENCIES = ("mean", "p50", "p99", "max")


def page(title: str, comparisons: tuple[Comparison, ...], outcome: str, counts: Counts) -> str:
    """Renders the report.

    Args:
      title: What it is about.
      comparisons: One for each rule.
      outcome: What was decided and why, one sentence.
      counts: What the router counted.

    Returns:
      A whole HTML document.
    """
    rules = "\n".join(map(_rule, comparisons))
    arms = (counts.stable, counts.candidate)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}{_OWN_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="said">{escape(outcome)}</p>
<p>Grey is the <span class="old">stable</span> version {counts.stable.version}, blue the
<span class="new">candidate</span> {counts.candidate.version}; mode {escape(counts.mode)}, share {counts.share:.1%}.</p>
<h2>Rules</h2>
<table><thead><tr><th>rule</th><th class="n">stable</th><th class="n">candidate</th><th class="n">difference</th>
<th class="n">from</th><th class="n">to</th><th class="n">margin</th><th class="n">requests needed</th><th></th></tr>
</thead><tbody>
{rules}
</tbody></table>
<p class="dim">The candidate takes over when every difference certainly ({1 - ALPHA:.0%}, the bound "to") is within its
margin; it is taken back when one certainly (all rules together err in {ALPHA:.0%} at most, the bound "from") is not.
Bounds hold however often they are looked at. The unit is the request, in split mode the caller; a batch of rows is one
request. The rules compare sameness and not quality: which version is right more often, live requests do not tell.
Requests needed are those to both versions until the rule holds, if the candidate is as good as the stable version.</p>
<h2>Requests</h2>
<table><thead><tr><th>version</th><th class="n">requests</th><th class="n">failed</th><th class="n">refused</th>
<th class="n">unserved</th><th class="n">answers by status</th><th class="n">numbers</th>
<th class="n">mean number</th></tr></thead><tbody>
{_counted("stable", arms[0], counts)}
{_counted("candidate", arms[1], counts)}
</tbody></table>
{_pairs(counts)}
<h2>Latency, milliseconds</h2>
<table><thead><tr><th></th><th>stable, candidate</th></tr></thead><tbody>
{"".join(_latency(name, arms) for name in _LATENCIES)}
</tbody></table>
<h2>Answers</h2>
{_histograms(counts)}
<p class="dim">Share of each version's answers by their numbers, in bins of {(counts.high - counts.low) / BINS:.4g};
{_units(counts)}an answer counts 1, however
many rows it has. A request failed when its answer was 5xx or none; refused is 4xx; unserved is one that found no
server with the version, and was answered by what is served. Bars tell their bin when pointed at.</p>
</body></html>
"""


def _rule(rule: Comparison) -> str:
    standing = "holds" if rule.holds else "fails" if rule.worse else "open"
    mark = f"{standing}{'' if rule.decides else ', does not decide'}"
    figures = (rule.stable, rule.candidate, rule.difference, rule.lower, rule.upper, rule.margin)
    needed = "" if rule.more is None else f"{rule.more:,.0f}"
    cells = "".join(f'<td class="n">{cell}</td>' for cell in (*map(_figure, figures), needed))
    return f'<tr class="{standing}"><td>{escape(rule.name)}</td>{cells}<td class="mark">{mark}</td></tr>'


def _units(counts: Counts) -> str:
    if (counts.low, counts.high) == (0, 1):
        return ""
    return f"rules compare numbers in units of the range from {counts.low:.4g} to {counts.high:.4g}; "


def _number(counts: Counts, place: float | None) -> float | None:
    """A number of the model's own by its place in the range."""
    return None if place is None else counts.low + place * (counts.high - counts.low)


def _counted(name: str, arm: Arm, counts: Counts) -> str:
    codes = ", ".join(f"{code}: {count}" for code, count in sorted(arm.codes.items()))
    cells = (arm.requests, arm.failed, arm.refused, arm.unserved, codes or "none", arm.numbers)
    texts = (*map(str, cells), _figure(_number(counts, arm.mean)))
    return f"<tr><td>{name}</td>" + "".join(f'<td class="n">{escape(text)}</td>' for text in texts) + "</tr>"


def _pairs(counts: Counts) -> str:
    pairs = counts.pairs
    if counts.mode != SHADOW:
        return ""
    largest = None if pairs.largest_difference is None else pairs.largest_difference * (counts.high - counts.low)
    return (
        f"<p>{pairs.differing} of {pairs.count} requests that both answered were answered otherwise, by at most "
        f"{_figure(largest)}; {pairs.dropped} were not asked of the candidate, because too many were under way.</p>"
    )


def _latency(name: str, arms: tuple[Arm, Arm]) -> str:
    """Two bars, one under the other, as long as the figures."""
    width, height = _BAR
    figures = [arm.latency_ms.get(name) for arm in arms]
    highest = max((figure for figure in figures if figure is not None), default=0.0) or 1.0
    bars = []
    for place, (figure, colour) in enumerate(zip(figures, ("--old", "--new"), strict=True)):
        y = place * (height + 2)
        wide = width * (figure or 0.0) / highest
        bars.append(f'<rect x="0" y="{y}" width="{wide:.1f}" height="{height}" fill="var({colour})"/>')
        bars.append(f'<text x="{wide + 6:.1f}" y="{y + 15}">{_figure(figure)}</text>')
    box = f'width="{width + 80}" height="{2 * height + 2}"'
    return f'<tr><td>{name}</td><td><svg {box} role="img" aria-label="{name}">{"".join(bars)}</svg></td></tr>'


def _histograms(counts: Counts) -> str:
    """Two bars for each bin, side by side."""
    arms = (counts.stable, counts.candidate)
    if not any(arm.numbers for arm in arms):
        return "<p>No answer held a number.</p>"
    width, height = _PLOT
    both = [_shares(arm) for arm in arms]
    highest = max(map(max, both)) or 1.0
    edges = [counts.low + place / BINS * (counts.high - counts.low) for place in range(BINS + 1)]
    names = [f"{edge:.3g} to {following:.3g}" for edge, following in itertools.pairwise(edges)]
    names += [f"above {counts.high:.3g}", f"below {counts.low:.3g}", "no finite number"]
    step = width / len(names)
    drawn = []
    for place, name in enumerate(names):
        title = f"<title>{name}: {both[0][place]:.1%} and {both[1][place]:.1%}</title>"
        for values, colour, shift in ((both[0], "--old", 0.08), (both[1], "--new", 0.5)):
            tall = height * float(values[place]) / highest
            drawn.append(
                f'<rect x="{(place + shift) * step:.1f}" y="{height - tall:.1f}" width="{step * 0.4:.1f}" '
                f'height="{tall:.1f}" fill="var({colour})">{title}</rect>'
            )
    for place in range(0, BINS + 1, 4):
        drawn.append(f'<text x="{place * step:.1f}" y="{height + 15}">{edges[place]:.3g}</text>')
    drawn.append(f'<text x="{BINS * step:.1f}" y="{height + 15}" dx="6">others</text>')
    drawn.append(f'<text x="0" y="11">{highest:.0%}</text>')
    box = f'viewBox="0 0 {width} {height + 20}" width="100%"'
    return f'<svg {box} role="img" aria-label="answers of both versions">{"".join(drawn)}</svg>'


def _shares(arm: Arm) -> list[float]:
    """Of an arm's answers, by kind of number: the bins, above 1, below 0, none."""
    answers = sum(arm.kinds) or 1.0
    none, below, *others = (total / answers for total in arm.kinds)
    return [*others, below, none]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
