"""Plots as inline SVG: no script, nothing fetched; what a mark means shows when it is pointed at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

from markupsafe import Markup

WIDTH, _LEFT, _RIGHT, _TOP = 1180, 56, 8, 8
_MARKS = 3
"""Lines across a plot, at least."""
_FLAT = 1e-12


@dataclass(frozen=True)
class Point:
    """One value of a line or one bar.

    Args:
      x: Where it stands, in any unit that all points of a plot share.
      y: Its value; None, or one that is not finite, leaves a gap.
      title: What it says when pointed at.
      colour: Of the mark, a name of the page's style such as "blue"; "" for that of the line.
    """

    x: float
    y: float | None
    title: str
    colour: str = ""


@dataclass(frozen=True)
class Line:
    """A series of points that a line joins.

    Args:
      name: What the legend calls it.
      colour: A name of the page's style.
      points: In the order of x.
    """

    name: str
    colour: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Stretch:
    """Something that lasts from one x to another.

    Args:
      start: Its first x.
      end: Its last.
      text: Written into it where there is room.
      title: What it says when pointed at.
      colour: A name of the page's style.
    """

    start: float
    end: float
    text: str
    title: str
    colour: str = "blue"


def lines(series: Sequence[Line], ends: tuple[str, str], height: int = 190, *, marks: bool = True) -> Markup:
    """Lines over a common axis, with a legend.

    Args:
      series: The lines; one without a name is not in the legend, and has no marks.
      ends: What stands under the first x and under the last.
      height: In pixels.
      marks: Whether each point has a mark; otherwise those of the last line alone.
    """
    series = [replace(line, points=_finite(line.points)) for line in series]
    points = [point for line in series for point in line.points if point.y is not None]
    if not points:
        return Markup("")
    across, up, axis = _axes(points, ends, height)
    drawn = [axis]
    for line in series:
        for stretch in _unbroken(line.points):
            path = " ".join(f"{across(p.x):.1f},{up(p.y or 0.0):.1f}" for p in stretch)
            drawn.append(
                _mark("polyline", points=path, fill="none", stroke=f"var(--{line.colour})", stroke_width="1.6")
            )
        if not line.name or not (marks or line is series[-1]):
            continue
        radius = 3 if len(line.points) <= 60 else 1.6  # noqa: PLR2004 - a year of days would be a band.
        drawn += [
            _titled("circle", p.title, cx=across(p.x), cy=up(p.y), r=radius, fill=f"var(--{p.colour or line.colour})")
            for p in line.points
            if p.y is not None
        ]
    return _svg(drawn, height, [(line.name, line.colour) for line in series if line.name])


def bars(
    points: Sequence[Point], ends: tuple[str, str], legend: Sequence[tuple[str, str]], height: int = 130
) -> Markup:
    """Bars from 0, one for each point in order.

    Args:
      points: The bars; their x are counted from 0.
      ends: What stands under the first and the last.
      legend: Names and colours.
      height: In pixels.
    """
    if not points:
        return Markup("")
    points = _finite(points)
    across, up, axis = _axes([*points, Point(-0.5, 0, ""), Point(len(points) - 0.5, 0, "")], ends, height)
    wide = max(1.0, (across(1) - across(0)) * 0.8)
    drawn = [axis]
    for p in points:
        place, top = across(p.x) - wide / 2, up(p.y or 0.0)
        tall = max(up(0) - top, 0.0)
        drawn.append(
            _titled("rect", p.title, x=place, y=top, width=wide, height=tall, fill=f"var(--{p.colour or 'blue'})")
        )
    return _svg(drawn, height, legend)


def timeline(stretches: Sequence[Stretch], ends: tuple[str, str]) -> Markup:
    """Stretches of time in one row.

    Args:
      stretches: In their order; the first and the last bound the axis.
      ends: What stands under its two ends.
    """
    if not stretches:
        return Markup("")
    first, last = min(s.start for s in stretches), max(s.end for s in stretches)
    scale = (WIDTH - 2 * _RIGHT) / max(last - first, _FLAT)
    drawn = []
    for s in stretches:
        x, wide = _RIGHT + (s.start - first) * scale, max((s.end - s.start) * scale - 1, 1)
        drawn.append(_titled("rect", s.title, x=x, y=4, width=wide, height=24, rx=3, fill=f"var(--{s.colour})"))
        if wide > 7 * len(s.text):
            drawn.append(_text(x + 5, 20, s.text, style="fill:#fff"))
    drawn += [_text(_RIGHT, 44, ends[0]), _text(WIDTH - _RIGHT, 44, ends[1], text_anchor="end")]
    return _svg(drawn, 30, [])


def strip(colours: Sequence[tuple[str, str]], ends: tuple[str, str], legend: Sequence[tuple[str, str]]) -> Markup:
    """One narrow mark for each day, in their order.

    Args:
      colours: The colour of each mark, a name of the page's style, and what it says when pointed at.
      ends: What stands under the first and the last.
      legend: Names and colours.
    """
    wide = (WIDTH - 2 * _RIGHT) / max(len(colours), 1)
    drawn = [
        _titled("rect", title, x=_RIGHT + n * wide, y=4, width=max(wide * 0.9, 1.0), height=24, fill=f"var(--{colour})")
        for n, (colour, title) in enumerate(colours)
    ]
    drawn += [_text(_RIGHT, 44, ends[0]), _text(WIDTH - _RIGHT, 44, ends[1], text_anchor="end")]
    return _svg(drawn, 30, legend)


def _axes(
    points: Sequence[Point], ends: tuple[str, str], height: int
) -> tuple[Callable[[float], float], Callable[[float], float], str]:
    """Where an x and a y lie, and the axis."""
    values = [p.y for p in points if p.y is not None]
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = (0.0 if low == 0 else low - margin), high + margin
    first, last = min(p.x for p in points), max(p.x for p in points)

    def across(x: float) -> float:
        share = (x - first) / (last - first) if last > first else 0.5
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        return _TOP + (high - y) / (high - low) * (height - 2 * _TOP)

    marks = []
    for value in _round_values(low, high):
        marks.append(_mark("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=up(value), y2=up(value), stroke="var(--line)"))
        marks.append(_text(_LEFT - 6, up(value) + 4, f"{value:,.6g}", text_anchor="end"))
    marks += [_text(_LEFT, height + 12, ends[0]), _text(WIDTH - _RIGHT, height + 12, ends[1], text_anchor="end")]
    return across, up, "".join(marks)


def _round_values(low: float, high: float) -> list[float]:
    """Values between two bounds that people count in: multiples of 1, 2 or 5 times a power of ten."""
    widest = (high - low) / _MARKS
    power = 10.0 ** math.floor(math.log10(widest))
    # By rounding, the power itself may come out a little too high.
    step = next((power * factor for factor in (5, 2, 1) if power * factor <= widest), power / 2)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _finite(points: Sequence[Point]) -> list[Point]:
    """The points, with a gap in the place of a value that is not finite."""
    return [point if point.y is None or math.isfinite(point.y) else replace(point, y=None) for point in points]


def _unbroken(points: Sequence[Point]) -> list[list[Point]]:
    stretches: list[list[Point]] = [[]]
    for point in points:
        if point.y is None:
            stretches.append([])
        else:
            stretches[-1].append(point)
    return [stretch for stretch in stretches if len(stretch) > 1]


def _svg(drawn: Sequence[str], height: int, legend: Sequence[tuple[str, str]]) -> Markup:
    names = "".join(
        f'<span style="color:var(--{colour})">●</span> {escape(name)}&emsp;' for name, colour in legend if name
    )
    box = f'<svg viewBox="0 0 {WIDTH} {height + 18}" role="img">{"".join(drawn)}</svg>'
    return Markup(f'{box}<p class="dim">{names}</p>')


def _mark(name: str, **attributes: object) -> str:
    return f"<{name} {_attributes(attributes)}/>"


def _titled(name: str, title: str, **attributes: object) -> str:
    return f"<{name} {_attributes(attributes)}><title>{escape(title)}</title></{name}>"


def _text(x: float, y: float, text: str, **attributes: object) -> str:
    return f"<text {_attributes({'x': x, 'y': y, **attributes})}>{escape(text)}</text>"


def _attributes(attributes: dict[str, object]) -> str:
    """Numbers, and words of this module: nothing that comes from outside."""
    return " ".join(
        f'{name.replace("_", "-")}="{f"{value:.1f}" if isinstance(value, float) else value}"'
        for name, value in attributes.items()
    )
