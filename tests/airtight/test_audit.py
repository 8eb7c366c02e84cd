"""The audit log: what was removed, changed, inserted or cut off is found, and no act is lost or written twice."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from airtight.audit import actor, chain
from airtight.audit.actor import Actor
from airtight.audit.chain import CHANGED, INSERTED, NOTE, REMOVED, TRUNCATED, Anchor
from airtight.audit.log import PROMOTED, PUSHED, AuditLog
from airtight.audit.verify import DONE, OPEN, UNKNOWN, verify
from airtight.errors import TerminalError, TransientError
from airtight.home import Home

TRY = Actor("toy", "push", "run", "first", "first", {"dag_id": "toy", "user": "ada (Airflow)"})


@pytest.fixture
def log(tmp_path) -> AuditLog:
    return AuditLog("toy", Home(tmp_path))


def fill(log: AuditLog, count: int = 6) -> list[Anchor]:
    return [log.append(PUSHED, version=version, reason=f"line {version}") for version in range(1, count + 1)]


def rewrite(log: AuditLog, *lines: bytes) -> None:
    log.file.write_bytes(b"".join(line + b"\n" for line in lines))


def raw(log: AuditLog) -> list[bytes]:
    return log.file.read_bytes().splitlines()


def findings(log: AuditLog, anchors=(), state: str = OPEN) -> list[tuple[int, str]]:
    """The faults, by line and kind."""
    return [(f.line, f.kind) for f in verify(log, anchors, lambda by: state) if f.kind != NOTE]


def forged(line: bytes, **values) -> bytes:
    return chain.encode(json.loads(line) | values)


def test_a_line_says_who_did_what_when_with_which_files_and_names_the_line_before(log):
    with actor.acting(TRY):
        first = log.append(PUSHED, version=3, digest="d", interval=("a", "b"), reason="served", took_over=1)
        log.append(PROMOTED, version=2, approval="ada")
    one, two = (json.loads(line) for line in raw(log))
    assert (one["act"], one["version"], one["digest"], one["interval"]) == (PUSHED, 3, "d", ["a", "b"])
    assert (one["reason"], one["details"], one["by"]["user"]) == ("served", {"took_over": 1}, "ada (Airflow)")
    assert (one["by"]["dag_id"], one["by"]["run"], one["by"]["node"]) == ("toy", "run", "push")
    assert (one["number"], one["previous"], one["at"][-6:]) == (1, chain.NOTHING, "+00:00")
    assert (two["number"], two["previous"]) == (2, first.sha256)


def test_a_whole_log_has_no_findings_and_one_of_nobody_neither(log):
    assert findings(log) == []
    anchors = fill(log)
    assert verify(log, anchors, lambda by: UNKNOWN) == []


@pytest.mark.parametrize("place", range(6))
def test_each_line_that_is_removed_is_named(log, place):
    anchors = fill(log)
    lines = raw(log)
    rewrite(log, *lines[:place], *lines[place + 1 :])
    kind = TRUNCATED if place == 5 else REMOVED
    assert findings(log, anchors) == [(place + 1, kind)]


def test_several_lines_that_are_removed_are_named(log):
    fill(log)
    lines = raw(log)
    rewrite(log, lines[0], *lines[3:])
    (finding,) = verify(log, (), lambda by: OPEN)[1:2]
    assert str(finding) == "line 2, removed: lines 2 to 3 are missing."


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("change", [b"line", b"no JSON", b"", b'{"act":"log sealed","number":"x"}', b"[" * 9000])
def test_each_line_that_is_changed_is_named(log, place, change):
    anchors = fill(log)
    lines = raw(log)
    lines[place] = forged(lines[place], reason="another") if change == b"line" else change
    rewrite(log, *lines)
    assert {line for line, kind in findings(log, anchors) if kind == CHANGED} == {place + 1}
    assert set(findings(log, anchors)) == {(place + 1, CHANGED)}


def test_a_space_that_is_put_in_is_a_change(log):
    anchors = fill(log, 2)
    first, second = raw(log)
    rewrite(log, first, second.replace(b'":', b'": ', 1))
    assert (2, CHANGED) in findings(log, anchors)


@pytest.mark.parametrize("place", range(7))
def test_each_line_that_is_inserted_is_named_however_well_it_fits(log, place):
    anchors = fill(log)
    lines = raw(log)
    before = chain.Line(lines[place - 1]).sha256 if place else chain.NOTHING
    inserted = forged(lines[0], number=place + 1, previous=before, reason="never done")
    rewrite(log, *lines[:place], inserted, *lines[place:])
    assert set(findings(log, anchors, UNKNOWN)) == set(findings(log, anchors, DONE)) == {(place + 1, INSERTED)}
    copied = [*lines[:place], lines[0], *lines[place:]]
    rewrite(log, *copied)
    assert {kind for _, kind in findings(log, anchors)} == {INSERTED}


def test_a_log_that_is_written_anew_from_a_line_on_disagrees_with_the_anchors(log):
    anchors = fill(log)
    entries = [json.loads(line) for line in raw(log)]
    entries[2]["reason"] = "another"
    previous, lines = chain.NOTHING, []
    for entry in entries:
        lines.append(chain.encode(entry | {"previous": previous}))
        previous = chain.Line(lines[-1]).sha256
    rewrite(log, *lines)
    assert findings(log) == [], "the chain alone is whole"
    assert findings(log, anchors) == [(number, CHANGED) for number in (3, 4, 5, 6)]


@pytest.mark.parametrize("left", [0, 1, 4])
def test_a_log_that_was_cut_off_disagrees_with_the_anchors(log, left):
    anchors = fill(log)
    rewrite(log, *raw(log)[:left])
    assert findings(log, anchors) == [(number, TRUNCATED) for number in range(left + 1, 7)]
    log.file.unlink()
    assert len(findings(log, anchors)) == 6


def test_a_line_without_anchor_is_inserted_unless_its_task_never_published(log):
    fill(log, 1)
    assert findings(log, (), OPEN) == []
    for state in (UNKNOWN, DONE):
        assert findings(log, (), state) == [(1, INSERTED)]


def test_a_retry_writes_an_act_once_and_a_clear_or_another_change_once_more(log):
    with actor.acting(TRY):
        first = log.append(PUSHED, version=1, reason="copied")
    other = Actor("toy", "push", "other", "other", "other")
    with actor.acting(other):
        log.append(PUSHED, version=2)
    retry = Actor("toy", "push", "run", "second", "first")
    with actor.acting(retry):
        assert log.append(PUSHED, version=1, reason="was there already") == first
        assert log.append(PUSHED, version=1, digest="other files").line == 3
        assert log.append(PUSHED, version=1, changed=True).line == 4
    with actor.acting(Actor("toy", "push", "run", "third", "third")):
        assert log.append(PUSHED, version=1).line == 5


def test_outside_of_a_launcher_each_act_counts(log):
    assert [anchor.line for anchor in (log.append(PUSHED), log.append(PUSHED))] == [1, 2]


def write(folder: Path, writer: int) -> None:
    log = AuditLog("toy", Home(folder))
    for version in range(20):
        attempt = f"{writer}.{version}"
        with actor.acting(Actor("toy", "push", str(writer), attempt, attempt)):
            log.append(PUSHED, version=version, reason=f"by {writer} " + "x" * 5000)


def test_many_writers_at_once_lose_nothing_and_break_nothing(log, tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(tmp_path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert findings(log) == []
    acts = {(json.loads(line)["by"]["run"], json.loads(line)["version"]) for line in raw(log)}
    assert acts == {(str(writer), version) for writer in range(4) for version in range(20)} and len(raw(log)) == 80


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("rest", [b'{"act":"pus', b"\xff"])
def test_an_act_after_a_write_that_was_broken_off_keeps_what_is_there_and_says_so(log, count, rest):
    anchors = fill(log, count)
    log.folder.mkdir(exist_ok=True)
    with log.file.open("ab") as file:
        file.write(rest)
    assert findings(log, anchors) == [], "nobody was told that it is written"
    anchors.append(log.append(PUSHED, version=9))
    assert raw(log)[count] == rest
    assert [f.kind for f in verify(log, anchors, lambda by: UNKNOWN)] == [NOTE]
    assert anchors[-1].line == count + 3
    log.append(PUSHED, version=10)
    assert findings(log) == []


def test_a_line_that_was_anchored_and_is_cut_in_the_middle_is_found_though_acts_follow(log):
    anchors = fill(log, 3)
    log.file.write_bytes(log.file.read_bytes()[:-20])
    assert (3, CHANGED) in findings(log, anchors)
    log.append(PUSHED, version=9)
    assert (3, CHANGED) in findings(log, anchors)


def test_a_last_line_that_lacks_its_end_alone_is_whole(log):
    anchors = fill(log, 2)
    log.file.write_bytes(log.file.read_bytes()[:-1])
    assert findings(log, anchors) == []
    assert log.append(PUSHED).line == 3
    assert findings(log, anchors) == []


def test_a_broken_log_takes_no_act_until_it_is_sealed_and_forgets_nothing(log):
    anchors = fill(log, 4)
    lines = raw(log)
    rewrite(log, lines[0], lines[2], lines[3])
    for act in (log.check, lambda: log.append(PUSHED)):
        with pytest.raises(TerminalError, match="cannot be added to") as refused:
            act()
        assert "line 2, removed" in refused.value.received and "seal" in refused.value.remedy
    assert raw(log) == [lines[0], lines[2], lines[3]]
    aside = log.seal("a test took it", "ada (shell)")
    assert aside.read_bytes().splitlines() == [lines[0], lines[2], lines[3]]
    anchors.append(log.append(PUSHED, version=9))
    assert anchors[-1].line == 6
    assert findings(log, anchors, UNKNOWN) == [], "it is told as known"
    notes = [str(finding) for finding in verify(log, anchors, lambda by: UNKNOWN)]
    assert any("ada (shell) set toy.sealed-001.jsonl aside" in note and "lines 2" not in note for note in notes)
    aside.write_bytes(aside.read_bytes()[:-5])
    assert findings(log, anchors) == [(4, CHANGED)]
    aside.unlink()
    assert (4, REMOVED) in findings(log, anchors)


def test_a_whole_log_is_not_sealed(log):
    fill(log, 1)
    with pytest.raises(TerminalError, match="is whole"):
        log.seal("why not", "ada")


def test_a_full_disk_leaves_the_log_as_it_was_and_is_tried_again(log, monkeypatch):
    fill(log, 2)
    before = log.file.read_bytes()

    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(TransientError, match="no room"):
        patched.setattr("airtight.audit.log.os.fsync", full)
        log.append(PUSHED)
    assert log.file.read_bytes() == before
    assert log.append(PUSHED).line == 3


def test_a_folder_in_the_place_of_the_log_is_named(log):
    log.file.mkdir(parents=True)
    with pytest.raises(TerminalError, match="cannot be added to"):
        log.check()


def test_any_name_of_a_pipeline_is_one_file_in_the_folder(tmp_path):
    log = AuditLog("../a b/c", Home(tmp_path))
    log.append(PUSHED)
    assert log.file.parent == tmp_path / "audit" and log.file.is_file()
    assert AuditLog("toy", Home(tmp_path)).lines() == ([], False)
