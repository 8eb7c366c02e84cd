"""Which of Airflow's DAGs a run belongs to, as its attempts say it; a local run belongs to none."""

from __future__ import annotations

import ml_metadata as mlmd

from runtime.attempt_names import CONTEXT_TYPE
from runtime.lineage.artifacts import quoted, scalars

_DAG = "dag_id"


def runs_of_dag(store: mlmd.MetadataStore, dag_id: str) -> dict[str, str]:
    """Airflow's run id of all runs that tasks of a DAG have begun, by the run's key in ML Metadata.

    Args:
      store: The metadata store.
      dag_id: Airflow's id of the DAG.
    """
    query = f"type = {quoted(CONTEXT_TYPE)} AND custom_properties.{_DAG}.string_value = {quoted(dag_id)}"
    attempts = store.get_contexts(mlmd.ListOptions(filter_query=query))
    return {a.name.rsplit("/", 2)[0]: a.custom_properties["run_id"].string_value for a in attempts}


def dags_of_run(store: mlmd.MetadataStore, run: str) -> set[str]:
    """Ids of the DAGs whose tasks a run's attempts were; empty for a local run, or one that nothing is known of.

    Args:
      store: The metadata store.
      run: Key of the run.
    """
    query = f"type = {quoted(CONTEXT_TYPE)} AND name LIKE {quoted(f'{run}/%')}"
    attempts = store.get_contexts(mlmd.ListOptions(filter_query=query))
    # "_" in LIKE stands for any character, so the names are looked at once more.
    own = [scalars(attempt.custom_properties) for attempt in attempts if attempt.name.startswith(f"{run}/")]
    return {str(labels[_DAG]) for labels in own if _DAG in labels}


def run_of_execution(store: mlmd.MetadataStore, execution: int) -> str:
    """The key of the run that an execution belongs to; "" where it has none.

    Args:
      store: The metadata store.
      execution: Its id.
    """
    contexts = store.get_contexts_by_execution(execution)
    return next((c.name.rsplit("/", 2)[0] for c in contexts if c.type == CONTEXT_TYPE), "")
