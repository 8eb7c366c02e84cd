"""The mirror of past runs in a real MLflow store: runs, versions, aliases, and what comes of a second mirror."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from airtight.home import Home
from airtight.rollout import state
from airtight.rollout.state import Release
from commands import mlflow_mirror, report
from pipelines.flight_delays.settings import SETTINGS
from tests.plugins.past_models import MODEL, PastModels

mlflow = pytest.importorskip("mlflow", reason="MLflow's client is not installed (make mlflow).")
AT = datetime(2026, 11, 1, tzinfo=UTC)
JUNE, JULY = 202607010400001, 202608010400001
MONTHS = {JUNE: (date(2026, 6, 1), date(2026, 7, 1)), JULY: (date(2026, 7, 1), date(2026, 8, 1))}


class Past(PastModels):
    """June and July, of which July was rolled back to June."""

    def month(self, version: int, seed: str, **how) -> None:
        """A month's training; once more, it is that of a run that was cleared."""
        number = 1 + list(MONTHS).index(version)
        served = JUNE if version == JULY else 0
        self.train(*MONTHS[version], number, began=AT, served=served, parameters={"train": {"seed": seed}}, **how)


@pytest.fixture
def past(tmp_path, monkeypatch) -> Past:
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AIRTIGHT_METADATA", raising=False)
    home = Home.current()
    home.models_root.mkdir(parents=True)
    past = Past(home)
    past.month(JUNE, "1")
    past.month(JULY, "1", cached=("ingest",))
    past.promote(JULY, JUNE, at=AT, reason="July is worse", by="ada")
    past.close()
    return past


@pytest.fixture
def client(tmp_path, monkeypatch):
    """MLflow's client of a store of the test's own, which the mirror writes to."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(mlflow_mirror.TRACKING_URI, f"sqlite:///{tmp_path}/mlflow.db")
    return mlflow.MlflowClient()


def mirrored(client, version) -> list:
    """MLflow's runs of a month."""
    experiment = client.get_experiment_by_name(MODEL)
    name = f"scheduled__{MONTHS[version][0]}T04:00:00+00:00"
    return client.search_runs([experiment.experiment_id], f"tags.`airtight.run_id` = '{name}'")


def numbers(client) -> dict[int, str]:
    """MLflow's numbers of the versions, by ours."""
    versions = client.search_model_versions(f"name = '{MODEL}'")
    return {int(version.tags["airtight.version"]): version.version for version in versions}


def test_runs_have_parameters_metrics_and_tags_and_are_written_once(past, client):
    first = mlflow_mirror.mirror(SETTINGS, past.home)
    assert (first.written, first.known, first.versions) == (2, 0, 2)
    (july,) = mirrored(client, JULY)
    assert (july.info.status, july.info.run_name) == ("FINISHED", "scheduled__2026-07-01T04:00:00+00:00")
    assert july.info.start_time < july.info.end_time
    assert july.data.params == {"train.seed": "1"}
    gain = july.data.metrics["evaluate/roc_auc_gain"]
    assert july.data.metrics["evaluate/roc_auc_gain_lower"] == pytest.approx(gain - 0.008)
    assert july.data.metrics["gates/validate"] == 1 and july.data.metrics["seconds/train"] == 300
    assert july.data.metrics["transform/rows_test"] == 26_000
    assert july.data.tags["airtight.interval_start"] == "2026-07-01T00:00:00-04:00"
    assert july.data.tags["airtight.dag_id"] == MODEL
    again = mlflow_mirror.mirror(SETTINGS, past.home)
    assert (again.written, again.known, again.versions) == (0, 2, 0)
    few = mlflow_mirror.mirror(SETTINGS, past.home, known_in_a_row=1)
    assert (few.written, few.known) == (0, 1), "a mirror that follows a run looks at no more"


def test_versions_have_their_run_and_the_aliases_of_who_serves_and_who_is_tried(past, client):
    mlflow_mirror.mirror(SETTINGS, past.home)
    known = numbers(client)
    assert sorted(known) == [JUNE, JULY]
    june = client.get_model_version_by_alias(MODEL, "champion")
    assert june.version == known[JUNE], "July was rolled back"
    assert june.run_id == mirrored(client, JUNE)[0].info.run_id
    assert len(june.tags["airtight.model_digest"]) == 64
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    trial = Release(MODEL, "r-1", JUNE, JULY, since=datetime.now(UTC).isoformat(), until=soon)
    state.write(past.home.models_root, {MODEL: trial})
    assert mlflow_mirror.mirror(SETTINGS, past.home).aliases == {"champion": JUNE, "challenger": JULY}
    assert client.get_model_version_by_alias(MODEL, "challenger").version == known[JULY]
    state.write(past.home.models_root, {})
    mlflow_mirror.mirror(SETTINGS, past.home)
    assert set(client.get_registered_model(MODEL).aliases) == {"champion"}


