"""Where the local services listen and what they are made of: what a person may set."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.home import Home
from services.state_folder import write_secret

HOST = "127.0.0.1"
LARGEST_PORT = 65535
_PREFIX = "AIRTIGHT_"
IN_FILES = ("airflow_database", "metadata")
"""Settings that may hold a password: they are kept in files of the run folder, and go by no environment."""


@dataclass(frozen=True)
class Settings:
    """What a person may set, each by the environment variable AIRTIGHT_ and its name in capitals.

    Args:
      airflow_port: Airflow's UI and REST API.
      execution_port: The API that Airflow's tasks speak to.
      model_rest_port: The served models' REST API, which is the router's.
      model_grpc_port: The served models' gRPC API, likewise.
      router_admin_port: The router's status, metrics and page.
      server_rest_port: The REST API of the model server behind the router.
      server_grpc_port: Its gRPC API.
      spark_port: The Spark Connect server.
      kafka_port: The broker.
      kafka_controller_port: The broker's controller, for itself alone.
      flink_job_port: Beam's job server, to which pipelines are submitted.
      flink_artifact_port: Where pipelines leave their files for it.
      flink_expansion_port: Its expansion service, which makes Flink's source of a pipeline's.
      flink_rest_port: Flink's REST API: jobs, checkpoints and savepoints.
      flink_rpc_port: The JobManager, for the TaskManagers.
      flink_blob_port: Its files, likewise.
      beam_workers_port: The pool that starts Python workers for Flink.
      spark_master: Where the Spark server has its work done: local[*], or a cluster such as spark://host:7077.
      spark_memory: Heap of the Spark server, as Java writes it.
      kafka_memory: Heap of the broker.
      flink_taskmanager_memory: Heap for the jobs of each TaskManager.
      flink_taskmanagers: TaskManagers that `up flink` starts, 1 or 2.
      flink_slots: Slots of each TaskManager: parallel parts of a job, which share a Python worker.
      kafka: A broker elsewhere, host:port,host:port, to be used in place of ours; empty is ours.
      prediction_log: Where the model server logs: a folder, or kafka://host:port/topic; empty is `predictions` in the
        state folder, which takes what Kafka does not, too.
      ivy_settings: Ivy's settings file, for other Maven repositories than Ivy's own; empty is its own.
      airflow_parallelism: Tasks that Airflow runs at once.
      airflow_idle_ms: Airflow's scheduler rests so long when it found nothing to do. Short rests start tasks sooner,
        and take a third of a core while many runs are under way.
      airflow_heartbeat_s: A running task says that it lives every so many seconds, and looks as often whether it ended.
      dags_folder: What Airflow parses; empty is the checkout's `dags`.
      airflow_database: SQLAlchemy URL of Airflow's database; empty is SQLite under the state folder.
      metadata: Address of ML Metadata's PostgreSQL store, or file:/path of a file that holds it; empty is SQLite under
        the state folder.
    """

    airflow_port: int = 8080
    execution_port: int = 8081
    model_rest_port: int = 8501
    model_grpc_port: int = 8500
    router_admin_port: int = 8502
    server_rest_port: int = 8511
    server_grpc_port: int = 8510
    spark_port: int = 15002
    kafka_port: int = 9092
    kafka_controller_port: int = 9093
    flink_job_port: int = 8099
    flink_artifact_port: int = 8098
    flink_expansion_port: int = 8097
    flink_rest_port: int = 8096
    flink_rpc_port: int = 8095
    flink_blob_port: int = 8094
    beam_workers_port: int = 8093
    spark_master: str = "local[*]"
    spark_memory: str = "3g"
    kafka_memory: str = "512m"
    flink_taskmanager_memory: str = "512m"
    flink_taskmanagers: int = 1
    flink_slots: int = 1
    kafka: str = ""
    prediction_log: str = ""
    ivy_settings: str = ""
    airflow_parallelism: int = 8
    airflow_idle_ms: int = 20
    airflow_heartbeat_s: int = 1
    dags_folder: str = ""
    airflow_database: str = ""
    metadata: str = ""

    def __post_init__(self) -> None:
        for name, port in self.ports.items():
            if not 0 < port <= LARGEST_PORT:
                raise TerminalError(
                    f"{variable(name)} is no port.",
                    expected=f"a number from 1 to {LARGEST_PORT}",
                    received=port,
                    remedy=f"Set {variable(name)} to a free port, or unset it.",
                )

    @classmethod
    def from_environment(cls) -> Settings:
        """Reads the AIRTIGHT_* variables.

        Raises:
          TerminalError: A port or a count that is no number.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            text = os.environ.get(variable(field.name), "")
            if not text:
                continue
            try:
                values[field.name] = int(text) if isinstance(field.default, int) else text
            except ValueError as error:
                raise TerminalError(
                    f"{variable(field.name)} is no whole number.",
                    expected=f"a number such as {field.default}",
                    received=repr(text),
                    remedy=f"Correct {variable(field.name)}, or unset it.",
                ) from error
        return cls(**values)

    @property
    def ports(self) -> dict[str, int]:
        """Every port by the name of its setting."""
        return {name: value for name, value in asdict(self).items() if name.endswith("_port")}

    @property
    def airflow_url(self) -> str:
        """Airflow's UI."""
        return f"http://{HOST}:{self.airflow_port}"

    @property
    def execution_url(self) -> str:
        """The API that Airflow's tasks speak to."""
        return f"http://{HOST}:{self.execution_port}/execution/"

    @property
    def model_url(self) -> str:
        """The served models' REST API, which is the router's."""
        return f"http://{HOST}:{self.model_rest_port}"

    @property
    def router_url(self) -> str:
        """The router's administration: status, metrics and page."""
        return f"http://{HOST}:{self.router_admin_port}"

    @property
    def server_url(self) -> str:
        """The REST API of the model server behind the router."""
        return f"http://{HOST}:{self.server_rest_port}"

    @property
    def spark_remote(self) -> str:
        """The Spark Connect server, as SPARK_REMOTE wants it."""
        return f"sc://{HOST}:{self.spark_port}"

    @property
    def own_kafka(self) -> str:
        """The broker of these services."""
        return f"{HOST}:{self.kafka_port}"

    @property
    def kafka_elsewhere(self) -> bool:
        """Whether a broker that is not ours is to be used."""
        return self.kafka not in ("", self.own_kafka)

    @property
    def kafka_servers(self) -> str:
        """The broker to be used: the one elsewhere, or ours."""
        return self.kafka or self.own_kafka

    @property
    def flink_job_server(self) -> str:
        """Beam's job server, as --job_endpoint wants it."""
        return f"{HOST}:{self.flink_job_port}"

    @property
    def flink_rest(self) -> str:
        """Flink's REST API."""
        return f"http://{HOST}:{self.flink_rest_port}"

    @property
    def flink_expansion(self) -> str:
        """The expansion service of the Flink cluster's job server."""
        return f"{HOST}:{self.flink_expansion_port}"

    @property
    def beam_workers(self) -> str:
        """The pool of Python workers, as Beam's EXTERNAL environment wants it."""
        return f"{HOST}:{self.beam_workers_port}"

    def save(self, home: Home) -> None:
        """Records what the services run with, so that later commands find them; passwords in files of their own."""
        kept = {name: value for name, value in asdict(self).items() if name not in IN_FILES}
        write_text(_record(home), json.dumps(kept, indent=1))
        for name in IN_FILES:
            (home.run / name).unlink(missing_ok=True)
            if value := getattr(self, name):
                write_secret(home.run / name, value)

    @classmethod
    def of_running(cls, home: Home) -> Settings:
        """What the running services were started with, or the environment's settings when there is no record."""
        if not _record(home).is_file():
            return cls.from_environment()
        kept = json.loads(_record(home).read_text(encoding="utf-8"))
        for file in (home.run / name for name in IN_FILES):
            kept[file.name] = file.read_text(encoding="utf-8") if file.is_file() else ""
        return cls(**kept)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return _PREFIX + name.upper()


def _record(home: Home) -> Path:
    return home.run / "services.json"
