"""The pages of models, runs and reports, from records that are made up; test_pages_in_a_browser looks at them."""

import json
import re
from contextlib import redirect_stdout
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from urllib.parse import quote

import pytest

from airtight.audit.actor import Actor, acting
from airtight.audit.log import AuditLog
from airtight.home import Home
from airtight.rollout import state
from airtight.rollout.state import Release
from airtight.watch.alarm_acts import ACKNOWLEDGED, SILENCED
from commands import card_contents, policy
from runtime.lineage import versions
from runtime.lineage.chain_steps import STEPS
from tests.plugins.page_client import get, signed_in
from tests.plugins.past_models import MODEL, PastModels, Run
from tests.plugins.past_year import year
from tests.runtime.store_calls import counted

RUN = "scheduled__2026-07-01T04:00:00+00:00"
AT = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def past_year(tmp_path_factory):
    return year(Home(tmp_path_factory.mktemp("home")), watched=120).home


@pytest.fixture
def page(past_year, monkeypatch):
    """What a path answers to a user; some DAGs are hidden from them."""
    from plugins.tfx_airflow.pages.app import app

    monkeypatch.setenv("AIRTIGHT_HOME", str(past_year.path))

    def answer(path, *hidden):
        with signed_in(hidden):
            response = get(app, path)
        assert response.status_code == 200, response.text
        return response

    return answer


def in_home(home, monkeypatch, path, *hidden, runs=None):
    from plugins.tfx_airflow.pages.app import app

    monkeypatch.setenv("AIRTIGHT_HOME", str(home.path))
    with signed_in(hidden, runs=runs):
        return get(app, path).text


def of_run(run=RUN, dag_id=MODEL):
    return f"/{dag_id}/runs/{quote(run, safe='')}"


def test_a_run_shows_its_gates_its_lineage_and_what_the_cache_said(page):
    text = page(of_run()).text
    for cell in ("<td>auc against the champion</td>", "&gt;= -0.008", "Over 30 days.", "holds</span>"):
        assert cell in text
    assert "0.0005403 to 0.0165" in text, "the interval of the gain"
    assert "0.7990" in text, "the baseline"
    for link in (
        "Data interval",
        "the lake as it was then",
        "rows: test 26,000",
        "version 202608010400001, it took over",
    ):
        assert link in text
    assert "2026-08-01 05:14 to 2026-08-04 05:00; now 202611010400001" in text, "what became of it"
    assert "missed: input examples changed; code equal" in text
    refused = page(of_run("scheduled__2026-04-01T04:00:00+00:00")).text
    assert "stopped by evaluate" in refused and "fails</span>" in refused and "not pushed: evaluate did not" in refused
    assert "No task of this run" in page(of_run("manual__none")).text


def test_a_task_shows_its_own_report_as_it_lies_there_and_a_gate_without_one_its_verdict(page):
    answer = page(of_run() + "/tasks/validate/-1")
    assert answer.text == f"<!doctype html><title>Report</title><h1>The report of validate</h1><p>{RUN}</p>"
    sandbox = answer.headers["content-security-policy"].split(";")[0]
    assert sandbox == "sandbox", "whoever can write a report leads nobody anywhere"
    assert "The report of evaluate" in page(of_run() + "/tasks/evaluate/-1").text
    assert "has no report" in page(of_run() + "/tasks/train/-1").text
    assert "has run no node" in page(of_run() + "/tasks/approve/-1").text


def test_a_report_that_was_removed_is_missed_in_words(tmp_path, monkeypatch):
    past = PastModels(Home(tmp_path))
    past.train(date(2026, 9, 1), date(2026, 10, 1), 1, began=AT, served=0, run_id="once")
    past.close()
    for folder in (tmp_path / "artifacts").iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    text = in_home(past.home, monkeypatch, of_run("once") + "/tasks/validate/-1")
    assert "was removed since" in text and str(tmp_path / "artifacts") in text
    assert "No gate of this run has spoken yet" in in_home(past.home, monkeypatch, of_run("once"))


