"""The command that rolls the served model back, over the metadata of real runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import uuid

import pytest

from airtight.errors import EXIT_TERMINAL
from airtight.home import ROOT, Home
from commands import promote, release, report
from components.modelling.served import Served
from pipelines.flight_delays.settings import SETTINGS
from runtime import local, protocol
from runtime.compile import compile_pipeline
from runtime.launch import launch
from tests.tiny_pipeline.running import Run

JUNE, JULY, AUGUST, SEPTEMBER = 201307010400001, 201308010400001, 201309010400001, 201310010400001
ENDS = {
    JUNE: ("2013-06-01", "2013-07-01"),
    JULY: ("2013-07-01", "2013-08-01"),
    AUGUST: ("2013-08-01", "2013-09-01"),
    SEPTEMBER: ("2013-09-01", "2013-10-01"),
}
MODEL, PIPELINE = "flight_delays", "flight_delays_promote"
PUSHES = "tests.tiny_pipeline.pushes:create_pipeline"


def main(arguments: list[str]) -> int:
    return promote.main(["--pipeline", MODEL, *arguments])


@pytest.fixture
def home(monkeypatch) -> Home:
    """A state folder in which June and July were pushed."""
    monkeypatch.delenv("AIRTIGHT_MODEL_SERVER", raising=False)
    home = Home.current()
    for version, auc in ((JUNE, 0.71), (JULY, 0.69)):
        push(home, version, auc=auc)
    return home


def push(home: Home, version: int, **values: float) -> int:
    """Runs the month of a version; gives the version of the champion that it met, 0 for none."""
    start, end = (f"{day}T00:00:00-04:00" for day in ENDS[version])
    values |= {"interval_start": start, "interval_end": end, "version": version}
    outcomes = local.run(compile_pipeline(PUSHES, home), home, str(version), values)
    assert {outcome.state for outcome in outcomes.values()} == {"complete"}, outcomes
    return champion_of(outcomes)


def champion_of(outcomes: dict[str, protocol.Outcome]) -> int:
    return next((artifact["properties"]["version"] for artifact in outcomes["champion"].outputs.get("pushed", [])), 0)


def champion(home: Home, version: int) -> int:
    """The champion that the month of a version would meet now."""
    start, end = (f"{day}T00:00:00-04:00" for day in ENDS[version])
    run = Run(home, PUSHES, f"look-{uuid.uuid4().hex}", interval_start=start, interval_end=end)
    return champion_of({node: run.node(node) for node in ("ingest", "champion")})


@pytest.mark.slow
def test_the_champion_is_what_the_real_promotions_had_served(home):
    assert [champion(home, version) for version in (JUNE, JULY, AUGUST)] == [0, JUNE, JULY]
    assert main(["previous", "--reason", "July is worse"]) == 0
    assert [champion(home, version) for version in (JULY, AUGUST)] == [JUNE, JUNE]
    assert push(home, AUGUST, took_over=0) == JUNE
    assert champion(home, SEPTEMBER) == JUNE, "August was registered only"
    assert main([str(AUGUST), "--reason", "August is better"]) == 0
    assert [champion(home, version) for version in (JULY, AUGUST, SEPTEMBER)] == [JUNE, JUNE, AUGUST]
    assert main(["previous", "--reason", "August is worse"]) == 0
    assert Served(home.models_root).choice(MODEL).pinned == JUNE, "July was taken back before"
    assert champion(home, SEPTEMBER) == JUNE


@pytest.mark.slow
def test_the_page_shows_a_version_as_served_that_took_over_after_its_run(home):
    push(home, AUGUST, took_over=0)
    push(home, SEPTEMBER, took_over=0)
    served = {month.version: month.took_over for month in report.months(SETTINGS, home)}
    assert served == {JUNE: True, JULY: True, AUGUST: False, SEPTEMBER: False}
    assert main([str(AUGUST), "--reason", "August is better"]) == 0
    served = {month.version: month.took_over for month in report.months(SETTINGS, home)}
    assert served == {JUNE: True, JULY: True, AUGUST: True, SEPTEMBER: False}
    assert report.main(["--pipeline", MODEL]) == 0
    page = report.page_of(SETTINGS, home).read_text(encoding="utf-8")
    assert f"{AUGUST}</td>" in page and f"{SEPTEMBER}, registered only" in page


@pytest.mark.slow
def test_back_with_what_all_runs_know_then_a_list_and_a_refusal(home, capsys):
    assert main(["previous", "--reason", "July is worse"]) == 0
    output = capsys.readouterr().out
    assert "| ROC AUC | 0.6900 | 0.7100 |" in output
    assert "| judged on | 2013-07-01 up to but not 2013-08-01 | 2013-06-01 up to but not 2013-07-01 |" in output
    assert f"Version {JUNE} of flight_delays is served in place of {JULY}" in output.splitlines()[-1]
    choice = Served(home.models_root).choice(MODEL)
    assert (choice.pinned, choice.reason) == (JUNE, "July is worse")

    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{JULY}  2013-07-01 to 2013-08-01 0.6900")
    assert lines[1].endswith("it never served, or was taken back")
    assert lines[2].startswith(f"{JUNE}  2013-06-01 to 2013-07-01 0.7100  promoted by hand")
    assert "July is worse" in lines[2]

    assert main(["previous"]) == EXIT_TERMINAL
    assert "is promoted without a reason" in capsys.readouterr().err
    assert main(["previous", "--reason", "June is worse"]) == EXIT_TERMINAL
    assert "There is no such version" in capsys.readouterr().err
    assert Served(home.models_root).choice(MODEL) == choice


def launch_all(listener: socket.socket) -> None:
    """The warm launcher's part, in this process, which has TFX already, until it is shut down."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            message, output = protocol.receive_with_output(connection)
            connection.sendall(protocol.encode_outcome(launch(protocol.decode_request(message))))
            os.close(output)


