"""The model card of versions in the metadata of real runs: one that serves, one taken back, one that never served."""

from __future__ import annotations

import json
import shutil

import pytest

from airtight.audit.log import OVERRIDDEN, AuditLog
from airtight.errors import TerminalError
from airtight.files import digest_of_tree
from airtight.home import Home
from airtight.provenance import VARIABLE
from commands import card
from commands.card_contents import contents
from components.artifacts import LabelQuality, Promotion, Release, ReleaseDecision
from components.reports.model_card import page
from pipelines.flight_delays.settings import SETTINGS
from runtime import metadata_connection, metadata_store
from tests.commands.audited import AUGUST, JULY, JUNE, MODEL, run

pytestmark = pytest.mark.slow


def card_of(home: Home, wanted) -> dict:
    return contents(metadata_connection.project_store(home), SETTINGS, home, str(wanted))


def put(home: Home, kind, **properties) -> None:
    """Publishes an artifact as a node would."""
    artifact = kind()
    artifact.uri = str(home.path / kind.TYPE_NAME)
    for name, value in properties.items():
        setattr(artifact, name, value)
    with metadata_store.project_connection(home) as handle:
        artifact.type_id = handle.store.put_artifact_type(artifact.artifact_type, can_add_fields=True)
        handle.store.put_artifacts([artifact.mlmd_artifact])


def test_the_card_of_the_version_that_serves_says_all_that_is_known(audited_home):
    home = audited_home
    june = card_of(home, JUNE)
    assert (june["pipeline"], june["version"], june["status"][:17]) == (MODEL, JUNE, "has served since ")
    assert june["interval"] == ["2013-06-01T00:00:00-04:00", "2013-07-01T00:00:00-04:00"]
    assert june["pushed"]["model_digest"] == digest_of_tree(home.models(MODEL) / str(JUNE))
    assert june["run"]["run_id"] == str(JUNE) and june["run"]["user"].endswith("(shell)")
    assert june["data"]["digest"] == "d" * 64 and june["data"]["lake_version"] == "then"
    trips = june["data"]["tables"]["trips"]
    assert (trips["version"], trips["files"], trips["rows"], len(trips["digest"])) == (3, 1, 7, 64)
    assert set(june["code"]["commits"]) == {"ingest", "validate", "train", "evaluate", "try_serving", "push"}
    assert june["parameters"]["train"] == {"content": str(JUNE)}
    assert len(june["environment"]["lock"]) == 64
    assert june["training"]["settings"] == {"seed": 0}
    assert june["metrics"] == [{"title": "km off", "value": 0.3, "champion": None, "gain": None}]
    assert june["slices"]["rows"][0]["count"] == 7
    gates = {gate["gate"]: gate for gate in june["gates"]}
    assert list(gates) == ["validate", "evaluate", "try_serving"]
    decides = gates["evaluate"]["checks"][0]
    assert (decides["passed"], decides["value"], decides["threshold"], decides["baseline"]) == (
        True,
        0.2,
        ">= 0.1",
        0.5,
    )
    assert june["drift"]["checks"][0]["value"] == 0.1
    assert [span["ended_by"] for span in june["served"]] == [JULY, 0]
    (approval,) = june["approvals"]
    assert (approval["to_version"], approval["reason"]) == (JUNE, "July is worse")
    later = [quality["interval"][1][:10] for quality in june["quality_since"]]
    assert later == ["2013-08-01", "2013-09-01"]
    assert june["quality_since"][0]["metrics"] == [{"title": "km off", "value": 0.4}]
    assert [act["act"] for act in june["audit"]] == ["trained", "pushed", "rolled back"]


def test_the_card_has_the_days_on_which_the_version_answered_as_far_as_labels_have_come(audited_home):
    home = audited_home
    assert card_of(home, JUNE)["quality_by_day"] == []
    answered = {"version": JUNE, "beside": False, "rows": 90, "figures": {"mae": [0.31, 0.29, 0.33]}}
    beside = {"version": JULY, "beside": True, "rows": 90, "figures": {"mae": [0.5, 0.4, 0.6]}}
    days = [
        {"day": "2013-07-01", "in_words": "ripe", "versions": [answered, beside]},
        {"day": "2013-07-02", "in_words": "93 % ripe", "versions": [{"version": JUNE, "beside": False, "rows": 3}]},
        {"day": "2013-07-03", "in_words": "ripe", "versions": [{"version": JULY, "beside": False, "rows": 90}]},
    ]
    (home.path / "LabelQuality").mkdir()
    (home.path / "LabelQuality" / "days.jsonl").write_text("\n".join(map(json.dumps, days)))
    put(home, LabelQuality, model=MODEL, known_by="2013-07-05T00:00:00-04:00")
    card = card_of(home, JUNE)
    assert card["quality_by_day"] == [
        {"day": "2013-07-01", "state": "ripe", "labelled": 90, "figures": {"mae": [0.31, 0.29, 0.33]}},
        {"day": "2013-07-02", "state": "93 % ripe", "labelled": 3, "figures": {}},
    ]
    text = page(card)
    assert "2 days on which it answered" in text and "0.3100 (0.2900 to 0.3300)" in text
    assert card_of(home, AUGUST)["quality_by_day"] == []


