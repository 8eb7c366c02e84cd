"""`make new`: looks at data, says what it sees, and writes a pipeline of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from airtight.errors import AirtightError
from airtight.home import ROOT
from components.scaffold.options import Options
from components.scaffold.proposal import Proposal, propose
from components.scaffold.writing import write

_LISTS = ("time", "key", "drop", "header", "missing")
_SHOWN = 8
_HELP = {
    "name": "of the pipeline: small letters, digits and _",
    "data": "a CSV, Parquet or JSON lines file, a folder of such, or a database's SQLAlchemy URL",
    "label": "column of what is to be predicted",
    "time": "column of each row's time, several that make it (year,month,day,hour), or none",
    "task": "binary, multiclass or regression",
    "key": "columns that tell rows apart",
    "drop": "columns to leave out",
    "table": "of the database",
    "time_zone": "of times without an offset (default: UTC)",
    "time_format": "of the times, such as %%d.%%m.%%Y",
    "encoding": "of text files",
    "delimiter": "of CSV files",
    "decimal": "the decimal point of numbers that are text",
    "header": "names of the columns of a CSV file without a header",
    "missing": "text that stands for a missing value, beside the usual",
}


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Reads the command line, looks, writes, and returns the exit status."""
    parser = argparse.ArgumentParser(prog="make new", description=__doc__)
    for name, text in _HELP.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default="", help=text, metavar=name.upper())
    parser.add_argument("--force", action="store_true", help="replace a pipeline of that name")
    args = vars(parser.parse_args(arguments))
    force = args.pop("force")
    lists = {name: tuple(part for part in args[name].split(",") if part) for name in _LISTS}
    given = {name: value for name, value in {**args, **lists}.items() if value}
    try:
        proposal = propose(Options(**{"name": "", "data": "", **given}))
        files = write(proposal, root, force=force)
    except AirtightError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_status
    print(summary(proposal))
    lines = sum(path.read_text(encoding="utf-8").count("\n") for path in files)
    print(f"\nWritten, {lines} lines:")
    for path in files:
        print(f"  {path.relative_to(root)}")
    if proposal.source.data.startswith("env:"):
        print(
            f"The URL has a password, so it is not written: set {proposal.source.data[4:]} wherever the lake is filled."
        )
    print(f"\nRead it, and then:  make demo PIPELINE={proposal.options.name}")
    return 0


def summary(proposal: Proposal) -> str:
    """What was seen and decided, for a terminal."""
    schedule = proposal.schedule
    lines = [
        f"{proposal.source.name}: {proposal.rows:,} rows"
        + (" of {} to {}".format(*schedule.fit.span) if schedule else "")
        + ".",
        f"Task:       {proposal.task}, of {proposal.label}{_classes(proposal)}.",
    ]
    kinds: dict[str, list[str]] = {}
    for feature in proposal.features:
        kinds.setdefault(feature.kind, []).append(feature.name)
    for number, (kind, names) in enumerate(kinds.items()):
        lines.append(f"{'Features:' if not number else '':11} {kind}: {', '.join(names)}.")
    lines.append(f"Key:        {', '.join(proposal.table_key)}.")
    if schedule:
        lines.append(
            f"Intervals:  {schedule.name}, from {schedule.first} to {schedule.last}; the last "
            f"{schedule.validation_days} days before each are for validation."
        )
    else:
        lines.append(f"Split:      by a hash of {', '.join(proposal.keys)}.")
    for name, reason in proposal.left_out.items():
        lines.append(f"Left out:   {name}: {reason}.")
    lines += [f"Look at:    {note}" for note in proposal.notes]
    return "\n".join(lines)


def _classes(proposal: Proposal) -> str:
    names = proposal.classes
    if not names:
        return ""
    return f", {len(names)} classes: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"


if __name__ == "__main__":
    sys.exit(main())