def test_a_model_shows_versions_champions_alarms_quality_decisions_and_cost(page):
    text = page(f"/{MODEL}/model").text
    assert text.count('<td class="id"><code>2') >= 11
    assert "serves since 2026-11-01" in text and "taken back 2026-08-04" in text and "replaced 2026-10-01" in text
    assert "0.8128" in text and "+0.0098 (+0.0018 to +0.0178)" in text
    assert text.count("<svg") == 5, "champions, intervals, alarms, days, runs"
    assert "120 days were judged" in text and "blocks training</span>" in text
    assert "auc of the served predictions" in text and "unripe" in text
    assert "<td>take back</td><td>it loses .02 a flight to the former one</td>" in text
    assert "fix the data</span>" in text and ">retrain</span>" in text
    assert "11 %) went into models that never served" in text
    assert "complaints about Newark" in text and "ada at 09:12" in text
    assert f'href="/dags/{MODEL}_promote" target="_top"' in text


def test_an_alarm_is_shown_as_acknowledged_or_as_silenced_until_an_instant(tmp_path, monkeypatch):
    past = PastModels(Home(tmp_path))
    past.train(date(2026, 8, 1), date(2026, 9, 1), 1, began=AT, served=0)
    for day, alarm in ((1, "size: no row has a value"), (2, "rows: 212, where such weekdays have 900")):
        past.watch(date(2026, 10, day), at=AT, alarm=alarm)
    past.watch(date(2026, 10, 3), at=AT, alarm="colour: is missing in 9.0% of rows")
    past.close()
    labels = {"dag_id": f"{MODEL}_alarms", "run_id": "manual"}
    with acting(Actor(f"{MODEL}_alarms", "act_on_alarm", "key", "1", labels=labels)):
        log = AuditLog(MODEL, past.home)
        log.append(ACKNOWLEDGED, reason="known", alarm="2026-10-01", approval="ada at 09:12")
        log.append(SILENCED, reason="a strike", alarm="rows:", until="9999-01-01T00:00:00+00:00", approval="bob")
    text = in_home(past.home, monkeypatch, f"/{MODEL}/model")
    rows = {day: text.split(f"2026-10-0{day}</td>")[1].split("</tr>")[0] for day in (1, 2, 3)}
    assert "acknowledged by ada at 09:12: known" in rows[1]
    assert "“rows:” silenced until 9999-01-01 00:00 by bob: a strike" in rows[2]
    assert "nothing yet" in rows[3]
    assert "strike" not in in_home(past.home, monkeypatch, f"/{MODEL}/model", f"{MODEL}_alarms")
    AuditLog(MODEL, past.home).append(ACKNOWLEDGED, reason="by a terminal", alarm="2026-10-03")
    text = in_home(past.home, monkeypatch, f"/{MODEL}/model", "")
    assert "acknowledged by a command: by a terminal" in text, "also for who has rights by DAG, and none to all"


def test_what_a_clear_of_an_earlier_day_made_replaces_nothing_that_is_known_later(tmp_path, monkeypatch):
    past = PastModels(Home(tmp_path))
    version = past.train(date(2026, 8, 1), date(2026, 9, 1), 1, began=AT, served=0)
    days = [date(2026, 10, 1) + timedelta(days=n) for n in range(30)]
    for known in (30, 8):
        past.quality([(day, 0.8) for day in days[:known]], at=AT - timedelta(days=30 - known))
    for outcome, ago in (("take_back", 1), ("watching", 9)):
        past.outcome(version, 1, at=AT - timedelta(days=ago), outcome=outcome, reason=f"as of {ago} days ago")
    past.close()
    text = in_home(past.home, monkeypatch, f"/{MODEL}/model")
    assert f"by {AT:%Y-%m-%d %H:%M}" in text and ">2026-10-30</text>" in text
    assert "<td>take back</td><td>as of 1 days ago</td>" in text and "watching" not in text


STEP = re.compile(r'<li><b>(?:<a href="([^"]*)"[^>]*>)?(\w+)(?:</a>)?</b>\s*<span[^>]*>([^<]*)</span>([^<]*)')


def chain_of(text, day):
    """The headline of a day's chain, and of its steps by name the time and the words."""
    headline, _, rest = text.split(f"<summary>{day}: ")[1].partition("</summary>")
    return headline, {name: values for _, name, *values in STEP.findall(rest.split("</details>")[0])}