def test_the_card_of_a_version_that_was_taken_back_says_by_which(audited_home):
    july = card_of(audited_home, JULY)
    assert july["status"].startswith(f"was taken back: {JUNE} serves in its place since ")
    (span,) = july["served"]
    assert span["ended_by"] == JUNE and span["since"] <= span["until"]
    assert july["champion"] == JUNE
    assert july["metrics"][0]["gain"] == {"value": 0.1, "lower": 0.05, "upper": 0.2}
    assert july["metrics"][0]["champion"] == 0.4
    assert july["audit"][-1]["act"] == "rolled back"


def test_the_card_of_a_version_that_never_served_says_so_and_latest_is_the_highest(audited_home):
    august = card_of(audited_home, "latest")
    assert (august["version"], august["status"]) == (AUGUST, "was registered, and never served")
    assert august["served"] == [] and august["approvals"] == [] and august["quality_since"] == []
    assert "promoted by hand" in august["pushed"]["reason"]
    html = card.write(SETTINGS, audited_home, str(AUGUST))[0].read_text()
    assert "It never answered all requests." in html and "No person promoted" in html


def test_a_version_that_a_release_took_back_has_its_decision(audited_home):
    home = audited_home
    ends = {"interval_start": "2013-08-01T00:00:00-04:00", "interval_end": "2013-09-01T00:00:00-04:00"}
    begun = {"release": "r1", "stable": JUNE, "candidate": AUGUST, "mode": "canary", "share": 0.1}
    put(home, Release, model=MODEL, since="2026-01-01T00:00:00+00:00", margins="{}", summary="began", **begun, **ends)
    put(home, ReleaseDecision, model=MODEL, release="r1", promoted=0, reason="it <fails> often", **ends)
    ended = {"from_version": JUNE, "to_version": JUNE, "took_over": 0, "changed": 0, "approval": "release r1"}
    put(home, Promotion, model=MODEL, summary="June is served as before.", **ended, **ends)
    august = card_of(home, AUGUST)
    assert august["status"] == "was tried and taken back, and never served"
    (release,) = august["releases"]
    assert (release["decision"], release["promoted"], release["outcome"]) == (
        "it <fails> often",
        0,
        "June is served as before.",
    )
    assert card_of(home, JUNE)["releases"] == [release], "it was tried beside it"
    html = card.write(SETTINGS, home, str(AUGUST))[0].read_text()
    assert "it &lt;fails&gt; often" in html and "canary, 10 %" in html


def test_a_gate_that_was_overridden_stands_on_the_card_of_its_model(audited_home):
    home = audited_home
    digest = card_of(home, JUNE)["pushed"]["model_digest"]
    AuditLog(MODEL, home).append(OVERRIDDEN, digest=digest, reason="This run accepts that.")
    assert [act["reason"] for act in card_of(home, JUNE)["overrides"]] == ["This run accepts that."]
    assert card_of(home, JULY)["overrides"] == []


def test_equal_stores_give_equal_bytes(audited_home):
    first = [path.read_bytes() for path in card.write(SETTINGS, audited_home, str(JULY))]
    again = card.write(SETTINGS, audited_home, str(JULY))
    assert [path.read_bytes() for path in again] == first
    assert again[0] == audited_home.reports(MODEL) / "cards" / f"{JULY}.html"
    assert json.loads(first[1])["version"] == JULY
    html = first[0].decode()
    assert "<script" not in html and "&lt;slices&gt;" in html and "worse &amp; thin" in html


def test_an_unknown_version_is_refused_with_those_that_there_are(audited_home, capsys):
    for unknown in ("5", "newest", ""):
        with pytest.raises(TerminalError) as refused:
            card_of(audited_home, unknown)
        assert f"latest or one of {AUGUST}, {JULY}, {JUNE}" in str(refused.value)
    assert card.main(["--pipeline", MODEL, "5"]) == 64
    assert str(AUGUST) in capsys.readouterr().err


def test_a_model_of_which_nothing_was_pushed_has_no_card():
    with pytest.raises(TerminalError, match="nothing was pushed yet"):
        card_of(Home.current(), "latest")


def test_files_that_were_removed_are_missing_and_no_fault(audited_home):
    home = audited_home
    shutil.rmtree(home.audit)
    run(home, AUGUST, content="gone")
    whole = card_of(home, AUGUST + 1)
    for kind in ("ingest", "evaluate", "train"):
        shutil.rmtree(home.pipeline_root(MODEL) / kind)
    bare = card_of(home, AUGUST + 1)
    assert whole["training"] and bare["training"] is None
    assert bare["data"]["tables"] == {} and [gate["gate"] for gate in bare["gates"]] == ["validate", "try_serving"]
    assert bare["data"]["digest"] == whole["data"]["digest"], "that is metadata"
    assert "The training record is not there any more." in card.write(SETTINGS, home, str(AUGUST + 1))[0].read_text()


def test_an_image_names_its_commit(audited_home, monkeypatch):
    from airtight import provenance

    provenance.begin.cache_clear()
    monkeypatch.setenv(VARIABLE, "abc123")
    run(audited_home, AUGUST, content="of an image")
    provenance.begin.cache_clear()
    assert card_of(audited_home, AUGUST + 1)["code"]["commits"]["train"] == "abc123"