def test_a_cleared_run_is_brought_up_to_date_or_replaced_where_a_parameter_changed(past, client):
    mlflow_mirror.mirror(SETTINGS, past.home)
    (before,) = mirrored(client, JUNE)
    past.month(JUNE, "1", factor=2.0)
    past.close()
    assert mlflow_mirror.mirror(SETTINGS, past.home).written == 1
    (after,) = mirrored(client, JUNE)
    assert after.info.run_id == before.info.run_id
    assert (before.data.metrics["seconds/train"], after.data.metrics["seconds/train"]) == (300, 600)
    past.month(JUNE, "2")
    past.close()
    assert mlflow_mirror.mirror(SETTINGS, past.home).written == 1
    new, old = sorted(mirrored(client, JUNE), key=lambda one: "airtight.superseded" in one.data.tags)
    assert (old.info.run_id, old.data.params["train.seed"]) == (before.info.run_id, "1")
    assert (new.data.params["train.seed"], "airtight.superseded" in new.data.tags) == ("2", False)
    assert mlflow_mirror.mirror(SETTINGS, past.home).written == 0


def test_what_was_deleted_in_mlflow_stays_deleted(past, client):
    mlflow_mirror.mirror(SETTINGS, past.home)
    client.delete_run(mirrored(client, JUNE)[0].info.run_id)
    assert mlflow_mirror.mirror(SETTINGS, past.home).written == 0
    assert mirrored(client, JUNE) == []


def test_a_mirror_that_is_broken_off_is_taken_up_again(past, client, monkeypatch):
    real = mlflow.MlflowClient.set_terminated
    monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in mlflow_mirror.after_run(SETTINGS, past.home)
    monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", real)
    assert mlflow_mirror.mirror(SETTINGS, past.home).written == 2
    assert len(mirrored(client, JULY)) == 1


def test_a_server_that_is_away_holds_no_report_up_and_the_next_mirror_catches_up(past, client, monkeypatch, capsys):
    there = os.environ[mlflow_mirror.TRACKING_URI]
    monkeypatch.setenv(mlflow_mirror.TRACKING_URI, "http://127.0.0.1:9")
    assert report.main(["--pipeline", MODEL]) == 0
    assert "Warning: nothing was mirrored to MLflow" in capsys.readouterr().out
    assert mlflow_mirror.main(["--pipeline", MODEL]) == 75
    monkeypatch.setenv(mlflow_mirror.TRACKING_URI, there)
    assert report.main(["--pipeline", MODEL]) == 0
    assert f"2 runs written, 0 known, 2 new versions; aliases: champion {JUNE}" in capsys.readouterr().out
    assert mlflow_mirror.main(["--pipeline", MODEL]) == 0


def test_nothing_is_mirrored_unless_a_server_is_named(past, monkeypatch, capsys):
    monkeypatch.delenv(mlflow_mirror.TRACKING_URI, raising=False)
    assert mlflow_mirror.after_run(SETTINGS, past.home) == ""
    assert mlflow_mirror.main(["--pipeline", MODEL]) == 64
    assert "No tracking server is named." in capsys.readouterr().err


def test_a_run_that_is_under_way_is_running_until_the_next_mirror(past, client, monkeypatch):
    real = mlflow_mirror.run_of
    monkeypatch.setattr(mlflow_mirror, "run_of", lambda *given: _open(real(*given)))
    mlflow_mirror.mirror(SETTINGS, past.home)
    assert mirrored(client, JUNE)[0].info.status == "RUNNING"
    monkeypatch.setattr(mlflow_mirror, "run_of", real)
    mlflow_mirror.mirror(SETTINGS, past.home)
    assert mirrored(client, JUNE)[0].info.status == "FINISHED"


def _open(known):
    """A run as it was before its last node ended."""
    return replace(known, status="RUNNING", tags={**known.tags, "airtight.executions": "{}"})
