"""Our pages in Airflow's UI; what they need of Airflow is tried in test_airflow."""

import inspect
import sys

import httpx
import pytest
from fastapi.routing import APIRoute

from streaming.engine import job_records, stream_status
from streaming.engine.job_records import JobRecord
from tests.plugins.page_client import OF_NO_DAG, address, get, signed_in


@pytest.fixture
def client(home, monkeypatch):
    monkeypatch.setattr(stream_status, "PATIENCE_MS", 600)
    from plugins.airtight_plugin import AirtightPlugin

    with signed_in():
        yield lambda path: get(AirtightPlugin.fastapi_apps[0]["app"], path)


def test_the_page_of_a_dag_is_the_report_of_its_pipeline(home, client):
    folder = home.reports("flights")
    folder.mkdir(parents=True)
    (folder / "year.html").write_text("<p>The year.</p>")
    (home.path / "reports" / "year.html").write_text("<p>Not this.</p>")
    response = client("/flights/year")
    assert (response.status_code, response.text) == (200, "<p>The year.</p>")
    assert response.headers["content-type"].startswith("text/html")
    for other in ("/words/year", "/%2e/year", "/%2e%2e/year", "/<b>/year"):
        assert "There is no page about" in (text := client(other).text) or "Not Found" in text
        assert "Not this" not in text and "<b>" not in text


def test_a_dag_without_a_page_is_told_which_dag_has_it(client):
    text = client("/flight_delays_promote/year").text
    assert "flight_delays_promote has no page of its own" in text and "<code>flight_delays</code>" in text
    assert "make year" in (text := client("/flight_delays/year").text) and "every DAG" not in text
    for other in ("words", "flight_delays_stream", "tests.tiny_supervised.settings:SETTINGS"):
        assert "every DAG, also on those that train none" in client(f"/{other}/year").text
    text = client("/flight_delays/stream").text
    assert "flight_delays keeps no stream running" in text and "every DAG" in text


def test_the_name_of_a_page_imports_no_module(client):
    module = "this"
    client(f"/{module}:SETTINGS/year")
    assert module not in sys.modules


def test_the_page_of_a_stream_is_that_of_its_job(home, client, monkeypatch):
    monkeypatch.setenv("AIRTIGHT_FLINK_REST", "http://127.0.0.1:9")
    for path in ("/toy_stream/stream", "/%2e%2e_stream/stream", "/<b>_stream/stream", "/<b>/stream"):
        text = client(path).text
        assert any(words in text for words in ("There is no stream of", "keeps no stream running", "Not Found"))
        assert "<b>" not in text
    job_records.save(JobRecord("toy", "j1", servers="127.0.0.1:9", topics=("toys",)), home)
    text = client("/toy_stream/stream").text
    assert "<h1>Stream toy</h1>" in text and "Flink does not answer" in text


def test_a_stream_shows_the_report_that_it_writes_and_no_other_file(home, client):
    (home.path / "secret_stream").mkdir()
    (home.path / "secret_stream" / "stream.html").write_text("a secret")
    for path in (
        "/toy_stream/stream/report",
        "/%2e%2e_stream/stream/report",
        "/..%2fsecret_stream_stream/stream/report",
    ):
        text = client(path).text
        assert "There is no report of" in text or "Not Found" in text
        assert "secret" not in text.replace("secret_stream", "")
    page = home.reports("toy") / "stream.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>AUC</p>")
    assert client("/toy_stream/stream/report").text == "<p>AUC</p>"
    assert 'href="stream/report"' in client("/toy_stream/stream").text, "one that is no job of Flink"
    assert "There is no report of" in client("/other_stream/stream/report").text


def test_every_route_asks_for_permission_and_every_answer_forbids_scripts(client):
    from airflow.api_fastapi.core_api.security import requires_access_dag, requires_authenticated

    from plugins.tfx_airflow.pages import app as pages

    of_dag = inspect.unwrap(requires_access_dag(method="GET")).__code__
    of_user = requires_authenticated().__code__
    assert len(pages.app.routes) >= 7
    for route in pages.app.routes:
        assert isinstance(route, APIRoute), f"{route} is outside of what asks for permission"
        asks = {getattr(dependency.dependency, "__code__", None) for dependency in route.dependencies}
        # What is of no DAG is for everybody who has logged in; all else is for who may read the DAG.
        assert (of_user if route.path in OF_NO_DAG else of_dag) in asks, route.path
        assert ("{dag_id}" in route.path) != (route.path in OF_NO_DAG), route.path
        _check_headers(client(address(route.path)), route.path)
    _check_headers(client("/no/such/page"), "an unknown page")


def _check_headers(answer: httpx.Response, path: str) -> None:
    policy = dict(rule.strip().partition(" ")[::2] for rule in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and "script-src" not in policy, path
    # Under both a page acts as Airflow's own, which only one that is made here may. No page sends a form.
    assert "allow-forms" not in policy["sandbox"], path
    leads_out = "allow-top-navigation" in policy["sandbox"]
    assert not leads_out or path in ("/{dag_id}/model", "/{dag_id}/runs/{run_id}"), path
    free = {"allow-same-origin", "allow-scripts"} <= set(policy["sandbox"].split())
    assert not free or path == "/{dag_id}/stream", path
    assert answer.headers["x-content-type-options"] == "nosniff", path


def test_a_user_who_may_not_read_the_dag_gets_no_page(home):
    from plugins.tfx_airflow.pages import app as pages

    with signed_in(hidden=("any_stream",)):
        for route in pages.app.routes:
            expected = 200 if route.path in OF_NO_DAG else 403
            assert get(pages.app, address(route.path)).status_code == expected, route.path


def test_who_has_not_logged_in_gets_nothing(home):
    from plugins.tfx_airflow.pages import app as pages

    with signed_in(user=False):
        for route in pages.app.routes:
            assert get(pages.app, address(route.path)).status_code == 401, route.path


def test_what_the_pages_show_needs_nothing_that_the_policy_refuses(home, client):
    job_records.save(JobRecord("toy", "j1"), home)
    for path in ("/toy_stream/stream", "/toy_stream/stream/report", "/toy/year"):
        text = client(path).text
        assert "<script" not in text and "src=" not in text and "<link" not in text


def test_loading_the_plugin_imports_no_web_framework():
    import subprocess

    code = "import sys, plugins.airtight_plugin; print(sorted({'fastapi', 'starlette'} & set(sys.modules)))"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip().endswith("[]")
