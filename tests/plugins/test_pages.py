"""Our pages in Airflow's UI; what they need of Airflow is tried in test_airflow."""

import asyncio
import sys
from types import SimpleNamespace

import httpx
import pytest

from streaming import status


@pytest.fixture
def client(home, monkeypatch):
    monkeypatch.setattr(status, "PATIENCE_MS", 600)
    from plugins.airtight_plugin import AirtightPlugin
    from plugins.tfx_airflow import pages

    (allowed,) = pages.app.routes[-1].dependencies
    pages.app.dependency_overrides[allowed.dependency] = lambda: None
    yield lambda path: asyncio.run(_get(AirtightPlugin.fastapi_apps[0]["app"], path))
    pages.app.dependency_overrides.clear()


async def _get(app, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://there") as browser:
        return await browser.get(path)


def test_the_page_of_a_dag_is_the_report_of_its_pipeline(home, client):
    folder = home.reports("flights")
    folder.mkdir(parents=True)
    (folder / "year.html").write_text("<p>The year.</p>")
    (home.path / "reports" / "year.html").write_text("<p>Not this.</p>")
    told = client("/flights/year")
    assert (told.status_code, told.text) == (200, "<p>The year.</p>")
    assert told.headers["content-type"].startswith("text/html")
    for other in ("/words/year", "/%2e/year", "/%2e%2e/year", "/<b>/year"):
        assert "There is no page about" in (text := client(other).text) or "Not Found" in text
        assert "Not this" not in text and "<b>" not in text


def test_the_page_of_a_stream_is_that_of_its_record(home, client):
    folder = home.path / "stream"
    folder.mkdir(parents=True)
    for path in ("/toy_stream/stream", "/toy/stream", "/%2e%2e_stream/stream", "/<b>_stream/stream"):
        assert "There is no stream of" in (text := client(path).text) or "Not Found" in text
        assert "<b>" not in text
    source = SimpleNamespace(accounts=folder / "toy.sqlite", servers="127.0.0.1:9", topic="toys", dead_letters="dead")
    status.started(home, "toy", "streaming.draining", source)
    text = client("/toy_stream/stream").text
    assert "<h1>Stream toy</h1>" in text and "The broker is away" in text
    (folder / "toy.json").write_text('{"name": "of another version"}')
    assert "There is no stream of" in client("/toy_stream/stream").text


def test_a_stream_shows_the_report_that_it_writes_and_no_other_file(home, client):
    folder = home.reports("toys")
    folder.mkdir(parents=True)
    page, secret = folder / "learning.html", home.path / "secret"
    secret.write_text("a secret")
    source = SimpleNamespace(accounts=home.path / "toy.sqlite", servers="127.0.0.1:9", topic="toys", dead_letters="")
    for path in (None, page, secret, folder / ".." / ".." / "secret"):
        status.started(home, "toy", "streaming.draining", source, path)
        assert "There is no report of toy_stream yet" in client("/toy_stream/stream/report").text
    page.write_text("<p>AUC</p>")
    status.started(home, "toy", "streaming.draining", source, page)
    assert client("/toy_stream/stream/report").text == "<p>AUC</p>"
    assert "There is no report of" in client("/other_stream/stream/report").text


def test_loading_the_plugin_imports_no_web_framework():
    import subprocess

    code = "import sys, plugins.airtight_plugin; print(sorted({'fastapi', 'starlette'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip().endswith("[]")
