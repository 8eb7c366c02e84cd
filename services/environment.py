"""The environment of every local service, with Airflow's settings, all in this one place."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from airtight.home import ROOT, Home
from services.settings import HOST, IN_FILES, Settings, variable
from services.state_folder import SPARK_TOKEN, USER, airflow_home, password_file

MARK = "AIRTIGHT_SERVICES"
"""Environment variable that every process of these services inherits: by it the last one is found and ended."""
STALL_S = 60
"""A standstill of the whole machine that costs no task a try: a disk that hangs, a laptop that sleeps."""
LOST_S = 2 * STALL_S
"""Seconds without a sign of life after which Airflow treats a task or a service as lost. With the intervals at which it
looks, a task whose process died together with its supervisor is tried again within three minutes."""
WRITER_PATIENCE_S = STALL_S + 15
"""Seconds that a writer of Airflow's SQLite waits for another: a disk that hangs holds up one, and all that wait."""
ANSWER_S = WRITER_PATIENCE_S + 15
"""Seconds that Airflow may take to answer a request, which may have to wait as a writer."""


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
    unwanted = {"PYTHONDONTWRITEBYTECODE", *map(variable, IN_FILES)}
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
        **{variable(k): str(v) for k, v in asdict(settings).items() if k not in IN_FILES},
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
    return {"AIRFLOW_HOME": str(airflow_home(home)), **named}


def _database(settings: Settings, home: Home) -> dict[str, str]:
    if settings.airflow_database:
        return {"sql_alchemy_conn_cmd": _cat(home.run / "airflow_database")}
    patient = "services.sqlite.CONNECT"
    return {
        "sql_alchemy_conn": f"sqlite:///{airflow_home(home) / 'airflow.db'}",
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
