"""The audit log over the metadata of real runs: pushes and promotions by the launcher, and what is done to the file."""

from __future__ import annotations

import json

import pytest

from airtight.audit.log import AuditLog
from airtight.home import Home
from commands import audit
from tests.commands.audited import AUGUST, JULY, JUNE, MODEL, run

pytestmark = pytest.mark.slow


def entries(home: Home) -> list[dict]:
    return [line.entry for line in AuditLog(MODEL, home).lines()[0]]


def check(capsys) -> tuple[int, str]:
    capsys.readouterr()
    status = audit.main(["--pipeline", MODEL, "verify"])
    return status, capsys.readouterr().out


def test_acts_are_written_with_who_and_what_and_verified_by_their_artifacts(audited_home, capsys):
    home = audited_home
    acts = [(entry["act"], entry["version"]) for entry in entries(home)]
    pushes = [("trained", 0), ("pushed", JUNE), ("trained", 0), ("pushed", JULY)]
    assert acts == [
        *pushes,
        ("rolled back", JUNE),
        ("trained", 0),
        ("not pushed", 0),
        ("trained", 0),
        ("pushed", AUGUST),
    ]
    trained, pushed = entries(home)[:2]
    assert trained["digest"] == pushed["digest"] and pushed["interval"][0] == "2013-06-01T00:00:00-04:00"
    assert (pushed["by"]["node"], pushed["by"]["run_id"]) == ("push", str(JUNE))
    assert pushed["by"]["user"].endswith("(shell)")
    back = entries(home)[4]
    assert (back["reason"], back["details"]["in_place_of"]) == ("July is worse", JULY)
    assert back["digest"] == pushed["digest"] and back["by"]["pipeline"] == "flight_delays_promote"
    assert "evaluate did not bless" in entries(home)[6]["reason"]
    status, output = check(capsys)
    assert status == 0 and "is whole. Lines: 9" in output and "anchors in ML Metadata: 9" in output
    assert audit.main(["--pipeline", MODEL, "show", "--version", str(JUNE)]) == 0
    shown = capsys.readouterr().out
    assert "rolled back" in shown and "July is worse" in shown and str(JULY) not in shown.split("\n")[0]


def test_what_is_done_to_the_file_is_found_and_blocks_a_push_but_not_the_way_back(audited_home, capsys):
    home = audited_home
    file = AuditLog(MODEL, home).file
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))
    status, output = check(capsys)
    assert status == audit.BROKEN and "line 9, truncated" in output and "PushedModel" in output
    file.write_bytes(b"".join([*lines[:4], *lines[5:]]))
    status, output = check(capsys)
    assert status == audit.BROKEN and "line 5, removed: line 5 is missing." in output
    changed = json.loads(lines[8]) | {"reason": "it was served"}
    file.write_bytes(b"".join(lines[:8]) + json.dumps(changed, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    status, output = check(capsys)
    assert status == audit.BROKEN and "line 9, changed: PushedModel" in output
    file.write_bytes(b"".join([lines[0], *lines[2:]]))
    outcomes = run(home, JULY, content="third")
    assert outcomes["train"].state == "failed" and "line 2, removed" in outcomes["train"].summary
    assert sorted(path.name for path in home.models(MODEL).iterdir()) == [str(JUNE), str(JULY), str(AUGUST)]
    assert audit.main(["--pipeline", MODEL, "seal"]) == 64
    assert audit.main(["--pipeline", MODEL, "seal", "--reason", "a line is gone"]) == 0
    run(home, JULY, content="third")
    status, output = check(capsys)
    assert status == 0 and "a line is gone" in output and "line 2, removed" in output
    file.write_bytes(whole)
    assert check(capsys)[0] == audit.BROKEN


def test_an_act_that_no_execution_published_is_inserted(audited_home, capsys):
    home = audited_home
    AuditLog(MODEL, home).append("promoted", version=JULY, reason="trust me")
    status, output = check(capsys)
    assert status == audit.BROKEN and "line 10, inserted: no artifact names it" in output
