"""The mirror of real runs in a real MLflow store: runs, versions, aliases, and what comes of a second mirror."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from airtight.rollout import state
from airtight.rollout.state import Release
from commands import mlflow_mirror, report
from pipelines.flight_delays.settings import SETTINGS
from tests.commands.audited import AUGUST, JULY, JUNE, MODEL, run

mlflow = pytest.importorskip("mlflow", reason="MLflow's client is not installed (make mlflow).")
pytestmark = pytest.mark.slow


@pytest.fixture
def client(tmp_path, monkeypatch):
    """MLflow's client of a store of the test's own, which the mirror writes to."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(mlflow_mirror.TRACKING_URI, f"sqlite:///{tmp_path}/mlflow.db")
    return mlflow.MlflowClient()


def mirrored(client, run_key) -> list:
    """MLflow's runs of a run, the newest first."""
    experiment = client.get_experiment_by_name(MODEL)
    return client.search_runs([experiment.experiment_id], f"tags.`airtight.run` = '{run_key}'")


def numbers(client) -> dict[int, str]:
    """MLflow's numbers of the versions, by ours."""
    versions = client.search_model_versions(f"name = '{MODEL}'")
    return {int(version.tags["airtight.version"]): version.version for version in versions}


def test_runs_have_parameters_metrics_and_tags_and_are_written_once(audited_home, client):
    first = mlflow_mirror.mirror(SETTINGS, audited_home)
    assert (first.written, first.known, first.versions) == (3, 0, 3)
    (june,) = mirrored(client, JUNE)
    assert (june.info.status, june.info.run_name) == ("FINISHED", str(JUNE))
    assert june.info.start_time < june.info.end_time
    assert june.data.params["train.content"] == str(JUNE)
    assert june.data.metrics["evaluate/km"] == pytest.approx(0.3)
    assert june.data.metrics["gates/validate"] == 1 and june.data.metrics["seconds/train"] >= 0
    assert june.data.tags["airtight.interval_start"] == "2013-06-01T00:00:00-04:00"
    assert len(june.data.tags["airtight.lock_digest"]) == 64
    (august,) = mirrored(client, AUGUST)
    assert august.data.metrics["evaluate/km_gain_lower"] == pytest.approx(0.05)
    (july,) = mirrored(client, JULY)
    assert july.data.metrics["gates/evaluate"] == 0, "the latest try was not blessed"
    again = mlflow_mirror.mirror(SETTINGS, audited_home)
    assert (again.written, again.known, again.versions) == (0, 3, 0)


def test_versions_have_their_run_and_the_aliases_of_who_serves_and_who_is_tried(audited_home, client):
    mlflow_mirror.mirror(SETTINGS, audited_home)
    known = numbers(client)
    assert list(sorted(known)) == [JUNE, JULY, AUGUST]
    june = client.get_model_version_by_alias(MODEL, "champion")
    assert june.version == known[JUNE], "July was rolled back"
    assert june.run_id == mirrored(client, JUNE)[0].info.run_id
    assert len(june.tags["airtight.model_digest"]) == 64
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    trial = Release(MODEL, "r-1", JUNE, AUGUST, since=datetime.now(UTC).isoformat(), until=soon)
    state.write(audited_home.models_root, {MODEL: trial})
    assert mlflow_mirror.mirror(SETTINGS, audited_home).aliases == {"champion": JUNE, "challenger": AUGUST}
    assert client.get_model_version_by_alias(MODEL, "challenger").version == known[AUGUST]
    state.write(audited_home.models_root, {})
    mlflow_mirror.mirror(SETTINGS, audited_home)
    assert set(client.get_registered_model(MODEL).aliases) == {"champion"}


def test_a_cleared_run_is_brought_up_to_date_or_replaced_where_a_parameter_changed(audited_home, client):
    mlflow_mirror.mirror(SETTINGS, audited_home)
    (before,) = mirrored(client, JUNE)
    run(audited_home, JUNE)
    assert mlflow_mirror.mirror(SETTINGS, audited_home).written == 1
    (after,) = mirrored(client, JUNE)
    assert after.info.run_id == before.info.run_id
    assert after.data.tags["airtight.executions"] != before.data.tags["airtight.executions"]
    run(audited_home, JUNE, content="other")
    mlflow_mirror.mirror(SETTINGS, audited_home)
    new, old = sorted(mirrored(client, JUNE), key=lambda one: "airtight.superseded" in one.data.tags)
    assert old.info.run_id == before.info.run_id and old.data.params["train.content"] == str(JUNE)
    assert new.data.params["train.content"] == "other"
    assert mlflow_mirror.mirror(SETTINGS, audited_home).written == 0


def test_what_was_deleted_in_mlflow_stays_deleted(audited_home, client):
    mlflow_mirror.mirror(SETTINGS, audited_home)
    client.delete_run(mirrored(client, JUNE)[0].info.run_id)
    assert mlflow_mirror.mirror(SETTINGS, audited_home).written == 0
    assert mirrored(client, JUNE) == []


def test_a_mirror_that_is_broken_off_is_taken_up_again(audited_home, client, monkeypatch):
    real = mlflow.MlflowClient.set_terminated
    monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in mlflow_mirror.after_run(SETTINGS, audited_home)
    monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", real)
    assert mlflow_mirror.mirror(SETTINGS, audited_home).written == 3
    assert len(mirrored(client, AUGUST)) == 1


def test_a_server_that_is_away_holds_no_report_up_and_the_next_mirror_catches_up(
    audited_home, client, monkeypatch, capsys
):
    there = os.environ[mlflow_mirror.TRACKING_URI]
    monkeypatch.setenv(mlflow_mirror.TRACKING_URI, "http://127.0.0.1:9")
    assert report.main(["--pipeline", MODEL]) == 0
    assert "Warning: nothing was mirrored to MLflow" in capsys.readouterr().out
    assert mlflow_mirror.main(["--pipeline", MODEL]) == 75
    monkeypatch.setenv(mlflow_mirror.TRACKING_URI, there)
    assert report.main(["--pipeline", MODEL]) == 0
    out = capsys.readouterr().out
    assert f"3 runs written, 0 known, 3 new versions; aliases: champion {JUNE}" in out
    assert mlflow_mirror.main(["--pipeline", MODEL]) == 0


def test_nothing_is_mirrored_unless_a_server_is_named(audited_home, monkeypatch, capsys):
    monkeypatch.delenv(mlflow_mirror.TRACKING_URI, raising=False)
    assert mlflow_mirror.after_run(SETTINGS, audited_home) == ""
    assert mlflow_mirror.main(["--pipeline", MODEL]) == 64
    assert "No tracking server is named." in capsys.readouterr().err


def test_a_run_that_is_under_way_is_running_until_the_next_mirror(audited_home, client, monkeypatch):
    real = mlflow_mirror.run_of
    monkeypatch.setattr(mlflow_mirror, "run_of", lambda *given: _open(real(*given)))
    mlflow_mirror.mirror(SETTINGS, audited_home)
    assert mirrored(client, JUNE)[0].info.status == "RUNNING"
    monkeypatch.setattr(mlflow_mirror, "run_of", real)
    mlflow_mirror.mirror(SETTINGS, audited_home)
    assert mirrored(client, JUNE)[0].info.status == "FINISHED"


def _open(known):
    """A run as it was before its last node ended."""
    return replace(known, status="RUNNING", tags={**known.tags, "airtight.executions": "{}"})
