"""The page of a batch of predictions: by which model, how many, and how they are spread; one HTML file, no script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from components.reports.style import STYLE

_OWN_STYLE = """
body { max-width: 760px; }
table { width: auto; } th, td { padding: .3rem 1rem .3rem 0; overflow-wrap: anywhere; } th { border: 0; }
"""
_PLOT = (720, 200)
_MOST_TEXTS = 50
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
    "not_finite": "Not finite",
    "model_digest": "Digest of the model",
    "digest": "Digest of the files",
}


def as_json(summary: Mapping[str, Any]) -> str:
    """The text of `summary.json`."""
    return json.dumps(summary, indent=1, allow_nan=False)


def page(summary: Mapping[str, Any]) -> str:
    """Renders `summary.json`.

    Args:
      summary: The rows of the table above, `edges` and `counts` of the histogram, with several labels `labels` with
        these of each, and `texts`: by output that is a text how often each is there.

    Returns:
      A whole HTML document.
    """
    title = f"Predictions of {summary['interval_start'][:10]} to {summary['interval_end'][:10]}"
    shown = {name: "none" if summary[name] is None else summary[name] for name in _ROWS}
    rows = "\n".join(f"<tr><th>{words}</th><td>{escape(str(shown[name]))}</td></tr>" for name, words in _ROWS.items())
    texts = "\n".join(_texts(name, counts, summary["rows"]) for name, counts in summary["texts"].items())
    by_label = {f" of {name}": own for name, own in summary.get("labels", {}).items()} or {"": summary}
    spreads = "\n".join(
        f"<h2>How the predictions{escape(name)} are spread</h2>\n{_histogram(own['edges'], own['counts'])}"
        for name, own in by_label.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}{_OWN_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<table>
{rows}
</table>
{spreads}
{texts}
</body></html>
"""


def _texts(output: str, counts: Mapping[str, int], rows: int) -> str:
    cells = [
        f"<tr><th>{escape(text)}</th><td>{count:,}</td><td>{count / rows:.1%}</td></tr>"
        for text, count in list(counts.items())[:_MOST_TEXTS]
    ]
    return f"<h2>{escape(output)}</h2><table>{''.join(cells)}</table>"


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
