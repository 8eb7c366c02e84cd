"""A real Airflow for the tests: its services with some DAGs, and its REST API."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from airtight.home import ROOT, Home
from airtight.rollout import arm_metrics
from benchmarks.killer import descendants
from benchmarks.own_services import free_settings
from components.modelling.served import Served
from services import state_folder
from services.environment import environment
from services.settings import Settings
from tests.components.standins import standing_in
from tests.serving.models import save_affine
from tests.tiny_pipeline.running import TINY
from tests.waiting import PATIENCE_S, until

DAGS = f"""
import pendulum
from airflow.sdk import CronDataIntervalTimetable
from datetime import timedelta
from plugins.tfx_airflow import TfxDag

monthly = CronDataIntervalTimetable("0 0 1 * *", timezone="America/New_York")
words = TfxDag({TINY!r}, dag_id="words", schedule=monthly, catchup=False,
               start_date=pendulum.datetime(2013, 1, 1, tz="America/New_York"), is_paused_upon_creation=False,
               default_args={{"retries": 2, "retry_delay": timedelta(seconds=1)}})
"""
STANDARD = """
from plugins.tfx_airflow import TfxDag
standard = TfxDag("tests.tiny_pipeline.full_standard:create_pipeline", dag_id="standard", schedule=None,
                  is_paused_upon_creation=False)
"""
SKIPS = """
from plugins.tfx_airflow import TfxDag
skips = TfxDag("tests.tiny_pipeline.foreign:create_skips", dag_id="skips", schedule=None, is_paused_upon_creation=False)
nothing_yet = TfxDag("tests.tiny_pipeline.foreign:create_nothing_yet", dag_id="nothing_yet", schedule=None,
                     is_paused_upon_creation=False)
"""
ORDERED = """
import pendulum
from airflow.sdk import CronDataIntervalTimetable
from plugins.tfx_airflow import TfxDag

ordered = TfxDag("tests.tiny_pipeline.ordered:create_pipeline", dag_id="ordered", catchup=False,
                 schedule=CronDataIntervalTimetable("0 0 1 * *", timezone="America/New_York"),
                 start_date=pendulum.datetime(2013, 1, 1, tz="America/New_York"), is_paused_upon_creation=False,
                 end_date=pendulum.datetime(2013, 2, 1, tz="America/New_York"))
"""
BROKEN = 'from plugins.tfx_airflow import TfxDag\nbroken = TfxDag("no_such_pipeline", schedule=None)\n'
SUPERVISED = """
from airtight.supervised import OPERATIONS, TRAIN
from pipelines.flight_delays.settings import SETTINGS
from plugins.tfx_airflow.supervised import supervised_dags