def test_a_decision_leads_from_the_alarm_to_the_outcome_with_the_time_of_each_step(page):
    text = page(f"/{MODEL}/model").text
    headline, steps = chain_of(text, "2026-09-06")
    assert headline == "served until 2026-10-01; 9.3 min from the decision to the outcome"
    assert {name: at for name, (at, _) in steps.items()} == {
        **{"Alarm": "2026-09-07 05:00", "Decision": "2026-09-07 05:00", "Training": "2026-09-07 05:01, +56.0 s"},
        **dict.fromkeys(("Verdicts", "Release", "Outcome"), "2026-09-07 05:09, +9.3 min"),
    }
    assert steps["Alarm"][1].startswith("Alarm since 2026-09-06") and "8.4 min" in steps["Training"][1]
    assert steps["Verdicts"][1] == "validate passed; evaluate passed"
    assert "kept: seven ripe days" in steps["Outcome"][1]
    for dag, run in ((MODEL, "watch__2026-09-06__1a2b3c4d"), (f"{MODEL}_watch", "scheduled__2026-09-06T04")):
        assert f"/dags/{dag}/runs/{run}" in text


def test_what_a_backfill_would_have_done_is_marked_and_leads_nowhere(page):
    text = page(f"/{MODEL}/model").text
    headline, steps = chain_of(text, "2026-07-20")
    assert headline == "would have trained (a backfill)" and list(steps) == ["Alarm", "Decision", "Training"]
    assert steps["Training"] == ["not yet", "would have trained 2026-07-14 to 2026-07-21: a backfill triggers nothing"]
    assert "runs/watch__2026-07-20" not in text and '<span class="label">would have</span> a backfill' in text


def test_a_training_of_which_no_node_has_begun_is_as_airflow_has_it(tmp_path, monkeypatch):
    past = PastModels(Home(tmp_path))
    for day in (1, 2):
        past.watch(date(2026, 10, day), at=AT, retrain="it is worse")
    past.close()
    text = in_home(past.home, monkeypatch, f"/{MODEL}/model", runs={"watch__2026-10-01__1a2b3c4d": "queued"})
    headline, steps = chain_of(text, "2026-10-01")
    assert headline == "queued" and "the run is queued" in steps["Training"][1]
    assert f"/dags/{MODEL}/runs/watch__2026-10-01__1a2b3c4d/plugin/gates" in text
    headline, steps = chain_of(text, "2026-10-02")
    assert headline == "would have trained" and "the watch was to report only" in steps["Training"][1]
    assert "runs/watch__2026-10-02" not in text


def test_a_training_of_a_dag_that_the_reader_may_not_read_is_left_out_of_its_chain(tmp_path, monkeypatch):
    past = PastModels(Home(tmp_path), "a_secret_dag")
    run = "watch__2026-10-01__1a2b3c4d"
    past.train(date(2026, 9, 25), date(2026, 10, 2), 1, began=AT + timedelta(hours=1), served=0, run_id=run)
    past.watch(date(2026, 10, 1), at=AT, retrain="it is worse")
    past.close()
    assert chain_of(in_home(past.home, monkeypatch, f"/{MODEL}/model"), "2026-10-01")[0].startswith("serves; ")
    headline, steps = chain_of(in_home(past.home, monkeypatch, f"/{MODEL}/model", "a_secret_dag"), "2026-10-01")
    assert headline == "not for you to read" and list(steps) == ["Alarm", "Decision"]


@pytest.mark.parametrize("kinds", [("scheduled", "backfill"), ("backfill", "scheduled")])
def test_a_day_that_was_decided_again_has_the_time_of_what_triggered_its_training(tmp_path, monkeypatch, kinds):
    past = PastModels(Home(tmp_path))
    run = "watch__2026-10-01__1a2b3c4d"
    for kind in kinds:
        if kind == "scheduled":
            past.watch(date(2026, 10, 1), at=AT, retrain="it is worse")
            past.train(date(2026, 9, 25), date(2026, 10, 2), 1, began=AT + timedelta(hours=1), served=0, run_id=run)
        else:
            past.watch(date(2026, 10, 1), at=AT + timedelta(days=9), retrain="it is worse", run="backfill")
    past.close()
    headline, steps = chain_of(in_home(past.home, monkeypatch, f"/{MODEL}/model"), "2026-10-01")
    assert headline == "serves; 1.1 h from the decision to the outcome"
    assert steps["Decision"][0] == f"{AT:%Y-%m-%d %H:%M}"


def retrained(past, day, **how):
    """What a watch decided on a day, and the training that it triggered; gives the version."""
    past.watch(day, at=datetime(day.year, day.month, day.day, 5, tzinfo=UTC), retrain="it is worse")
    began = datetime(day.year, day.month, day.day, 6, tzinfo=UTC)
    return past.train(day, day + timedelta(days=1), 1, began=began, run_id=f"watch__{day}__1a2b3c4d", **how)


