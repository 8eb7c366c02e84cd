"""Airflow's REST API, as far as a person at a terminal needs it: unpause, trigger, follow, read a log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import httpx

from airtight.errors import TerminalError, TransientError
from airtight.home import Home
from services.environment import ANSWER_S
from services.settings import Settings
from services.state_folder import USER, password

POLL_S = 0.25
PAGE = 100
"""Entries of one answer, which is the most that Airflow gives ([api] maximum_page_limit)."""
OVER = ("success", "failed", "skipped", "upstream_failed", "removed")
_TOKEN_AGAIN = httpx.codes.UNAUTHORIZED


@dataclass(frozen=True)
class Task:
    """One task of a run, as it stands.

    Args:
      id: Task id, which is the node's id.
      state: Airflow's word for it; "" before it is scheduled.
      tries: Number of the present try.
      started: When the present try started, or None.
      ended: When it ended, or None.
    """

    id: str
    state: str
    tries: int
    started: datetime | None
    ended: datetime | None

    @property
    def over(self) -> bool:
        """Whether nothing more will become of it."""
        return self.state in OVER

    @property
    def active(self) -> bool:
        """Whether it is at work, or waits without a worker."""
        return self.state in ("running", "deferred", "awaiting_input")

    @property
    def seconds(self) -> float:
        """How long its last try ran, or has been running."""
        return ((self.ended or datetime.now(UTC)) - self.started).total_seconds() if self.started else 0.0


@dataclass(frozen=True)
class LogLine:
    """One line of a task's log.

    Args:
      level: "info", "warning", "error"...; "" where Airflow tells none.
      logger: Who said it.
      text: What it said.
    """

    level: str
    logger: str
    text: str


class Airflow:
    """A client of the local Airflow.

    Args:
      url: Address of the UI.
      user: Whom to log in as.
      secret: The user's password.
    """

    def __init__(self, url: str, user: str, secret: str) -> None:
        self.url = url
        self._user = user
        self._secret = secret
        self._http = httpx.Client(base_url=url, timeout=ANSWER_S)

    @classmethod
    def local(cls, settings: Settings, home: Home) -> Airflow:
        """The Airflow of the local services."""
        return cls(settings.airflow_url, USER, password(home))

    def await_dag(self, dag_id: str, timeout_s: float, *, file: str = "") -> None:
        """Returns when Airflow has parsed the DAG and lets it run.

        Args:
          dag_id: The DAG.
          timeout_s: Seconds to wait.
          file: Name of the DAG's file without `.py`; "" is any with which the DAG's id begins.

        Raises:
          TerminalError: Its file cannot be imported.
          TransientError: It does not appear in time.
        """
        start, deadline = datetime.now(UTC), time.monotonic() + timeout_s
        while True:
            known = self._call("GET", f"/api/v2/dags/{dag_id}", may_be_missing=True)
            if known and not known["is_stale"]:
                return
            for error in self._call("GET", "/api/v2/importErrors")["import_errors"]:
                stem = PurePath(error["filename"]).stem
                # A file that makes several DAGs has the name of the first.
                is_its_file = stem == file if file else dag_id.startswith(stem)
                # An error from before may be healed by now; Airflow parses again within seconds.
                if is_its_file and datetime.fromisoformat(error["timestamp"]) > start:
                    raise TerminalError(
                        f"Airflow cannot import the DAG {dag_id}.",
                        expected="a DAG file that imports",
                        received=error["stack_trace"].strip(),
                        remedy=f"Correct {error['filename']} or what it imports; Airflow reads it again by itself.",
                    )
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Airflow does not show the DAG {dag_id} after {timeout_s:.0f} s.",
                    expected="a file of dags/ that makes it, parsed",
                    received="a DAG that was parsed before and is gone since" if known else "no DAG of that name",
                    remedy="See the log of the dag-processor: make logs.",
                )
            time.sleep(POLL_S)

    def unpause(self, dag_id: str) -> None:
        """Lets the DAG run."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any], run_id: str = "") -> str:
        """Triggers the DAG by hand, as the trigger form does.

        Args:
          dag_id: The DAG.
          conf: Values of its params.
          run_id: The run's id; empty has Airflow make one.

        Returns:
          The run's id.
        """
        body = {"logical_date": None, "conf": dict(conf)} | ({"dag_run_id": run_id} if run_id else {})
        return str(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def clear(self, dag_id: str, run_id: str) -> None:
        """Has all tasks of a run done again, as Clear of the run in the UI does."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/clear"
        self._call("POST", path, json={"dry_run": False, "only_failed": False})

    def has_run(self, dag_id: str, run_id: str) -> bool:
        """Returns whether there is such a run."""
        return self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}", may_be_missing=True) is not None

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Deletes a run, whatever its state; no matter if it is gone already."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}"
        deadline = time.monotonic() + ANSWER_S
        while (answer := self._send("DELETE", path)).status_code == httpx.codes.CONFLICT:
            if time.monotonic() > deadline:
                break
            # Airflow deletes none that runs, and one in the queue may have begun to a moment ago.
            self._call("PATCH", path, may_be_missing=True, json={"state": "failed"})
        self._content(answer, may_be_missing=True)

    def runs(self, dag_id: str, state: str) -> list[dict[str, Any]]:
        """Returns the runs of a DAG in a state, newest first, in Airflow's words; none of an unknown DAG."""
        return self._all(
            f"/api/v2/dags/{dag_id}/dagRuns?state={state}&order_by=-run_after", "dag_runs", may_be_missing=True
        )

    def backfill(self, dag_id: str, first: datetime, last: datetime, *, parallel: int, reprocess: str) -> int:
        """Creates a backfill, as the UI's form does.

        Args:
          dag_id: The DAG.
          first: Start of the first interval.
          last: Start of the last interval.
          parallel: So many runs at once.
          reprocess: Which runs that are there already run again: "none", "failed" or "completed".

        Returns:
          The backfill's id.

        Raises:
          TerminalError: Airflow refuses it, for instance because another one of this DAG has not ended.
        """
        payload = {
            "dag_id": dag_id,
            "from_date": first.isoformat(),
            "to_date": last.isoformat(),
            "max_active_runs": parallel,
            "reprocess_behavior": reprocess,
        }
        return int(self._call("POST", "/api/v2/backfills", json=payload)["id"])

    def backfill_ended(self, number: int) -> bool:
        """Whether a backfill has nothing more to do."""
        return self._call("GET", f"/api/v2/backfills/{number}")["completed_at"] is not None

    def runs_of_span(self, dag_id: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Returns the runs whose own data intervals begin within a span, in order, in Airflow's words."""
        span = f"logical_date_gte={quote(start.isoformat())}&logical_date_lt={quote(end.isoformat())}"
        return self._all(f"/api/v2/dags/{dag_id}/dagRuns?{span}&order_by=logical_date", "dag_runs")

    def outputs(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """The artifacts that a node's task made, by output key; empty when it made none."""
        task = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}"
        entry = self._call("GET", f"{task}/xcomEntries/return_value?map_index={map_index}", may_be_missing=True)
        return dict((entry["value"] or {}).get("outputs", {})) if entry else {}

    def run_state(self, dag_id: str, run_id: str) -> str:
        """State of a run: queued, running, success or failed."""
        return str(self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[Task]:
        """Returns every task of a run, in the order in which they started; those that have not come last."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances?order_by=id"
        tasks = [
            Task(t["task_id"], t["state"] or "", t["try_number"], _instant(t["start_date"]), _instant(t["end_date"]))
            for t in self._all(path, "task_instances")
        ]
        return sorted(tasks, key=lambda task: task.started or datetime.max.replace(tzinfo=UTC))

    def follow(self, dag_id: str, run_id: str) -> Iterator[Task]:
        """Yields each task when it starts to run and when it is over, until the run has ended."""
        seen: set[tuple[str, str, int]] = set()
        while True:
            # The run's state is asked for first: what its tasks say afterwards is then the last word.
            ended = self.run_state(dag_id, run_id) in OVER
            for task in self.tasks(dag_id, run_id):
                mark = (task.id, task.state, task.tries)
                if mark not in seen and (task.over or task.state in ("running", "up_for_retry")):
                    seen.add(mark)
                    yield task
            if ended:
                return
            time.sleep(POLL_S)

    def log(self, dag_id: str, run_id: str, task: Task) -> list[LogLine]:
        """The log of a task's last try; empty when it never ran."""
        if not task.tries:
            return []
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task.id}/logs/{task.tries}"
        log = self._call("GET", f"{path}?full_content=true", may_be_missing=True) or {"content": []}
        return [
            LogLine(line.get("level", ""), line.get("logger", ""), line["event"])
            if isinstance(line, dict)
            else LogLine("", "", line)
            for line in log["content"]
        ]

    def task_url(self, dag_id: str, run_id: str, task: Task) -> str:
        """Where the UI shows the log of a task's last try."""
        return f"{self.url}/dags/{dag_id}/runs/{quote(run_id)}/tasks/{task.id}?try_number={task.tries}"

    def run_url(self, dag_id: str, run_id: str) -> str:
        """Where the UI shows a run."""
        return f"{self.url}/dags/{dag_id}/runs/{quote(run_id)}"

    def _all(self, path: str, key: str, *, may_be_missing: bool = False) -> list[dict[str, Any]]:
        """Returns every entry of a list, which Airflow gives in pages.

        Args:
          path: The list's path, with a query that orders it.
          key: The name of the entries in a page.
          may_be_missing: Whether what is unknown to Airflow has none.
        """
        entries: list[dict[str, Any]] = []
        while True:
            page = self._call("GET", f"{path}&limit={PAGE}&offset={len(entries)}", may_be_missing=may_be_missing)
            if page is None:
                return []
            entries += page[key]
            if not page[key] or len(entries) >= page["total_entries"]:
                return entries

    def _call(self, method: str, path: str, *, may_be_missing: bool = False, json: Any = None) -> Any:
        return self._content(self._send(method, path, json), may_be_missing=may_be_missing)

    def _send(self, method: str, path: str, json: Any = None) -> httpx.Response:
        try:
            answer = self._http.request(method, path, json=json)
            if answer.status_code == _TOKEN_AGAIN:
                self._log_in()
                answer = self._http.request(method, path, json=json)
            deadline = time.monotonic() + ANSWER_S
            # So Airflow says that its database was locked by another writer, and that it did nothing.
            while answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and time.monotonic() < deadline:
                time.sleep(POLL_S)
                answer = self._http.request(method, path, json=json)
        except httpx.TransportError as error:
            raise TransientError(
                "Airflow does not answer.",
                expected=f"its API at {self.url}",
                received=str(error),
                remedy="See whether it runs: make status.",
            ) from error
        return answer

    @staticmethod
    def _content(answer: httpx.Response, *, may_be_missing: bool) -> Any:
        if may_be_missing and answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if answer.is_error:
            raise TerminalError(
                f"Airflow refused {answer.request.method} {answer.request.url.raw_path.decode()}.",
                expected="an answer without error",
                received=f"{answer.status_code}: {answer.text[:500]}",
                remedy="Correct the request; for a run's conf, see the trigger form in the UI.",
            )
        return answer.json() if answer.content else None

    def _log_in(self) -> None:
        response = self._http.post("/auth/token", json={"username": self._user, "password": self._secret})
        if response.is_error:
            raise TerminalError(
                "Airflow does not accept the password of the local services.",
                expected=f"the Airflow of the local services at {self.url}",
                received=f"{response.status_code} for user {self._user}",
                remedy="Another Airflow may listen on that port; see make status.",
            )
        self._http.headers["Authorization"] = f"Bearer {response.json()['access_token']}"


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
