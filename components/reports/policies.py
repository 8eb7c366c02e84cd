"""The picture of a replay: loss by number of fits, and when each policy fitted."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from components.reports.pictures import GREY, titled
from components.watch.replay import Replays, Schedule

_COLOURS = ("#1f5fa8", "#c8781e", "#2e7d32", "#8e24aa", "#b91c1c", "#00838f")
_LABELS = 6
"""Names of months that fit beside each other."""


def picture(
    replays: Replays, schedules: Sequence[Schedule], fixed: Sequence[Schedule], oracle: Sequence[Schedule]
) -> Figure:
    """Policies beside oracle, fixed and random schedules.

    Args:
      replays: What the schedules were replayed over.
      schedules: Of policies.
      fixed: One fit each so many periods.
      oracle: The best of 1, 2, 3 ... fits.
    """
    matrix = replays.matrix
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    losses, times = figure.subplots(1, 2, width_ratios=(2, 3))
    most = len(oracle)
    counts = range(1, most + 1)
    losses.plot(counts, [schedule.loss for schedule in oracle], color="black", lw=1, label="oracle")
    losses.plot(counts, [replays.random(count) for count in counts], color=GREY, lw=1, label="mean of random")
    shown = [schedule for schedule in fixed if len(schedule.fits) <= most]
    losses.plot([len(s.fits) for s in shown], [s.loss for s in shown], "o", color=GREY, ms=4, label="fixed")
    for row, schedule in enumerate(schedules):
        colour, name = _COLOURS[row % len(_COLOURS)], schedule.name.rpartition(":")[2]
        losses.plot(len(schedule.fits), schedule.loss, "D", color=colour, ms=6, label=name)
        times.plot([fit.period for fit in schedule.fits], [row] * len(schedule.fits), "|", color=colour, ms=18, mew=2)
    titled(losses, "Loss by number of fits", "fits", matrix.unit)
    titled(times, "When models were fitted", "", "")
    months = [str(start)[:7] for start in matrix.starts]
    begins = [period for period, month in enumerate(months) if month not in months[:period]]
    ticks = begins[:: -(-len(begins) // _LABELS)]
    times.set_xticks(ticks, [months[tick] for tick in ticks])
    times.set_yticks(range(len(schedules)), [schedule.name.rpartition(":")[2] for schedule in schedules])
    times.set(xlim=(-1, len(matrix.rows)), ylim=(len(schedules) - 0.5, -0.5))
    return figure