def test_the_outcome_is_what_became_of_a_version_last_whatever_days_of_labels_changed_nothing(tmp_path, monkeypatch):
    past, at = PastModels(Home(tmp_path)), datetime(2026, 10, 1, 9, tzinfo=UTC)
    base = past.train(date(2026, 9, 1), date(2026, 9, 8), 0, began=at - timedelta(days=9), served=0)
    kept = retrained(past, date(2026, 10, 1), served=base)
    past.promote(kept, base, at=at, reason="it is odd", by="ada")
    past.promote(base, kept, at=at + timedelta(hours=1), reason="it was not", by="ada")
    refused = retrained(past, date(2026, 10, 4), served=kept, took_over=False)
    release = Run(f"{MODEL}_release", "manual", f"{MODEL}_release")
    properties = {"model": MODEL, "release": "r1", "stable": kept, "candidate": refused, "summary": "began"}
    past.execution(release, "start", "Release", properties, at + timedelta(days=4), seconds=1.0)
    ends = {"model": MODEL, "changed": 0, "took_over": 0, "interval_end": "2026-10-05T00:00:00-04:00"}
    served = {"from_version": kept, "to_version": kept, "approval": "release r1", "summary": "It fails often."}
    past.execution(release, "finish", "Promotion", ends | served, at + timedelta(days=4), seconds=1.0)
    past.outcome(kept, base, at=at + timedelta(days=9), outcome="watching", reason="Not enough_data.")
    # As a backfill writes it of a day on which the version would have been taken back.
    backfill = Run(f"{MODEL}_labels", "backfill__2026-10-02", f"{MODEL}_labels")
    would = {"from_version": kept, "to_version": base, "approval": "release", "summary": "Nothing was changed."}
    past.execution(backfill, "take_back", "Promotion", ends | would, at + timedelta(days=9), seconds=1.0)
    past.close()
    text = in_home(past.home, monkeypatch, f"/{MODEL}/model")
    headline, steps = chain_of(text, "2026-10-01")
    assert headline.startswith("serves; ")
    again = f"Version {kept} of {MODEL} is served in place of {base}"
    assert steps["Release"] == ["2026-10-01 10:00, +5.0 h", f"{again}."]
    assert steps["Outcome"][1] == f"serves: {again}; watching: Not enough_data."
    headline, steps = chain_of(text, "2026-10-04")
    assert headline.startswith("taken back; ") and steps["Outcome"][1] == "taken back: It fails often."
    assert steps["Release"][1] == "began"
    with redirect_stdout(StringIO()) as printed:
        assert policy.main(["decisions", "--pipeline", MODEL, "--newest", "1"]) == 0
    lines = printed.getvalue()
    assert "2026-10-04: retrain: taken back" in lines and "2026-10-01: retrain" not in lines
    approvals = card_contents._approvals(versions.of_model(past.store, "Promotion", MODEL), kept)
    assert [approval["reason"] for approval in approvals] == ["it is odd", "it was not"]


def test_a_version_that_a_later_one_kept_from_serving_has_never_served(tmp_path, monkeypatch):
    past = PastModels(Home(tmp_path))
    past.train(date(2026, 9, 1), date(2026, 12, 1), 0, began=AT - timedelta(days=60), served=0)
    retrained(past, date(2026, 10, 1), served=0)
    past.close()
    assert chain_of(in_home(past.home, monkeypatch, f"/{MODEL}/model"), "2026-10-01")[0].startswith("never served; ")


def test_who_may_read_the_labels_alone_sees_what_they_took_back(tmp_path, monkeypatch):
    past = PastModels(Home(tmp_path))
    first, second = (past.train(date(2026, n, 1), date(2026, n + 1, 1), n, began=AT, served=0) for n in (8, 9))
    past.promote(second, first, at=AT + timedelta(days=1), reason="it loses", by="release", dag_id=f"{MODEL}_labels")
    past.close()
    hidden = (f"{MODEL}_promote", f"{MODEL}_release")
    assert "taken back 2026-11-02" in in_home(past.home, monkeypatch, f"/{MODEL}/model", *hidden)
    assert "taken back" not in in_home(past.home, monkeypatch, f"/{MODEL}/model", *hidden, f"{MODEL}_labels")


