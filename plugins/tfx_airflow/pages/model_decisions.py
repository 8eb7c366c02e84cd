"""What a pipeline's watch decided about retraining, and what came of it: the chain from alarm to outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airtight.supervised import RELEASE, TRAIN, WATCH
from plugins.tfx_airflow.airflow_compat import recorded_run_states
from plugins.tfx_airflow.pages.model_record import ModelRecord
from plugins.tfx_airflow.pages.rendering import duration, to_dag, to_run

if TYPE_CHECKING:
    from runtime.lineage.artifacts import Artifact
    from runtime.lineage.watch_chain import Chain

_NEWEST = 12
_KEEP, _RETRAIN = "keep", "retrain"
_HIDDEN = "not for you to read"
_COLOURS = {"serves": "good", "refused": "bad", "failed": "bad", "taken back": "bad"}


def section(record: ModelRecord, made: Sequence[Artifact]) -> dict[str, Any]:
    """The last decision, the newest that wanted something, and the chains of those that wanted a training.

    Args:
      record: The pipeline's versions.
      made: What was decided, the oldest first; one at least.
    """
    from runtime.lineage.watch_chain import chains_of, losses_saved, of_each_day

    days = of_each_day(record.visible.store, made)[::-1]
    newest = [d for number, d in enumerate(days) if number == 0 or d.properties["action"] != _KEEP][:_NEWEST]
    wanted = [decision for decision in newest if decision.properties["action"] == _RETRAIN]
    released = [*record.promotions, *record.decisions, *record.releases, *record.judgements]
    chains = chains_of(
        *(record.visible.store, record.name, wanted, released), history=record.history, saved=losses_saved(days[0])
    )
    waiting = [str(chain.decision.properties["run_id"]) for chain in chains if chain.run is None]
    states = recorded_run_states(record.settings.id_of(TRAIN), waiting) if waiting else {}
    views = [_view(record, _shown(record, chain), states) for chain in chains]
    names = ("day", "action", "reason", "regret")
    rows = [{name: str(decision.properties.get(name, "")) for name in names} for decision in newest]
    of_day = {view["day"]: view for view in views}
    return {"rows": [row | {"chain": of_day.get(row["day"])} for row in rows], "days": len(days), "chains": views}


def _shown(record: ModelRecord, chain: Chain) -> Chain:
    """A chain without a training that the reader may not see."""
    if chain.run is None or record.visible.run(chain.run.key):
        return chain
    nothing: dict[str, Any] = {"run": None, "verdicts": (), "pushed": None, "releases": (), "settled_at": ""}
    return replace(chain, **nothing, judged=None, saved=None, outcome=_HIDDEN, words="")


def _view(record: ModelRecord, chain: Chain, states: Mapping[str, str]) -> dict[str, Any]:
    """What the page shows of a chain."""
    from runtime.lineage import chain_steps as lineage
    from runtime.lineage.watch_chain import NOT_BEGUN

    settings, properties = record.settings, chain.decision.properties
    run_id, watched = str(properties["run_id"]), str(chain.decided_by.get("run_id", ""))
    state = states.get(run_id, "")
    of_watch = to_run(settings.id_of(WATCH), watched) if watched else ""
    of_run = to_run(settings.id_of(TRAIN), run_id) if chain.run or state else ""
    is_releasing = bool(chain.releases) and record.visible.may_read(settings.id_of(RELEASE))
    links = {
        lineage.ALARM: of_watch,
        lineage.DECISION: of_watch,
        lineage.RUN: of_run,
        lineage.RELEASE: to_dag(settings.id_of(RELEASE)) if is_releasing else "",
    }
    steps = lineage.steps(chain, state)
    decided = next(step.at for step in steps if step.name == lineage.DECISION)
    would_have = chain.outcome == NOT_BEGUN and not state
    return {
        "day": str(properties["day"]),
        "run_id": run_id,
        "link": of_run,
        "would_have": would_have,
        "is_backfilled": would_have and chain.is_backfilled,
        "outcome": state or chain.outcome,
        "colour": _COLOURS.get(state or chain.outcome, "dim"),
        "took": _since(decided, steps[-1].at) if steps[-1].name == lineage.OUTCOME else "",
        "steps": [
            {
                "name": step.name,
                "at": step.at,
                "after": _since(decided, step.at) if step.name not in (lineage.ALARM, lineage.DECISION) else "",
                "words": step.words,
                "link": links.get(step.name, ""),
            }
            for step in steps
        ],
    }


def _since(start: str, end: str) -> str:
    """How much later an instant is than another; "" where one is not known, or it is earlier."""
    if not start or not end or end < start:
        return ""
    return duration((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
