"""What a person says to `make new`, as far as it cannot be guessed."""

from __future__ import annotations

import keyword
import re
import sys
from dataclasses import dataclass

from airtight.errors import TerminalError
from airtight.interval import time_zone
from airtight.parameters import check_choice
from airtight.supervised import SUFFIXES

TASKS = ("binary", "multiclass", "regression")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's options; "" and () are guessed.

    Args:
      name: Of the pipeline, its folder, its DAG and its model.
      data: File, folder or database URL.
      label: Column of what is to be predicted.
      time: Column of each row's time, or several that make it; ("none",) for a table without one.
      task: One of TASKS.
      key: Columns that tell rows apart.
      drop: Columns that are left out.
      table: Of the database.
      time_zone: Of times without an offset, and of the pipeline's days.
      time_format: As strptime takes it.
      encoding: Of text files.
      delimiter: Of CSV files.
      decimal: The decimal point of numbers that are text.
      header: Names of the columns of a CSV file without a header.
      missing: Further text that stands for a missing value.
      unreadable: `leave_out` where rows that cannot be read are left out and counted; else one of them is refused.
    """

    name: str
    data: str
    label: str = ""
    time: tuple[str, ...] = ()
    task: str = ""
    key: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    table: str = ""
    time_zone: str = "UTC"
    time_format: str = ""
    encoding: str = ""
    delimiter: str = ""
    decimal: str = ""
    header: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unreadable: str = "refuse"

    def __post_init__(self) -> None:
        taken = keyword.iskeyword(self.name) or self.name in sys.stdlib_module_names
        if not _NAME.fullmatch(self.name) or self.name.endswith(SUFFIXES) or taken:
            raise TerminalError(
                "The pipeline needs another name." if self.name else "The pipeline needs a name.",
                expected="up to 30 small letters, digits and _, a letter first, no word or module of Python's, none "
                f"that ends with {', '.join(SUFFIXES)}",
                received=repr(self.name),
                remedy="Name it: NAME=bike, say.",
            )
        if not self.data:
            raise ask("DATA", "a CSV, Parquet or JSON lines file, or a database's URL", "nothing")
        time_zone(self.time_zone)
        if self.task:
            check_choice("TASK", self.task, TASKS)


def ask(option: str, expected: str, received: object, message: str = "", example: str = "...") -> TerminalError:
    """The fault of what cannot be guessed: it asks for an option by name."""
    return TerminalError(
        message or f"{option} is not given, and cannot be guessed.",
        expected=expected,
        received=received,
        remedy=f"Say it: make new ... {option}={example}",
    )
