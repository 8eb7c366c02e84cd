"""The audit log over the metadata of real runs: pushes and promotions by the launcher, and what is done to the file."""

from __future__ import annotations

import json

import pytest

from airtight.audit.log import AuditLog
from airtight.home import Home
from commands import audit, promote
from runtime import local
from runtime.compile import compile_pipeline

JUNE, JULY = 201307010400001, 201308010400001
ENDS = {JUNE: ("2013-06-01", "2013-07-01"), JULY: ("2013-07-01", "2013-08-01")}
MODEL = "flight_delays"
PIPELINE = "tests.tiny_pipeline.audited:create_pipeline"
pytestmark = pytest.mark.slow


def run(home: Home, version: int, **values) -> dict:
    """Runs the month of a version."""
    start, end = (f"{day}T00:00:00-04:00" for day in ENDS[version])
    values = {"interval_start": start, "interval_end": end, "content": str(version), **values}
    return local.run(compile_pipeline(PIPELINE, home), home, str(version), values)


@pytest.fixture
def home(monkeypatch) -> Home:
    """A state folder in which June was pushed, July was pushed and rolled back, and another July was not blessed."""
    monkeypatch.delenv("AIRTIGHT_MODEL_SERVER", raising=False)
    home = Home.current()
    for version in (JUNE, JULY):
        run(home, version)
    assert promote.main(["--pipeline", MODEL, "previous", "--reason", "July is worse"]) == 0
    run(home, JULY, blessed=0, content="other")
    return home


def entries(home: Home) -> list[dict]:
    return [line.entry for line in AuditLog(MODEL, home).lines()[0]]


def check(capsys) -> tuple[int, str]:
    capsys.readouterr()
    status = audit.main(["--pipeline", MODEL, "verify"])
    return status, capsys.readouterr().out


def test_acts_are_written_with_who_and_what_and_verified_by_their_artifacts(home, capsys):
    acts = [(entry["act"], entry["version"]) for entry in entries(home)]
    pushes = [("trained", 0), ("pushed", JUNE), ("trained", 0), ("pushed", JULY)]
    assert acts == [*pushes, ("rolled back", JUNE), ("trained", 0), ("not pushed", 0)]
    trained, pushed = entries(home)[:2]
    assert trained["digest"] == pushed["digest"] and pushed["interval"][0] == "2013-06-01T00:00:00-04:00"
    assert (pushed["by"]["node"], pushed["by"]["run_id"]) == ("push", str(JUNE))
    assert pushed["by"]["user"].endswith("(shell)")
    back = entries(home)[4]
    assert (back["reason"], back["details"]["in_place_of"]) == ("July is worse", JULY)
    assert back["digest"] == pushed["digest"] and back["by"]["pipeline"] == "flight_delays_promote"
    assert "evaluate did not bless" in entries(home)[6]["reason"]
    status, output = check(capsys)
    assert status == 0 and "is whole. Lines: 7" in output and "anchors in ML Metadata: 7" in output
    assert audit.main(["--pipeline", MODEL, "show", "--version", str(JUNE)]) == 0
    shown = capsys.readouterr().out
    assert "rolled back" in shown and "July is worse" in shown and str(JULY) not in shown.split("\n")[0]


def test_what_is_done_to_the_file_is_found_and_blocks_a_push_but_not_the_way_back(home, capsys):
    file = AuditLog(MODEL, home).file
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))
    status, output = check(capsys)
    assert status == audit.BROKEN and "line 7, truncated" in output and "PushedModel" in output
    file.write_bytes(b"".join([*lines[:4], *lines[5:]]))
    status, output = check(capsys)
    assert status == audit.BROKEN and "line 5, removed: line 5 is missing." in output
    changed = json.loads(lines[6]) | {"reason": "it was blessed"}
    file.write_bytes(b"".join(lines[:6]) + json.dumps(changed, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    status, output = check(capsys)
    assert status == audit.BROKEN and "line 7, changed: PushedModel" in output
    file.write_bytes(b"".join([lines[0], *lines[2:]]))
    outcomes = run(home, JULY, content="third")
    assert outcomes["train"].state == "complete" or "audit log" in outcomes["train"].summary
    assert outcomes["train"].state == "failed" and "line 2, removed" in outcomes["train"].summary
    assert sorted(path.name for path in home.models(MODEL).iterdir()) == [str(JUNE), str(JULY)]
    assert audit.main(["--pipeline", MODEL, "seal"]) == 64
    assert audit.main(["--pipeline", MODEL, "seal", "--reason", "a line is gone"]) == 0
    run(home, JULY, content="third")
    status, output = check(capsys)
    assert status == 0 and "a line is gone" in output and "line 2, removed" in output
    file.write_bytes(whole)
    assert check(capsys)[0] == audit.BROKEN


def test_an_act_that_no_execution_published_is_inserted(home, capsys):
    AuditLog(MODEL, home).append("promoted", version=JULY, reason="trust me")
    status, output = check(capsys)
    assert status == audit.BROKEN and "line 8, inserted: no artifact names it" in output
