"""What the records say of a pipeline's versions, for its page: read once, and only what the reader may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airtight.audit.log import AuditLog
from airtight.home import Home
from airtight.rollout import state
from airtight.served_history import versions_that_served
from airtight.served_spans import Span
from airtight.supervised import LABELS, PROMOTIONS, RELEASE, Supervised
from plugins.tfx_airflow.pages.visible import Visible

if TYPE_CHECKING:
    from components.modelling.served import Choice
    from runtime.lineage.artifacts import Artifact
    from runtime.lineage.costs import Cost


@dataclass(frozen=True)
class Metric:
    """The foremost metric of a version on its interval.

    Args:
      title: What it is called.
      value: The version's.
      champion: The champion's; None where there was none.
      gain: By how much it was better, with both bounds; None where they are not known.
    """

    title: str
    value: float
    champion: float | None = None
    gain: tuple[float, float, float] | None = None


class ModelRecord:
    """The versions of one pipeline.

    Args:
      visible: What the reader may see of the metadata store.
      settings: The pipeline's.
      home: The state folder.
    """

    def __init__(self, visible: Visible, settings: Supervised, home: Home) -> None:
        self.visible = visible
        self.settings = settings
        self.home = home
        self.name = settings.name
        self._costs: dict[str, dict[int, Cost]] = {}

    @property
    def costs(self) -> dict[int, Cost]:
        """Every execution of the training's nodes in runs that the reader may see, by its id."""
        return self.costs_of(self.name)

    def costs_of(self, pipeline: str) -> dict[int, Cost]:
        """Every execution of the nodes of one of its parts in runs that the reader may see, by its id.

        Args:
          pipeline: Id of the part's pipeline.
        """
        from runtime.lineage.costs import costs

        if pipeline not in self._costs:
            every = costs(self.visible.store, pipeline)
            shown = {key for key in {cost.run for cost in every.values()} if self.visible.run(key)}
            self._costs[pipeline] = {execution: cost for execution, cost in every.items() if cost.run in shown}
        return self._costs[pipeline]

    @cached_property
    def _run_of(self) -> dict[int, str]:
        return {execution: cost.run for execution, cost in self.costs.items()}

    @cached_property
    def _run_of_labels(self) -> dict[int, str]:
        """The runs of the part that judges promotions, which makes records each day: read at once."""
        from runtime.lineage.costs import costs

        if LABELS not in self.settings.parts:
            return {}
        dag_id = self.settings.id_of(LABELS)
        self.visible.also(dag_id)
        return {execution: cost.run for execution, cost in costs(self.visible.store, dag_id).items()}

    @cached_property
    def pushes(self) -> list[Artifact]:
        """Every push of a version, the oldest first."""
        from runtime.lineage import versions

        return self.visible.artifacts(versions.pushes(self.visible.store, self.name), self._run_of)

    @cached_property
    def runs_of_pushes(self) -> dict[int, str]:
        """The key of the run that made each push, by the push's id."""
        from runtime.lineage.costs import executions_that_made

        makers = executions_that_made(self.visible.store, self.pushes)
        return {push: run for push, execution in makers.items() if (run := self._run_of.get(execution))}

    @cached_property
    def promotions(self) -> list[Artifact]:
        """Every promotion, by a person or a release or after a promotion; those that the reader may see."""
        return self._of_model("Promotion", *PROMOTIONS)

    @cached_property
    def decisions(self) -> list[Artifact]:
        """What releases decided."""
        return self._of_model("ReleaseDecision", RELEASE)

    @cached_property
    def releases(self) -> list[Artifact]:
        """The releases that began, or were to."""
        return self._of_model("Release", RELEASE)

    @cached_property
    def judgements(self) -> list[Artifact]:
        """What was said of versions beside the former champion, in the order of data time and not as it was made."""
        from runtime.lineage import versions
        from runtime.lineage.watch_chain import JUDGED, in_data_time

        judgements = versions.of_model(self.visible.store, JUDGED, self.name)
        return sorted(self.visible.artifacts(judgements, self._run_of_labels), key=in_data_time)

    def _of_model(self, kind: str, *parts: str) -> list[Artifact]:
        from runtime.lineage import versions

        if not any(self.visible.may_read(self.settings.id_of(part)) for part in parts):
            return []
        return self.visible.artifacts(versions.of_model(self.visible.store, kind, self.name), self._run_of_labels)

    @cached_property
    def evaluations(self) -> list[Artifact]:
        """Of each interval the latest evaluation, in the order of the intervals."""
        from runtime.lineage import versions

        every = self.visible.artifacts(versions.evaluations(self.visible.store, self.name), self._run_of)
        latest = {str(evaluation.properties.get("interval_end", "")): evaluation for evaluation in every}
        return [latest[end] for end in sorted(latest)]

    @cached_property
    def history(self) -> list[Span]:
        """Which version answered the requests when, by the clock, as far as the reader may see."""
        from runtime.lineage.versions import spans_of

        return spans_of([*self.pushes, *self.promotions])

    @cached_property
    def took_over(self) -> set[int]:
        """The versions that answered requests at any time."""
        records = ([(a.proto.id, a.properties) for a in several] for several in (self.pushes, self.promotions))
        return versions_that_served(*records)

    @cached_property
    def choice(self) -> Choice:
        """Which versions are served, and who wanted that."""
        from components.modelling.served import Served

        return Served(self.home.models_root).choice(self.name)

    @cached_property
    def release(self) -> state.Release | None:
        """The release under way; None where there is none, or the reader may not see it."""
        may_see = RELEASE in self.settings.parts and self.visible.may_read(self.settings.id_of(RELEASE))
        return state.read(self.home.models_root).get(self.name) if may_see else None

    @cached_property
    def served(self) -> int:
        """The version that answers the requests that ask for none; 0 where none is there."""
        from components.modelling.served import versions_in

        present = versions_in(self.home.models(self.name))
        return self.choice.pinned or max(present, default=0)

    @cached_property
    def labels(self) -> dict[int, list[str]]:
        """The labels and the traffic of versions, in words."""
        labels: dict[int, list[str]] = {}
        if self.release is None:
            if self.served:
                labels[self.served] = [*_names(self.choice.labels, self.served), "all requests"]
            return labels
        of_candidate = 0.0 if self.release.mode == state.SHADOW else self.release.share
        beside = f"asked beside in {self.release.share:.1%}" if self.release.mode == state.SHADOW else ""
        labels[self.release.stable] = ["stable", f"{1 - of_candidate:.1%} of the requests"]
        labels[self.release.candidate] = ["canary", beside or f"{of_candidate:.1%} of the requests"]
        return labels

    @cached_property
    def metrics(self) -> dict[tuple[str, str], Metric]:
        """The foremost metric by the digest of the model that was judged and the end of the interval."""
        return {
            (str(e.properties.get("current_model_digest", "")), str(e.properties.get("interval_end", ""))): metric
            for e in self.evaluations
            if (metric := metric_of(e.properties))
        }

    def acts(self, newest: int) -> Sequence[Mapping[str, Any]]:
        """The newest lines of the audit log that the reader may see, the newest first.

        Args:
          newest: So many at most.
        """
        lines, _ = AuditLog(self.name, self.home).lines()
        entries = [line.entry for line in reversed(lines) if line.entry and self.visible.act(line.entry)]
        return entries[:newest]


def metric_of(properties: Mapping[str, Any]) -> Metric | None:
    """The foremost metric of an evaluation; None where it measured none."""
    from components.modelling.metric_names import metrics_of

    for name, title in metrics_of(properties).items():
        gain = [properties[key] for end in ("", "_lower", "_upper") if (key := f"{name}_gain{end}") in properties]
        champion = properties.get(f"champion_{name}")
        bounds = (float(gain[0]), float(gain[1]), float(gain[2])) if len(gain) == 3 else None  # noqa: PLR2004
        return Metric(title, float(properties[name]), None if champion is None else float(champion), bounds)
    return None


def _names(labels: Mapping[str, int], version: int) -> Sequence[str]:
    return [name for name, number in labels.items() if number == version]
