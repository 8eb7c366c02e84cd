"""The page of skew: logged features beside recomputed ones, with examples; one HTML file, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from airtight.verdict import Verdict
from components.reports.style import STYLE
from components.watch.feature_skew import FeatureSkew

_OWN_STYLE = (
    "body { max-width: 1100px; } tr.bad td:first-child { font-weight: 600; color: var(--bad); }"
    " td small { color: var(--dim); display: block; } td.bar { width: 160px; }"
)
_BAR = 150


def page(record: Mapping[str, Any], verdict: Verdict, features: Sequence[FeatureSkew], limit: float) -> str:
    """Renders the comparison.

    Args:
      record: `skew.json`.
      verdict: What was decided.
      features: All of them.
      limit: Share of differing rows from which a feature is skewed.

    Returns:
      A whole HTML document.
    """
    title = f"Skew of {record['model']}: logged and recomputed features"
    ordered = sorted(features, key=lambda feature: (-feature.share, -feature.not_logged))
    rows = "\n".join(_row(feature, limit) for feature in ordered)
    examples = "\n".join(_examples(feature) for feature in ordered if feature.examples)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}{_OWN_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="said">{escape(verdict.reason)}</p>
<p class="dim">{record["logged"]:,} answered rows lie in the log of {escape(record["answered"])};
{record["sampled"]:,} were sampled, {record["compared"]:,} are among the recomputed ones. Numbers that differ by
{record["tolerance"]:g} of the larger of 1 and the recomputed value are the same.</p>
<table><tr><th>feature</th><th class="n">rows</th><th>share that differs</th><th class="n">mismatch</th>
<th class="n">missing</th><th class="n">extra</th><th class="n">not logged</th><th class="n">SMAPE</th></tr>
{rows}</table>
<p class="dim">Mismatch: both have another value. Missing: the request lacked a value that there is recomputed. Extra:
the request had one that there is not recomputed. SMAPE: mean of |a - b| / ((|a| + |b|) / 2) over rows where both have
a number.</p>
{examples}
</body></html>
"""


def _row(feature: FeatureSkew, limit: float) -> str:
    width = _BAR * feature.share
    colour = "var(--bad)" if feature.share > limit else "var(--new)"
    bar = f'<svg width="{_BAR}" height="12"><rect width="{width:.1f}" height="12" fill="{colour}"/></svg>'
    counts = (feature.mismatch, feature.missing, feature.extra, feature.not_logged)
    cells = "".join(f'<td class="n">{count:,}</td>' for count in counts)
    smape = f"{feature.smape:.3g}" if feature.feature.kind == "number" else ""
    return (
        f'<tr class="{"bad" if feature.share > limit else ""}"><td>{escape(feature.feature.name)}'
        f'<small>{escape(feature.feature.description)}</small></td><td class="n">{feature.rows:,}</td>'
        f'<td class="bar">{feature.share:.2%}{bar}</td>{cells}<td class="n">{smape}</td></tr>'
    )


def _examples(feature: FeatureSkew) -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(str(example[name]))}</td>" for name in _COLUMNS) + "</tr>"
        for example in feature.examples
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
    return f"<h2>{escape(feature.feature.name)}</h2><table><tr>{head}</tr>{rows}</table>"


_COLUMNS = ("key", "version", "time", "kind", "logged", "recomputed")
