"""What promotions and releases write into the audit log, and what a broken log holds up."""

from __future__ import annotations

import pytest

from airtight.audit.actor import Actor, acting
from airtight.audit.log import AuditLog
from airtight.errors import TerminalError
from airtight.files import digest_of_tree
from components.modelling.served import Choice
from tests.components.release.site import JULY, JUNE, MAY, PERSON, good

TRY = Actor("toy_release", "finish", "run", "first", "first", {"user": "ada (Airflow)"})
RETRY = Actor("toy_release", "finish", "run", "second", "first", {"user": "ada (Airflow)"})


def entries() -> list[dict]:
    return [line.entry for line in AuditLog("toy").lines()[0]]


def damage() -> None:
    """Removes the first of two lines."""
    log = AuditLog("toy")
    for version in (MAY, JUNE):
        log.append("pushed", version=version)
    log.file.write_bytes(log.file.read_bytes().split(b"\n", 1)[1])


def test_a_release_is_two_acts_that_its_artifacts_anchor_and_a_retry_adds_none(site):
    release = site.start()
    good(site)
    decision = site.judge(release)
    with acting(TRY):
        made = site.finish(release, decision)
    with acting(RETRY):
        again = site.finish(release, decision)
    started, ended = entries()
    assert (started["act"], started["version"], started["details"]["beside"]) == ("release started", JULY, JUNE)
    assert started["digest"] == digest_of_tree(site.served.root / "toy" / str(JULY)) == ended["digest"]
    assert (ended["act"], ended["details"]["outcome"], ended["details"]["serves"]) == (
        "release ended",
        "promoted",
        JULY,
    )
    assert ended["details"]["release"] == started["details"]["release"] == release.release
    assert "chosen by admin" in ended["details"]["overridden"]
    assert ended["by"]["user"] == "ada (Airflow)" and decision.reason in ended["reason"]
    anchors = [artifact.get_string_custom_property("audit_sha256") for artifact in (release, made, again)]
    digests = [line.sha256 for line in AuditLog("toy").lines()[0]]
    assert anchors == [digests[0], digests[1], digests[1]]


def test_a_release_that_is_taken_back_and_one_that_is_not_begun_are_told(site):
    site.finish(site.start())
    site.start(asked_by="push")
    acts = [(entry["act"], entry["details"].get("outcome")) for entry in entries()]
    assert acts == [("release started", None), ("release ended", "taken back"), ("release not started", None)]
    assert "a push does not override a person" in entries()[2]["reason"]


def test_a_broken_log_begins_no_release_and_changes_nothing(site):
    damage()
    with pytest.raises(TerminalError, match="audit log"):
        site.start()
    assert site.choice == PERSON and site.followed is None


def test_a_log_that_breaks_meanwhile_lets_no_candidate_take_over_but_takes_one_back(site):
    release = site.start()
    good(site)
    decision = site.judge(release)
    log = AuditLog("toy")
    whole = log.file.read_bytes()
    log.file.write_bytes(b"{}\n" + whole)
    with pytest.raises(TerminalError, match="audit log"):
        site.finish(release, decision)
    assert site.choice.release == release.release, "it goes on as it was"
    with pytest.raises(TerminalError, match="audit log"):
        site.finish(release)
    assert site.choice == PERSON and site.followed is None
    log.file.write_bytes(whole)
    site.finish(release)
    assert [entry["details"].get("outcome") for entry in entries()] == [None, "ended before"], "the act is not lost"


def test_a_start_that_cannot_be_written_down_is_taken_back(site, monkeypatch):
    def full(*unused, **more):
        raise TerminalError("no line", expected="", received="", remedy="")

    monkeypatch.setattr("components.release.AuditLog.append", full)
    with pytest.raises(TerminalError, match="no line"):
        site.start()
    assert site.followed is None and site.choice == PERSON


def test_promotions_forward_and_back_are_told_apart_and_the_way_back_waits_for_no_log(site):
    site.promote(site.propose(JULY))
    site.promote(site.propose(MAY))
    acts = [(entry["act"], entry["version"], entry["details"]["in_place_of"]) for entry in entries()]
    assert acts == [("promoted", JULY, JUNE), ("rolled back", MAY, JULY)]
    assert "chosen by admin" in entries()[0]["details"]["overridden"]
    log = AuditLog("toy")
    whole = log.file.read_bytes()
    log.file.write_bytes(whole.split(b"\n", 1)[1])
    with pytest.raises(TerminalError, match="audit log"):
        site.promote(site.propose(JULY))
    assert site.choice.versions == (MAY,)
    log.file.write_bytes(whole)
    site.promote(site.propose(JULY))
    whole = log.file.read_bytes()
    log.file.write_bytes(whole.split(b"\n", 1)[1])
    back = site.propose(JUNE)
    with acting(TRY), pytest.raises(TerminalError, match="audit log"):
        site.promote(back)
    assert site.choice.versions == (JUNE,), "it serves, and the task is red"
    log.file.write_bytes(whole)
    with acting(RETRY):
        site.promote(back)
        site.promote(back)
    assert isinstance(site.choice, Choice)
    acts = [(entry["act"], entry["version"]) for entry in entries()]
    assert acts == [("promoted", JULY), ("rolled back", MAY), ("promoted", JULY), ("rolled back", JUNE)]
