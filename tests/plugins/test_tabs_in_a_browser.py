"""The tabs in a browser, without Airflow around them: what their frames show, and what they let out and in.

With TEST_PICTURES set to a folder, a picture of each page is written there; test_pages_in_a_browser does the same with
a real Airflow.
"""

import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from airtight.home import Home
from streaming.engine import job_records, stream_status
from streaming.engine.flink_rest import Checkpoints, Job, JobStatus
from streaming.engine.job_records import JobRecord
from streaming.engine.stream_status import Partition, StreamStatus, iso
from tests.plugins.browser import NEEDED, Browser
from tests.plugins.page_client import signed_in
from tests.plugins.past_models import MODEL
from tests.plugins.past_year import year
from tests.waiting import until

pytestmark = [pytest.mark.slow, NEEDED]

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp()
RUN = "scheduled__2026-07-01T04:00:00+00:00"
HOST = """<!doctype html><html><head><base href="/"></head><body style="margin: 0; height: 100vh"><script type="module">
const set = (made, values) => Object.entries(values).forEach(([name, value]) =>
  name === "style" ? Object.assign(made.style, value) : made.setAttribute(name, value));
globalThis.React = { createElement: (name, values) => {
  const made = document.createElement(name); set(made, values); return made; } };
await import(new URL("airtight/tab.js?tab", document.baseURI).href);
const [dagId, runId, taskId] = new URLSearchParams(location.search).getAll("id");
document.body.append(globalThis.AirflowPlugin({ dagId, runId, taskId, mapIndex: undefined }));
</script></body></html>"""
"""As Airflow's UI loads a react app: React is there, the module is imported, and its function makes the element."""


class Site(NamedTuple):
    """Where the pages are served, and of which state folder."""

    url: str
    home: Home


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the pages' app beside a page that holds a tab."""
    from plugins.tfx_airflow.pages.app import app

    home = year(Home(tmp_path_factory.mktemp("home"))).home
    versions = (202610010400001, 202611010400001)
    for version in versions:
        (home.models(MODEL) / str(version)).mkdir(parents=True)

    def elsewhere(request):
        return HTMLResponse(f"<p>Airflow's own page {request.url.path}</p>")

    def tab(_):
        return HTMLResponse(HOST)

    around = Starlette(routes=[Route("/tab", tab), Mount("/airtight", app), Route("/dags/{rest:path}", elsewhere)])
    server = uvicorn.Server(uvicorn.Config(around, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    with signed_in(hidden=("secret",)):
        thread.start()
        until(lambda: server.started, "the pages are served")
        yield Site(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", home)
        server.should_exit = True
        thread.join()


@pytest.fixture(autouse=True)
def home(site, monkeypatch):
    """The module's state folder, for each test in place of one of its own."""
    monkeypatch.setenv("AIRTIGHT_HOME", str(site.home.path))
    return site.home


def picture(browser, name):
    if folder := os.environ.get("TEST_PICTURES"):
        time.sleep(0.5)
        browser.picture(Path(folder) / f"{name}.png")


def open_tab(browser, site, *ids):
    browser.go(f"{site.url}/tab?{'&'.join(f'id={part}' for part in ids)}")


def test_a_tab_shows_its_page_and_its_links_lead_out(site):
    with Browser(size=(1440, 2600)) as browser:
        open_tab(browser, site, MODEL)
        browser.sees("Served: version 202611010400001, the highest that there is.")
        browser.sees("Champion over time")
        browser.sees("Time and cost of nodes")
        wide, seen = browser.run(
            "(e => [e.scrollWidth, e.clientWidth])(document.querySelector('iframe').contentDocument.documentElement)"
        )
        assert wide <= seen, "nothing hangs over the edge"
        picture(browser, "model_tab")
        browser.click("Promote or roll back")
        until(lambda: browser.address == f"{site.url}/dags/{MODEL}_promote", "the link leads out of the frame")
    with Browser(size=(1440, 1040)) as browser:
        open_tab(browser, site, MODEL)
        browser.sees("From the alarm to the outcome")
        headings = "[...document.querySelector('iframe').contentDocument.querySelectorAll('h2')]"
        browser.run(f"{headings}.find(h => h.innerText.startsWith('Decisions about')).scrollIntoView()")
        picture(browser, "decisions")
        browser.click("Training")
        until(lambda: "/runs/watch__2026-09-06__" in browser.address, "a decision leads to the training of its time")
    with Browser() as browser:
        open_tab(browser, site, MODEL, RUN.replace("+", "%2B"))
        browser.sees("From the data interval to the served version")
        picture(browser, "gates_tab")
        browser.click("its report")
        until(lambda: browser.address.endswith("/tasks/validate/plugin/report"), "a gate leads to its report")


def test_a_stream_shows_how_it_does_at_the_width_of_a_narrow_window(site, home, monkeypatch):
    """What Flink and the broker say is made up."""
    job_records.save(
        JobRecord("flight_delays", "8f1c0d5e", submitted=iso(NOON - 9e4), code="4b7d" * 16, dead_letters="d")
    )
    checkpoints = Checkpoints(5_390, 2, "file:/c", NOON - 7, 0.4, 4_816_210)
    job = Job("8f1c0d5e", "flight_delays", "RUNNING", NOON - 9e4, True)
    failure = "ValueError: 12 % of the messages are bad"
    status = JobStatus(job, NOON - 61, 9, checkpoints, 1, NOON - 4e4, failure, worker_memory_mb=212)
    parts = tuple(Partition("flights.events", n, 181_204 - 977 * n, 181_240 - 983 * n) for n in range(4))
    seen = StreamStatus(iso(NOON), status, 0.41, parts, 17, "")
    monkeypatch.setattr(stream_status, "status", lambda flink, record: seen)
    with Browser(size=(1000, 800)) as browser:
        browser.go(f"{site.url}/airtight/flight_delays_stream/stream")
        for text in ("It is RUNNING", "ValueError: 12 %", "4,816,210", "flights.events 3", "178,273"):
            browser.sees(text)
        wide, seen_wide = browser.run("[document.body.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= seen_wide, "nothing hangs over the edge"
        picture(browser, "stream_tab")


def test_a_report_is_nobodys_origin_and_runs_no_script(site, home):
    report = min(home.path.glob("artifacts/*/report.html"), key=lambda path: int(path.parent.name))
    report.write_text("<script>document.title = 'a script ran'</script><a href='/dags/x' target=_top>Go</a>")
    with Browser() as browser:
        open_tab(browser, site, MODEL, "scheduled__2025-11-01T04:00:00%2B00:00", "validate")
        frame = "document.querySelector('iframe')"
        until(lambda: browser.run(f"Boolean({frame})"), "there is a frame")
        time.sleep(1)
        assert browser.run(f"{frame}.contentDocument") is None, "its origin is not that of the UI"
        sandbox = browser.run(f"fetch({frame}.src).then(answer => answer.headers.get('content-security-policy'))")
        assert sandbox.startswith("sandbox;")
        picture(browser, "report_tab")


def test_a_dag_that_the_user_may_not_read_has_no_page(site):
    with Browser() as browser:
        open_tab(browser, site, "secret")
        until(lambda: browser.run("Boolean(document.querySelector('iframe'))"), "there is a frame")
        status = browser.run("fetch(document.querySelector('iframe').src).then(answer => answer.status)")
        assert status == 403 and not browser.frame