def test_a_day_of_labels_costs_a_page_one_read(tmp_path, monkeypatch):
    reads = {}
    for days in (2, 12):
        past = PastModels(Home(tmp_path / str(days)))
        version = past.train(date(2026, 8, 1), date(2026, 9, 1), 1, began=AT, served=0)
        for day in range(days):
            past.outcome(version, 0, at=AT + timedelta(days=day), outcome="watching", reason="early")
        past.close()
        for hidden in ((), (f"{MODEL}_labels",)):
            with counted() as calls:
                in_home(past.home, monkeypatch, f"/{MODEL}/model", *hidden)
            reads[days, hidden] = sum(calls.counts.values())
    for hidden in ((), (f"{MODEL}_labels",)):
        assert reads[12, hidden] - reads[2, hidden] <= 10


def test_what_other_dags_did_is_shown_to_who_may_read_them_alone(page):
    seen = page(f"/{MODEL}/model", f"{MODEL}_promote", f"{MODEL}_release", f"{MODEL}_watch", f"{MODEL}_labels").text
    for secret in (
        "complaints about Newark",
        "ada at",
        "taken back",
        "10 % of the rows",
        "unripe",
        "the regret is",
        ".02 a flight",
    ):
        assert secret not in seen
    assert f"You may not read {MODEL}_promote, {MODEL}_release" in seen
    assert f"are of the DAG {MODEL}_watch, which you may not read" in seen
    assert f'href="/dags/{MODEL}_promote"' not in seen
    run = page(of_run(), f"{MODEL}_promote").text
    assert "2026-08-04" not in run, "that it was taken back is known of the promotion alone"


def test_runs_of_another_dag_are_left_out_for_who_may_not_read_it(tmp_path, monkeypatch):
    past = PastModels(Home(tmp_path))
    past.train(date(2026, 8, 1), date(2026, 9, 1), 1, began=AT, served=0)
    past.dag_id = "a_secret_dag"
    secret = past.train(date(2026, 9, 1), date(2026, 10, 1), 2, began=AT, served=0, run_id="a_secret_run")
    past.dag_id = ""
    local = past.train(date(2026, 10, 1), date(2026, 11, 1), 3, began=AT, served=0, run_id="a_local_run")
    past.close()
    everything = in_home(past.home, monkeypatch, f"/{MODEL}/model")
    assert str(secret) in everything and str(local) in everything and "a_secret" in everything
    seen = in_home(past.home, monkeypatch, f"/{MODEL}/model", "a_secret_dag")
    assert str(secret) not in seen and "a_secret" not in seen
    assert str(local) in seen and "2 artifacts of DAGs that you may not read are left out" in seen
    # Nor does a run of one DAG stand under the name of another.
    assert "No task of this run" in in_home(past.home, monkeypatch, of_run("a_secret_run"))


def test_the_cache_names_no_run_that_the_reader_may_not_see(tmp_path, monkeypatch):
    past = PastModels(Home(tmp_path), "a_secret_dag")
    past.train(date(2026, 8, 1), date(2026, 9, 1), 1, began=AT, served=0, run_id="first")
    key = Run(MODEL, "first", "a_secret_dag").key
    words = f"hit: code, versions, parameters and inputs equal those of execution 3 in the run {key}; none is gone"
    run = Run(MODEL, "second", MODEL)
    past.execution(run, "transform", "Examples", {"rows_test": 1}, AT, seconds=1, state="CACHED", cache=words)
    past.close()
    assert key in in_home(past.home, monkeypatch, of_run("second"))
    text = in_home(past.home, monkeypatch, of_run("second"), "a_secret_dag")
    assert "a_secret_dag" not in text and "in a run that you may not read; none is gone" in text


def test_labels_and_traffic_are_those_of_the_release_under_way(past_year, page, monkeypatch):
    root = past_year.models_root
    for version in (202610010400001, 202611010400001):
        (root / MODEL / str(version)).mkdir(parents=True, exist_ok=True)
    assert '<span class="label">all requests</span>' in page(f"/{MODEL}/model").text
    release = Release(MODEL, "r1", 202610010400001, 202611010400001, share=0.3, since="2026-11-01T06:00:00+00:00")
    state.write(root, {MODEL: release})
    try:
        text = page(f"/{MODEL}/model").text
        assert "30.0% of the requests" in text and "70.0% of the requests" in text
        assert "A release tries version 202611010400001 beside 202610010400001, as canary" in text
        assert "30.0%" not in page(f"/{MODEL}/model", f"{MODEL}_release").text
    finally:
        (root / state.FILE).unlink()


