"""Pictures of models side by side in an evaluation's report, as elements of HTML that need nothing else."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.measures.slices import CANDIDATE, CHAMPION

NAMES = {CANDIDATE: "candidate", CHAMPION: "champion"}
COLOURS = {CANDIDATE: "#1f5fa8", CHAMPION: "#c8781e"}
GREY, GRID = "#b8c0c8", "#e6eaee"


def style(model: str) -> dict[str, Any]:
    """Colour and name of a model in a picture."""
    return {"color": COLOURS[model], "label": NAMES[model]}


def titled(axes: Axes, title: str, x: str, y: str) -> None:
    """Gives a panel its title, names of its axes, a grid, and the legend of what it shows."""
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(color=GRID, lw=0.6)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def picture(figure: Figure, words: str) -> str:
    """A figure as an image, the same bytes for the same figure.

    Args:
      figure: What is shown.
      words: The same for those who cannot see it.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{encoded}">'
