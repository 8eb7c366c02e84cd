"""What of the lineage a reader may see: runs of DAGs that Airflow lets them read, and local runs, which have no DAG."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ml_metadata as mlmd

    from runtime.lineage.artifacts import Artifact

MayRead = Callable[[str], bool]
"""Whether the user who asks may read the DAG of an id."""


class Visible:
    """One reader's view of a metadata store.

    Args:
      store: The metadata store.
      dag_id: The DAG whose page it is, which the reader may read.
      may_read: Of any other DAG.
    """

    def __init__(self, store: mlmd.MetadataStore, dag_id: str, may_read: MayRead) -> None:
        self.store = store
        self.dag_id = dag_id
        self.may_read = functools.cache(may_read)
        # No cache of a bound method: the circle would keep the store's connection until Python looks for circles.
        self._runs: dict[str, bool] = {}
        self.hidden = 0
        """How many artifacts `artifacts` has left out."""

    @functools.cached_property
    def own_runs(self) -> dict[str, str]:
        """Airflow's ids of the runs of the page's own DAG, by their keys."""
        from runtime.lineage.dags import runs_of_dag

        return runs_of_dag(self.store, self.dag_id)

    def also(self, dag_id: str) -> bool:
        """Whether the reader may read another DAG, whose runs are read at once, and not one by one."""
        from runtime.lineage.dags import runs_of_dag

        self._runs.update(dict.fromkeys(runs_of_dag(self.store, dag_id), self.may_read(dag_id)))
        return self.may_read(dag_id)

    def run(self, key: str) -> bool:
        """Whether the reader may see what a run has made."""
        if key not in self._runs:
            self._runs[key] = self._may_see(key)
        return self._runs[key]

    def _may_see(self, key: str) -> bool:
        from runtime.lineage.dags import dag_of_run

        if key in self.own_runs:
            return True
        dag_id = dag_of_run(self.store, key)
        return not dag_id or self.may_read(dag_id)

    def artifacts(self, made: Iterable[Artifact], run_of: Mapping[int, str] | None = None) -> list[Artifact]:
        """Those of some artifacts that were made by runs which the reader may see.

        Args:
          made: The artifacts.
          run_of: The keys of the runs of executions that are known already, by the execution's id.
        """
        from runtime.lineage.costs import executions_that_made
        from runtime.lineage.dags import run_of_execution

        several, known = list(made), run_of or {}
        makers = executions_that_made(self.store, several)
        runs = {
            artifact: known.get(execution) or run_of_execution(self.store, execution)
            for artifact, execution in makers.items()
        }
        shown = [artifact for artifact in several if (key := runs.get(artifact.proto.id)) is None or self.run(key)]
        self.hidden += len(several) - len(shown)
        return shown

    def act(self, line: Mapping[str, Any]) -> bool:
        """Whether the reader may see a line of the audit log: one of a DAG that they may read, or of a terminal."""
        return self.done_by(str(line.get("by", {}).get("dag_id", "")))

    def done_by(self, dag_id: str) -> bool:
        """Whether the reader may see what was done by a DAG; "" is a terminal, which belongs to none."""
        return dag_id in ("", self.dag_id) or self.may_read(dag_id)
