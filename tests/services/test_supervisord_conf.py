from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from airtight.home import Home
from services.environment import environment
from services.health import services
from services.settings import Settings
from services.supervisor import CONFIGURATION, PORTS, PROGRAMS

CONF = configparser.RawConfigParser(inline_comment_prefixes=(" ;",))
CONF.read(CONFIGURATION)


def test_the_programs_are_those_that_are_started_and_watched(tmp_path: Path) -> None:
    assert {s.removeprefix("program:") for s in CONF.sections() if s.startswith("program:")} == set(PROGRAMS)
    watched = [
        program for service in services(Settings(flink_taskmanagers=2), Home(tmp_path)) for program in service.programs
    ]
    assert sorted(watched) == sorted(PROGRAMS)
    assert {port for ports in PORTS.values() for port in ports} == set(Settings().ports)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_restarted_and_stopped_with_its_children(name: str) -> None:
    program = CONF[f"program:{name}"]
    assert program["autostart"] == "false"
    assert program["autorestart"] == program["stopasgroup"] == program["killasgroup"] == "true"
    assert program["redirect_stderr"] == "true"
    assert program["stdout_logfile"] == "%(ENV_AIRTIGHT_HOME)s/logs/%(program_name)s.log"
    assert program["stdout_logfile_maxbytes"].endswith("MB")


def test_control_is_the_owners_alone_and_no_port() -> None:
    assert CONF["unix_http_server"]["chmod"] == "0600"
    assert CONF["unix_http_server"]["file"] == "%(ENV_AIRTIGHT_HOME)s/run/supervisor.sock"
    assert not CONF.has_section("inet_http_server")


def test_it_asks_for_nothing_that_the_settings_do_not_tell(tmp_path: Path) -> None:
    variables = set(re.findall(r"%\(ENV_(\w+)\)s", CONFIGURATION.read_text()))
    assert variables
    assert variables <= set(environment(Settings(), Home(tmp_path)))


def test_spark_does_not_start_without_a_token(tmp_path: Path) -> None:
    shell, option, script, name, *_ = shlex.split(CONF["program:spark"]["command"])
    environment = {"PATH": os.defpath, "AIRTIGHT_HOME": str(tmp_path)}

    # `env` in place of spark-submit: the token is in the server's environment.
    def started() -> subprocess.CompletedProcess[str]:
        command = [shell, option, script, name, "env"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    token = tmp_path / "run" / "spark_token"
    token.parent.mkdir()
    assert started().returncode
    token.write_text("")
    assert started().returncode
    token.write_text("a token")
    assert "SPARK_CONNECT_AUTHENTICATE_TOKEN=a token" in started().stdout.splitlines()


def test_nothing_listens_beyond_this_machine() -> None:
    text = CONFIGURATION.read_text() + (CONFIGURATION.parent / "spark.conf").read_text()
    assert "0.0.0.0" not in text
    for program in ("scheduler", "triggerer"):
        assert "--skip-serve-logs" in CONF[f"program:{program}"]["command"]
