"""What retraining policies would have done over the periods of a matrix of losses, beside the best, fixed and random.

    python -m commands.policy replay --matrix FILE --policy airtight.watch.policies:every?n=2 --policy ...

Every policy is asked at each period with what was known when it began. FILE is that of `components.watch.loss_matrix`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from airtight.errors import AirtightError
from airtight.files import write_text
from airtight.watch.brakes import Brakes
from airtight.watch.policies import policy_of

if TYPE_CHECKING:
    from components.watch.replay import Replays, Schedule

HERE = "airtight.watch.policies"
_SHOWN = 12
"""Schedules of so many fits, or fewer, are printed whole."""
DEFAULTS = tuple(f"{HERE}:{name}" for name in ("never", "every", "threshold", "cusum", "cost_aware"))


def main(args: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, or 64 or 75 for a fault."""
    parser = argparse.ArgumentParser(
        prog="python -m commands.policy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    replay = parser.add_subparsers(required=True).add_parser("replay", help="replay policies over a matrix of losses")
    replay.add_argument("--matrix", type=Path, required=True, metavar="FILE")
    replay.add_argument("--policy", action="append", metavar="MODULE:FUNCTION?NAME=VALUE", help="may be repeated")
    replay.add_argument("--cost", type=float, default=0.0, help="of a fit: loss per row and period that it must save")
    replay.add_argument("--cooldown", type=int, default=1, help="periods between two fits at least (1)")
    replay.add_argument("--budget", type=int, default=0, help="fits, the first one included, that there may be (any)")
    replay.add_argument("--equal-periods", action="store_true", help="weigh periods the same, whatever their rows")
    replay.add_argument("--reasons", action="store_true", help="print the reason of each fit")
    replay.add_argument("--picture", type=Path, metavar="FILE", help="write a picture (.png or .svg)")
    replay.add_argument("--json", type=Path, metavar="FILE", help="write the table here too")
    try:
        return _replay(parser.parse_args(args))
    except AirtightError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_status


def _replay(options: argparse.Namespace) -> int:
    policies = {name: policy_of(name) for name in options.policy or DEFAULTS}
    brakes = Brakes(options.cooldown, budget=options.budget)
    from components.watch.loss_matrix import LossMatrix
    from components.watch.replay import Replays

    replays = Replays(LossMatrix.read(options.matrix), equal=options.equal_periods)
    schedules = [replays.policy(name, policy, brakes, options.cost) for name, policy in policies.items()]
    fixed = [replays.fixed(step) for step in _steps(len(replays.matrix.fit_at))]
    oracle = replays.oracle(min(len(replays.matrix.fit_at), max(len(s.fits) for s in (*schedules, *fixed))))
    for line in table(replays, schedules, fixed, oracle):
        print(line)
    for schedule in schedules if options.reasons else ():
        for period, decision in schedule.decisions.items():
            if decision.action == "retrain":
                print(f"{schedule.name}, {replays.matrix.starts[period]}: {decision.reason}")
    if options.picture:
        from components.reports.policies import picture

        picture(replays, schedules, fixed, oracle).savefig(options.picture, dpi=110)
    if options.json:
        rows = [{"name": s.name, "loss": s.loss, "fits": [asdict(fit) for fit in s.fits]} for s in (*schedules, *fixed)]
        write_text(options.json, json.dumps(rows, indent=1))
    return 0


def table(
    replays: Replays, schedules: Sequence[Schedule], fixed: Sequence[Schedule], oracle: Sequence[Schedule]
) -> list[str]:
    """A Markdown table of policies and fixed schedules, each beside oracle and random schedules of as many fits."""
    from components.watch.replay import fits_in_words

    always = replays.fixed(1).loss
    lines = [
        f"| schedule | fits | {replays.matrix.unit} | against a fit each time | oracle | random | at |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for schedule in (*schedules, *fixed):
        count = len(schedule.fits)
        lines.append(
            f"| {schedule.name.removeprefix(HERE + ':')} | {count} | {schedule.loss:.5g} | "
            f"{schedule.loss / always - 1:+.2%} | {oracle[count - 1].loss:.5g} | {replays.random(count):.5g} | "
            f"{fits_in_words(schedule.fits) if count <= _SHOWN else ''} |"
        )
    return lines


def _steps(fits: int) -> list[int]:
    return [step for step in (1, 2, 3, 4, 6, 8, 12, 24) if step < fits]


if __name__ == "__main__":
    sys.exit(main())
