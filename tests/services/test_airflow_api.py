from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from airtight.errors import TerminalError, TransientError
from services import airflow_api
from services.airflow_api import Airflow, LogLine
from services.run_progress import errors, show, summary

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_api, "POLL_S", 0.0)


def client(handler: Handler) -> Airflow:
    airflow = Airflow("http://127.0.0.1:1", "admin", "secret")
    airflow._http = httpx.Client(base_url=airflow.url, transport=httpx.MockTransport(handler))
    return airflow


def task(name: str, state: str | None, second: int | None = 0, tries: int = 1) -> dict[str, Any]:
    start = None if second is None else f"2026-01-01T00:00:{second:02}Z"
    end = f"2026-01-01T00:00:{second + 2:02}Z" if second is not None and state in airflow_api.OVER else None
    return {"task_id": name, "state": state, "try_number": tries, "start_date": start, "end_date": end}


def test_it_logs_in_when_it_must_and_only_then() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        if request.url.path == "/auth/token":
            assert json.loads(request.content) == {"username": "admin", "password": "secret"}
            return httpx.Response(201, json={"access_token": "token"})
        if request.headers.get("Authorization") != "Bearer token":
            return httpx.Response(401)
        return httpx.Response(200, json={"state": "running"})

    airflow = client(answer)
    assert airflow.run_state("d", "r") == airflow.run_state("d", "r") == "running"
    assert seen.count("/auth/token") == 1


def test_a_wrong_password_is_told() -> None:
    with pytest.raises(TerminalError, match="does not accept the password"):
        client(lambda request: httpx.Response(401)).run_state("d", "r")


def test_a_refusal_is_told_with_airflows_words() -> None:
    airflow = client(lambda request: httpx.Response(400, json={"detail": "2013-6 does not match"}))
    with pytest.raises(TerminalError, match="2013-6 does not match"):
        airflow.trigger("d", {"interval": "2013-6"})


def test_an_airflow_that_is_away_is_told() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(TransientError, match="make status"):
        client(answer).run_state("d", "r")


def test_a_trigger_sends_the_conf_as_the_form_does() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/api/v2/dags/d/dagRuns")
        assert json.loads(request.content) == {"logical_date": None, "conf": {"interval": "2013-06"}}
        return httpx.Response(200, json={"dag_run_id": "manual__x"})

    assert client(answer).trigger("d", {"interval": "2013-06"}) == "manual__x"


def test_a_cleared_run_has_all_of_its_tasks_done_again() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/api/v2/dags/d/dagRuns/manual__x/clear")
        assert json.loads(request.content) == {"dry_run": False, "only_failed": False}
        return httpx.Response(200, json={"dag_run_id": "manual__x"})

    client(answer).clear("d", "manual__x")


def error(when: str, file: str = "dags/d.py") -> dict[str, Any]:
    stack = "ModuleNotFoundError: No module named 'tfx2'"
    return {"import_errors": [{"filename": file, "stack_trace": stack, "timestamp": when}]}


