"""What a watch does in Airflow: notifies, emits its asset, triggers training, and is missed where it did not run."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import NEVER_EXPIRE, Asset, BaseNotifier, BaseOperator, Context  # type: ignore[attr-defined]
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airtight.audit.log import AuditLog
from airtight.errors import AirtightError, TerminalError
from airtight.import_string import load
from airtight.watch.alarm_acts import acts, alarms_in, quieting, summary_of
from airtight.watch.brakes import Brakes
from plugins.tfx_airflow.airflow_compat import BACKFILL, count_runs, dag_is_paused, state_store, trigger_once
from plugins.tfx_airflow.polling import PollingTrigger
from plugins.tfx_airflow.training_hold import held_by

WHEN_DECIDED, TRAIN, REPORT = "when_decided", "train", "report"
"""Param of a watch's DAG, and its values."""
ALARM, DECISION, ROLLBACK, MISSING = "alarm", "decision", "rollback", "missing"
"""Kinds of events."""
_NOTIFIED = "airtight_notified"

Event = Mapping[str, str]
"""What happened: `event` (a kind), `pipeline`, `day`, `words`; of a decision `action` and `run_id`."""


class StartTraining(BaseOperator):
    """Triggers the training DAG where the watch decided so; skipped otherwise, and always in a backfill.

    The run's id is the decision's, so a retry, a Clear and another scheduler meet the run that is there already. Its
    interval is passed on: a run without a schedule of its own has none.

    Until a training has begun, no later decision knows of it. So nothing is triggered while another run is queued or
    running, whoever began it, nor in the cooldown after one of an earlier decision of the policy that failed.

    Args:
      trigger_dag_id: The training DAG.
      decide: Id of the task that decides.
      brakes: The cooldown in days.
      release: The training's parameter `release`; empty for one that has none.
      **kwargs: As for every operator.
    """

    template_fields = ("trigger_dag_id",)

    def __init__(
        self,
        *,
        trigger_dag_id: str,
        decide: str = "decide",
        brakes: Brakes | None = None,
        release: str = "",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("doc_md", f"Triggers {trigger_dag_id} where `{decide}` says retrain; skipped else.")
        super().__init__(**kwargs)
        self.trigger_dag_id = trigger_dag_id
        self.decide = decide
        self.brakes = brakes or Brakes()
        self.release = release

    def execute(self, context: Context) -> None:
        """Triggers it, or not.

        Raises:
          DagRunTriggerException: Airflow triggers the DAG on receiving it.
          AirflowSkipException: Nothing is to be triggered, the run is there already, or an earlier one is in its way.
        """
        decision = _properties(context, self.decide, "decision")
        if decision["action"] != "retrain":
            raise AirflowSkipException(f"{decision['action']}: {decision['reason']}.")
        run = f"{self.trigger_dag_id} as {decision['run_id']} for {decision['trains']}: {decision['reason']}"
        if context["dag_run"].run_type == BACKFILL:
            raise AirflowSkipException(f"A backfill triggers nothing. It would have triggered {run}.")
        if context["params"].get(WHEN_DECIDED, TRAIN) == REPORT:
            raise AirflowSkipException(f"This run reports only. It would have triggered {run}.")
        if reason := held_by(self.trigger_dag_id, str(decision["day"]), str(decision["run_id"]), self.brakes):
            raise AirflowSkipException(f"{reason}. Without it, this would have triggered {run}.")
        self.log.info("Triggering %s.", run)
        conf = {"interval": decision["trains"], "window_days": int(decision.get("window_days", 0))}
        conf |= {"release": self.release} if self.release else {}
        raise trigger_once(self.trigger_dag_id, str(decision["run_id"]), conf)


class Announce(BaseOperator):
    """Calls notifiers with events, each once, and emits an asset for others to see.

    Args:
      pipeline: Name of the pipeline.
      notify: Import strings of notifiers; see `airtight.watch.settings.Watch`.
      asset: The asset that is emitted; None for none.
      **kwargs: As for every operator.
    """

    template_fields = ()

    def __init__(self, *, pipeline: str, notify: Sequence[str], asset: Asset | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("doc_md", "Notifies people of what happened, and emits the asset.")
        super().__init__(outlets=[asset] if asset else [], **kwargs)
        self.pipeline = pipeline
        self.notify = list(notify)
        self.asset = asset

    def execute(self, context: Context) -> None:
        """Calls the notifiers.

        Raises:
          AirflowSkipException: This is a backfill, which notifies nobody.
          AirflowException: A notifier failed. A retry calls that one alone.
        """
        if context["dag_run"].run_type == BACKFILL:
            raise AirflowSkipException("A backfill notifies nobody, and emits no asset.")
        events = list(self.events(context))
        for event in events:
            self.log.info("%s: %s", event["event"], event["words"])
        notify(self, context, self.notify, events)

    def events(self, context: Context) -> Iterable[Event]:
        """What happened; subclasses have it."""
        raise NotImplementedError


class AnnounceDay(Announce):
    """Announces alarms that are new and that nobody acknowledged or silenced, and decisions that do something.

    Its asset's event has the day, what was decided and why, whether there is an alarm, and the training's run id.
    """

    def events(self, context: Context) -> Iterable[Event]:
        """See `Announce`."""
        decision = _properties(context, "decide", "decision")
        alarms = _properties(context, "data_alarms", "alarms")
        day = str(decision["day"])
        shown = ("day", "action", "reason", "alarm", "data_alarm", "regret", "run_id", "version")
        if self.asset is not None:
            context["outlet_events"][self.asset].extra = {name: decision.get(name, "") for name in shown}
        common = {"pipeline": self.pipeline, "day": day}
        loud = self._loud(day, alarms_in(day, str(alarms["summary"]))) if alarms.get("alarm") else []
        if loud:
            yield {"event": ALARM, **common, "words": summary_of(day, loud)}
        if decision.get("alarm_since") == day:
            for words in self._loud(day, [str(decision["regret"])]):
                yield {"event": ALARM, **common, "words": words}
        if decision["action"] != "keep":
            about = {"action": str(decision["action"]), "run_id": str(decision.get("run_id", ""))}
            yield {"event": DECISION, **common, **about, "words": f"{decision['action']}: {decision['reason']}."}

    def _loud(self, day: str, alarms: Sequence[str]) -> list[str]:
        """Those of a day's alarms that nobody has acknowledged or silenced; all, where the audit log cannot be read."""
        try:
            done, now = acts(AuditLog(self.pipeline)), datetime.now(UTC)
        except AirtightError as error:
            self.log.warning("Nobody's acknowledgement or silence counts. %s", error)
            return list(alarms)
        quiet = {words: act for words in alarms if (act := quieting(done, day, words, now))}
        for words, act in quiet.items():
            self.log.info("Nobody is notified of: %s. It is %s.", words, act.effect)
        return [words for words in alarms if words not in quiet]


class AnnounceRollback(Announce):
    """Announces a version that was taken back: by a person, by a release, or because it lost after its promotion.

    Args:
      of: Id of the task that makes `promotion`.
      **kwargs: As for `Announce`.
    """

    def __init__(self, *, of: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.of = of

    def events(self, context: Context) -> Iterable[Event]:
        """See `Announce`."""
        promotion = _properties(context, self.of, "promotion")
        before, now = int(promotion.get("from_version", 0)), int(promotion.get("to_version", 0))
        # "release" alone is one that was never begun.
        is_ended_release = str(promotion.get("approval", "")).startswith("release ")
        # Where nothing was changed, an earlier version may serve meanwhile.
        is_back = now < before and promotion.get("took_over", 1)
        if is_back or (is_ended_release and now == before):
            words = str(promotion["summary"])
            yield {
                "event": ROLLBACK,
                "pipeline": self.pipeline,
                "day": str(promotion.get("as_of", ""))[:10],
                "words": words,
            }


class CheckWatch(BaseOperator):
    """Fails where the watch has not succeeded for the run's own interval in time; no worker is held meanwhile.

    A run that is late has a deadline; one that never came has none, so another DAG looks for it.

    Args:
      watch_dag_id: The watch's DAG.
      pipeline: Name of the pipeline.
      label_delay_hours: Hours after the interval's end until its labels are known.
      late_hours: Hours that the watch has after that.
      notify: Import strings of notifiers.
      **kwargs: As for every operator.
    """

    template_fields = ("watch_dag_id",)
    ui_color = "#ede7f6"

    def __init__(
        self,
        *,
        watch_dag_id: str,
        pipeline: str,
        label_delay_hours: float,
        late_hours: float,
        notify: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("doc_md", f"Fails where {watch_dag_id} has not succeeded for the same interval in time.")
        super().__init__(**kwargs)
        self.watch_dag_id = watch_dag_id
        self.pipeline = pipeline
        self.label_delay_hours = label_delay_hours
        self.late_hours = late_hours
        self.notify = list(notify)

    def execute(self, context: Context, event: Any = None) -> str:
        """Looks for the watch's run when it is due.

        Returns:
          What was found, for XCom.

        Raises:
          TaskDeferred: The watch has time left.
          AirflowFailException: It has not succeeded; the notifiers have been called.
        """
        run = context["dag_run"]
        start, end = run.data_interval_start, run.data_interval_end
        if start is None or end is None:
            raise AirflowFailException("This run has no data interval. Trigger it with the one to be checked.")
        due = end + timedelta(hours=self.label_delay_hours + self.late_hours)
        name = f"{self.watch_dag_id} of {start.isoformat()}"
        # A timetable's run has the start of its interval for its logical date.
        if count_runs(self.watch_dag_id, start, ("success",)):
            return f"{name} has succeeded."
        now = datetime.now(UTC)
        if event is None and due > now:
            self.log.info("%s has until %s.", name, due.isoformat())
            moment = max(due, now + timedelta(seconds=PollingTrigger.settle_s))
            self.defer(trigger=DateTimeTrigger(moment=moment), method_name="execute")
        fault = TerminalError(
            f"{name} has not succeeded.",
            expected=f"a successful run by {due.isoformat()}",
            received=self._received(start),
            remedy="See why: is the DAG paused, was the scheduler down, did a task fail? Run the day (a backfill "
            "triggers no training), then clear this task.",
        )
        words = {"event": MISSING, "pipeline": self.pipeline, "day": start.date().isoformat()}
        notify(self, context, self.notify, [{**words, "words": str(fault)}])
        raise AirflowFailException(str(fault))

    def _received(self, date: datetime) -> str:
        if count_runs(self.watch_dag_id, date):
            return "a run that failed, or has not ended"
        is_paused = dag_is_paused(self.watch_dag_id)
        return "no such DAG" if is_paused is None else f"no run; the DAG is {'paused' if is_paused else 'not paused'}"


def notify(task: BaseOperator, context: Context, notifiers: Sequence[str], events: Sequence[Event]) -> None:
    """Calls each notifier with each event, once in all tries of the task.

    Args:
      task: Whose log takes the faults.
      context: Of the task.
      notifiers: Import strings.
      events: What happened.

    Raises:
      AirflowException: A notifier failed, after all have been called.
    """
    if not notifiers or not events:
        return
    store = state_store(context)
    done: list[list[str]] = store.get(_NOTIFIED) or []
    failed = []
    for name in notifiers:
        for event in events:
            key = [name, event["event"], event["words"]]
            if key in done:
                continue
            try:
                _notifier(name)({**context, "watch": dict(event)})
            except Exception:
                task.log.exception("The notifier %s failed.", name)
                failed.append(name)
                continue
            done = [*done, key]
            store.set(_NOTIFIED, done, retention=NEVER_EXPIRE)
    if failed:
        raise AirflowException(f"Notifiers failed: {', '.join(dict.fromkeys(failed))}.")


def _notifier(name: str) -> Any:
    """A notifier of its own: Airflow's render their templates in place."""
    notifier = load(name)
    if isinstance(notifier, type):
        return notifier()
    return copy.copy(notifier) if isinstance(notifier, BaseNotifier) else notifier


def _properties(context: Context, task_id: str, key: str) -> dict[str, Any]:
    """Properties of the only artifact of a task's output."""
    (artifact,) = context["ti"].xcom_pull(task_ids=task_id)["outputs"][key]
    properties: dict[str, Any] = artifact["properties"]
    return properties
