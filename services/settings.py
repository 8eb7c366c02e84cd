"""Where the local services listen and keep their state, and Airflow's settings, all in this one place."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.home import ROOT, Home

USER = "admin"
"""Whom a person logs in as in Airflow's UI."""
HOST = "127.0.0.1"
MARK = "AIRTIGHT_SERVICES"
"""Environment variable that every process of these services inherits: by it the last one is found and ended."""
SPARK_TOKEN = "spark_token"
"""File beside the other secrets with what the Spark server wants to hear: who may use it runs code as its owner."""
LARGEST_PORT = 65535
STALL_S = 60
"""A standstill of the whole machine that costs no task a try: a disk that hangs, a laptop that sleeps."""
LOST_S = 2 * STALL_S
"""Seconds without a sign of life after which Airflow treats a task or a service as lost. With the intervals at which it
looks, a task whose process died together with its supervisor is tried again within three minutes."""
WRITER_PATIENCE_S = STALL_S + 15
"""Seconds that a writer of Airflow's SQLite waits for another: a disk that hangs holds up one, and all that wait."""
ANSWER_S = WRITER_PATIENCE_S + 15
"""Seconds that Airflow may take to answer a request, which may have to wait as a writer."""
_PREFIX = "AIRTIGHT_"
_IN_FILES = ("airflow_database", "metadata")
"""Settings that may hold a password: they are kept in files of the run folder, and go by no environment."""
_JWT_KEY_BYTES = 64
"""HS512, with which Airflow signs, wants a key as long as its digest."""


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
      flink_slots: Slots of each TaskManager: parallel parts of a job, each with a Python worker of its own.
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
        kept = {name: value for name, value in asdict(self).items() if name not in _IN_FILES}
        write_text(_record(home), json.dumps(kept, indent=1))
        for name in _IN_FILES:
            (home.run / name).unlink(missing_ok=True)
            if value := getattr(self, name):
                _write_secret(home.run / name, value)

    @classmethod
    def of_running(cls, home: Home) -> Settings:
        """What the running services were started with, or the environment's settings when there is no record."""
        if not _record(home).is_file():
            return cls.from_environment()
        kept = json.loads(_record(home).read_text(encoding="utf-8"))
        for file in (home.run / name for name in _IN_FILES):
            kept[file.name] = file.read_text(encoding="utf-8") if file.is_file() else ""
        return cls(**kept)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return _PREFIX + name.upper()


def password_file(home: Home) -> Path:
    """Airflow's users and their passwords, JSON, owner only."""
    return home.run / "airflow-passwords.json"


def password(home: Home) -> str:
    """The password of `USER`.

    Raises:
      TerminalError: The services have never been started.
    """
    if not password_file(home).is_file():
        raise TerminalError(
            "There is no password yet.",
            expected=f"{password_file(home)}, as the first start writes it",
            received="no such file",
            remedy="Start the services first: make start.",
        )
    return str(json.loads(password_file(home).read_text(encoding="utf-8"))[USER])


def prepare(home: Home) -> None:
    """Makes the folders and, once, the secrets; what holds a secret or a socket is the owner's alone."""
    for folder in (home.path, home.logs, home.path / "models", _airflow_home(home)):
        folder.mkdir(parents=True, exist_ok=True)
    home.run.mkdir(mode=0o700, exist_ok=True)
    home.run.chmod(0o700)
    for name in ("fernet_key", "secret_key", SPARK_TOKEN):
        _write_secret(home.run / name, _url_safe_key())
    _write_secret(home.run / "jwt_secret", secrets.token_urlsafe(_JWT_KEY_BYTES))
    _write_secret(password_file(home), json.dumps({USER: secrets.token_urlsafe(12)}) + "\n")


def renew_short_keys(home: Home) -> None:
    """Replaces a key that is too short for its algorithm, as earlier versions made it; all sessions of the UI end.

    Only while no service runs: Airflow's parts read the key when they start, and must agree about it.
    """
    key = home.run / "jwt_secret"
    if key.is_file() and len(key.read_bytes()) < _JWT_KEY_BYTES:
        key.unlink()
        prepare(home)


def environment(settings: Settings, home: Home) -> dict[str, str]:
    """The environment of every local service.

    Args:
      settings: Ports and sizes.
      home: The state folder.

    Returns:
      The caller's environment, less what would make services differ from one shell to the next, and ours on top.
    """
    binaries = Path(sys.executable).parent
    # Compiled once and kept: a task would otherwise compile plugins and pipeline anew each time it starts.
    unwanted = {"PYTHONDONTWRITEBYTECODE", *map(variable, _IN_FILES)}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW") and k not in unwanted}
    return {
        **inherited,
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        # Airflow puts only the DAG folder on sys.path; a module must have one name everywhere.
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(ROOT), *_own_paths()])),
        "AIRTIGHT_ROOT": str(ROOT),
        "AIRTIGHT_HOME": str(home.path),
        MARK: str(home.path),
        # Airflow renames its processes, and would write the new name over the environment in which the mark stands.
        "SPT_NOENV": "1",
        **{variable(k): str(v) for k, v in asdict(settings).items() if k not in _IN_FILES},
        **_metadata(settings, home),
        # What waits until a version is served asks the server itself, whatever the router does with a request.
        "AIRTIGHT_MODEL_SERVER": settings.server_url,
        "AIRTIGHT_ROUTER": settings.router_url,
        "AIRTIGHT_KAFKA": settings.kafka_servers,
        "AIRTIGHT_PREDICTION_LOG": settings.prediction_log or str(home.path / "predictions"),
        "AIRTIGHT_FLINK": settings.flink_job_server,
        "AIRTIGHT_FLINK_REST": settings.flink_rest,
        "AIRTIGHT_FLINK_EXPANSION": settings.flink_expansion,
        "AIRTIGHT_BEAM_WORKERS": settings.beam_workers,
        "SPARK_REMOTE": settings.spark_remote,
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_TOKEN_FILE": str(home.run / SPARK_TOKEN),
        "SPARK_LOCAL_IP": HOST,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Where there is no GPU, TensorFlow need not look for one and complain in each task's log.
        **({} if Path("/dev/nvidiactl").exists() else {"CUDA_VISIBLE_DEVICES": "-1"}),
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        **airflow_environment(settings, home),
    }