globals().update(supervised_dags(SETTINGS, parts=(TRAIN, *OPERATIONS)))
"""
STANDARD_DAGS = {
    **{"words": DAGS, "broken": BROKEN, "standard": STANDARD, "ordered": ORDERED, "skips": SKIPS},
    "flight_delays": SUPERVISED,
}

PROMOTE = "flight_delays_promote"


class Airflow:
    """The local services without supervisor, and Airflow's REST API.

    Args:
      home: The state folder.
      dags: DAG files by name; None for those of the tests of this folder.
      name: Names Airflow's own folder in the state folder, where one is used by several.
      more: Further variables of the services' environment.
    """

    def __init__(
        self,
        home: Home,
        dags: dict[str, str] | None = None,
        name: str = "airflow",
        more: dict[str, str] | None = None,
    ) -> None:
        self.home = home
        chosen = Settings(**free_settings())
        self.url, self.execution_port = chosen.airflow_url, chosen.execution_port
        state_folder.prepare(home)
        folder = home.path / f"{name}-dags"
        folder.mkdir()
        texts = STANDARD_DAGS if dags is None else dags
        for file, text in texts.items():
            (folder / f"{file}.py").write_text(text)
        counted = {"TfxDag(": 1, "DAG(": 1, "supervised_dags(": 4}
        sound = "".join(text for text in texts.values() if text != BROKEN)
        self._dag_count = sum(number * sound.count(call) for call, number in counted.items())
        self.served = Served(home.models_root)
        self.closing = contextlib.ExitStack()
        self.router = self.closing.enter_context(standing_in(home.models_root))
        self.model_server = ("--port", str(chosen.server_grpc_port), "--rest_api_port", str(chosen.server_rest_port))
        self.environment = environment(chosen, home) | {
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
            "AIRFLOW_HOME": str(home.path / name),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home.path / name / 'airflow.db'}",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            arm_metrics.VARIABLE: self.router.url,
            **(self.standard() if dags is None else {}),
            # So that a test need not wait for minutes until a dead task is noticed.
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "30",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "8",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
            **(more or {}),
        }
        self.processes: list[subprocess.Popen] = []
        self._token = ""

    def standard(self) -> dict[str, str]:
        """Makes what the pipeline of standard components reads; gives its environment."""
        sizes = [(width, height) for width in range(15) for height in range(15)]
        rows = "".join(f"{width},{height},{int(width + height > 14)}\n" for width, height in sizes)
        (self.home.path / "table").mkdir()
        (self.home.path / "table" / "rows.csv").write_text(f"width,height,large\n{rows}")
        return {
            "STANDARD_DATA": str(self.home.path / "table"),
            "STANDARD_MODULE": str(ROOT / "tests" / "tiny_pipeline" / "full_standard_module.py"),
            "STANDARD_PUSHED": str(self.home.path / "pushed"),
            "STANDARD_THRESHOLD": "0.5",
        }

    def __enter__(self) -> Airflow:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        if not self.home.launcher_socket.exists():
            self.start_one(sys.executable, "-m", "runtime", "serve")
        until(self.home.launcher_socket.exists, "the launcher serves")
        subprocess.run(["airflow", "db", "migrate"], env=self.environment, check=True, capture_output=True, cwd=ROOT)
        self.start_one("airflow", "api-server", "--apps", "core")
        self.start_one("airflow", "api-server", "--apps", "execution", "--port", str(self.execution_port))
        self.start_one("airflow", "dag-processor")
        self.start_one("airflow", "triggerer", "--skip-serve-logs")
        self.start_scheduler()
        until(self._answers, "Airflow's API answers")
        until(lambda: self.ask("GET", "dags")["total_entries"] == self._dag_count, "the DAGs are there")

    def start_model_server(self, *versions: int) -> None:
        """Serves versions of flight_delays, and makes those that are not there; the server runs until the end."""
        if self.served.file.exists():
            return
        for version in versions:
            folder = self.home.models("flight_delays") / str(version)
            if not folder.exists():
                folder.parent.mkdir(parents=True, exist_ok=True)
                save_affine(folder, float(version))
        self.served.enter("flight_delays")
        config = ("--model_config_file", str(self.served.file), "--model_config_file_poll_wait_seconds=0.2")
        self.start_one(sys.executable, "-m", "serving", *config, *self.model_server)

    def start_one(self, *command: str) -> subprocess.Popen:
        with (self.home.path / "services.log").open("a") as log:
            self.processes.append(
                subprocess.Popen(
                    command, env=self.environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
                )
            )
        return self.processes[-1]

    def start_scheduler(self) -> None:
        self.scheduler = self.start_one("airflow", "scheduler", "--skip-serve-logs")

    def kill_scheduler(self) -> None:
        """Kills it with its tasks, which are in process groups of their own, as when the machine goes down.

        The next one takes it for lost as soon as it starts, and need not wait until it is missed.
        """
        for pid in (self.scheduler.pid, *descendants(self.scheduler.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.scheduler.wait()
        with self._database() as database:
            database.execute("UPDATE job SET latest_heartbeat = '2013-01-01' WHERE job_type = 'SchedulerJob'")

    def stop(self) -> None:
        self.closing.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes:
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    continue
            if number == signal.SIGTERM:
                time.sleep(2)
        for process in self.processes:
            process.wait()

    def _answers(self) -> bool:
        try:
            credentials = {"username": state_folder.USER, "password": state_folder.password(self.home)}
            self._token = self._send("POST", f"{self.url}/auth/token", credentials)["access_token"]
        except (urllib.error.URLError, ConnectionError, KeyError):
            return False
        return True

    def ask(self, method: str, path: str, body: dict | None = None) -> dict:
        return self._send(method, f"{self.url}/api/v2/{path}", body)

    def _send(self, method: str, url: str, body: dict | None) -> dict:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30) as answer:
            text = answer.read()
            return json.loads(text) if text else {}

    @contextlib.contextmanager
    def busy_database(self) -> Iterator[None]:
        """Meanwhile others write to Airflow's database all the time, as its scheduler does with many runs."""
        over = threading.Event()

        def write() -> None:
            with contextlib.closing(sqlite3.connect(self._database_file(), timeout=30)) as database:
                times = itertools.count()
                while not over.wait(0.001):
                    with database:
                        # Something else each time: SQLite spares itself a write that changes nothing.
                        database.execute("UPDATE slot_pool SET description = ?", (f"busy {next(times)}",))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            yield
        finally:
            over.set()
            writer.join()

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Airflow's own database, in one transaction."""
        with contextlib.closing(sqlite3.connect(self._database_file(), timeout=60)) as database, database:
            yield database

    def _database_file(self) -> str:
        return self.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].removeprefix("sqlite:///")

    def backfill(self, dag: str, first: str, last: str, reprocess: str = "none", at_once: int = 2, **more) -> None:
        """Backfills the intervals that begin from one instant to another, and waits until their runs have ended."""
        span = {"from_date": first, "to_date": last}
        form = {"dag_id": dag, **span, "reprocess_behavior": reprocess, "max_active_runs": at_once, **more}
        self.backfilled(self.ask("POST", "backfills", form))

    def backfilled(self, made: dict) -> None:
        """Waits until the runs of a backfill have ended, and says so, as the scheduler does: it looks every 30 s."""
        span = f"logical_date_gte={made['from_date']}&logical_date_lte={made['to_date']}"
        path = f"dags/{made['dag_id']}/dagRuns?limit=100&{span}"

        def is_over() -> bool:
            states = {run["state"] for run in self.ask("GET", path)["dag_runs"]}
            return bool(states) and states <= {"success", "failed"}

        until(is_over, f"backfill {made['id']} ends")
        with self._database() as database:
            database.execute("UPDATE backfill SET completed_at = updated_at WHERE id = ?", (made["id"],))

    def trigger(self, run: str, dag: str = "words", **conf: str | int) -> str:
        body = {"dag_run_id": run, "conf": {"interval": "2013-06", **conf}, "logical_date": None}
        return self.ask("POST", f"dags/{dag}/dagRuns", body)["dag_run_id"]

    def tasks(self, run: str, dag: str = "words") -> dict[str, dict]:
        instances = self.ask("GET", f"dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in instances}

    def propose(self, run: str, dag: str = PROMOTE, **conf: str) -> str:
        """Starts what a person approves, and waits until it waits for one; gives what the person sees."""
        conf = {"reason": "it is better"} | conf
        self.ask("POST", f"dags/{dag}/dagRuns", {"dag_run_id": run, "conf": conf, "logical_date": None})
        until(lambda: self.tasks(run, dag)["approve"]["state"] == "awaiting_input", "it waits")
        return self.ask("GET", f"dags/{dag}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails")["body"]

    def answer(self, run: str, option: str, note: str = "", dag: str = PROMOTE) -> dict[str, str]:
        """Answers as a person does in the UI; gives the tasks' states in the end."""
        path = f"dags/{dag}/dagRuns/{run}"
        answered = {"chosen_options": [option], "params_input": {"note": note}}

        def is_over() -> bool:
            # Also again: Airflow takes a task for lost that is answered in the second in which it begins to wait.
            if self.tasks(run, dag)["approve"]["state"] == "awaiting_input":
                self.ask("PATCH", f"{path}/taskInstances/approve/-1/hitlDetails", answered)
            return self.ask("GET", path)["state"] in ("success", "failed")

        until(is_over, f"{run} ends")
        return {task: instance["state"] for task, instance in self.tasks(run, dag).items()}

    def ended(self, run: str, dag: str = "words", patience_s: float = PATIENCE_S) -> dict[str, tuple[str, int]]:
        """Waits for the run and gives state and tries of each task."""

        def is_over() -> bool:
            state = self.ask("GET", f"dags/{dag}/dagRuns/{run}")["state"]
            return state in ("success", "failed")

        until(is_over, f"{run} ends", patience_s)
        return {name: (task["state"], task["try_number"]) for name, task in self.tasks(run, dag).items()}

    def clear(
        self,
        run: str,
        *tasks: str | tuple[str, int],
        downstream: bool = False,
        dag: str = "words",
        reset_dag_runs: bool = True,
    ) -> None:
        body = {
            "dry_run": False,
            "dag_run_id": run,
            "task_ids": list(tasks),
            "only_failed": False,
            "reset_dag_runs": reset_dag_runs,
            "include_downstream": downstream,
        }
        self.ask("POST", f"dags/{dag}/clearTaskInstances", body)

    def executions(self, run: str, task: str) -> list[str]:
        """States of all executions of a node in the runs of words whose ids begin so."""
        return self.executions_of(f"words.{run}%", task)

    def executions_of(self, key: str, task: str) -> list[str]:
        """States of all executions of a node in the runs with such a key, from the metadata's own database."""
        query = (
            "SELECT e.last_known_state FROM Execution e JOIN Association a ON a.execution_id = e.id "
            "JOIN Context c ON c.id = a.context_id JOIN Type t ON t.id = c.type_id "
            "WHERE t.name = 'node_attempt' AND c.name LIKE ? ORDER BY e.id"
        )
        states = {2: "RUNNING", 3: "COMPLETE", 4: "FAILED", 5: "CACHED", 6: "CANCELED"}
        with sqlite3.connect(self.home.metadata_db) as database:
            return [states[state] for (state,) in database.execute(query, (f"{key}/{task}/%",))]
