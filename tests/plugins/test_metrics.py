"""What Prometheus scrapes from the plugin, of records that are made up."""

import re
from datetime import UTC, date, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from airtight.home import Home
from plugins.tfx_airflow.pages import metrics
from runtime.lineage import costs
from runtime.prefork_server import Server
from runtime.protocol import load_of
from tests.plugins.page_client import get, signed_in
from tests.plugins.past_models import MODEL, PastModels

AT = datetime(2026, 9, 5, 5, tzinfo=UTC)
OURS = re.compile(r"airtight_(served|watch|quality|node|launcher)(_[a-z]+)+")
WATCH = f"{MODEL}_watch"


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    past = PastModels(Home(tmp_path_factory.mktemp("home")))
    past.train(date(2026, 7, 1), date(2026, 8, 1), 1, began=AT.replace(month=8), served=0, cached=("validate",))
    past.train(
        date(2026, 8, 1), date(2026, 9, 1), 2, began=AT, served=202608010400001, run_id="watch__2026-09-01__1a2b"
    )
    past.watch(date(2026, 9, 1), at=AT, alarm="rows: 212", blocking=True)
    past.watch(date(2026, 9, 3), at=AT, alarm="size: is missing; rows: 212", retrain="a shift")
    past.watch(date(2026, 9, 1), at=AT)
    past.watch(date(2026, 8, 31), at=AT, run="backfill", alarm="rows: 7")
    past.quality([(date(2026, 8, day), 0.7 + day / 100) for day in range(1, 9)], at=AT)
    past.home.models(MODEL).joinpath("202609010400001").mkdir(parents=True)
    past.close()
    return past


@pytest.fixture
def scrape(past, monkeypatch):
    """What a user scrapes from whom some DAGs are hidden."""
    monkeypatch.setattr(metrics, "_KEPT", {})
    monkeypatch.setenv("AIRTIGHT_HOME", str(past.home.path))

    def answer(*hidden):
        from plugins.tfx_airflow.pages.app import app

        with signed_in(hidden):
            response = get(app, "/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        return list(text_string_to_metric_families(response.text))

    return answer


def values(families, name):
    """The samples of a name, by the values of their labels."""
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(s.labels[label] for label in metrics.FAMILIES[name][2]): s.value for s in samples}


def test_names_say_part_thing_and_base_unit(scrape):
    families = {family.name: family for family in scrape()}
    assert len(families) == len(metrics.FAMILIES), "each has its type and its words"
    for name in metrics.FAMILIES:
        family = families[name.removesuffix("_total")]
        assert OURS.fullmatch(name) and family.documentation.endswith("."), name
        assert (family.type == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(us|ms|minutes|hours|kb|mb|percent|count)(_total)?$", name), name
        unit = re.search("time|duration|memory|share|ratio", name)
        assert not unit or name.endswith({"memory": "_bytes", "ratio": "_ratio"}.get(unit[0], "_seconds")), name


def test_a_pipeline_shows_what_serves_and_what_its_watch_knows_by_data_time(scrape):
    families = scrape()

    def watch(name):
        return values(families, f"airtight_watch_{name}")

    of_model = (MODEL,)
    assert values(families, "airtight_served_version")[of_model] == 202609010400001
    assert watch("last_day_timestamp_seconds")[of_model] == datetime(2026, 9, 4, 4, tzinfo=UTC).timestamp()
    assert (watch("alarms")[of_model], watch("days")[of_model], watch("alarm_days")[of_model]) == (2, 3, 2)
    assert watch("training_blocked")[of_model] == 0, "the fault was mended, and its day judged again"
    assert watch("decision") == {(MODEL, "retrain"): 1, (MODEL, "keep"): 0, (MODEL, "fix_data"): 0}
    assert watch("regret_alarm")[of_model] == 1 and watch("trainings_total")[of_model] == 1


def test_quality_is_that_of_the_last_ripe_day(scrape):
    families = scrape()
    assert values(families, "airtight_quality_figure") == {(MODEL, "auc"): pytest.approx(0.73)}
    at = values(families, "airtight_quality_day_timestamp_seconds")
    assert at == {(MODEL,): datetime(2026, 8, 4, 4, tzinfo=UTC).timestamp()}


def test_nodes_are_counted_by_state_and_their_last_run_is_in_seconds(scrape):
    families = scrape()
    count = values(families, "airtight_node_executions_total")
    assert count[MODEL, MODEL, "validate", "cached"] == count[MODEL, MODEL, "validate", "complete"] == 1
    assert count[MODEL, WATCH, "decide", "complete"] == 4 and count[MODEL, WATCH, "decide", "failed"] == 0
    assert values(families, "airtight_node_last_duration_seconds")[MODEL, MODEL, "train"] == 300
    ended = values(families, "airtight_node_last_success_timestamp_seconds")[MODEL, MODEL, "ingest"]
    assert ended == AT.timestamp() + 40


def test_a_scrape_shows_no_dag_that_its_reader_may_not_read(scrape):
    scrape()
    families = scrape(WATCH)
    assert not values(families, "airtight_watch_alarms") and values(families, "airtight_served_version")
    dags = {labels[1] for labels in values(families, "airtight_node_executions_total")}
    assert MODEL in dags and WATCH not in dags
    families = scrape(MODEL)
    assert (MODEL,) not in values(families, "airtight_served_version") and values(families, "airtight_watch_alarms")
    assert not values(scrape(f"{MODEL}_labels"), "airtight_quality_figure")
    assert values(scrape(), "airtight_quality_figure"), "what one reader is refused is kept for no other"


def test_history_is_read_again_only_where_it_changed(past, scrape, monkeypatch):
    read = []
    known = costs.costs
    monkeypatch.setattr(costs, "costs", lambda store, pipeline: read.append(pipeline) or known(store, pipeline))
    scrape()
    assert {MODEL, WATCH} <= set(read)
    read.clear()
    scrape()
    assert read == []
    past.watch(date(2026, 9, 4), at=AT)
    past.close()
    assert values(scrape(), "airtight_watch_days") == {(MODEL,): 4}
    assert set(read) == {WATCH}


def test_the_launcher_is_up_while_it_serves_and_notices_no_scrape(scrape, past):
    assert values(scrape(), "airtight_launcher_up") == {(): 0}
    server = Server(past.home.launcher_socket, None)
    server._note_load()
    families = scrape()
    assert values(families, "airtight_launcher_up") == {(): 1}
    assert values(families, "airtight_launcher_requests_total") == {(): 0}
    assert values(families, "airtight_launcher_resident_memory_bytes")[()] > 2**20
    assert abs(values(families, "airtight_launcher_start_time_seconds")[()] - datetime.now().timestamp()) < 60
    server._listener.settimeout(0.1)
    with pytest.raises(TimeoutError):
        server._listener.accept()
    server._listener.close()
    # A process that is killed removes neither its socket nor its note.
    families = scrape()
    assert values(families, "airtight_launcher_up") == {(): 0}
    assert not values(families, "airtight_launcher_requests_total") and load_of(past.home.launcher_socket) == {}


def test_a_store_that_cannot_be_read_fails_the_scrape(scrape, monkeypatch):
    from plugins.tfx_airflow.pages import app as pages

    monkeypatch.setenv("AIRTIGHT_METADATA", "nonsense")
    with signed_in():
        assert get(pages.app, "/metrics").status_code == 503
