"""The model card of a version as a page: one HTML file, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from components.reports.style import STYLE

_TEMPLATES = Path(__file__).with_name("templates")
_LONG = 300


def page(card: Mapping[str, Any]) -> str:
    """Renders a card.

    Args:
      card: As `commands.card_contents.contents` gathers it.

    Returns:
      A whole HTML document.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "count_of": count_of, "value": value, "digest": digest, "day": day}
    figures = sorted({name for day in card["quality_by_day"] for name in day["figures"]})
    return environment.get_template("model_card.html").render(card=card, figures_by_day=figures, style=STYLE)


def figure(number: float | None) -> str:
    """A number as people read it; a dash where there is none."""
    if number is None:
        return "-"
    return f"{number:,.0f}" if float(number).is_integer() and abs(number) > 1 else f"{number:.4f}"


def count_of(number: int | None) -> str:
    """How many there are."""
    return "-" if number is None else f"{number:,}"


def value(content: Any) -> str:
    """Any value of JSON, in one line."""
    if isinstance(content, dict):
        text = ", ".join(f"{name.replace('_', ' ')} {_inner(inner)}" for name, inner in sorted(content.items()))
    elif isinstance(content, list):
        text = ", ".join(map(_inner, content))
    else:
        text = "none" if content in ("", None) else str(content)
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


def _inner(content: Any) -> str:
    return f"({value(content)})" if isinstance(content, dict | list) else value(content)


def digest(text: str) -> str:
    """The beginning of a digest or a commit; the whole stands in the JSON."""
    if not text:
        return "not recorded"
    commit, dirty, _ = text.partition("-dirty")
    return f"{commit[:12]}{' with uncommitted changes' if dirty else ''}"


def day(instant: str) -> str:
    """An instant up to its minute."""
    return instant[:16].replace("T", " ") or "-"
