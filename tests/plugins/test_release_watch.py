"""The tasks around a release: what triggers it, how long it is watched, and what its DAG does when a step fails."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import jinja2
import pytest
from airflow.models.base import ID_LEN
from airflow.providers.common.compat.sdk import DagRunTriggerException
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from airtight.home import Home
from airtight.rollout import arm_metrics, state
from airtight.rollout.rules import Margins
from plugins.tfx_airflow.release import WATCHED, AwaitRelease, ReleaseWatched, StartRelease
from plugins.tfx_airflow.wiring import add_release, add_report
from tests.components.standins import side, standing_in


def ago(minutes: float) -> str:
    return (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()


def watch_settings(**other) -> dict:
    return {
        "model": "toy",
        "release": "one",
        "since": ago(5),
        "minutes": 4.0,
        "longest_minutes": 60.0,
        "margins": Margins(requests=100).to_json(),
    } | other


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A router that follows a release of version 2 beside version 1."""
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path))
    monkeypatch.setattr(ReleaseWatched, "poll_s", 0.01)
    monkeypatch.setattr(ReleaseWatched, "settle_s", 0.0)
    root = Home.current().models_root
    root.mkdir(parents=True)
    state.write(root, {"toy": state.Release("toy", "one", 1, 2)})
    with standing_in(root) as stand_in:
        monkeypatch.setenv(arm_metrics.VARIABLE, stand_in.url)
        stand_in.sides = {"stable": side(180), "candidate": side(20)}
        yield stand_in


def event(**other) -> dict:
    async def first():
        async for seen in ReleaseWatched(**watch_settings(**other)).run():
            return seen.payload

    return asyncio.run(asyncio.wait_for(first(), 60))


class Task:
    """What the context has of a task instance."""

    def __init__(self, xcom: dict) -> None:
        self.xcom = xcom

    def xcom_pull(self, task_ids: str) -> dict:
        return self.xcom[task_ids]

    def xcom_push(self, **_: object) -> None:
        pass


def context(**properties) -> dict:
    outputs = {"release": [{"properties": properties}], "pushed": [{"properties": properties}]}
    run = SimpleNamespace(dag_id="flights", run_id="manual__1", clear_number=2)
    return {"ti": Task({"start": {"outputs": outputs}, "push": {"outputs": outputs}}), "dag_run": run}


def test_it_waits_without_a_worker_and_tells_why_the_watching_ended(there):
    watch = AwaitRelease(task_id="watch", start="start")
    with pytest.raises(TaskDeferred) as deferred:
        watch.execute(context(**watch_settings(), summary="Version 2 answers beside 1.", candidate=2))
    assert deferred.value.method_name == "execute"
    kind, settings = deferred.value.trigger.serialize()
    assert kind == "plugins.tfx_airflow.release.ReleaseWatched"
    assert ReleaseWatched(**settings).serialize() == (kind, settings), "a triggerer that restarts goes on"
    seen = {"release": "one", "reason": "4 minutes are over", "requests": {"stable": 900, "candidate": 100}}
    assert watch.execute(context(), event=seen) == seen


def test_a_release_that_was_not_begun_is_not_waited_for():
    summary = "No release of version 2 of toy was begun: 3 is served, which is newer."
    seen = AwaitRelease(task_id="watch", start="start").execute(context(**watch_settings(release=""), summary=summary))
    assert seen == {"release": "", "reason": summary, "requests": {}}


@pytest.mark.parametrize(
    ("seen", "begun", "expected"),
    [
        ({"release": "one", "reason": "4 minutes are over"}, "one", "4 minutes are over"),
        ({"release": "", "reason": "No release was begun."}, "", "No release was begun."),
        ({"release": "one", "reason": "4 minutes are over"}, "two", ""),
        (None, "two", "the task watch was marked as done by hand"),
    ],
)
def test_judge_hears_only_what_was_seen_of_the_release_that_it_judges(seen, begun, expected):
    task = context(release=begun)["ti"]
    task.xcom["watch"] = seen
    assert jinja2.Template(WATCHED).render(ti=task) == expected


def test_the_trigger_fires_once_it_is_decided(there):
    looks = []
    answer = there.answer

    def counting(path: str):
        looks.append(path)
        there.sides = {"stable": side(1800 * len(looks)), "candidate": side(200 * len(looks))}
        return answer(path)

    there.answer = counting
    seen = event()
    assert seen["reason"].startswith("It is decided: all 8 rules hold")
    assert seen["requests"] == {"stable": 1800 * len(looks), "candidate": 200 * len(looks)}
    assert len(looks) > 1


