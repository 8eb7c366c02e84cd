"""What a run of a pipeline needs before it is triggered: services, a lake that is filled, a compiled pipeline."""

from __future__ import annotations

from functools import partial

from airtight.home import Home
from airtight.import_string import load
from airtight.supervised import TRAIN, Supervised
from components.data.lake import Lake, Table
from runtime.fresh_pipelines import fresh
from services.__main__ import up
from services.airflow_api import Airflow
from services.settings import Settings
from services.supervisor import ALWAYS

DAG_TIMEOUT_S = 120.0


def start_services(settings: Supervised, home: Home) -> Settings:
    """Starts the local services, and the broker of the pipeline's stream; gives the settings that they run with.

    Raises:
      AirtightError: A service does not come up.
    """
    if not settings.stream:
        return up(home, ALWAYS)
    from commands import kafka

    return kafka.start(home, load(settings.stream), ALWAYS)


def fill_lake(settings: Supervised, home: Home) -> None:
    """Fills the lake where a table of the pipeline is not there yet; what takes a minute is not done for nothing."""
    tables: tuple[Table, ...] = load(settings.tables)
    lake = Lake(home.lake)
    if settings.fill_lake and not all(lake.numbers(table.name) for table in tables):
        print(f"Filling the lake of {settings.name} ...", flush=True)
        load(settings.fill_lake)(home.lake)
    rows = ", ".join(f"{table.name} {lake.snapshot(table.name).rows:,}" for table in tables)
    print(f"The lake {home.lake} has the rows: {rows}.", flush=True)


def compile_pipeline(settings: Supervised, home: Home) -> None:
    """Has the training pipeline compiled, by the warm launcher where it runs, unless that was done.

    Raises:
      AirtightError: It does not compile.
    """
    source, arguments = settings.source(TRAIN)
    compiled = fresh(source, home, arguments=arguments or None, say=partial(print, flush=True))
    print(f"The pipeline: {' -> '.join(node.id for node in compiled.nodes)}", flush=True)


def unpaused(airflow: Airflow, dag_id: str, *, file: str = "") -> None:
    """Waits until Airflow has parsed a DAG, and lets it run.

    Args:
      airflow: The Airflow of the local services.
      dag_id: The DAG.
      file: As for `Airflow.await_dag`.

    Raises:
      AirtightError: Its file cannot be imported, or it does not appear in time.
    """
    airflow.await_dag(dag_id, DAG_TIMEOUT_S, file=file)
    airflow.unpause(dag_id)