def _own_paths() -> list[str]:
    """The caller's own PYTHONPATH, whose modules pipelines may be in; absolute, because services have other folders."""
    return [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def airflow_environment(settings: Settings, home: Home) -> dict[str, str]:
    """Airflow's settings, each with its reason where it has one that does not show."""
    sections: dict[str, dict[str, Any]] = {
        "core": {
            "dags_folder": settings.dags_folder or ROOT / "dags",
            "plugins_folder": ROOT / "plugins",
            "load_examples": False,
            # A pipeline whose sources have changed is compiled again while its DAG file is parsed.
            "dagbag_import_timeout": 120,
            "executor": "LocalExecutor",
            "parallelism": settings.airflow_parallelism,
            "execution_api_server_url": settings.execution_url,
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": password_file(home),
            "fernet_key_cmd": _cat(home.run / "fernet_key"),
        },
        "database": _database(settings, home),
        "api": {
            "host": HOST,
            "port": settings.airflow_port,
            "base_url": settings.airflow_url,
            "workers": 1,
            "secret_key_cmd": _cat(home.run / "secret_key"),
            "instance_name": "Airtight",
        },
        "api_auth": {"jwt_secret_cmd": _cat(home.run / "jwt_secret")},
        "scheduler": {
            # With parallelism and min_heartbeat_interval it takes a chain of eight short tasks from 8 s to under 2 s
            # (docs/services.md).
            "scheduler_idle_sleep_time": settings.airflow_idle_ms / 1000,
            "catchup_by_default": False,
            "scheduler_health_check_threshold": LOST_S,
            "task_instance_heartbeat_timeout": LOST_S,
            "task_instance_heartbeat_sec": 10,
            "orphaned_tasks_check_interval": 30,
            "task_queued_timeout": 3 * STALL_S,
            "task_queued_timeout_check_interval": 20,
        },
        "triggerer": {"triggerer_health_check_threshold": LOST_S, "runner_health_check_threshold": LOST_S},
        "workers": {
            "min_heartbeat_interval": settings.airflow_heartbeat_s,
            # A request that a standstill catches under way waits for its answer instead of being sent again. One that
            # meets no API is sent again for a minute, in which the API restarts; the default gives up after 5 to 15 s.
            "execution_api_timeout": ANSWER_S,
            "execution_api_retries": 16,
            "execution_api_retry_wait_max": 8,
        },
        # A task renews its token with its heartbeats. Asleep it sends none, and one that has run out cannot be renewed.
        "execution_api": {"jwt_expiration_time": 24 * 3600},
        # A new file in dags/ is seen within 20 seconds, a changed one within 30: looked at every 10, seven files take
        # an eighth of a core for ever. One process is enough for a handful of files.
        "dag_processor": {
            "refresh_interval": 20,
            "parsing_processes": 1,
            "min_file_process_interval": 30,
            "dag_file_processor_timeout": 150,
            "health_check_threshold": LOST_S,
        },
        "logging": {"base_log_folder": home.logs / "airflow", "colored_console_log": False},
    }
    named = {
        f"AIRFLOW__{s.upper()}__{k.upper()}": str(v) for s, options in sections.items() for k, v in options.items()
    }
    return {"AIRFLOW_HOME": str(_airflow_home(home)), **named}


def _database(settings: Settings, home: Home) -> dict[str, str]:
    if settings.airflow_database:
        return {"sql_alchemy_conn_cmd": _cat(home.run / "airflow_database")}
    patient = "services.sqlite.CONNECT"
    return {
        "sql_alchemy_conn": f"sqlite:///{_airflow_home(home) / 'airflow.db'}",
        "sql_alchemy_connect_args": patient,
        "sql_alchemy_connect_args_async": patient,
        "sql_alchemy_session_maker": "services.sqlite.sessions",
    }


def _metadata(settings: Settings, home: Home) -> dict[str, str]:
    """The metadata store's address for the services: always by a file, because the address may hold a password."""
    if not settings.metadata:
        return {}
    is_file = settings.metadata.startswith("file:")
    return {variable("metadata"): settings.metadata if is_file else (home.run / "metadata").as_uri()}


def _cat(file: Path) -> str:
    """The command by which Airflow reads a secret at the time of use, so that it stands in no environment."""
    return f"cat {shlex.quote(str(file))}"


def _airflow_home(home: Home) -> Path:
    return home.path / "airflow"


def _record(home: Home) -> Path:
    return home.run / "services.json"


def _url_safe_key() -> str:
    """32 random bytes in URL-safe base64: the form that Fernet asks for, and good for the others."""
    import base64

    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _write_secret(path: Path, text: str) -> None:
    """Writes a file that only its owner can read; one that is there stays as it is."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
