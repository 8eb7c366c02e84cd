"""A real Airflow: a watch's decision triggers one training, whatever happens in between; a backfill triggers none."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest

from airtight.home import Home
from tests.plugins.airflow_services import Airflow
from tests.waiting import until

pytestmark = pytest.mark.slow

WATCHED = """
from datetime import date, timedelta
from airtight.supervised import Supervised
from airtight.watch.settings import Watch
from plugins.tfx_airflow import TfxDag
from plugins.tfx_airflow.watch_dags import WATCH_PARAMS, add_watch_tasks, by_interval

watch = Watch(notify=("tests.tiny_supervised.watching:NOTIFIER",), first=date(2013, 3, 1), late_hours=0,
              dag={"is_paused_upon_creation": False, "max_active_runs": 1})
settings = Supervised(name="watched", tables="tests.made.up:TABLES", schema="tests.made.up:SCHEMA",
                      transform="tests.made.up:transform", watch=watch)
retries = {"retries": 2, "retry_delay": timedelta(seconds=1)}
dag = TfxDag("tests.tiny_pipeline.watching:create_watch", dag_id="watched_watch", default_args=retries,
             params={**WATCH_PARAMS, "policy": "airtight.watch.policies:every?n=1"}, **by_interval(settings, watch))
add_watch_tasks(dag, settings)
training = TfxDag("tests.tiny_pipeline.watching:create_training", dag_id="watched", schedule=None,
                  is_paused_upon_creation=False)
"""
CHECK = """
from datetime import timedelta
from airflow.sdk import DAG
from plugins.tfx_airflow.watch import CheckWatch

with DAG("watched_watch_check", schedule=None, is_paused_upon_creation=False) as dag:
    CheckWatch(task_id="check", watch_dag_id="watched_watch", pipeline="watched", label_delay_hours=0, late_hours=0,
               notify=("tests.tiny_supervised.watching:NOTIFIER",), retries=2)
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    more = {"NOTES": str(folder / "notes")}
    with Airflow(Home(folder), {"watched": WATCHED, "check": CHECK}, more=more) as running:
        yield running


def trainings(airflow):
    """Ids of the training runs."""
    return [run["dag_run_id"] for run in airflow.ask("GET", "dags/watched/dagRuns?limit=100")["dag_runs"]]


def notes(airflow):
    path = Path(airflow.environment["NOTES"])
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def scheduled(airflow):
    """The id of the scheduled run of the watch, of the day before today; earlier ones are not caught up with."""

    def run():
        (*_, run) = airflow.ask("GET", "dags/watched_watch/dagRuns?run_type=scheduled")["dag_runs"] or [None]
        return run and run["dag_run_id"]

    return until(run, "the watch is scheduled")


def day_of(airflow, run):
    """The day that a run of the watch is about."""
    return airflow.ask("GET", f"dags/watched_watch/dagRuns/{run}")["data_interval_start"][:10]


def states(airflow, run, dag="watched_watch"):
    return {task: state for task, (state, _) in airflow.ended(run, dag).items()}


def test_a_decision_triggers_one_training_of_its_interval_and_people_hear_of_it(airflow, scheduled):
    # A task that triggers a DAG succeeds.
    assert set(states(airflow, scheduled).values()) == {"success"}
    day = day_of(airflow, scheduled)
    (training,) = trainings(airflow)
    assert training.startswith(f"watch__{day}__")
    assert states(airflow, training, "watched") == dict.fromkeys(("ingest", "clear_training", "push"), "success")
    run = airflow.ask("GET", f"dags/watched/dagRuns/{training}")
    assert run["conf"] == {
        "interval": f"{day}T00:00:00+00:00/{date.fromisoformat(day) + timedelta(days=1)}T00:00:00+00:00",
        "window_days": 0,
        "release": "canary",
    }
    (note,) = notes(airflow)
    assert {name: note[name] for name in ("event", "pipeline", "day", "action", "run_id")} == {
        **{"event": "decision", "pipeline": "watched", "day": day},
        **{"action": "retrain", "run_id": training},
    }
    (event,) = airflow.ask("GET", "assets/events")["asset_events"]
    assert (event["name"], event["extra"]["action"], event["extra"]["run_id"]) == ("watched_watch", "retrain", training)


def test_a_clear_and_a_killed_scheduler_trigger_no_second_one(airflow, scheduled):
    assert states(airflow, scheduled)["retrain"] == "success"
    (training,) = trainings(airflow)
    airflow.clear(scheduled, "decide", downstream=True, dag="watched_watch")
    assert states(airflow, scheduled)["retrain"] == "skipped", "the run is there already"
    assert trainings(airflow) == [training]
    # The training run is gone, and the machine goes down while it is triggered again.
    airflow.ask("DELETE", f"dags/watched/dagRuns/{training}")
    airflow.clear(scheduled, "retrain", dag="watched_watch")
    until(lambda: airflow.tasks(scheduled, "watched_watch")["retrain"]["state"] in ("queued", "running"), "it triggers")
    airflow.kill_scheduler()
    airflow.start_scheduler()
    assert states(airflow, scheduled)["retrain"] in ("success", "skipped")
    assert trainings(airflow) == [training]
    assert set(states(airflow, training, "watched").values()) == {"success"}


def test_a_backfilled_watch_says_what_it_would_have_done_and_triggers_nothing(airflow, scheduled):
    airflow.ended(scheduled, "watched_watch")
    before, heard = trainings(airflow), len(notes(airflow))
    airflow.backfill("watched_watch", "2013-03-02T00:00:00Z", "2013-03-04T00:00:00Z", at_once=1)
    runs = airflow.ask("GET", "dags/watched_watch/dagRuns?run_type=backfill")["dag_runs"]
    assert len(runs) == 3
    for run in runs:
        ended = states(airflow, run["dag_run_id"])
        assert (ended["decide"], ended["announce"], ended["retrain"]) == ("success", "skipped", "skipped")
        path = f"dags/watched_watch/dagRuns/{run['dag_run_id']}/taskInstances"
        entry = airflow.ask("GET", f"{path}/decide/xcomEntries/return_value?deserialize=true")["value"]
        assert entry["outputs"]["decision"][0]["properties"]["action"] == "retrain"
        log = json.dumps(airflow.ask("GET", f"{path}/retrain/logs/1"))
        assert "A backfill triggers nothing. It would have triggered watched as watch__2013-03-0" in log
    assert trainings(airflow) == before and len(notes(airflow)) == heard


def test_a_watch_that_did_not_run_is_red_until_it_has_run(airflow, scheduled):
    day = {"logical_date": "2013-03-20T00:00:00Z", "data_interval_start": "2013-03-20T00:00:00Z"}
    day["data_interval_end"] = "2013-03-21T00:00:00Z"
    airflow.ask("POST", "dags/watched_watch_check/dagRuns", {"dag_run_id": "check", **day})
    assert airflow.ended("check", "watched_watch_check") == {"check": ("failed", 1)}
    note = notes(airflow)[-1]
    assert (note["event"], note["day"]) == ("missing", "2013-03-20")
    assert "no run; the DAG is not paused" in note["words"]
    airflow.ask("POST", "dags/watched_watch/dagRuns", {"dag_run_id": "late", "conf": {"when_decided": "report"}, **day})
    late = states(airflow, "late")
    assert (late["decide"], late["retrain"]) == ("success", "skipped")
    airflow.clear("check", "check", dag="watched_watch_check")
    assert states(airflow, "check", "watched_watch_check") == {"check": "success"}
