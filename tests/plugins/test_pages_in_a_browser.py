"""The pages as people see them: a real Airflow, its own login and permissions, and a browser that clicks.

With TEST_PICTURES set to a folder, a picture of each page is written there; docs/images has them.
"""

import json
import os
import urllib.error
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from airtight.files import digest_of_tree
from airtight.home import Home
from services import state_folder
from tests.plugins.airflow_services import Airflow
from tests.plugins.browser import NEEDED, Browser
from tests.plugins.past_models import MODEL, PastModels
from tests.plugins.users import VARIABLE
from tests.serving.models import save_affine
from tests.waiting import until

pytestmark = [pytest.mark.slow, NEEDED]

JUNE, JULY = 201307010400001, 201308010400001
RUN, SECRET = "july", "secret"
WAITING = "watch__2013-08-05__1a2b3c4d"
"""The run that a decision of the watch names; its DAG is paused, so that it stays queued."""
PASSWORD = "only for tests"
DAGS = {
    MODEL: """
from dataclasses import replace

from airtight.supervised import OPERATIONS, TRAIN
from pipelines.flight_delays.settings import SETTINGS
from plugins.tfx_airflow.supervised import supervised_dags

settings = replace(SETTINGS, approvers=("admin",))
globals().update(supervised_dags(settings, parts=(TRAIN, *OPERATIONS)))
""",
    SECRET: """
from airflow.sdk import DAG

with DAG("secret", schedule=None):
    pass
""",
}


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    past, now = PastModels(home), datetime.now(UTC)
    served = 0
    for number, version in enumerate((JUNE, JULY), start=6):
        folder = home.models(MODEL) / str(version)
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_affine(folder, float(version))
        days = date(2013, number, 1), date(2013, number + 1, 1)
        how = {"served": served, "digest": digest_of_tree(folder), "run_id": RUN if version == JULY else "june"}
        served = past.train(*days, number, began=now - timedelta(days=40 - 5 * number), **how)
    past.watch(date(2013, 8, 5), at=now, retrain="July is over")
    past.dag_id = SECRET
    past.train(date(2013, 8, 1), date(2013, 9, 1), 8, began=now, served=served, run_id="hidden", took_over=False)
    past.close()
    more = {
        "AIRFLOW__CORE__AUTH_MANAGER": "tests.plugins.users.ManagerByDag",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,otto:user,vera:viewer",
        VARIABLE: f"vera={MODEL}_promote,{SECRET};otto={SECRET}",
    }
    state_folder.prepare(home)
    passwords = {name: PASSWORD for name in ("otto", "vera")} | {"admin": state_folder.password(home)}
    state_folder.password_file(home).write_text(json.dumps(passwords))
    with Airflow(home, DAGS, more=more) as running:
        running.start_model_server(JUNE, JULY)
        # A run of this name, so that Airflow's UI has pages of it; its DAG is paused, so that nothing of it runs.
        running.ask("PATCH", f"dags/{MODEL}", {"is_paused": True})
        running.trigger(RUN, dag=MODEL)
        running.trigger(WAITING, dag=MODEL)
        yield running


def picture(browser, name):
    if folder := os.environ.get("TEST_PICTURES"):
        browser.picture(Path(folder) / f"{name}.png")


def test_a_person_logs_in_looks_promotes_and_refuses(airflow):
    dag = f"{airflow.url}/dags/{MODEL}"
    with Browser() as browser:
        browser.log_in(airflow.url, "admin", state_folder.password(airflow.home))
        browser.go(dag)
        browser.click("Model")
        browser.sees(f"Served: version {JULY}, the highest that there is.")
        browser.sees("ROC AUC")
        browser.sees("2013-07-30 to 2013-08-06: the run is queued, and no node of it has begun")
        picture(browser, "model_tab")

        browser.go(f"{dag}/runs/{RUN}")
        browser.click("Gates")
        browser.sees("From the data interval to the served version")
        browser.sees("auc against the champion")
        picture(browser, "gates_tab")
        browser.click("its report")
        until(lambda: browser.address.endswith("/tasks/validate/plugin/report"), "the report's own tab is open")
        until(lambda: browser.run('document.querySelector("iframe")?.src ?? ""').endswith("/validate/-1"), "its frame")
        # Its frame is nobody's origin, so it is asked for as the frame asks.
        report = browser.run('fetch(document.querySelector("iframe").src).then(answer => answer.text())')
        assert "The report of validate" in report
        picture(browser, "report_tab")

        browser.go(f"{dag}/plugin/model")
        browser.click("Promote or roll back")
        until(lambda: browser.address.endswith(f"/dags/{MODEL}_promote"), "the way to the form leads out of the frame")
        browser.click("Trigger")
        browser.sees("Trigger Dag")
        picture(browser, "promote_form")
        browser.type("#element_reason", "July is late")
        browser.click("Trigger", last=True)
        run = until(lambda: _newest_run(airflow), "the form has begun a run")
        _answer(airflow, browser, run, "Approve")
        assert {task: seen["state"] for task, seen in airflow.tasks(run, f"{MODEL}_promote").items()} == {
            **{"propose": "success", "approve": "success"},
            "promote": "success",
        }
        assert airflow.served.choice(MODEL).pinned == JUNE
        browser.go(f"{dag}/plugin/model")
        browser.sees(f"Served: version {JUNE}, chosen by admin at")
        browser.sees("taken back")
        browser.sees("July is late")

        airflow.propose("refused", version="latest", reason="back again")
        _answer(airflow, browser, "refused", "Reject")
        assert airflow.tasks("refused", f"{MODEL}_promote")["promote"]["state"] == "skipped"
        assert airflow.served.choice(MODEL).pinned == JUNE


