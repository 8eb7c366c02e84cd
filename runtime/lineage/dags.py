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


def dag_of_run(store: mlmd.MetadataStore, run: str) -> str:
    """Id of the DAG whose tasks a run's attempts were; "" for a local run, or one that nothing is known of.

    The way is by one of its executions: ML Metadata has no index by the beginnings of attempts' names.

    Args:
      store: The metadata store.
      run: Key of the run.
    """
    context = store.get_context_by_type_and_name("pipeline_run", run)
    executions = store.get_executions_by_context(context.id, list_options=mlmd.ListOptions(limit=1)) if context else ()
    around = [c for execution in executions for c in store.get_contexts_by_execution(execution.id)]
    labels = [scalars(context.custom_properties) for context in around if context.type == CONTEXT_TYPE]
    return next((str(known[_DAG]) for known in labels if _DAG in known), "")


def run_of_execution(store: mlmd.MetadataStore, execution: int) -> str:
    """The key of the run that an execution belongs to; "" where it has none.

    Args:
      store: The metadata store.
      execution: Its id.
    """
    contexts = store.get_contexts_by_execution(execution)
    return next((c.name.rsplit("/", 2)[0] for c in contexts if c.type == CONTEXT_TYPE), "")