@pytest.mark.slow
def test_where_the_warm_launcher_runs_the_command_imports_nothing_heavy(home):
    compile_pipeline(PIPELINE, home)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "AIRTIGHT_HOME": str(home.path)}
    code = (
        "import sys; from commands.promote import main; "
        "status = main(['--pipeline', 'flight_delays', 'previous', '--reason', 'July is worse']); "
        "print('HEAVY', *sorted({'tfx', 'tensorflow', 'ml_metadata'} & set(sys.modules))); sys.exit(status)"
    )
    home.run.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.launcher_socket))
        listener.listen()
        launcher = threading.Thread(target=launch_all, args=(listener,), daemon=True)
        launcher.start()
        done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
        listener.shutdown(socket.SHUT_RDWR)
        launcher.join()
    assert done.returncode == 0, done.stdout + done.stderr
    *_, summary, heavy = done.stdout.splitlines()
    assert summary.startswith(f"Version {JUNE} of flight_delays is served in place of {JULY}")
    assert heavy == "HEAVY"
    assert Served(home.models_root).choice(MODEL).pinned == JUNE


@pytest.mark.parametrize("name", ["AIRTIGHT_MODEL_SERVER", "AIRTIGHT_ROUTER"])
def test_a_server_that_only_the_caller_names_is_not_left_to_the_launcher(name, tmp_path, monkeypatch):
    monkeypatch.delenv("AIRTIGHT_MODEL_SERVER", raising=False)
    monkeypatch.delenv("AIRTIGHT_ROUTER", raising=False)
    assert not promote.names_other_servers(Home(tmp_path))
    monkeypatch.setenv(name, "http://elsewhere:8501")
    assert promote.names_other_servers(Home(tmp_path))


def test_a_release_needs_the_services_and_settings_that_are_some(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path))
    assert release.main(["--pipeline", MODEL, "201307010400001", "--share", "0.2"]) == EXIT_TERMINAL
    assert "make start" in capsys.readouterr().err
    assert release.main(["--pipeline", MODEL, "latest", "--mode", "blue"]) == EXIT_TERMINAL
    assert "one of canary, split, shadow" in capsys.readouterr().err


def test_a_pipeline_without_releases_has_nothing_to_promote(capsys):
    assert promote.main(["--pipeline", "flight_delays_warm", "previous"]) == EXIT_TERMINAL
    assert "No version of flight_delays_warm can be promoted" in capsys.readouterr().err
    assert promote.main(["--pipeline", "flight_delay", "previous"]) == EXIT_TERMINAL
    assert "There is no supervised pipeline flight_delay." in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["previous", "--list"]])
def test_it_wants_a_version_or_the_list(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--list" in capsys.readouterr().err
