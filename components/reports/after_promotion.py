"""The page of a promotion's first days: what the version lost more than the former champion; one HTML file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from airtight.watch.after_promotion import LEAST_DAYS, PairedDay, Settings, bound
from components.reports.pictures import GREY, picture, titled
from components.reports.style import STYLE

_OWN_STYLE = "body { max-width: 900px; } table { width: auto; }"


def page(record: Mapping[str, Any], pairs: Sequence[PairedDay], settings: Settings) -> str:
    """Renders what was decided.

    Args:
      record: `outcome.json`.
      pairs: Ripe days of both versions.
      settings: How long and how surely.

    Returns:
      A whole HTML document.
    """
    title = f"Version {record['version']} of {record['model']} after its promotion"
    pairs = sorted((pair for pair in pairs if pair.rows), key=lambda pair: pair.day)[: settings.days]
    rows = "".join(
        f'<tr><td>{pair.day}</td><td class="n">{pair.rows:,}</td><td class="n">{pair.difference:+.4g}</td></tr>'
        for pair in pairs
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}{_OWN_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="said">{escape(record["reason"])}</p>
<p>It took over at {escape(record["took_over_at"] or "no known time")}; the former champion is
{record["former"] or "none"}. It goes back when it surely loses more than {settings.margin:g} a row, with an error of
{settings.error:g} over all looks, and stays after {settings.days} ripe days.</p>
{_plot(pairs, settings, record["metric"]) if pairs else ""}
<table><tr><th>ripe day</th><th class="n">rows of both</th>
<th class="n">loss more a row ({escape(record["metric"])})</th></tr>{rows}</table>
</body></html>
"""


def _plot(pairs: Sequence[PairedDay], settings: Settings, metric: str) -> str:
    figure = Figure(figsize=(8.5, 3), layout="constrained")
    axes = figure.subplots()
    at = np.array([pair.day for pair in pairs], "datetime64[D]")
    bounds = [bound(pairs[:count], settings) for count in range(1, len(pairs) + 1)]
    axes.bar(at, [pair.difference for pair in pairs], color=GREY, label="of the day")
    axes.plot(at, [mean for mean, _ in bounds], "o-", color="#1f5fa8", label="mean so far")
    if len(pairs) >= LEAST_DAYS:
        lower = list(itertools.islice((low for _, low in bounds), LEAST_DAYS - 1, None))
        axes.plot(at[LEAST_DAYS - 1 :], lower, "v-", color="#b91c1c", label="surely more than")
    axes.axhline(settings.margin, color="black", lw=0.8)
    titled(axes, "Loss of the version less that of the former champion", "", metric)
    return picture(figure, "difference of the losses by day")