def test_the_log_tells_how_the_release_stands(there, monkeypatch):
    trigger = ReleaseWatched(**watch_settings())
    lines = []
    monkeypatch.setattr(type(trigger), "log", SimpleNamespace(info=lambda text, *values: lines.append(text % values)))
    assert trigger.poll() is None and trigger.poll() is None
    assert len(lines) == 1 and "still needed are about" in lines[0]


def test_a_candidate_that_fails_is_not_watched_until_its_time_is_over(there):
    there.sides["candidate"] = side(20, failed=20)
    assert event(since=ago(0), minutes=600.0)["reason"].startswith("It is decided: failed share is 1")


def test_it_ends_at_the_latest_after_its_longest_time_also_without_a_router(there, monkeypatch):
    assert event(longest_minutes=5.0)["reason"].startswith("The longest time of 5 minutes is over")
    monkeypatch.setenv(arm_metrics.VARIABLE, "http://127.0.0.1:9")
    assert event(longest_minutes=5.0) == {
        "release": "one",
        "reason": "The longest time of 5 minutes is over, and the router is away",
        "requests": {},
    }
    assert ReleaseWatched(**watch_settings()).poll() is None, "before, it may come back"


def test_a_release_that_somebody_ended_fails_the_task_in_words(there):
    state.write(Home.current().models_root, {})
    seen = event()
    with pytest.raises(AirflowFailException, match="watch: The release of toy is no longer under way") as failed:
        AwaitRelease(task_id="watch", start="start").execute(context(), event=seen)
    assert "Start another release" in str(failed.value)


def test_without_a_routers_address_it_says_so(there, monkeypatch):
    monkeypatch.delenv(arm_metrics.VARIABLE)
    assert "address is not usable" in event()["error"]


def test_a_version_that_is_left_to_a_release_triggers_one(there):
    start = StartRelease(task_id="start_release", trigger_dag_id="releases")
    with pytest.raises(DagRunTriggerException) as triggered:
        start.execute(context(awaits_release=1, version=201307010400001))
    assert triggered.value.trigger_dag_id == "releases"
    assert triggered.value.conf == {"version": "201307010400001", "asked_by": "push"}
    assert triggered.value.logical_date is None
    # So that an attempt after one that was killed triggers no second one, and one after a Clear does.
    assert triggered.value.dag_run_id == "flights__manual__1__201307010400001__2"
    assert triggered.value.skip_when_already_exists


def test_the_id_of_a_triggered_run_fits_into_airflows_column_and_stays_its_own(there):
    start = StartRelease(task_id="start_release", trigger_dag_id="releases")
    ids = []
    for run in ("a", "b"):
        given = context(awaits_release=1, version=2013070101)
        given["dag_run"].run_id = f"{'r' * 240}{run}"
        for _ in range(2):
            with pytest.raises(DagRunTriggerException) as triggered:
                start.execute(given)
            ids.append(triggered.value.dag_run_id)
    assert max(map(len, ids)) <= ID_LEN
    assert ids[0] == ids[1] != ids[2] == ids[3]


@pytest.mark.parametrize("awaits", [{"awaits_release": 0}, {}])
def test_where_nothing_is_left_to_a_release_it_is_skipped_with_the_pushs_reason(awaits):
    start = StartRelease(task_id="start_release", trigger_dag_id="releases")
    with pytest.raises(AirflowSkipException, match=r"Nothing is left to a release\. Not pushed: evaluate"):
        start.execute(context(**awaits, version=0, reason="Not pushed: evaluate did not bless the model."))


def test_what_dag_files_share_comes_after_the_last_steps():
    with DAG("toy", schedule=None) as dag:
        for name in ("push", "monitor"):
            BaseOperator(task_id=name)
    add_release(dag, "releases")
    report = add_report(dag, "--dag", "toy; false", module="some.module")
    assert dag.get_task("push").downstream_task_ids == {"start_release", "report"}
    assert dag.get_task("monitor").downstream_task_ids == {"report"}
    assert report.bash_command.endswith("-m some.module --dag 'toy; false'")
    assert sys.executable not in report.bash_command, "the task's Python is not that of whoever parses"


def test_a_report_runs_with_the_tasks_python_and_takes_its_arguments_as_they_are(tmp_path, monkeypatch):
    module = tmp_path / "shows.py"
    module.write_text("import json, sys; print(json.dumps([sys.executable, *sys.argv[1:]]))")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with DAG("toy", schedule=None) as dag:
        for name in ("push", "monitor"):
            BaseOperator(task_id=name)
    arguments = ("two words", "$HOME; false", "{{ no.template }}", "no_template.sh")
    report = add_report(dag, *arguments, module="shows")
    report.resolve_template_files()
    report.render_template_fields({})
    printed = report.execute({"ti": SimpleNamespace(xcom_push=lambda **_: None)})
    assert json.loads(printed) == [sys.executable, *arguments]
