"""The page of a batch of predictions: by which model, how many, and how they are spread; one HTML file, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { --new: #2563eb; --line: #e5e7eb; --ink: #1f2937; --dim: #6b7280; }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); margin: 2rem auto;
  max-width: 760px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .3rem 1rem .3rem 0; }
th { font-weight: 600; } td { border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
svg { display: block; } svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
"""
_PLOT = (720, 200)
_ROWS = {
    "model": "Model",
    "version": "Version",
    "asked": "Asked for",
    "interval_start": "From",
    "interval_end": "Up to, not including",
    "rows": "Rows",
    "days": "Days",
    "mean": "Mean prediction",
    "p5": "5 of 100 are below",
    "p50": "Median",
    "p95": "95 of 100 are below",
    "model_digest": "Digest of the model",
    "digest": "Digest of the files",
}


def page(told: Mapping[str, Any]) -> str:
    """Renders `summary.json`.

    Args:
      told: What is in it: the rows of the table above, and `edges` and `counts` of the histogram.

    Returns:
      A whole HTML document.
    """
    title = f"Predictions of {told['interval_start'][:10]} to {told['interval_end'][:10]}"
    shown = {name: "none" if told[name] is None else told[name] for name in _ROWS}
    rows = "\n".join(f"<tr><th>{words}</th><td>{escape(str(shown[name]))}</td></tr>" for name, words in _ROWS.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<table>
{rows}
</table>
<h2>How the predictions are spread</h2>
{_histogram(told["edges"], told["counts"])}
</body></html>
"""


def _histogram(edges: Sequence[float], counts: Sequence[int]) -> str:
    width, height = _PLOT
    highest, step = max(*counts, 1), width / len(counts)
    bars = []
    for place, count in enumerate(counts):
        tall = height * count / highest
        words = f"{edges[place]:g} to {edges[place + 1]:g}: {count} rows"
        bars.append(
            f'<rect x="{place * step + 1:.1f}" y="{height - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" '
            f'fill="var(--new)"><title>{words}</title></rect>'
        )
    for place in range(0, len(edges), 4):
        anchor = "start" if not place else "end" if place == len(edges) - 1 else "middle"
        bars.append(f'<text x="{place * step:.1f}" y="{height + 16}" text-anchor="{anchor}">{edges[place]:g}</text>')
    box = f'viewBox="0 0 {width} {height + 22}" width="100%"'
    return f'<svg {box} role="img" aria-label="rows by prediction">{"".join(bars)}</svg>'