@pytest.mark.parametrize("dag", ["d", "d_release"])
def test_a_dag_that_cannot_be_imported_is_told_with_its_cause(dag: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v2/importErrors":
            return httpx.Response(200, json=error("2999-01-01T00:00:00Z"))
        return httpx.Response(404)

    with pytest.raises(TerminalError, match="tfx2"):
        client(answer).await_dag(dag, timeout_s=10)


@pytest.mark.parametrize(
    ("file", "fault", "message"),
    [("d.py", TransientError, "does not show the DAG"), ("d_operations.py", TerminalError, "tfx2")],
)
def test_only_its_own_file_keeps_a_dag_of_operations_away(file: str, fault: type[Exception], message: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v2/importErrors":
            return httpx.Response(200, json=error("2999-01-01T00:00:00Z", file))
        return httpx.Response(404)

    with pytest.raises(fault, match=message):
        client(answer).await_dag("d_release", timeout_s=0, file="d_operations")


def test_an_error_and_a_dag_from_before_are_waited_out() -> None:
    states = iter([True, True, False])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v2/importErrors":
            return httpx.Response(200, json=error("2000-01-01T00:00:00Z"))
        return httpx.Response(200, json={"is_stale": next(states)})

    client(answer).await_dag("d", timeout_s=10)
    assert list(states) == []


def test_a_dag_that_never_comes_is_told() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        lists_errors = request.url.path == "/api/v2/importErrors"
        return httpx.Response(200, json={"import_errors": []}) if lists_errors else httpx.Response(404)

    with pytest.raises(TransientError, match="does not show the DAG d"):
        client(answer).await_dag("d", timeout_s=0)


class Run:
    """A run that goes on by one step each time its state is asked for."""

    def __init__(self, *steps: tuple[str, list[dict[str, Any]]], logs: dict[str, list[Any]] | None = None) -> None:
        self.steps = list(steps)
        self.logs = logs or {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if "/logs/" in path:
            return httpx.Response(200, json={"content": self.logs.get(path.split("/")[-3], [])})
        if path.endswith("/taskInstances"):
            tasks = self.steps[0][1]
            return httpx.Response(200, json={"task_instances": tasks, "total_entries": len(tasks)})
        if len(self.steps) > 1:
            self.steps.pop(0)
        return httpx.Response(200, json={"state": self.steps[0][0]})


def test_every_state_of_a_task_is_told_once_and_the_last_word_is_not_missed() -> None:
    run = Run(
        ("queued", []),
        ("running", [task("b", None, None), task("a", "running")]),
        ("running", [task("b", None, None), task("a", "running")]),
        ("running", [task("b", "running", 3), task("a", "success")]),
        ("success", [task("b", "success", 3), task("a", "success"), task("c", "skipped", None)]),
    )
    states = [(t.id, t.state) for t in client(run).follow("d", "r")]
    assert states == [("a", "running"), ("a", "success"), ("b", "running"), ("b", "success"), ("c", "skipped")]


def test_a_retry_is_told_again() -> None:
    run = Run(
        ("running", []),
        ("running", [task("a", "up_for_retry", 0, 1)]),
        ("running", [task("a", "running", 5, 2)]),
        ("success", [task("a", "success", 5, 2)]),
    )
    assert [(t.state, t.tries) for t in client(run).follow("d", "r")] == [
        ("up_for_retry", 1),
        ("running", 2),
        ("success", 2),
    ]


def test_a_failed_run_shows_the_error_and_where_its_log_is() -> None:
    logs = {
        "a": [
            {"event": "reads", "level": "info", "logger": "components.ingest"},
            {"event": "Task failed\nNo data for 2014-01", "level": "error", "logger": "task"},
        ]
    }
    run = Run(("queued", []), ("failed", [task("a", "failed"), task("b", "upstream_failed", None, 0)]), logs=logs)
    lines: list[str] = []
    assert not show(client(run), "d", "manual__2026-01-01T00:00:00+00:00", lines.append)
    assert "a" in lines[0] and "failed" in lines[0] and "2.0 s" in lines[0] and "reads" in lines[0]
    assert lines[1:3] == ["      Task failed", "      No data for 2014-01"]
    assert lines[3].endswith("/dags/d/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00/tasks/a?try_number=1")
    assert "upstream_failed" in lines[4]


def test_a_good_run_is_shown_in_one_line_for_each_task() -> None:
    run = Run(("running", [task("a", "running")]), ("success", [task("a", "success")]))
    lines: list[str] = []
    assert show(client(run), "d", "r", lines.append)
    assert len(lines) == 1


def test_the_summary_is_the_nodes_own_last_word() -> None:
    log = [
        LogLine("info", "components.train", "epoch 1"),
        LogLine("info", "components.train", "trained in 3 epochs\nand more"),
        LogLine("warning", "components.train", "few rows"),
        LogLine("info", "runtime.launch", "train is done (execution 5)."),
        LogLine("info", "airflow.task", "Task instance in success state"),
    ]
    assert summary(log) == "trained in 3 epochs"
    assert summary(log[3:]) == "train is done (execution 5)."
    assert summary([]) == ""


def test_only_the_last_errors_are_shown() -> None:
    log = [LogLine("error", "x", f"line {n}") for n in range(30)] + [LogLine("info", "x", "done")]
    assert errors(log, most=2) == ["line 28", "line 29"]


def test_outputs_of_a_task() -> None:
    outputs = {"pushed": [{"uri": "/a", "properties": {"version": 201307010400001}}]}

    def answer(request: httpx.Request) -> httpx.Response:
        if "/push/" not in request.url.path:
            return httpx.Response(404)
        return httpx.Response(200, json={"value": {"state": "complete", "outputs": outputs}})

    assert client(answer).outputs("d", "r", "push") == outputs
    assert client(answer).outputs("d", "r", "train") == {}


def test_an_unknown_dag_has_no_runs() -> None:
    assert client(lambda request: httpx.Response(404)).runs("d", "success") == []


class Deletable:
    """A run that Airflow does not delete while it runs, and that may begin to run at any moment."""

    def __init__(self, *starts: bool) -> None:
        self.starts = iter(starts)
        self.state = "queued"

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.state == "gone":
            return httpx.Response(404)
        if request.method == "PATCH":
            self.state = json.loads(request.content)["state"]
        elif request.method == "DELETE":
            if next(self.starts, False):
                self.state = "running"
            if self.state == "running":
                return httpx.Response(409, json={"detail": "cannot be deleted in running state"})
            self.state = "gone"
            return httpx.Response(204)
        return httpx.Response(200, json={"state": self.state})


@pytest.mark.parametrize("starts", [(), (True,), (False,), (True, True)])
def test_a_run_is_deleted_whatever_its_state(starts: tuple[bool, ...]) -> None:
    run = Deletable(*starts)
    client(run).delete_run("d", "r")
    assert run.state == "gone"
    client(run).delete_run("d", "r")


def test_a_run_that_airflow_does_not_delete_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_api, "ANSWER_S", 0.0)
    with pytest.raises(TerminalError, match="409"):
        client(lambda request: httpx.Response(409 if request.method == "DELETE" else 200)).delete_run("d", "r")


@pytest.mark.parametrize("count", [0, 1, 100, 365])
def test_every_run_of_a_year_and_every_task_of_a_run_is_there(count: int) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        first, most = int(request.url.params["offset"]), min(100, int(request.url.params["limit"]))
        assert request.url.params["order_by"]
        if request.url.path.endswith("/taskInstances"):
            entries = {
                "task_instances": [task(f"t{number}", "success") for number in range(count)][first : first + most]
            }
        else:
            entries = {"dag_runs": [{"dag_run_id": str(number)} for number in range(count)][first : first + most]}
        return httpx.Response(200, json=entries | {"total_entries": count})

    start, end = datetime(2013, 1, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC)
    assert [run["dag_run_id"] for run in client(answer).runs_of_span("d", start, end)] == [*map(str, range(count))]
    assert [run["dag_run_id"] for run in client(answer).runs("d", "success")] == [*map(str, range(count))]
    assert len(client(answer).tasks("d", "r")) == count
