"""docker-compose.yaml as far as it can be judged without an engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml

from airtight.home import ROOT, Home
from benchmarks.postgresql import PASSWORD, Cluster, binaries
from services import flink, flink_jars, jars
from services.environment import airflow_environment
from services.kafka import CONSTANT
from services.settings import Settings
from streaming import topics
from streaming.engine import addresses

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
    suspect = {key: value for key, value in SERVICES[name].get("environment", {}).items() if SECRET.search(key)}
    # Numbers, such as how long a token is good for, are none.
    bare = {k: v for k, v in suspect.items() if "/run/secrets/" not in v and not v.startswith("/state/run/")}
    assert {k: v for k, v in bare.items() if not v.isdigit()} == {}
    assert not re.search(r"://[^/\s:]+:[^@$\s]+@", yaml.safe_dump(SERVICES[name])), "a password in an address"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The secrets that docker/make-secrets makes, by name."""
    folder = tmp_path_factory.mktemp("compose")
    shutil.copytree(ROOT / "docker", folder / "docker", ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([folder / "docker" / "make-secrets"], check=True, capture_output=True)
    return {path.name: path.read_text() for path in (folder / "docker" / "secrets").iterdir()}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gets_the_secrets_that_it_uses_and_no_other(name: str) -> None:
    """Whatever is mounted must be named by the service's own settings, so that none is mounted for company."""
    given = set(SERVICES[name].get("secrets", []))
    text = yaml.safe_dump({key: value for key, value in SERVICES[name].items() if key != "secrets"})
    scripts = {"postgres": "docker/postgres-init.sql", "init": "docker/init"}
    if name in scripts:
        text += (ROOT / scripts[name]).read_text()
    assert given <= set(re.findall(r"/run/secrets/(\w+)", text))
    database = {"postgres", "init", "api-server", "scheduler", "dag-processor", "triggerer"}
    assert "airflow_database" not in given or name in database
    superuser = {"postgres_password", "airflow_role_password", "metadata_role_password"}
    assert not given & superuser or name == "postgres"


def test_spark_wants_a_token_and_whoever_runs_nodes_has_it(tmp_path: Path) -> None:
    spark = SERVICES["spark"]
    assert "spark_token" in spark["secrets"]
    # What the container runs, with `env` in place of spark-submit: the token is in the server's environment.
    (tmp_path / "spark_token").write_text("a token")
    script = spark["command"][2].replace("$$", "$").replace("/run/secrets", str(tmp_path))
    command = [*spark["command"][:2], script, spark["command"][3], "env"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "SPARK_CONNECT_AUTHENTICATE_TOKEN=a token" in printed.splitlines()
    (tmp_path / "spark_token").write_text("")
    assert subprocess.run(command, check=False).returncode, "with an empty token it would answer everybody"
    (tmp_path / "spark_token").unlink()
    assert subprocess.run(command, capture_output=True, check=False).returncode
    for name in ("launcher", "scheduler"):
        assert SERVICES[name]["environment"]["SPARK_TOKEN_FILE"] == "/run/secrets/spark_token"
        assert "spark_token" in SERVICES[name]["secrets"]


def test_flink_takes_jobs_from_inside_only() -> None:
    assert not [name for name in SERVICES if name.startswith("flink") and SERVICES[name].get("ports")]
    assert "web.submit.enable: false" in SERVICES["flink-jobmanager"]["environment"]["FLINK_PROPERTIES"]


def test_secrets_are_files_whose_place_must_be_told() -> None:
    assert COMPOSE["secrets"]
    assert [s for s in COMPOSE["secrets"].values() if not s["file"].startswith("${AIRTIGHT_SECRETS:?")] == []


def test_whoever_may_run_a_node_or_makes_pages_knows_the_metadata_store() -> None:
    """The scheduler's tasks run nodes themselves while there is no launcher; the API server makes the pages."""
    knows = [name for name in SERVICES if "metadata_url" in SERVICES[name].get("secrets", [])]
    assert set(knows) == {"init", "launcher", "scheduler", "api-server"}
    assert {SERVICES[name]["environment"]["AIRTIGHT_METADATA"] for name in knows} == {"file:/run/secrets/metadata_url"}


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


@pytest.mark.parametrize("section", ["SCHEDULER", "WORKERS", "DAG_PROCESSOR", "TRIGGERER", "EXECUTION_API"])
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


ADDRESSES = (addresses.JOB_SERVER, addresses.EXPANSION, addresses.REST, addresses.WORKERS, topics.SERVERS)
"""Environment variables in which the code of streams looks for others."""
OURS = [name for name in SERVICES if SERVICES[name]["image"] == "airtight-runtime" and name != "spark"]


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("variable", ADDRESSES)
def test_every_address_that_the_code_reads_is_set_and_somebody_is_there(name: str, variable: str) -> None:
    host, _, port = SERVICES[name]["environment"][variable].removeprefix("http://").partition(":")
    if variable == addresses.WORKERS:
        # As the TaskManager sees it.
        assert host == "127.0.0.1" and SERVICES["beam-workers"]["network_mode"] == "service:flink-taskmanager"
        host = "beam-workers"
    service = {key: value for key, value in SERVICES[host].items() if key != "environment" or host == "kafka"}
    assert re.search(rf"\b{port}\b", yaml.safe_dump(service)), f"{host} does not listen on {port}"


def flink_properties(service: str = "flink-jobmanager") -> dict[str, str]:
    """The settings of Flink in one of its services."""
    text = SERVICES[service]["environment"]["FLINK_PROPERTIES"]
    return dict(line.split(": ", 1) for line in text.splitlines())


def test_the_job_server_is_started_as_the_local_one(tmp_path: Path) -> None:
    local = flink.command("job-server", Settings(), Home(tmp_path), "classes")
    shell, _, *here = SERVICES["flink-job-server"]["command"][2:]
    assert all(option in shell for option in flink_jars.OPENS)
    there = local[local.index("airtight.JobServer") :]
    assert [part.partition("=")[0] for part in here[4:]] == [part.partition("=")[0] for part in there[4:]]
    assert here[:3] == ["airtight.JobServer", "0.0.0.0", "8097"]


def test_flink_behaves_as_in_the_local_services(tmp_path: Path) -> None:
    """Where it listens, what it may use, and where its files are is each one's own."""
    own = re.compile(r"(host|address|port|dir|dirs|cores)$|^taskmanager\.memory|numberOfTaskSlots")
    local = {k: v for k, v in flink.configuration(Settings(), Home(tmp_path)).items() if not own.search(k)}
    assert len(local) > 10
    for name in ("flink-jobmanager", "flink-taskmanager", "flink-job-server"):
        here = flink_properties(name)
        assert {key: here.get(key) for key in local} == local
        assert here["env.java.opts.taskmanager"] == here["env.java.opts.jobmanager"] == " ".join(flink_jars.OPENS)


def test_flink_is_that_of_the_locked_jars() -> None:
    (core,) = (jar for jar in jars.lock("flink") if jar.startswith("flink-core-"))
    version = core.removeprefix("flink-core-").removesuffix(".jar")
    dockerfile = (ROOT / "docker" / "runtime.Dockerfile").read_text()
    assert re.search(rf"^FROM flink:{re.escape(version)}-java17 AS flink$", dockerfile, re.MULTILINE)
    built = [service["build"] for name, service in SERVICES.items() if name.startswith("flink")]
    assert len(built) == 3
    for build in built:
        assert build == {"context": ".", "dockerfile": "docker/runtime.Dockerfile", "target": "flink"}
    (broker,) = (one for one in jars.SETS["kafka"] if one.startswith("org.apache.kafka:"))
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{broker.rpartition(':')[2]}"


def test_whoever_resumes_a_stream_sees_flinks_checkpoints() -> None:
    assert flink_properties()["state.checkpoints.dir"] == "file:///checkpoints"
    for name in ("flink-jobmanager", "flink-taskmanager", "scheduler", "triggerer"):
        assert any(volume.startswith("flink:/checkpoints") for volume in SERVICES[name]["volumes"])


def test_the_flink_of_the_documented_kubernetes_is_the_same() -> None:
    block = (ROOT / "docs" / "streaming.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    deployment, server, service = yaml.safe_load_all(block)
    own = re.compile(r"(address|host|port|dir|num-retained)$|^web\.submit|^env\.|numberOfTaskSlots")
    shared = {key: value for key, value in flink_properties().items() if not own.search(key)}
    here = deployment["spec"]["flinkConfiguration"]
    assert {key: here.get(key) for key in shared} == shared
    (jobs,) = server["spec"]["template"]["spec"]["containers"]
    assert jobs["image"] == deployment["spec"]["image"]
    assert {port["port"] for port in service["spec"]["ports"]} == {8097, 8098, 8099}
    _, pool = deployment["spec"]["taskManager"]["podTemplate"]["spec"]["containers"]
    assert pool["command"] == SERVICES["beam-workers"]["command"]
    value = SERVICES["scheduler"]["environment"][addresses.WORKERS]
    assert {"name": addresses.WORKERS, "value": value} in pool["env"]


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
    assert made["airflow_role_password"] in made["airflow_database"]
    assert made["metadata_role_password"] in made["metadata_url"]
    assert len(made["jwt_secret"]) >= 64
    assert len(set(made.values())) == len(made)
    assert not [
        line
        for line in (tmp_path / ".env").read_text().splitlines()
        if SECRET.search(line.partition("=")[2]) and not line.startswith(("#", "AIRTIGHT_SECRETS="))
    ]


def test_a_key_that_is_too_short_is_made_again(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docker", tmp_path / "docker", ignore=shutil.ignore_patterns("secrets"))
    key = tmp_path / "docker" / "secrets" / "jwt_secret"
    key.parent.mkdir()
    key.write_text("x" * 44)
    subprocess.run([tmp_path / "docker" / "make-secrets"], check=True, capture_output=True)
    assert len(key.read_text()) >= 64


@pytest.fixture(scope="module")
def postgresql(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A PostgreSQL that the image's first start has set up."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql).")
    folder = tmp_path_factory.mktemp("secrets")
    for name, secret in made.items():
        (folder / name).write_text(secret)
    script = folder / "init.sql"
    script.write_text((ROOT / "docker" / "postgres-init.sql").read_text().replace("/run/secrets", str(folder)))
    cluster = Cluster(programs)
    try:
        cluster.start()
        address = f"postgresql://airtight@127.0.0.1:{cluster.port}/postgres"
        subprocess.run(
            [programs / "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={script}", address],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            check=True,
            capture_output=True,
        )
        yield cluster
    finally:
        cluster.remove()


@pytest.mark.slow
def test_airflow_and_the_metadata_store_have_a_role_and_a_database_each(
    postgresql: Cluster, made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(address: str) -> str:
        return address.replace("@postgres:5432/", f"@127.0.0.1:{postgresql.port}/")

    metadata, airflow = here(made["metadata_url"]), here(made["airflow_database"])
    plain = airflow.replace("+psycopg2", "")
    for address, others in ((metadata, ("airflow",)), (plain, ("metadata", "postgres"))):
        with psycopg2.connect(address) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
            assert cursor.fetchone() == (False,)
        connection.close()
        for other in others:
            with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
                psycopg2.connect(f"{address.rpartition('/')[0]}/{other}")
    # Both work as the owner of one database alone.
    from runtime import metadata_store

    monkeypatch.setenv("AIRTIGHT_METADATA", metadata)
    with metadata_store.project_connection(Home(tmp_path)) as handle:
        assert handle.store.get_executions() == []
    (tmp_path / "database").write_text(airflow)
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD": f"cat {tmp_path / 'database'}",
    }
    program = Path(sys.executable).with_name("airflow")
    subprocess.run([program, "db", "migrate"], env=environment, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_docker_compose_accepts_it() -> None:
    environment = {**os.environ, "AIRTIGHT_SECRETS": "./docker/secrets"}
    command = ["docker-compose", "--file", str(ROOT / "docker-compose.yaml"), "config", "--quiet"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stderr == ""
    del environment["AIRTIGHT_SECRETS"]
    completed = subprocess.run(
        [*command[:3], "--project-directory", "/nonexistent", *command[3:]],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "make-secrets" in completed.stderr
