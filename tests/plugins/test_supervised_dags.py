"""The DAGs that settings make: tasks, forms, documentation; and what is made in the process of one task."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import ParamValidationError

from airtight.errors import AirtightError, TerminalError
from airtight.home import ROOT
from airtight.supervised import BY_INTERVAL, LABELS, OPERATIONS
from plugins.tfx_airflow.supervised import supervised_dags
from runtime import fresh_pipelines
from tests.tiny_supervised import settings
from tests.tiny_supervised.settings import REPLACED, SETTINGS, WATCHED

pytestmark = pytest.mark.slow


def upstream(dag):
    return {task.task_id: set(task.upstream_task_ids) for task in dag.tasks}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def home(folder, monkeypatch):
    """One state folder for the module: the pipelines are compiled once."""
    monkeypatch.setenv("AIRTIGHT_HOME", str(folder))
    monkeypatch.setenv("AIRFLOW_HOME", str(folder / "airflow"))


def test_one_call_makes_every_dag_of_a_pipeline(home):
    dags = supervised_dags(SETTINGS)
    assert {dag_id: dag.dag_id for dag_id, dag in dags.items()} == {
        name: name for name in ("toy", "toy_promote", "toy_release", "toy_alarms", "toy_batch_predict")
    }
    assert all(set(dag.tags) == {"tfx", "parts"} for dag in dags.values())

    train = dags["toy"]
    assert upstream(train) == {
        "await_labels": set(),
        "ingest": {"await_labels"},
        "validate": {"ingest"},
        "transform": {"validate"},
        "train": {"transform"},
        "await_previous_push": {"train"},
        "champion": {"await_previous_push"},
        "evaluate": {"champion"},
        "try_serving": {"evaluate"},
        "push": {"try_serving"},
        "monitor": {"push"},
        "start_release": {"push"},
        "report": {"push", "monitor"},
    }
    assert train.get_task("start_release").trigger_dag_id == "toy_release"
    assert (
        "-m commands.report --pipeline tests.tiny_supervised.settings:SETTINGS" in train.get_task("report").bash_command
    )
    assert (train.params["epochs"], train.params["learning_rate"], train.params["seed"]) == (2, 0.01, 0)
    assert train.params.get_param("learning_rate").description == "The highest."
    assert (train.start_date.isoformat(), train.end_date.isoformat()) == (
        "2020-03-01T00:00:00+00:00",
        "2020-04-01T00:00:00+00:00",
    )
    assert train.doc_md.startswith("# Broken parts\n\nDoes a part break? One run learns")
    assert "(such as `2020-03-01`)" in train.doc_md and "/v1/models/toy`; with **release** set" in train.doc_md
    assert train.description.startswith("Does a part break? Learned")

    promote = dags["toy_promote"]
    assert upstream(promote) == {"propose": set(), "approve": {"propose"}, "promote": {"propose", "approve"}}
    assert "make rollback PIPELINE=toy" in promote.doc_md
    with pytest.raises(ParamValidationError):
        promote.params.get_param("approval").resolve("me")

    assert promote.get_task("approve").assigned_users is None, "whoever may answer at all"

    alarms = dags["toy_alarms"]
    assert upstream(alarms) == {"approve": set(), "act_on_alarm": {"approve"}}
    assert alarms.params.get_param("action").schema["enum"] == ["acknowledge", "silence", "end_silence"]
    with pytest.raises(ParamValidationError):
        alarms.params.get_param("approval").resolve("me")

    release = dags["toy_release"]
    assert upstream(release)["watch"] == {"start"} and upstream(release)["finish"] == {"start", "judge"}
    assert release.max_active_runs == 1 and release.is_paused_upon_creation is False

    batch = dags["toy_batch_predict"]
    assert [*upstream(batch)] == ["ingest", "validate", "transform", "batch_predict"]
    assert (batch.params["version"], batch.params["lake_version"]) == ("as_of", "now")
    for dag in dags.values():
        assert "{" not in dag.doc_md, "every word is filled in"


def test_approvers_are_assigned_and_an_override_asks_them(home, monkeypatch):
    approved = replace(WATCHED, approvers=("ada", "bob"))
    monkeypatch.setattr(settings, "WATCHED", approved)
    dags = supervised_dags(approved)
    asks = [dags["watched"].get_task("approve_override")]
    asks += [dags[f"watched_{part}"].get_task("approve") for part in ("promote", "alarms")]
    for task in asks:
        assert [user["id"] for user in task.assigned_users] == ["ada", "bob"], task
    assert upstream(dags["watched"])["evaluate"] == {"champion", "approve_override"}
    override, evaluate = asks[0], dags["watched"].get_task("evaluate")
    assert upstream(dags["watched"])["clear_training"] == {"ingest", "approve_override"}
    blocks = {"champion_incomparable": "block", "data_faults": "block"}
    assert override.execute({"params": blocks}) is None, "it asks nobody"
    shown = []
    monkeypatch.setattr(ApprovalOperator, "execute", lambda task, context: shown.append(context["params"]))
    for name in blocks:
        override.execute({"params": blocks | {name: "accept"}})
    assert len(shown) == 2
    assert override.fail_on_reject and set(override.params) == {"reason"}
    response = {
        "responded_by_user": {"id": "1", "name": "ada"},
        "responded_at": "noon",
        "params_input": {"reason": "the feed was down"},
    }
    labels = evaluate.labels["approval"]
    for answer, expected in ((response, "ada at noon: the feed was down"), (None, "")):
        context = {"ti": SimpleNamespace(xcom_pull=lambda task, answer=answer: answer)}
        assert evaluate.render_template(labels, context) == expected


def test_a_file_may_make_some_of_the_dags_alone(home):
    assert set(supervised_dags(SETTINGS, REPLACED, parts=BY_INTERVAL)) == {"toy", "toy_batch_predict", "replaced"}
    assert set(supervised_dags(SETTINGS, REPLACED, parts=OPERATIONS)) == {"toy_promote", "toy_release", "toy_alarms"}
    with pytest.raises(TerminalError, match="promotion"):
        supervised_dags(SETTINGS, parts=("promotion",))


def test_a_training_pipeline_that_does_not_compile_leaves_the_way_back(home, tmp_path, monkeypatch):
    package = tmp_path / "broken_parts"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "train.py").write_text("def train(:\n")
    (package / "settings.py").write_text(
        "from dataclasses import replace\n"
        "from tests.tiny_supervised import settings as toy\n"
        "SETTINGS = replace(toy.SETTINGS, name='broken', package=__package__, components={'train': '.train:train'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from broken_parts.settings import SETTINGS as BROKEN

    with pytest.raises(AirtightError, match=r"train\.py, line 1"):
        supervised_dags(BROKEN, parts=BY_INTERVAL)
    assert set(supervised_dags(BROKEN, parts=OPERATIONS)) == {"broken_promote", "broken_release", "broken_alarms"}


def test_what_a_file_makes_is_compiled_by_one_process(home, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path))
    requests = []
    call = fresh_pipelines.call
    monkeypatch.setattr(
        fresh_pipelines, "call", lambda request, launcher: requests.append(request) or call(request, launcher)
    )
    assert len(supervised_dags(SETTINGS, REPLACED)) == 6
    assert len(requests) == 1
    assert len(supervised_dags(SETTINGS, REPLACED)) == 6
    assert len(requests) == 1, "compiled already"


def test_what_the_settings_leave_out_is_not_there(home):
    dags = supervised_dags(REPLACED)
    assert set(dags) == {"replaced"}
    dag = dags["replaced"]
    assert "start_release" not in dag.task_ids and "release" not in dag.params
    assert {"depth", "seed"} <= set(dag.params) and "epochs" not in dag.params, "only what the nodes take"
    assert "canary" not in dag.doc_md


def test_the_process_of_a_task_makes_its_dag_alone(home):
    code = (
        "import json; from tests.tiny_supervised.settings import SETTINGS, REPLACED\n"
        "from plugins.tfx_airflow.supervised import supervised_dags\n"
        "print(json.dumps([*supervised_dags(SETTINGS), *supervised_dags(REPLACED)]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "_AIRFLOW_PARSING_CONTEXT_DAG_ID": "toy_promote"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["toy_promote"]


def test_a_pipeline_that_is_watched_has_two_more_dags_and_a_gate_before_its_examples(home):
    dags = supervised_dags(WATCHED, parts=BY_INTERVAL)
    assert set(dags) == {"watched", "watched_watch", "watched_watch_check", "watched_labels"}
    watch = dags["watched_watch"]
    assert upstream(watch) == {
        "await_labels": set(),
        "ingest": {"await_labels"},
        "validate": {"ingest"},
        "transform": {"validate"},
        "summarize": {"champion", "transform"},
        "champion": {"ingest"},
        "challenger": {"champion", "transform"},
        "await_previous_decide": {"summarize", "challenger"},
        "days_before": {"await_previous_decide"},
        "data_alarms": {"days_before"},
        "decide": {"data_alarms"},
        "announce": {"decide"},
        "retrain": {"decide"},
    }
    retrain = watch.get_task("retrain")
    assert (retrain.trigger_dag_id, retrain.release, dags["watched"].params["release"]) == (
        *("watched", "canary", "at_once"),
    )
    assert [asset.uri for asset in watch.get_task("announce").outlets] == ["airtight://watched/watch"]
    assert (watch.params["policy"], watch.params["when_decided"], watch.params["when_previous_failed"]) == (
        *("tests.tiny_supervised.watching:every_second_day", "train", "go_on"),
    )
    assert (watch.start_date.isoformat()[:10], watch.catchup, watch.is_paused_upon_creation) == (
        *("2020-02-15", False, True),
    )
    (check,) = dags["watched_watch_check"].tasks
    assert (check.watch_dag_id, check.late_hours) == ("watched_watch", 6)
    assert upstream(dags["watched"])["transform"] == {"clear_training", "validate"}
    assert dags["watched"].params["data_faults"] == "block"
    operations = supervised_dags(WATCHED, parts=OPERATIONS)
    assert upstream(operations["watched_release"])["announce"] == {"finish"}
    assert upstream(operations["watched_promote"])["announce"] == {"promote"}
    for dag in (*dags.values(), *operations.values()):
        assert "{" not in dag.doc_md


@pytest.mark.parametrize(
    ("run_type", "acts", "expected"),
    [
        ("scheduled", "act", "act"),
        ("scheduled", "report", "report"),
        ("manual", "act", "act"),
        ("backfill", "act", "report"),
    ],
)
def test_labels_are_a_part_whose_backfill_takes_nothing_back_and_whose_rollback_people_hear_of(
    home, run_type, acts, expected
):
    dag = supervised_dags(WATCHED, parts=(LABELS,))["watched_labels"]
    assert upstream(dag) == {
        "ingest": set(),
        "validate": {"ingest"},
        "transform": {"validate"},
        "answers": {"transform"},
        "former": {"transform"},
        "await_previous_take_back": {"answers", "former"},
        "label_quality": {"await_previous_take_back"},
        "judge_promotion": {"label_quality"},
        "take_back": {"judge_promotion"},
        "announce": {"take_back"},
    }
    assert (dag.start_date.isoformat()[:10], dag.is_paused_upon_creation, dag.catchup) == ("2020-02-20", True, False)
    assert (dag.params["acts"], dag.get_task("announce").of) == ("act", "take_back")
    back = dag.get_task("take_back")
    context = {"dag_run": SimpleNamespace(run_type=run_type), "params": {"acts": acts}}
    assert back.render_template(back.overrides, context) == {"acts": expected}
