"""The DAGs of a watch: the watch itself, the check that it has run, and what the DAG of late labels says."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, Param

from airtight.supervised import TRAIN, WATCH, Supervised
from airtight.watch.settings import Labels, Watch
from plugins.tfx_airflow.airflow_compat import BACKFILL
from plugins.tfx_airflow.params import GO_ON, WHEN_PREVIOUS_FAILED
from plugins.tfx_airflow.watch import REPORT, WHEN_DECIDED, AnnounceDay, CheckWatch, StartTraining
from plugins.tfx_airflow.watch import TRAIN as TRAIN_WHEN_DECIDED

WATCHING = """
# {title}: watch

{description} One run watches one day. **summarize** counts its rows, with labels or without; **data_alarms** compares
them with each feature's own past; **challenger** refits cheap models on what is known and scores them beside the served
one; **decide** asks the policy, held by its brakes, and writes what it decided and why. **announce** notifies and
emits an asset, and **retrain** triggers `{name}` where that was decided: once for each decision, however often it is
retried or cleared.

A backfill writes what would have been done, and neither triggers nor notifies. A fault of the data blocks the training
of `{name}` until it is mended, or accepted there. `{name}_watch_check` fails where this DAG has not succeeded in time.
Unpause both; and `{name}`, whose runs wait otherwise.
"""
WATCH_PARAMS: dict[str, Any] = {
    # A day that failed is red; the next one goes on from the last that is known.
    WHEN_PREVIOUS_FAILED: GO_ON,
    WHEN_DECIDED: Param(
        TRAIN_WHEN_DECIDED,
        type="string",
        enum=[TRAIN_WHEN_DECIDED, REPORT],
        title="When retraining is decided",
        description="train triggers the training; report writes what would have been done. A backfill never triggers.",
    ),
}

LABELLING = """
# {title}: labels

Each day, when it is over, its rows are scored by the champion of then and by the one before it; with a prediction log,
the champion's answers are those of the log. The answers of the last days are joined with the labels that are known by
now. **label_quality** says how ripe each day is and how good
it was; **judge_promotion** compares the champion with the former one on the ripe days since it took over, and
**take_back** has the former one served again when it surely loses more. Reports lie in the artifacts.

Trigger it with a day in **interval**. A backfill writes what would have been done, and changes nothing.
"""
ACTS = f"{{{{ 'report' if dag_run.run_type == '{BACKFILL}' else params.acts }}}}"
"""Template of the parameter `acts`: what is right on a past day may be wrong for what serves today."""


def id_of_check(settings: Supervised) -> str:
    """Id of the DAG that checks whether the watch has run."""
    return f"{settings.id_of(WATCH)}_check"


def asset_of(settings: Supervised) -> Asset:
    """The asset whose events are the decisions of a pipeline's watch; nothing is to be triggered by it."""
    return Asset(name=settings.id_of(WATCH), uri=f"airtight://{settings.name}/watch")


def add_watch_tasks(dag: DAG, settings: Supervised) -> None:
    """Adds what is done about a decision: announce and retrain."""
    assert settings.watch is not None
    with dag:
        announce = AnnounceDay(
            task_id="announce", pipeline=settings.name, notify=settings.watch.notify, asset=asset_of(settings)
        )
        retrain = StartTraining(
            task_id="retrain",
            trigger_dag_id=settings.id_of(TRAIN),
            brakes=settings.watch.brakes,
            release=settings.watch.release if settings.release else "",
        )
    dag.get_task("decide") >> [announce, retrain]


def check_dag(settings: Supervised) -> DAG:
    """The DAG whose runs fail where the watch has not succeeded for the same interval in time."""
    assert settings.watch is not None
    with DAG(
        id_of_check(settings),
        doc_md=f"# {settings.title}: was it watched?\n\nA run fails where `{settings.id_of(WATCH)}` has not succeeded "
        f"{settings.watch.late_hours:g} hours after the labels of the same interval are known.",
        description="Fails where the watch did not run.",
        default_args={"owner": "airtight", "retries": 2, "retry_delay": timedelta(seconds=10)},
        tags=["tfx", *settings.tags],
        **by_interval(settings, settings.watch),
    ) as dag:
        CheckWatch(
            task_id="check",
            watch_dag_id=settings.id_of(WATCH),
            pipeline=settings.name,
            label_delay_hours=float(settings.default("label_delay_hours", WATCH)),
            late_hours=settings.watch.late_hours,
            notify=settings.watch.notify,
        )
    return dag


def by_interval(settings: Supervised, daily: Watch | Labels | None = None) -> dict[str, Any]:
    """The arguments of a DAG whose runs are intervals: those of the pipeline, of its watch, or of its labels."""
    schedule = daily.schedule if daily else settings.schedule
    first = (daily.first if daily else None) or settings.first
    own = {"is_paused_upon_creation": True, **daily.dag} if daily else settings.dag
    return {
        "schedule": CronDataIntervalTimetable(schedule, timezone=settings.zone) if schedule else None,
        "start_date": _midnight(first, settings.zone),
        "end_date": _midnight(settings.last, settings.zone) if settings.last else None,
        "catchup": False,
        "max_active_runs": 4,
        **own,
    }


def _midnight(day: date, zone: str) -> pendulum.DateTime:
    return pendulum.datetime(day.year, day.month, day.day, tz=zone)
