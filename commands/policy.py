"""What retraining policies would have done, and what a pipeline's watch decided and what came of it.

    python -m commands.policy replay --matrix FILE --policy airtight.watch.policies:every?n=2 --policy ...
    python -m commands.policy decisions --pipeline NAME

The replay goes over the periods of a matrix of losses (that of `components.watch.loss_matrix`), beside the best, fixed
and random schedules; every policy is asked at each period with what was known when it began. The decisions are those
that wanted a training, the newest first, step by step from the alarm to the outcome with the time of each.
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
from airtight.home import Home
from airtight.supervised import find
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
    commands = parser.add_subparsers(required=True)
    decisions = commands.add_parser("decisions", help="what a watch decided, and what came of it")
    decisions.add_argument("--pipeline", required=True, metavar="NAME", help="a folder of pipelines/ with settings")
    decisions.add_argument("--newest", type=int, default=10, metavar="N", help="so many at most (10)")
    decisions.set_defaults(command=_decisions)
    replay = commands.add_parser("replay", help="replay policies over a matrix of losses")
    replay.set_defaults(command=_replay)
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
        options = parser.parse_args(args)
        return int(options.command(options))
    except AirtightError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_status


def _decisions(options: argparse.Namespace) -> int:
    from runtime import metadata_connection
    from runtime.lineage.chain_steps import in_lines
    from runtime.lineage.watch_chain import chains

    settings, _ = find(options.pipeline)
    store = metadata_connection.project_store(Home.current())
    wanted = chains(store, settings.name, action="retrain", newest=options.newest)
    for chain in wanted:
        print("\n".join(in_lines(chain)))
    if not wanted:
        print(f"The watch of {settings.name} has wanted no training yet.")
    return 0


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
