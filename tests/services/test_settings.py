from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
from dataclasses import asdict
from pathlib import Path

import pytest

from airtight.errors import TerminalError
from airtight.home import ROOT, Home
from services.__main__ import main
from services.airflow_api import Airflow
from services.environment import ANSWER_S, MARK, STALL_S, airflow_environment, environment
from services.settings import Settings, variable
from services.sqlite import CONNECT
from services.state_folder import USER, password, password_file, prepare, renew_short_keys


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "a state's folder")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in asdict(Settings()):
        monkeypatch.delenv(variable(name), raising=False)


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRTIGHT_AIRFLOW_PORT", "9090")
    monkeypatch.setenv("AIRTIGHT_SPARK_MEMORY", "1g")
    settings = Settings.from_environment()
    assert (settings.airflow_port, settings.spark_memory, settings.model_rest_port) == (9090, "1g", 8501)
    assert (settings.model_url, settings.server_url) == ("http://127.0.0.1:8501", "http://127.0.0.1:8511")
    assert settings.airflow_url == "http://127.0.0.1:9090"


@pytest.mark.parametrize("text", ["many", "80.5", "0", "70000", "-1"])
def test_a_port_that_is_none_is_refused_by_its_variable(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AIRTIGHT_MODEL_GRPC_PORT", text)
    with pytest.raises(TerminalError, match="AIRTIGHT_MODEL_GRPC_PORT"):
        Settings.from_environment()


def test_secrets_are_made_once_for_the_owner_alone(home: Home) -> None:
    prepare(home)
    first = {path.name: path.read_text() for path in home.run.iterdir()}
    assert mode(home.run) == "0o700"
    assert {mode(path) for path in home.run.iterdir()} == {"0o600"}
    assert len(set(first.values())) == len(first) == 5
    assert password(home) == json.loads(first[password_file(home).name])[USER]
    prepare(home)
    assert {path.name: path.read_text() for path in home.run.iterdir()} == first


def test_an_open_run_folder_is_closed(home: Home) -> None:
    home.run.mkdir(parents=True, mode=0o755)
    prepare(home)
    assert mode(home.run) == "0o700"


def test_two_state_folders_have_different_passwords(tmp_path: Path) -> None:
    passwords = []
    for name in ("one", "two"):
        prepare(Home(tmp_path / name))
        passwords.append(password(Home(tmp_path / name)))
    assert passwords[0] != passwords[1]


def test_no_password_before_the_first_start(home: Home) -> None:
    with pytest.raises(TerminalError, match="make start"):
        password(home)


DATABASE = "postgresql+psycopg2://airflow:it's $secret@127.0.0.1/airflow"
METADATA = "postgresql://metadata:hidden@127.0.0.1:5432/metadata"


@pytest.fixture
def databases(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of two databases with passwords, as a person's shell exports them."""
    monkeypatch.setenv("AIRTIGHT_AIRFLOW_DATABASE", DATABASE)
    monkeypatch.setenv("AIRTIGHT_METADATA", METADATA)
    return Settings.from_environment()


def test_no_secret_stands_in_the_environment_or_the_record(home: Home, databases: Settings) -> None:
    prepare(home)
    databases.save(home)
    secrets = [path.read_text() for path in home.run.iterdir() if path.name != "services.json"]
    assert DATABASE in secrets and METADATA in secrets
    values = "\n".join([*environment(databases, home).values(), (home.run / "services.json").read_text()])
    assert not [secret for secret in [*secrets, password(home), "$secret", "hidden"] if secret.strip() in values]
    assert {mode(path) for path in home.run.iterdir() if path.name != "services.json"} == {"0o600"}


def test_the_metadata_store_is_named_by_a_file(
    home: Home, databases: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(home)
    databases.save(home)
    address = environment(databases, home)["AIRTIGHT_METADATA"]
    assert Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).read_text() == METADATA
    # A service starts others with the environment that it was started with.
    monkeypatch.setenv("AIRTIGHT_METADATA", address)
    assert environment(Settings.from_environment(), home)["AIRTIGHT_METADATA"] == address
    monkeypatch.delenv("AIRTIGHT_METADATA")
    assert Settings.of_running(home).metadata == METADATA
    Settings().save(home)
    assert Settings.of_running(home).metadata == ""
    assert "AIRTIGHT_METADATA" not in environment(Settings.of_running(home), home)


def test_a_key_that_is_too_short_is_replaced_and_a_long_one_kept(home: Home) -> None:
    prepare(home)
    key = home.run / "jwt_secret"
    long = key.read_text()
    assert len(long) >= 64
    renew_short_keys(home)
    assert key.read_text() == long
    key.write_text("x" * 44)
    renew_short_keys(home)
    assert len(key.read_text()) >= 64 and mode(key) == "0o600"


def test_the_running_services_are_found_by_their_record(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(home)
    Settings(airflow_port=9191).save(home)
    monkeypatch.setenv("AIRTIGHT_AIRFLOW_PORT", "9292")
    assert Settings.of_running(home).airflow_port == 9191
    assert Settings.of_running(Home(home.path / "other")).airflow_port == 9292


def test_the_running_services_keep_the_database_that_the_environment_named(
    home: Home, databases: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(home)
    databases.save(home)
    monkeypatch.delenv("AIRTIGHT_AIRFLOW_DATABASE")
    monkeypatch.delenv("AIRTIGHT_METADATA")
    monkeypatch.setenv("AIRTIGHT_HOME", str(home.path))
    assert Settings.of_running(home).airflow_database == DATABASE
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    assert "secret@" not in printed and "hidden" not in printed
    assert "export AIRTIGHT_METADATA=file:///" in printed or "export AIRTIGHT_METADATA='file:///" in printed
    shown = subprocess.run(
        ["sh", "-c", f'{printed}\nsh -c "$AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD"'], capture_output=True, text=True
    )
    assert shown.stdout == DATABASE


def test_the_environment_is_the_same_from_every_shell(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "True")
    monkeypatch.setenv("AIRFLOW_CONFIG", "/elsewhere/airflow.cfg")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    variables = environment(Settings(), home)
    assert variables["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert "AIRFLOW_CONFIG" not in variables
    assert variables["PYTHONPATH"] == str(ROOT)
    # The caller's own modules, for pipelines that lie outside of the checkout; services have other working folders.
    monkeypatch.setenv("PYTHONPATH", f"/elsewhere{os.pathsep}{os.pathsep}{ROOT}{os.pathsep}relative")
    paths = environment(Settings(), home)["PYTHONPATH"].split(os.pathsep)
    assert paths == [str(ROOT), "/elsewhere", os.path.abspath("relative")]
    assert variables[MARK] == variables["AIRTIGHT_HOME"] == str(home.path)
    assert variables["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_everything_is_on_loopback(home: Home) -> None:
    variables = airflow_environment(Settings(), home)
    assert variables["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert not [key for key, value in variables.items() if "0.0.0.0" in value or "://localhost" in value]


def test_what_was_lost_is_tried_again_within_three_minutes_and_nothing_is_lost_before_a_stall_is_over(
    home: Home,
) -> None:
    conf = {name.removeprefix("AIRFLOW__"): value for name, value in airflow_environment(Settings(), home).items()}
    for name in (
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT",
        "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD",
        "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD",
        "TRIGGERER__RUNNER_HEALTH_CHECK_THRESHOLD",
        "DAG_PROCESSOR__HEALTH_CHECK_THRESHOLD",
        "WORKERS__EXECUTION_API_TIMEOUT",
    ):
        assert STALL_S < float(conf[name]), name
        assert float(conf[name]) + float(conf["SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL"]) <= 180, name
    for name in ("SCHEDULER__TASK_QUEUED_TIMEOUT", "EXECUTION_API__JWT_EXPIRATION_TIME"):
        assert float(conf[name]) > STALL_S, name
    # Who waits for an answer waits longer than the writer whom it may meet.
    assert STALL_S < CONNECT["timeout"] < ANSWER_S
    assert Airflow("http://127.0.0.1:1", "", "")._http.timeout.read == ANSWER_S
    assert float(conf["WORKERS__EXECUTION_API_TIMEOUT"]) == ANSWER_S


@pytest.mark.slow
def test_airflow_knows_every_setting(home: Home) -> None:
    """Airflow ignores a misspelt setting without a word."""
    prepare(home)
    names = [k.removesuffix("_CMD") for k in airflow_environment(Settings(), home) if k.startswith("AIRFLOW__")]
    code = (
        "import sys; from airflow.configuration import conf; known = conf.configuration_description\n"
        "for name in sys.argv[1:]:\n"
        "    _, section, key = name.lower().split('__')\n"
        "    if key not in known.get(section, {'options': {}})['options']: print(name)\n"
        "print('fernet', len(conf.get('core', 'fernet_key')), 'jwt', len(conf.get('api_auth', 'jwt_secret')))"
    )
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, env=environment(Settings(), home), capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == ["fernet 44 jwt 86"], done.stdout


@pytest.mark.slow
def test_airflow_waits_for_a_busy_sqlite_and_asks_nothing_such_of_another_database(home: Home) -> None:
    prepare(home)
    code = "from airflow.settings import engine; connection = engine.raw_connection()\n"
    code += "print(connection.execute('PRAGMA busy_timeout').fetchone()[0])\n"
    code += "from airflow.settings import Session\nnested = Session().begin_nested()\n"
    code += "Session().connection()\nimport sqlite3\n"
    code += "other = sqlite3.connect(engine.url.database, timeout=0)\n"
    code += "try:\n  other.execute('BEGIN IMMEDIATE')\nexcept sqlite3.OperationalError as error:\n  print(error)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(Settings(), home), check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["75000", "database is locked"], "a savepoint takes the right to write"
    other = airflow_environment(Settings(airflow_database="postgresql://there/airflow"), home)
    assert not [name for name in other if "CONNECT_ARGS" in name or "SESSION_MAKER" in name]
