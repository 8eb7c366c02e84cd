"""`make new`: looks at data, says what it sees, and writes a pipeline of them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airtight.errors import AirtightError, TerminalError
from airtight.home import ROOT
from components.scaffold.options import Options
from components.scaffold.proposal import Proposal, propose
from components.scaffold.writing import write

USAGE = """make new NAME=bike DATA=hour.csv LABEL=count TIME=when

  NAME         of the pipeline: small letters, digits and _
  DATA         a CSV, Parquet or JSON lines file, a folder of such, or a database's SQLAlchemy URL
  LABEL        column of what is to be predicted
  TIME         column of each row's time, several that make it (year,month,day,hour), or none
  TASK         binary, multiclass or regression
  KEY          columns that tell rows apart
  DROP         columns to leave out
  TABLE        of the database
  TIME_ZONE    IANA name, of times without an offset and of the pipeline's days (default: UTC)
  TIME_FORMAT  of the times, such as %d.%m.%Y
  ENCODING     of text files
  DELIMITER    of CSV files
  DECIMAL      the decimal point of numbers that are text
  HEADER       names of the columns of a CSV file without a header
  MISSING      text that stands for a missing value, beside the usual
  UNREADABLE   leave_out, where rows that cannot be read are to be left out and counted
  FORCE=1      replaces a pipeline of that name

What is not given is guessed from the data; what cannot be guessed is asked for."""
_LISTS = ("TIME", "KEY", "DROP", "HEADER", "MISSING")
_NAMES = tuple(line.split()[0].split("=")[0] for line in USAGE.splitlines() if line.startswith("  "))
_SHOWN = 8


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Reads words such as NAME=bike, looks at the data, writes the pipeline, and returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        print(USAGE)
        return 0 if words else 64
    try:
        given = _parsed(words)
        force = given.pop("force", "")
        proposal = propose(Options(**{"name": "", "data": "", **given}))
        files = write(proposal, root, force=bool(force))
    except AirtightError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_status
    print(summary(proposal))
    folder = root / "pipelines"
    lines = sum(path.read_text(encoding="utf-8").count("\n") for path in files if path.is_relative_to(folder))
    print(f"\nWritten, {lines} lines and the DAG files:")
    for path in files:
        print(f"  {path.relative_to(root)}")
    if proposal.source.data.startswith("env:"):
        print(
            f"The URL has a password, so it is not written: set {proposal.source.data[4:]} wherever the lake is filled."
        )
    print(f"\nRead it, and then:  make demo PIPELINE={proposal.options.name}")
    return 0


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    """The options by their names in `Options`, and `force`."""
    given: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in _NAMES:
            near = difflib.get_close_matches(name.upper(), _NAMES, n=1)
            raise TerminalError(
                f"{name} is no option.",
                expected=f"OPTION=value with {', '.join(_NAMES)}" + (f"; did you mean {near[0]}?" if near else ""),
                received=word,
                remedy="Correct it; make new alone shows what each is for.",
            )
        if value:
            given[name.lower()] = tuple(part for part in value.split(",") if part) if name in _LISTS else value
    return given


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
    lines += [f"Renamed:    {old} is {new}." for new, old in proposal.source.columns.items()]
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
