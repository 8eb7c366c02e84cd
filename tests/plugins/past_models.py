"""Fills a state folder with what a pipeline's runs, promotions and watch leave behind, without running them.

The figures are made up. Neither TFX nor Airflow is needed: the records are those that the pages read.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from ml_metadata.proto import metadata_store_pb2

from airtight.audit.actor import Actor, acting
from airtight.audit.log import PROMOTED, PUSHED, ROLLED_BACK, AuditLog
from airtight.files import write_text
from airtight.home import Home
from airtight.verdict import Check, Verdict
from runtime import metadata_connection
from runtime.attempt_names import CONTEXT_TYPE, context_name
from runtime.protocol import run_key

MODEL = "flight_delays"
REPORT = "<!doctype html><title>Report</title><h1>The report of {node}</h1><p>{run}</p>"
_OF_TFX = ("PushedModel", "ModelEvaluation", "Model", "ModelBlessing", "InfraBlessing")
"""Types whose properties are custom ones, as TFX declares none for them."""
_SECONDS = {"ingest": 40, "validate": 55, "transform": 70, "train": 300, "evaluate": 25, "try_serving": 12, "push": 3}
_STATES = metadata_store_pb2.Execution.State
_Value = str | int | float


class Run(NamedTuple):
    """Whose run it is.

    Args:
      pipeline: Id of the pipeline.
      run_id: Airflow's id of the run.
      dag_id: Of the DAG; "" for a local run.
    """

    pipeline: str
    run_id: str
    dag_id: str

    @property
    def key(self) -> str:
        """What the lineage calls it."""
        return run_key(self.dag_id, "", "", self.run_id)


class PastModels:
    """Writes records of one model.

    Args:
      home: The state folder.
      dag_id: The DAG whose runs they are.
    """

    def __init__(self, home: Home, dag_id: str = MODEL) -> None:
        self.home = home
        self.dag_id = dag_id
        self.store = metadata_connection.project_store(home)
        self._types: dict[tuple[str, str], int] = {}
        self._contexts: dict[tuple[str, str], metadata_store_pb2.Context] = {}
        self._times: list[tuple[str, int, int, int]] = []
        self._attempts = 0

    def train(
        self, first: date, last: date, number: int, *, began: datetime, served: int, run_id: str = "", **how: Any
    ) -> int:
        """One training run of an interval, up to the push.

        Args:
          first: First day of the interval.
          last: The day after it.
          number: Of the run; figures vary with it.
          began: When the run began.
          served: Version of the champion; 0 for none.
          run_id: Airflow's id of the run.
          **how: `pushed` and `took_over`, true by default; `cached` nodes; `factor` of the seconds; `digest`;
            `parameters` by node.

        Returns:
          The version that it pushed; 0 for none.
        """
        run_id = run_id or f"scheduled__{first.isoformat()}T04:00:00+00:00"
        run = Run(MODEL, run_id, self.dag_id)
        ends = {"interval_start": f"{first}T00:00:00-04:00", "interval_end": f"{last}T00:00:00-04:00"}
        version = int(f"{last:%Y%m%d}0400001")
        is_pushed, took_over = how.get("pushed", True), how.get("took_over", True)
        auc = 0.79 + 0.02 * math.sin(number / 9) + 0.004 * math.cos(number * 1.7) - (0.03 if not is_pushed else 0)
        champion = 0.785 + 0.02 * math.sin((number - 1) / 9)
        digest = how.get("digest", f"{number:064x}")
        gain = {
            "roc_auc_gain": auc - champion,
            "roc_auc_gain_lower": auc - champion - 0.008,
            "roc_auc_gain_upper": auc - champion + 0.008,
        }
        evaluation: dict[str, _Value] = {
            **ends,
            "metrics": json.dumps({"roc_auc": "ROC AUC"}),
            "roc_auc": auc,
            "current_model_digest": digest,
            **({"champion_roc_auc": champion, "champion_version": served, **gain} if served else {}),
        }
        push = {
            **{"pushed": int(is_pushed), "version": version if is_pushed else 0, "took_over": int(took_over)},
            **{
                "reason": "version served" if is_pushed else "evaluate did not bless it",
                "model_digest": digest,
                **ends,
            },
        }
        outputs: dict[str, tuple[str, Mapping[str, _Value]]] = {
            "ingest": ("Dataset", {**ends, "lake_version": "then", "digest": digest}),
            "validate": ("ValidationReport", ends),
            "transform": ("Examples", {**ends, "rows_train": 120_000 + number, "rows_test": 26_000}),
            "train": ("Model", ends),
            "evaluate": ("ModelEvaluation", evaluation),
            "try_serving": ("InfraBlessing", {**ends, "blessed": 1}),
            "push": ("PushedModel", push),
        }
        at = began
        cached = set(how.get("cached", ()))
        given: list[int] = []
        for node, (kind, properties) in outputs.items():
            seconds = 0.1 if node in cached else _SECONDS[node] * how.get("factor", 1.0)
            cache = "missed: input examples changed; code equal" if node not in cached else "hit: everything is equal"
            made = self.execution(
                *(run, node, kind, properties, at),
                seconds=seconds,
                given=given,
                state="CACHED" if node in cached else "COMPLETE",
                cache=cache,
                parameters=how.get("parameters", {}).get(node),
            )
            given = [made]
            at += timedelta(seconds=seconds)
            self._files(node, made, run_id, str(ends["interval_end"]), passed=is_pushed, gain=gain, champion=champion)
        actor = Actor(MODEL, "push", run.key, str(self._attempts), labels={"dag_id": self.dag_id, "run_id": run_id})
        if is_pushed:
            with acting(actor):
                AuditLog(MODEL, self.home).append(PUSHED, version=version, digest=digest, reason="version served")
        return version if is_pushed else 0

    def promote(self, before: int, after: int, *, at: datetime, reason: str, by: str, dag_id: str = "") -> None:
        """A person has another version served."""
        dag_id = dag_id or f"{MODEL}_promote"
        run = Run(f"{MODEL}_promote", f"manual__{at.isoformat()}", dag_id)
        end = f"{str(after)[:4]}-{str(after)[4:6]}-{str(after)[6:8]}T00:00:00-04:00"
        properties: dict[str, _Value] = {
            **{"model": MODEL, "from_version": before, "to_version": after, "changed": 1, "took_over": 1},
            **{"reason": reason, "approval": by, "interval_end": end, "as_of": end},
            "summary": f"Version {after} of {MODEL} is served in place of {before}.",
        }
        self.execution(run, "promote", "Promotion", properties, at, seconds=2.0)
        labels: dict[str, str | int] = {"dag_id": dag_id, "run_id": run.run_id}
        with acting(Actor(run.pipeline, "promote", run.key, str(self._attempts), labels=labels)):
            act = ROLLED_BACK if after < before else PROMOTED
            AuditLog(MODEL, self.home).append(act, version=after, reason=reason, approval=by)

    def watch(
        self,
        day: date,
        *,
        at: datetime,
        alarm: str = "",
        blocking: bool = False,
        retrain: str = "",
        run: str = "scheduled",
    ) -> None:
        """What the watch said of a day; `retrain` is the reason, and `run` the kind of the watch's run."""
        of_day = Run(f"{MODEL}_watch", f"{run}__{day}T04:00:00+00:00", f"{MODEL}_watch")
        alarms: dict[str, _Value] = {
            **{"day": str(day), "alarm": int(bool(alarm)), "blocking": int(blocking)},
            "summary": f"{day}: {alarm or 'nothing is unusual (score 1.2 of 3.1)'}",
        }
        action = "fix_data" if blocking else "retrain" if retrain else "keep"
        why = (
            f"training is blocked until the data are mended: {alarm}" if blocking else retrain or "the regret is small"
        )
        regret = f"Alarm since {day}: {retrain}." if retrain else "No alarm: the served model loses 0.002 a flight."
        decision: dict[str, _Value] = {
            **{"day": str(day), "model": MODEL, "version": 1, "action": action, "reason": why},
            **{"regret": regret, "run_id": "", "trains": "", "alarm": int(bool(retrain))},
        }
        if action == "retrain":
            decision["run_id"] = f"watch__{day}__1a2b3c4d"
            decision["trains"] = f"{day - timedelta(days=6)}T00:00:00-04:00/{day + timedelta(days=1)}T00:00:00-04:00"
        alarmed = self.execution(of_day, "data_alarms", "DataAlarms", alarms, at, seconds=3.0)
        self.execution(
            *(of_day, "decide", "WatchDecision", decision, at + timedelta(seconds=3)), seconds=1.0, given=[alarmed]
        )

    def outcome(self, version: int, former: int, *, at: datetime, outcome: str, reason: str) -> None:
        """How a version did beside the former champion since it took over; nothing is changed, as on most days."""
        run = Run(f"{MODEL}_labels", f"scheduled__{at.date()}T05:00:00+00:00", f"{MODEL}_labels")
        properties: dict[str, _Value] = {
            **{"model": MODEL, "version": version, "former": former, "outcome": outcome},
            **{"interval_end": at.isoformat(), "reason": reason},
        }
        self.execution(run, "judge_promotion", "PromotionOutcome", properties, at, seconds=1.0)
        promotion: dict[str, _Value] = {
            **{"model": MODEL, "from_version": version, "to_version": version, "changed": 0, "took_over": 0},
            **{"reason": reason, "approval": "release", "interval_end": at.isoformat(), "as_of": at.isoformat()},
            "summary": f"Nothing was changed. {reason}",
        }
        self.execution(run, "take_back", "Promotion", promotion, at, seconds=1.0)

    def quality(self, days: Iterable[tuple[date, float]], *, at: datetime) -> None:
        """How good the served predictions were, by day; the last five days have no labels yet."""
        run = Run(f"{MODEL}_labels", f"scheduled__{at.date()}T04:00:00+00:00", f"{MODEL}_labels")
        properties = {"model": MODEL, "known_by": at.isoformat(), "summary": "The last days are unripe."}
        made = self.execution(run, "label_quality", "LabelQuality", properties, at, seconds=9.0)
        rows = list(days)
        lines = []
        for number, (day, auc) in enumerate(rows):
            is_ripe = number < len(rows) - 5
            figures = {"auc": [auc, auc - 0.02, auc + 0.02]} if is_ripe else {}
            state = "ripe" if is_ripe else "unripe"
            line = {"day": str(day), "rows": 900, "state": state, "in_words": state, "figures": figures}
            lines.append(json.dumps({**line, "estimate": {"auc": auc + 0.006 * math.sin(number)}}))
        write_text(self.folder(made) / "days.jsonl", "\n".join(lines) + "\n")

    def folder(self, artifact: int) -> Path:
        """Where an artifact lies."""
        return self.home.path / "artifacts" / str(artifact)

    def execution(
        self,
        run: Run,
        node: str,
        kind: str,
        properties: Mapping[str, _Value],
        began: datetime,
        *,
        seconds: float,
        given: Iterable[int] = (),
        state: str = "COMPLETE",
        cache: str = "",
        parameters: Mapping[str, str] | None = None,
    ) -> int:
        """One execution of a node, with what it made; gives the artifact's id."""
        self._attempts += 1
        execution = metadata_store_pb2.Execution(
            type_id=self._type("execution", node, {}), last_known_state=_STATES.Value(state)
        )
        for name, text in {"cache": cache, **(parameters or {})}.items():
            execution.custom_properties[name].string_value = text
        own = {} if kind in _OF_TFX else properties
        artifact = metadata_store_pb2.Artifact(
            type_id=self._type("artifact", kind, own), state=metadata_store_pb2.Artifact.LIVE
        )
        for name, value in properties.items():
            _set(artifact.properties[name] if name in own else artifact.custom_properties[name], value)
        attempt = metadata_store_pb2.Context(
            type_id=self._type("context", CONTEXT_TYPE, {}), name=context_name(run.key, node, f"{self._attempts:032}")
        )
        labels = {"dag_id": run.dag_id, "run_id": run.run_id} if run.dag_id else {"owner": "a local run"}
        for name, label in labels.items():
            attempt.custom_properties[name].string_value = label
        around = [
            self._context("pipeline", run.pipeline),
            self._context("pipeline_run", run.key, parent=run.pipeline),
            self._context("node", f"{run.pipeline}.{node}"),
            attempt,
        ]
        events = [
            (metadata_store_pb2.Artifact(id=known, type_id=0), _event(metadata_store_pb2.Event.INPUT))
            for known in given
        ]
        known = {a.id: a for a in self.store.get_artifacts_by_id([a.id for a, _ in events])} if events else {}
        pairs = [(known[a.id], event) for a, event in events]
        pairs.append((artifact, _event(metadata_store_pb2.Event.OUTPUT)))
        number, ids, _ = self.store.put_execution(
            execution, pairs, around, reuse_context_if_already_exist=True, force_reuse_context=True
        )
        made: int = ids[-1]
        start = int(began.timestamp() * 1000)
        self._times.append(("Execution", number, start, start + int(seconds * 1000)))
        self._times.append(("Artifact", made, start, start + int(seconds * 1000)))
        return made

    def close(self) -> Home:
        """Puts executions and artifacts at their times, and artifacts at their places; gives the state folder."""
        with sqlite3.connect(self.home.metadata_db) as database:
            for table, number, begun, ended in self._times:
                at = begun if table == "Execution" else ended
                set_ = "create_time_since_epoch = ?, last_update_time_since_epoch = ?"
                database.execute(f"UPDATE {table} SET {set_} WHERE id = ?", (at, ended, number))
                if table == "Artifact":
                    database.execute("UPDATE Artifact SET uri = ? WHERE id = ?", (str(self.folder(number)), number))
        database.close()
        return self.home

    def _files(
        self, node: str, made: int, run: str, interval: str, *, passed: bool, gain: Any, champion: float
    ) -> None:
        folder = self.folder(made)
        folder.mkdir(parents=True)
        if node == "evaluate":
            bounds = (gain["roc_auc_gain_lower"], gain["roc_auc_gain_upper"])
            of_champion = Check(
                "auc against the champion",
                passed,
                bounds[0],
                ">= -0.008",
                champion,
                note="Over 30 days.",
                interval=bounds,
            )
            checks = (Check("finite predictions", True, 0, "<= 0"), of_champion)
            Verdict(node, interval, checks).write(folder)
        if node in ("validate", "evaluate"):
            write_text(folder / "report.html", REPORT.format(node=node, run=run))
        if node == "validate":
            Verdict(node, interval, (Check("every flight has its id", True, 0, "<= 0"),)).write(folder)

    def _type(self, what: str, name: str, properties: Mapping[str, _Value]) -> int:
        if (what, name) not in self._types:
            maker = {
                "artifact": (metadata_store_pb2.ArtifactType, self.store.put_artifact_type),
                "execution": (metadata_store_pb2.ExecutionType, self.store.put_execution_type),
                "context": (metadata_store_pb2.ContextType, self.store.put_context_type),
            }[what]
            kind = maker[0](name=name)
            for key, value in properties.items():
                kind.properties[key] = {int: 1, float: 2, str: 3}[type(value)]
            self._types[what, name] = maker[1](kind, can_add_fields=True)
        return self._types[what, name]

    def _context(self, kind: str, name: str, parent: str = "") -> metadata_store_pb2.Context:
        if (kind, name) not in self._contexts:
            context = metadata_store_pb2.Context(type_id=self._type("context", kind, {}), name=name)
            stored = self.store.get_context_by_type_and_name(kind, name)
            context.id = stored.id if stored else self.store.put_contexts([context])[0]
            self._contexts[kind, name] = context
            if parent and not stored:
                above = self._context("pipeline", parent).id
                self.store.put_parent_contexts([metadata_store_pb2.ParentContext(child_id=context.id, parent_id=above)])
        return self._contexts[kind, name]


def _event(kind: int) -> metadata_store_pb2.Event:
    event = metadata_store_pb2.Event(type=kind)
    event.path.steps.add().key = "made"
    event.path.steps.add().index = 0
    return event


def _set(target: metadata_store_pb2.Value, value: _Value) -> None:
    if isinstance(value, int):
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    else:
        target.string_value = value