def test_a_reader_sees_nothing_of_the_dags_that_they_may_not_read(airflow):
    run = f"{airflow.url}/airtight/{SECRET}/runs/hidden"
    with Browser() as browser:
        browser.log_in(airflow.url, "vera", PASSWORD)
        browser.go(f"{airflow.url}/dags/{MODEL}/plugin/model")
        browser.sees(f"You may not read {MODEL}_promote: what they did is left out.")
        browser.sees(str(JULY))
        browser.sees("Time and cost of nodes")  # That is below all the rest.
        assert "Promote or roll back" not in browser.frame and "201309010400001" not in browser.frame
        picture(browser, "model_tab_of_a_reader")
        assert _status(browser, run) == 403
        assert _status(browser, f"{airflow.url}/airtight/{MODEL}/runs/{RUN}") == 200
    with Browser() as browser:
        browser.log_in(airflow.url, "admin", state_folder.password(airflow.home))
        browser.go(f"{airflow.url}/dags/{MODEL}/plugin/model")
        browser.sees("201309010400001")
        assert _status(browser, run) == 200
    with Browser() as browser:
        browser.go(airflow.url)
        assert _status(browser, run) == 401, "who has not logged in sees nothing"


def test_prometheus_scrapes_with_a_token_what_its_user_may_read(airflow):
    def trainings(user, password):
        credentials = {"username": user, "password": password}
        token = httpx.post(f"{airflow.url}/auth/token", json=credentials).json()["access_token"]
        text = httpx.get(scraped, headers={"Authorization": f"Bearer {token}"}, timeout=60).text
        labels = f'dag_id="{MODEL}",node="train",pipeline="{MODEL}",state="complete"'
        return float(text.partition(f"airtight_node_executions_total{{{labels}}} ")[2].partition("\n")[0])

    scraped = f"{airflow.url}/airtight/metrics"
    assert httpx.get(scraped).status_code == 401
    assert trainings("vera", PASSWORD) == 2, "the third is of a DAG that she may not read"
    assert trainings("admin", state_folder.password(airflow.home)) == 3


def test_who_is_not_assigned_may_not_approve(airflow):
    airflow.propose("assigned", version="latest")
    path = f"dags/{MODEL}_promote/dagRuns/assigned/taskInstances/approve/-1/hitlDetails"
    assert [user["name"] for user in airflow.ask("GET", path)["assigned_users"]] == ["admin"]
    body = {"chosen_options": ["Approve"], "params_input": {"note": ""}}
    token = airflow._send("POST", f"{airflow.url}/auth/token", {"username": "otto", "password": PASSWORD})
    mine, airflow._token = airflow._token, token["access_token"]
    try:
        with pytest.raises(urllib.error.HTTPError) as refused:
            airflow.ask("PATCH", path, body)
        assert refused.value.code == 403
    finally:
        airflow._token = mine
    assert airflow.answer("assigned", "Reject")["promote"] == "skipped"


def test_an_alarm_is_acknowledged_when_a_person_approves(airflow):
    dag = f"{MODEL}_alarms"
    seen = airflow.propose("holiday", dag, action="acknowledge", alarm="2013-07-04", reason="a holiday")
    assert "a holiday" in seen
    assert airflow.answer("holiday", "Approve", "seen", dag)["act_on_alarm"] == "success"
    with Browser() as browser:
        browser.log_in(airflow.url, "admin", state_folder.password(airflow.home))
        browser.go(f"{airflow.url}/dags/{MODEL}/plugin/model")
        browser.sees("alarm acknowledged")
        browser.sees("a holiday")


def _newest_run(airflow: Airflow) -> str:
    runs = airflow.ask("GET", f"dags/{MODEL}_promote/dagRuns?order_by=-run_after")["dag_runs"]
    return runs[0]["dag_run_id"] if runs else ""


def _answer(airflow: Airflow, browser: Browser, run: str, option: str) -> None:
    """Answers as a person does, under Required Actions."""
    until(lambda: airflow.tasks(run, f"{MODEL}_promote")["approve"]["state"] == "awaiting_input", "it waits")
    browser.go(f"{airflow.url}/dags/{MODEL}_promote/runs/{run}/tasks/approve/required_actions")
    browser.sees("Serve version")
    if option == "Approve":
        picture(browser, "approve_task")
    browser.click(option)
    airflow.ended(run, f"{MODEL}_promote")


def _status(browser: Browser, url: str) -> int:
    return int(browser.run(f"fetch({json.dumps(url)}).then(answer => answer.status)"))
