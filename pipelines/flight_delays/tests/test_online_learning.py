"""Learning online: what may reach a prediction, that a restart changes nothing, and what a state may be."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import sqlite3
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from airtight.errors import TerminalError, TransientError
from components.measures.scores import roc_auc
from components.reports.online_learning import by_day, page
from pipelines.flight_delays import clock, deployed, features, online_learning
from pipelines.flight_delays.event_hours import Closing, Hour, Lookups, hours_of
from pipelines.flight_delays.events import Arrival, Event, Plan, encode, key, minute
from pipelines.flight_delays.online_models import SETTINGS, OnlineModels, Seen
from pipelines.flight_delays.prequential import EXPIRES, Answer, Book, Prequential
from pipelines.flight_delays.streams import STREAM, event_of
from pipelines.flight_delays.tests.learnable_flights import BEGIN, flown, looked_up, plan, stream, told_by
from pipelines.flight_delays.topic_hours import from_topic
from streaming.windows.sqlite_store import SqliteStore

pytest.importorskip("river")


def leaks(kind: type[Prequential]) -> bool:
    """Whether a prediction depends on labels that came at its cut-off or later."""
    moment = BEGIN + timedelta(hours=40)
    as_it_was, contrary = (told_by(kind(looked_up), stream(200, flip)) for flip in (None, moment))
    cutoffs = {e.flight_id: clock.cutoff(e.scheduled_departure) for e in stream(200) if isinstance(e, Plan)}
    before = [name for name in as_it_was if cutoffs[name] <= moment]
    later = [name for name in as_it_was if cutoffs[name] > moment + timedelta(hours=1)]
    # The test can tell: what was learned afterwards is something else.
    assert len(before) > 50 and all(as_it_was[name].sgd != contrary[name].sgd for name in later)
    assert any(minute(e.at) == minute(cutoffs[before[-1]]) for e in stream(200) if isinstance(e, Arrival))
    return any(as_it_was[name][3:] != contrary[name][3:] for name in before)


class Peeking(Prequential):
    """Learns an hour's labels before it predicts the hour's flights."""

    def take(self, hour, events):
        for event in events:
            if isinstance(event, Arrival) and event.flight_id in self.waiting:
                self.models.learn(self.waiting[event.flight_id].seen, event.delay > features.LATE_MINUTES)
        return super().take(hour, events)


class Inclusive(Prequential):
    """Learns what arrives at the very minute of a cut-off before it predicts."""

    def _predict(self, now, inclusive, asked):
        super()._predict(now, False, asked)


def test_no_label_reaches_a_prediction_made_before_it():
    assert not leaks(Prequential)


@pytest.mark.parametrize("kind", [Peeking, Inclusive])
def test_a_planted_leak_is_found(kind):
    assert leaks(kind)


def test_both_models_learn_what_is_there():
    told = list(told_by(Prequential(looked_up), stream(900)).values())[300:]
    labels = np.array([answer.label for answer in told])
    for name in ("sgd", "passive_aggressive"):
        assert roc_auc(labels, np.array([getattr(answer, name) for answer in told])) > 0.7
    # Where features tell nothing, nothing is learned: what is above is no artefact of the protocol.
    blind = list(told_by(Prequential(dull), stream(900)).values())
    assert abs(roc_auc(labels, np.array([answer.sgd for answer in blind[300:]])) - 0.5) < 0.12


def dull(flights) -> list[dict]:
    return [row | {"departures_mean_delay_origin_2h": 1.0} for row in looked_up(flights)]


def test_a_restart_after_any_hour_changes_no_bit(tmp_path):
    events = stream(150)
    whole = Prequential(looked_up)
    expected = told_by(whole, events)
    book = Book(tmp_path / "state.sqlite")
    for hour in hours_of(iter(events)):
        one = Prequential(looked_up, state=book.state())
        _taken(book, one, hour)
    assert msgspec.json.encode(book.state()) == msgspec.json.encode(whole.state())
    kept = book.answers()
    assert dict(zip(kept["flight_id"], kept["sgd"], strict=True)) == {n: each.sgd for n, each in expected.items()}
    assert len(expected) == 150


def _taken(book: Book, learner: Prequential, hour: Hour) -> None:
    answers = learner.take(hour.number, hour.events)
    # Done again it does nothing.
    assert learner.take(hour.number, hour.events) == []
    book.write(learner.state(), answers)


def test_the_order_within_an_hour_does_not_matter():
    ends = []
    for seed in (None, 1):
        learner = Prequential(looked_up)
        for hour in hours_of(iter(stream(100))):
            events = list(hour.events)
            if seed is not None:
                random.Random(seed).shuffle(events)
            learner.take(hour.number, events)
        ends.append(msgspec.json.encode(learner.state().weights))
    assert ends[0] == ends[1]


_WEIGHTS = """
import msgspec
from pipelines.flight_delays.prequential import Prequential
from pipelines.flight_delays.tests.learnable_flights import looked_up, stream, told_by
learner = Prequential(looked_up)
told_by(learner, stream(60))
print(msgspec.json.encode(learner.state().weights).decode())
"""


@pytest.mark.slow
def test_another_process_learns_the_same():
    told = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", _WEIGHTS]
        told.add(subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True).stdout)
    assert len(told) == 1 and told.pop()


def test_what_becomes_of_flights_without_a_label():
    learner = Prequential(looked_up)
    scheduled = BEGIN + timedelta(hours=24, minutes=5)
    cancelled, diverted, early = (plan(name, scheduled) for name in ("cancelled", "diverted", "early"))
    too_late = plan("too late", scheduled, at=scheduled - timedelta(minutes=20))
    moved = plan("moved", scheduled), plan("moved", scheduled + timedelta(hours=6), at=BEGIN + timedelta(hours=20))
    before = msgspec.structs.replace(flown(early, 3)[1], at=clock.cutoff(scheduled) - timedelta(minutes=1))
    events = [cancelled, diverted, early, *moved, too_late, *flown(diverted, None), before]
    told_by(learner, sorted(events, key=lambda event: event.at))
    assert learner.counts["predicted"] == 2 and learner.counts["diverted"] == 1
    assert learner.counts["plan too late"] == 1 and learner.counts["arrived before its cut-off"] == 1
    assert [*learner.planned] == ["moved"] and [*learner.waiting] == ["cancelled"]
    last = minute(cancelled.scheduled_arrival + EXPIRES)
    learner.take(last // 60 - 1, [])
    assert "cancelled" in learner.waiting
    learner.take(last // 60, [])
    assert "cancelled" not in learner.waiting and learner.counts["expired"] == 1
    # Its label, should it come after all, teaches nothing; the flight that was moved was predicted meanwhile.
    assert learner.take(last // 60 + 1, flown(cancelled, 500)[1:]) == []
    assert learner.models.learned == 0 and learner.counts["predicted"] == 3


def test_missing_numbers_are_told_apart_and_no_number_turns_the_weights():
    row = looked_up([plan("x", BEGIN)])[0]
    seen = Seen.of(row | {"temp": None, "dewp": math.inf, "humid": 0.0, "carrier": None})
    assert {"temp?", "dewp?", "carrier="} <= set(seen.flags) and seen.numbers["humid"] == 0.0
    assert "temp" not in seen.numbers and "humid?" not in seen.flags
    models = OnlineModels()
    for number in range(50):
        models.learn(Seen({"humid": float(number)}, []), number % 2 == 0)
    models.learn(Seen({"humid": 1e300}, []), True)
    models.learn(Seen({"humid": 1.0}, []), True)
    assert all(math.isfinite(weight) for weight in models.weights().sgd.values())


def test_the_deployed_model_is_asked_once_for_each_flight_with_what_the_others_saw():
    asked = []

    def said(rows):
        asked.extend(row["distance"] for row in rows)
        return [0.25] * len(rows)

    told = told_by(Prequential(looked_up, said), stream(40))
    assert len(asked) == len(told) == 40 and {answer.deployed for answer in told.values()} == {0.25}


@pytest.mark.parametrize(
    "break_it",
    [
        lambda path: path.write_bytes(b"no database" * 500),
        lambda path: _rewritten(path, lambda body: body.replace(b'"hour"', b'"HOUR"'), keep=True),
        lambda path: _rewritten(path, lambda body: body[:-9]),
        lambda path: _rewritten(path, lambda body: body.replace(b'"schema":1', b'"schema":2')),
        lambda path: _rewritten(path, lambda body: body.replace(SETTINGS.encode(), b"others")),
    ],
    ids=["no database", "digest", "cut off", "schema", "settings"],
)
def test_a_bad_state_is_refused(tmp_path, break_it):
    path = tmp_path / "state.sqlite"
    book, learner = Book(path), Prequential(looked_up)
    learner.take(1, [])
    book.write(learner.state(), [])
    book.close()
    for beside in tmp_path.glob("state.sqlite-*"):
        beside.unlink()
    break_it(path)
    with pytest.raises(TerminalError):
        Prequential(looked_up, state=Book(path).state())


def test_a_state_that_cannot_be_written_is_tried_again_and_nothing_of_it_is_there(tmp_path):
    book, learner = Book(tmp_path / "state.sqlite"), Prequential(looked_up)
    learner.take(1, [])
    other = sqlite3.connect(book.path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON state BEGIN SELECT RAISE(ABORT, 'x'); END")
    with pytest.raises(sqlite3.IntegrityError):
        book.write(learner.state(), [Answer("a", "2013-06-01", 1, 0.6, 0.6, None)])
    assert not len(book.answers()["day"]) and book.state() is None
    other.execute("DROP TRIGGER full")
    other.execute("BEGIN IMMEDIATE")
    book._db.execute("PRAGMA busy_timeout = 1")
    with pytest.raises(TransientError):
        book.write(learner.state(), [])
    other.execute("ROLLBACK")
    book.write(learner.state(), [])
    assert book.state() == learner.state()


def _rewritten(path: Path, change, keep: bool = False) -> None:
    db = sqlite3.connect(path)
    body, digest = db.execute("SELECT body, digest FROM state").fetchone()
    changed = change(body)
    assert changed != body
    told = digest if keep else hashlib.sha256(changed).hexdigest()
    db.execute("UPDATE state SET body = ?, digest = ?", (changed, told))
    db.commit()
    db.close()


def _run(tmp_path: Path, events: list[Event], start: datetime | None = None) -> tuple[Prequential, Book]:
    store = SqliteStore(tmp_path / "online.sqlite", STREAM)
    lookups, book = Lookups(store, {}, own=True), Book(tmp_path / "state.sqlite")
    learner = Prequential(lookups, state=book.state())
    online_learning.run(learner, lookups, book, hours_of(iter(events)), start, commit_hours=5)
    return learner, book


def test_a_run_that_begins_in_the_middle_predicts_whole_days_and_goes_on(tmp_path):
    start = BEGIN + timedelta(hours=30)
    events = stream(120)
    learner, book = _run(tmp_path, [e for e in events if e.at < BEGIN + timedelta(hours=38)], start)
    first = learner.counts["predicted"]
    assert first == len(book.answers()["day"]) + len(learner.waiting) > 0
    learner, book = _run(tmp_path, events, start)
    # All whose cut-off is not before the beginning: those of the first day, too.
    due = [e for e in events if isinstance(e, Plan) and clock.cutoff(e.scheduled_departure) >= start]
    assert learner.counts["predicted"] == len(due) and learner.counts["learned"] == len(due)
    assert len(book.answers()["day"]) == len(due) > first


def test_a_store_of_others_must_be_as_far(tmp_path):
    store = SqliteStore(tmp_path / "online.sqlite", STREAM)
    hour = Hour(minute(BEGIN) // 60, ())
    store.advance(hour.number * 60)
    with pytest.raises(TransientError):
        Lookups(store, {}, own=False).feed(hour)
    store.advance((hour.number + 1) * 60)
    Lookups(store, {}, own=False).feed(hour)


class Stub(Lookups):
    def __call__(self, flights):
        return looked_up(flights)


def test_the_topic_gives_the_same_as_the_events_in_order_however_often_it_is_read(tmp_path):
    from tests.streaming.fake_kafka import Broker, Consumer

    events = stream(100)
    broker = Broker("learning")
    direct = Prequential(looked_up)
    expected = told_by(direct, events)

    def read(name: str) -> Prequential:
        lookups = Stub(SqliteStore(tmp_path / f"{name}.online.sqlite", STREAM), {}, own=True)
        book = Book(tmp_path / f"{name}.sqlite")
        state = book.state()
        learner = Prequential(lookups, state=state)
        offsets = state.offsets if state else {}
        hours = from_topic("learning", learner.hour, offsets, "learning", Consumer)
        online_learning.run(learner, lookups, book, hours, None, commit_hours=7)
        return learner

    for number, event in enumerate(events):
        partition, stamp = sum(key(event)) % 2, int(event.at.timestamp() * 1000)
        broker.add(partition, stamp, encode(event))
        if number % 50 == 0:
            broker.add(partition, stamp, b"no JSON")
        if number % 30 == 0:
            read("by and by")
        if number % 20 == 0:
            # What is published twice counts once.
            broker.add(partition, stamp, encode(event))
    read("by and by")
    read("at once")
    answers = Book(tmp_path / "at once.sqlite").answers()
    # The last hours wait for what closes them; the others are as they would be read in order.
    assert len(answers["sgd"]) > 60
    found = dict(zip(answers["flight_id"], answers["sgd"], strict=True))
    assert found == {name: expected[name].sgd for name in found}
    states = [Book(tmp_path / f"{name}.sqlite").state() for name in ("by and by", "at once")]
    assert states[0].offsets == states[1].offsets and min(states[0].offsets.values()) > 50
    assert msgspec.json.encode(states[0]) == msgspec.json.encode(states[1])
    stores = [SqliteStore(tmp_path / f"{name}.online.sqlite", STREAM) for name in ("by and by", "at once")]
    assert sorted(stores[0].rows()) == sorted(stores[1].rows())
    broker.first = 1 << 40
    with pytest.raises(TerminalError, match="holds no more"):
        read("at once")


def test_of_the_versions_of_a_departure_the_last_one_counts():
    first = flown(plan("a", BEGIN), 5)[0]
    corrected = msgspec.structs.replace(first, at=first.at + timedelta(minutes=70), delay=75)
    other = flown(plan("b", BEGIN), 1)[0]
    closing = Closing(None)
    for offset, event in enumerate((first, other, corrected)):
        closing.add(event, event_of(event).identity, 0, offset)
    hour = minute(BEGIN) // 60
    end_ms = (hour + 1) * 3_600_000
    lateness_ms = round(1000 * (STREAM.bounds.allowed_lateness_s + STREAM.bounds.out_of_order_s))
    assert [*closing.over(end_ms + lateness_ms - 1, {0: 3})] == []
    assert [*closing.over(end_ms + lateness_ms, {0: 3})] == [Hour(hour, [other], {0: 2})]
    closing.add(first, event_of(first).identity, 0, 3)
    assert [*closing.over(end_ms + 2 * lateness_ms, {0: 4})] == [Hour(hour + 1, [corrected], {0: 4})]


def test_answers_of_the_server_and_of_batches_are_joined(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    class Server:
        def request(self, method, path, body):
            assert (method, path) == ("POST", "/v1/models/flight_delays:predict")
            count = len(json.loads(body)["instances"])
            return (200, {"predictions": [[0.5]] * count}) if count < 400 else (503, {"error": "busy"})

    rows = looked_up([plan("x", BEGIN)])
    assert deployed.Served(Server())(rows * 3) == [0.5] * 3
    with pytest.raises(TransientError):
        deployed.Served(Server())(rows * 400)
    book, learner = Book(tmp_path / "state.sqlite"), Prequential(looked_up)
    learner.take(1, [])
    book.write(
        learner.state(), [Answer("a", "2013-06-01", 1, 0.6, 0.6, None), Answer("b", "2013-06-01", 0, 0.1, 0.7, 0.3)]
    )
    folder = tmp_path / "predictions"
    (folder / "date=2013-06-01").mkdir(parents=True)
    with pytest.raises(TerminalError):
        deployed.scores(book, folder)
    table = pa.table({"flight_id": ["a", "b"], "probability": [0.9, 0.99]})
    pq.write_table(table, folder / "date=2013-06-01" / "part.parquet")
    told, said = deployed.scores(book, folder)
    assert said["deployed"].tolist() == [0.9, 0.3] and told["label"].tolist() == [1, 0]
    assert deployed.rates(told, said) == "sgd 1.0000, passive_aggressive 0.0000, deployed 1.0000"


def test_the_page_says_what_was_measured():
    days = np.array(["2013-06-01"] * 4 + ["2013-06-02"] * 2, object)
    labels = np.array([0, 1, 0, 1, 1, 1])
    nan = math.nan
    scores = {"a": np.array([0.1, 0.9, 0.8, 0.2, 0.5, 0.5]), "<b>": np.array([0.1, 0.9, nan, nan, nan, nan])}
    (first, second), rolling = by_day(days, labels, scores), by_day(days, labels, scores, 7)
    assert first == ("2013-06-01", 4, {"a": 0.75, "<b>": 1.0}) and second[1] == 2 and math.isnan(second[2]["a"])
    assert rolling[1][1] == 6 and rolling[1][2]["a"] == roc_auc(labels, scores["a"])
    made = page("Online learning", days, labels, scores, {"learned": 6})
    assert "&lt;b&gt;" in made and "<b>" not in made and "0.7500" in made and "nan" not in made
    assert "on the 2 rows that all answered" in made
    assert "No label" in page("x", days[:0], labels[:0], {"a": np.array([])}, {})


@pytest.mark.slow
def test_a_real_week_is_learned(flight_lake, tmp_path, monkeypatch):
    home = tmp_path / "a home"
    home.mkdir()
    (home / "lake").symlink_to(flight_lake)
    monkeypatch.setenv("AIRTIGHT_HOME", str(home))
    assert online_learning.main(["--from", "2013-06-03", "--to", "2013-06-10"]) == 0
    book = Book(home / "stream" / "online_learning.sqlite")
    told, said = deployed.scores(book)
    assert len(told["label"]) > 5000
    assert roc_auc(told["label"], said["sgd"]) > 0.6 and roc_auc(told["label"], said["passive_aggressive"]) > 0.6
    assert "2013-06-09" in (home / "reports" / "flight_delays_learning" / "stream.html").read_text()
