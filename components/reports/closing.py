"""The page of a closed interval of a stream: whether it equals the batch, and where not; one HTML file, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from airtight.verdict import Check, Verdict

_STYLE = """
:root { color-scheme: light dark; --line: #d1d5db; --dim: #6b7280; --bad: #b91c1c; --good: #15803d; }
@media (prefers-color-scheme: dark) { :root { --line: #374151; --dim: #9ca3af; --bad: #f87171; --good: #4ade80; } }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1000px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.dim { color: var(--dim); } .bad { color: var(--bad); font-weight: 600; }
.good { color: var(--good); font-weight: 600; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .6rem; }
td { border-top: 1px solid var(--line); font-variant-numeric: tabular-nums; }
"""


def page(verdict: Verdict, figures: Mapping[str, Any], differing: Sequence[Mapping[str, Any]]) -> str:
    """Renders the report.

    Args:
      verdict: The rules.
      figures: `rows`, `missing`, `extra`, `differing`, `hours`, `behind_minutes`.
      differing: The first rows that differ.

    Returns:
      A whole HTML document.
    """
    outcome = '<span class="good">equal</span>' if verdict.passed else '<span class="bad">not equal</span>'
    rules = "".join(map(_rule, verdict.checks))
    title = f"Stream and batch, {verdict.interval}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>The stream is {outcome} to the batch: {figures["rows"]:,} rows, {figures["missing"]:,} missing, {figures["extra"]:,}
extra, {figures["differing"]:,} different. <span class="dim">{figures["hours"]} hours,
the stream's watermark is {figures["behind_minutes"]} minutes before their end. A row is one key and minute; windows
are sums of these.</span></p>
<h2>Rules</h2>
<table><tr><th>Rule</th><th>Holds</th><th>Value</th><th>Allowed</th><th></th></tr>{rules}</table>
{_rows(differing)}
</body></html>
"""


def _rule(check: Check) -> str:
    mark = '<span class="good">yes</span>' if check.passed else '<span class="bad">no</span>'
    value = "" if check.value is None else f"{check.value:g}"
    return (
        f"<tr><td>{escape(check.name)}</td><td>{mark}</td><td>{value}</td><td>{escape(check.threshold)}</td>"
        f'<td class="dim">{escape(check.note)}</td></tr>'
    )


def _rows(differing: Sequence[Mapping[str, Any]]) -> str:
    if not differing:
        return ""
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in differing[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape('' if v is None else str(v))}</td>" for v in row.values()) + "</tr>"
        for row in differing
    )
    return f"<h2>The first that differ</h2>\n<table><tr>{head}</tr>{body}</table>"
