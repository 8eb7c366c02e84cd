"""The local services with a state folder, ports and DAGs of their own, for a measurement; gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from airtight.home import Home
from benchmarks.ports import free_ports
from services import health
from services.airflow_api import Airflow
from services.settings import Settings
from services.state_folder import prepare
from services.supervisor import AIRFLOW, Supervisor

PROGRAMS = ("launcher", *AIRFLOW)


@contextlib.contextmanager
def own_services(dags: str, programs: Sequence[str] = PROGRAMS) -> Iterator[tuple[Home, Airflow]]:
    """Starts local services with the settings that the demo ships, but for a DAG file of one's own.

    Databases in place of SQLite come from the environment, as for the demo.

    Args:
      dags: Text of the DAG file.
      programs: What is started, as in `services.supervisor`.
    """
    # So that a measurement that is told to end leaves nothing behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="airtight-") as folder:
        home = Home(Path(folder).resolve())
        (home.path / "dags").mkdir()
        (home.path / "dags" / "measured.py").write_text(dags, encoding="utf-8")
        os.environ["AIRTIGHT_HOME"] = str(home.path)
        prepare(home)
        settings = replace(Settings.from_environment(), **free_settings(), dags_folder=str(home.path / "dags"))
        supervisor = Supervisor(home)
        try:
            supervisor.start(settings, programs)
            wanted = [s for s in health.services(settings, home) if set(s.programs) <= set(programs)]
            health.wait(supervisor, wanted, lambda line: print(line, flush=True))
            yield home, Airflow.local(settings, home)
        finally:
            supervisor.stop()


def free_settings() -> dict[str, Any]:
    """A free port for each setting that is one."""
    names = tuple(Settings().ports)
    return dict(zip(names, free_ports(len(names)), strict=True))