def test_who_chose_what_is_served_is_of_the_dags_that_promote_and_release(tmp_path, monkeypatch):
    from components.modelling.served import Choice, Served

    past = PastModels(Home(tmp_path))
    version = past.train(date(2026, 9, 1), date(2026, 10, 1), 1, began=AT, served=0)
    past.close()
    served = Served(past.home.models_root)
    (served.root / MODEL / str(version)).mkdir(parents=True)
    served.enter(MODEL)
    served.choose(MODEL, Choice.only(version, by="ada at 09:12", reason="complaints about Newark"))
    seen = in_home(past.home, monkeypatch, f"/{MODEL}/model")
    assert "chosen by ada at 09:12: complaints about Newark" in seen
    for hidden in (f"{MODEL}_promote", f"{MODEL}_release", f"{MODEL}_labels"):
        seen = in_home(past.home, monkeypatch, f"/{MODEL}/model", hidden)
        assert f"Served: version {version}." in seen and "ada at" not in seen and "complaints" not in seen


def test_what_records_say_is_shown_as_text(tmp_path, monkeypatch):
    past = PastModels(Home(tmp_path))
    version = past.train(date(2026, 9, 1), date(2026, 10, 1), 1, began=AT, served=0)
    past.promote(version, version + 1, at=AT, reason="<script>alert(1)</script>", by='"><img src=x onerror=y>')
    past.watch(date(2026, 10, 1), at=AT, alarm="</title><script>alert(2)</script>")
    past.close()
    text = in_home(past.home, monkeypatch, f"/{MODEL}/model")
    assert "alert(1)" in text and "alert(2)" in text
    assert "<script" not in text and "<img" not in text


def test_pages_of_nothing_say_so(tmp_path, monkeypatch):
    home = Home(tmp_path / "new")
    home.path.mkdir()
    for path in (f"/{MODEL}/model", of_run(), of_run() + "/tasks/validate/-1"):
        assert "nothing has run yet" in in_home(home, monkeypatch, path)
    assert not home.metadata_db.exists(), "a page makes no store"
    assert "trains no model" in in_home(home, monkeypatch, "/words/model")
    part = in_home(home, monkeypatch, f"/{MODEL}_promote/model")
    assert f'href="/dags/{MODEL}/plugin/model" target="_top"' in part
    (home.path / "metadata.sqlite").write_bytes(b"no database at all" * 100)
    assert "The page cannot be made" in in_home(home, monkeypatch, f"/{MODEL}/model")


def test_a_model_without_a_watch_or_runs_says_what_would_be_there(tmp_path, monkeypatch):
    past = PastModels(Home(tmp_path))
    past.close()
    text = in_home(past.home, monkeypatch, f"/{MODEL}/model")
    for words in (
        "No version is served yet",
        "Nothing was pushed yet",
        "Nothing was judged yet",
        "No node has run yet",
    ):
        assert words in text
    assert f"It would be the DAG {MODEL}_watch" in text and "no act that you may see" in text


def test_the_interval_of_a_check_outlives_its_file(tmp_path):
    from airtight.verdict import FILE_NAME, Check, Verdict

    checks = (Check("auc", True, 0.1, interval=(0.0, 0.2)), Check("odd", True, interval=(float("nan"), 1.0)))
    Verdict("evaluate", "June", checks).write(tmp_path)
    assert [check.interval for check in Verdict.read(tmp_path).checks] == [(0.0, 0.2), None]
    payload = json.loads((tmp_path / FILE_NAME).read_text())
    del payload["checks"][0]["interval"]
    (tmp_path / FILE_NAME).write_text(json.dumps(payload))
    assert Verdict.read(tmp_path).checks[0].interval is None, "as verdicts of before are"


def test_a_command_prints_what_a_watch_decided_step_by_step(past_year, monkeypatch, capsys):
    monkeypatch.setenv("AIRTIGHT_HOME", str(past_year.path))
    assert policy.main(["decisions", "--pipeline", MODEL]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "2026-09-06: retrain: served until 2026-10-01"
    assert [line.split()[0] for line in lines[:6]] == list(STEPS)
    assert "  Training  2026-09-07 05:01:00  2026-08-31 to 2026-09-07; 8.4 min up to its last step" in lines
    assert lines[6] == "2026-07-20: retrain (a backfill): not begun"
