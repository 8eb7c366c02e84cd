"""The stream of flights as it is declared, against a slow and obvious computation."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.flight_delays import events, replay
from pipelines.flight_delays.streams import STREAM, parse
from pipelines.flight_delays.tests import plain_totals
from streaming.run import in_process
from streaming.windows.messages import BadMessage, Message
from streaming.windows.pipeline import build, messages_of
from streaming.windows.publishing import delayed
from streaming.windows.sqlite_store import SqliteStore
from streaming.windows.tables import Get

BEGIN, END = datetime(2013, 6, 13, tzinfo=UTC), datetime(2013, 6, 15, tzinfo=UTC)
LINE = (
    b'{"kind":"departure","schema":%d,"at":"2013-06-01T10:07:30Z","flight_id":"f","carrier":"UA","flight":7,'
    b'"tailnum":null,"origin":"EWR","dest":"ORD","delay":16%s}'
)


def test_unknown_fields_and_newer_schemas_are_read() -> None:
    event = parse(Message(b"f", LINE % (2, b',"gate":"C7"'), 0))
    assert event is not None
    assert (event.identity, event.values) == ("departures/f", {"delay": 16, "late": 1})
    assert "tailnum" not in event.fields
    assert event.records == {"flights": {"flight_id": "f", "departed": 22834687}}
    with pytest.raises(BadMessage, match="wrong schema"):
        parse(Message(b"f", LINE % (0, b""), 0))


@pytest.mark.slow
@pytest.mark.parametrize("late_minutes", [0, 120])
def test_totals_are_those_of_a_plain_computation(flight_lake: Path, tmp_path: Path, late_minutes: int) -> None:
    known = list(replay.events(flight_lake, BEGIN, END))
    messages = list(delayed(map(replay.message, known), late_minutes, seed=7))
    path = tmp_path / "store.sqlite"
    in_process(build(STREAM, messages_of(messages), str(path), follow=False))
    store = SqliteStore(path, STREAM)
    assert sorted(store.rows()) == sorted(plain_totals.rows(known))
    assert {row.group for row in store.rows()} == {group.name for group in STREAM.groups}
    other = SqliteStore(tmp_path / "other.sqlite", STREAM)
    plain_totals.put(other, known)
    names = [(event.flight_id,) for event in known if isinstance(event, events.Plan)]
    queries = [Get("flights", name) for name in names]
    assert len(names) > 1000
    assert store.read(queries) == other.read(queries)
    assert store.watermark() == other.watermark()
