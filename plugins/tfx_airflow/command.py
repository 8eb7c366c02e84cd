"""Modules of the checkout as processes of their own, whose exit status is the family of a fault."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from logging import Logger
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airtight.errors import EXIT_TERMINAL, AirtightError, TerminalError, TransientError
from airtight.home import ROOT

_TAIL = 3000
"""Characters of a process's output that a fault shows."""


def run(log: Any | Logger, module: str, arguments: Sequence[str]) -> None:
    """Runs `python -m module arguments`, and logs what it prints.

    Raises:
      TerminalError: It failed for good.
      TransientError: It failed, and may succeed later.
    """
    command = [sys.executable, "-m", module, *arguments]
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            log.info("%s", line.rstrip())
    if process.returncode:
        raise (TerminalError if process.returncode == EXIT_TERMINAL else TransientError)(
            f"{module} failed.",
            expected=f"exit status 0 of {' '.join(command[1:])}",
            received=f"{process.returncode}: {''.join(lines)[-_TAIL:].strip()}",
            remedy="Correct what it says, and clear the task.",
        )


def airflow_fault(error: AirtightError, step: str) -> AirflowException:
    """The fault as Airflow knows them: one that is not transient is not retried."""
    error.step = error.step or step
    return (AirflowException if error.transient else AirflowFailException)(str(error))


class RunModule(BaseOperator):
    """Runs `python -m module arguments` in the checkout.

    Args:
      module: Dotted name.
      arguments: Of the command line; templates.
      **kwargs: As for every operator.
    """

    template_fields = ("arguments",)
    ui_color = "#e8eaf6"

    def __init__(self, *, module: str, arguments: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.module, self.arguments = module, tuple(arguments)

    def execute(self, context: Context) -> None:
        """Runs it.

        Raises:
          AirflowFailException: It failed for good.
          AirflowException: It failed, and may succeed later.
        """
        try:
            run(self.log, self.module, self.arguments)
        except AirtightError as error:
            raise airflow_fault(error, self.task_id) from error
