"""docker-compose.yaml as far as it can be judged without an engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from airtight.home import ROOT, Home
from services.jars import SETS
from services.kafka import CONSTANT
from services.settings import Settings, airflow_environment

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|FERNET|SQL_ALCHEMY_CONN|CREDENTIAL", re.IGNORECASE)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_healthcheck(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_on_loopback_only(name: str) -> None:
    assert [port for port in SERVICES[name].get("ports", []) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_stands_in_the_file(name: str) -> None:
    told = {key: value for key, value in SERVICES[name].get("environment", {}).items() if SECRET.search(key)}
    bare = {k: v for k, v in told.items() if "/run/secrets/" not in v and not v.startswith("/state/run/")}
    assert bare == {}
    assert not re.search(r"://[^/\s:]+:[^@$\s]+@", yaml.safe_dump(SERVICES[name])), "a password in an address"


def test_secrets_are_files_whose_place_must_be_told() -> None:
    assert COMPOSE["secrets"]
    assert [s for s in COMPOSE["secrets"].values() if not s["file"].startswith("${AIRTIGHT_SECRETS:?")] == []


def test_whoever_may_run_a_node_knows_the_metadata_store() -> None:
    """The scheduler's tasks run nodes themselves while there is no launcher."""
    assert [name for name in ("init", "launcher", "scheduler") if "metadata_url" not in SERVICES[name]["secrets"]] == []


def test_images_are_pinned() -> None:
    assert [s["image"] for s in SERVICES.values() if "build" not in s and not re.search(r":\d", s["image"])] == []


def test_everything_named_is_there() -> None:
    airflow = {"postgres", "init", "api-server", "scheduler", "dag-processor", "triggerer"}
    engines = {"launcher", "spark", "model-server", "router"}
    stream = {"kafka", "topics", "flink-jobmanager", "flink-taskmanager", "flink-job-server", "beam-workers"}
    assert airflow | engines | stream == set(SERVICES)
    volumes = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", []) if not v.startswith(".")}
    assert volumes == set(COMPOSE["volumes"])
    secrets = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert secrets == set(COMPOSE["secrets"])


@pytest.mark.parametrize("section", ["SCHEDULER", "WORKERS", "DAG_PROCESSOR"])
def test_airflow_behaves_as_in_the_local_services(section: str, tmp_path: Path) -> None:
    local = airflow_environment(Settings(), Home(tmp_path))
    here = SERVICES["scheduler"]["environment"]
    shared = [key for key in local if key.startswith(f"AIRFLOW__{section}__")]
    assert shared
    assert {key: here[key] for key in shared} == {key: local[key] for key in shared}


def test_the_broker_behaves_as_in_the_local_services() -> None:
    """Where it listens, and which role speaks where, is each one's own."""
    local = dict(line.split("=", 1) for line in CONSTANT.read_text().splitlines() if not line.startswith("#"))
    own = {"listener.security.protocol.map", "inter.broker.listener.name"}
    here = SERVICES["kafka"]["environment"]
    shared = {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in local.items() if name not in own}
    assert len(shared) > 10
    assert {key: here.get(key) for key in shared} == shared


def test_whoever_speaks_to_the_broker_finds_it() -> None:
    inside = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")[0].removeprefix("INSIDE://")
    assert SERVICES["topics"]["environment"]["AIRTIGHT_KAFKA"] == inside


def test_the_job_server_is_of_the_flink_and_the_beam_that_run() -> None:
    """The cluster's Flink, and the Beam of the local job server, which is what was tried."""
    (runner,) = (each for each in SETS["flink"] if each.startswith("org.apache.beam:"))
    _, artifact, version = runner.split(":")
    flink = artifact.removeprefix("beam-runners-flink-")
    assert SERVICES["flink-job-server"]["image"] == f"apache/beam_flink{flink}_job_server:{version}"
    for name in ("flink-jobmanager", "flink-taskmanager"):
        assert SERVICES[name]["image"].startswith(f"flink:{flink}-")
    (broker,) = (each for each in SETS["kafka"] if each.startswith("org.apache.kafka:"))
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{broker.rpartition(':')[2]}"


def test_secrets_are_made_once_and_kept_from_others(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docker", tmp_path / "docker", ignore=shutil.ignore_patterns("secrets"))
    folder = tmp_path / "docker" / "secrets"

    def make() -> dict[str, str]:
        subprocess.run([tmp_path / "docker" / "make-secrets"], check=True, capture_output=True)
        return {path.name: path.read_text() for path in folder.iterdir()}

    made = make()
    assert make() == made
    assert set(made) == set(COMPOSE["secrets"])
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert made["postgres_password"] in made["airflow_database"]
    assert len(set(made.values())) == len(made)
    assert not [
        line
        for line in (tmp_path / ".env").read_text().splitlines()
        if SECRET.search(line.partition("=")[2]) and not line.startswith(("#", "AIRTIGHT_SECRETS="))
    ]


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_docker_compose_accepts_it() -> None:
    environment = {**os.environ, "AIRTIGHT_SECRETS": "./docker/secrets"}
    command = ["docker-compose", "--file", str(ROOT / "docker-compose.yaml"), "config", "--quiet"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stderr == ""
    del environment["AIRTIGHT_SECRETS"]
    told = subprocess.run(
        [*command[:3], "--project-directory", "/nonexistent", *command[3:]],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "make-secrets" in told.stderr
