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
from components.reports.online_learning import AUC
from pipelines.flight_delays import clock, features
from pipelines.flight_delays.events import Arrival, Event, Plan, encode, key, minute
from pipelines.flight_delays.learning import EXPIRES, LEARNING
from pipelines.flight_delays.streams import STREAM
from pipelines.flight_delays.tests.learnable_flights import (
    BEGIN,
    answers_of,
    flown,
    hours,
    learner,
    looked_up,
    observed,
    plan,
    stream,
)
from streaming.learning import __main__ as command
from streaming.learning import deployed
from streaming.learning.book import Book
from streaming.learning.declaration import Outcome
from streaming.learning.hours import Closing, FeatureStore, Hour
from streaming.learning.models import Inputs
from streaming.learning.prequential import Answer, Prequential
from streaming.learning.topic import from_topic
from streaming.windows.sqlite_store import SqliteStore

pytest.importorskip("river")


def leaks(kind: type[Prequential]) -> bool:
    """Whether a prediction depends on labels that came at its cut-off or later."""
    moment = BEGIN + timedelta(hours=40)
    as_it_was, contrary = (answers_of(kind(LEARNING, looked_up), stream(200, flip)) for flip in (None, moment))
    cutoffs = {e.flight_id: clock.cutoff(e.scheduled_departure) for e in stream(200) if isinstance(e, Plan)}
    before = [name for name in as_it_was if cutoffs[name] <= moment]
    later = [name for name in as_it_was if cutoffs[name] > moment + timedelta(hours=1)]
    # The test can tell: what was learned afterwards is something else.
    assert len(before) > 50 and all(as_it_was[name].sgd != contrary[name].sgd for name in later)
    assert any(minute(e.at) == minute(cutoffs[before[-1]]) for e in stream(200) if isinstance(e, Arrival))
    return any(as_it_was[name][3:] != contrary[name][3:] for name in before)


class Peeking(Prequential):
    """Learns an hour's labels before it predicts the hour's flights."""

    def take(self, hour, known):
        for _, subject in known:
            if isinstance(subject, Outcome) and subject.id in self.waiting:
                self.models.learn(self.waiting[subject.id].inputs, subject.label)
        return super().take(hour, known)


class Inclusive(Prequential):
    """Learns what arrives at the very minute of a cut-off before it predicts."""

    def _predict(self, now, inclusive, predicted):
        super()._predict(now, False, predicted)


def test_no_label_reaches_a_prediction_made_before_it():
    assert not leaks(Prequential)


@pytest.mark.parametrize("kind", [Peeking, Inclusive])
def test_a_planted_leak_is_found(kind):
    assert leaks(kind)


def test_both_models_learn_what_is_there():
    answers = list(answers_of(learner(), stream(900)).values())[300:]
    labels = np.array([answer.label for answer in answers])
    for name in ("sgd", "passive_aggressive"):
        assert roc_auc(labels, np.array([getattr(answer, name) for answer in answers])) > 0.7
    # Where features tell nothing, nothing is learned: what is above is no artefact of the protocol.
    blind = list(answers_of(learner(dull), stream(900)).values())
    assert abs(roc_auc(labels, np.array([answer.sgd for answer in blind[300:]])) - 0.5) < 0.12


def dull(flights) -> list[dict]:
    return [row | {"departures_mean_delay_origin_2h": 1.0} for row in looked_up(flights)]


def test_a_restart_after_any_hour_changes_no_bit(tmp_path):
    events = stream(150)
    whole = learner()
    expected = answers_of(whole, events)
    book = Book(tmp_path / "state.sqlite")
    for hour in hours(events):
        one = learner(state=book.state())
        _taken(book, one, hour)
    assert msgspec.json.encode(book.state()) == msgspec.json.encode(whole.state())
    kept = book.answers()
    assert dict(zip(kept["id"], kept["sgd"], strict=True)) == {name: answer.sgd for name, answer in expected.items()}
    assert len(expected) == 150


def _taken(book: Book, learning: Prequential, hour: Hour) -> None:
    answers = learning.take(hour.number, hour.known)
    # Done again it does nothing.
    assert learning.take(hour.number, hour.known) == []
    book.write(learning.state(), answers)


def test_the_order_within_an_hour_does_not_matter():
    ends = []
    for seed in (None, 1):
        learning = learner()
        for hour in hours(stream(100)):
            known = hour.known
            if seed is not None:
                random.Random(seed).shuffle(known)
            learning.take(hour.number, known)
        ends.append(msgspec.json.encode(learning.state().weights))
    assert ends[0] == ends[1]


_WEIGHTS = """
import msgspec
from pipelines.flight_delays.tests.learnable_flights import answers_of, learner, stream
learning = learner()
answers_of(learning, stream(60))
print(msgspec.json.encode(learning.state().weights).decode())
"""


@pytest.mark.slow
def test_another_process_learns_the_same():
    outputs = set()
    for seed in ("1", "2"):
        command_line = [sys.executable, "-c", _WEIGHTS]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        outputs.add(subprocess.run(command_line, env=environment, capture_output=True).stdout)
    assert len(outputs) == 1 and outputs.pop()


def test_what_becomes_of_flights_without_a_label():
    learning = learner()
    scheduled = BEGIN + timedelta(hours=24, minutes=5)
    cancelled, diverted, early = (plan(name, scheduled) for name in ("cancelled", "diverted", "early"))
    too_late = plan("too late", scheduled, at=scheduled - timedelta(minutes=20))
    moved = plan("moved", scheduled), plan("moved", scheduled + timedelta(hours=6), at=BEGIN + timedelta(hours=20))
    before = msgspec.structs.replace(flown(early, 3)[1], at=clock.cutoff(scheduled) - timedelta(minutes=1))
    events = [cancelled, diverted, early, *moved, too_late, *flown(diverted, None), before]
    answers_of(learning, sorted(events, key=lambda event: event.at))
    assert learning.counts["predicted"] == 2 and learning.counts["without a label"] == 1
    assert learning.counts["known after the cut-off"] == 1 and learning.counts["label before the cut-off"] == 1
    assert [*learning.due] == ["moved"] and [*learning.waiting] == ["cancelled"]
    last = minute(cancelled.scheduled_arrival + EXPIRES)
    learning.take(last // 60 - 1, [])
    assert "cancelled" in learning.waiting
    learning.take(last // 60, [])
    assert "cancelled" not in learning.waiting and learning.counts["expired"] == 1
    # Its label, should it come after all, teaches nothing; the flight that was moved was predicted meanwhile.
    late = Hour(last // 60 + 1, [observed(flown(cancelled, 500)[1])])
    assert learning.take(late.number, late.known) == []
    assert learning.models.learned == 0 and learning.counts["predicted"] == 3


def test_missing_numbers_have_a_flag_and_no_number_turns_the_weights():
    row = looked_up([{**msgspec.to_builtins(plan("x", BEGIN))}])[0]
    inputs = Inputs.of(row | {"temp": None, "dewp": math.inf, "humid": 0.0, "carrier": None}, features.SCHEMA)
    assert {"temp?", "dewp?", "carrier="} <= set(inputs.flags) and inputs.numbers["humid"] == 0.0
    assert "temp" not in inputs.numbers and "humid?" not in inputs.flags
    models = learner().models
    for number in range(50):
        models.learn(Inputs({"humid": float(number)}, []), number % 2)
    models.learn(Inputs({"humid": 1e300}, []), 1)
    models.learn(Inputs({"humid": 1.0}, []), 1)
    assert all(math.isfinite(weight) for weight in models.weights().sgd.values())


def test_the_deployed_model_is_asked_once_for_each_flight_with_what_the_others_saw():
    distances = []

    def answer(rows):
        distances.extend(row["distance"] for row in rows)
        return [0.25] * len(rows)

    answers = answers_of(learner(deployed=answer), stream(40))
    assert len(distances) == len(answers) == 40 and {one.deployed for one in answers.values()} == {0.25}


@pytest.mark.parametrize(
    "break_it",
    [
        lambda path: path.write_bytes(b"no database" * 500),
        lambda path: _rewritten(path, lambda body: body.replace(b'"hour"', b'"HOUR"'), keep=True),
        lambda path: _rewritten(path, lambda body: body[:-9]),
        lambda path: _rewritten(path, lambda body: body.replace(b'"schema":2', b'"schema":1')),
        lambda path: _rewritten(path, lambda body: body.replace(b"river: binary", b"others")),
        lambda path: _executed(path, "ALTER TABLE answers RENAME COLUMN id TO flight_id"),
    ],
    ids=["no database", "digest", "cut off", "schema", "settings", "columns"],
)
def test_a_bad_state_is_refused(tmp_path, break_it):
    path = tmp_path / "state.sqlite"
    book, learning = Book(path), learner()
    learning.take(1, [])
    book.write(learning.state(), [])
    book.close()
    for beside in tmp_path.glob("state.sqlite-*"):
        beside.unlink()
    break_it(path)
    with pytest.raises(TerminalError):
        learner(state=Book(path).state())


def test_a_state_that_cannot_be_written_is_tried_again_and_nothing_of_it_is_there(tmp_path):
    book, learning = Book(tmp_path / "state.sqlite"), learner()
    learning.take(1, [])
    other = sqlite3.connect(book.path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON state BEGIN SELECT RAISE(ABORT, 'x'); END")
    with pytest.raises(sqlite3.IntegrityError):
        book.write(learning.state(), [Answer("a", "2013-06-01", 1, 0.6, 0.6, None)])
    assert not len(book.answers()["day"]) and book.state() is None
    other.execute("DROP TRIGGER full")
    other.execute("BEGIN IMMEDIATE")
    book._db.execute("PRAGMA busy_timeout = 1")
    with pytest.raises(TransientError):
        book.write(learning.state(), [])
    other.execute("ROLLBACK")
    book.write(learning.state(), [])
    assert book.state() == learning.state()


def _rewritten(path: Path, change, keep: bool = False) -> None:
    db = sqlite3.connect(path)
    body, digest = db.execute("SELECT body, digest FROM state").fetchone()
    changed = change(body)
    assert changed != body
    digest = digest if keep else hashlib.sha256(changed).hexdigest()
    db.execute("UPDATE state SET body = ?, digest = ?", (changed, digest))
    db.commit()
    db.close()


def _executed(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    db.execute(statement)
    db.close()


def _run(tmp_path: Path, events: list[Event], start: datetime | None = None) -> tuple[Prequential, Book]:
    store = FeatureStore(SqliteStore(tmp_path / "online.sqlite", STREAM), LEARNING, own=True)
    book = Book(tmp_path / "state.sqlite")
    learning = learner(store, state=book.state())
    command.run(learning, store, book, iter(hours(events)), start, commit_hours=5)
    return learning, book


def test_a_run_that_begins_in_the_middle_predicts_whole_days_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path))
    start = BEGIN + timedelta(hours=30)
    events = stream(120)
    learning, book = _run(tmp_path, [e for e in events if e.at < BEGIN + timedelta(hours=38)], start)
    first = learning.counts["predicted"]
    assert first == len(book.answers()["day"]) + len(learning.waiting) > 0
    learning, book = _run(tmp_path, events, start)
    # All whose cut-off is not before the beginning: those of the first day, too.
    due = [e for e in events if isinstance(e, Plan) and clock.cutoff(e.scheduled_departure) >= start]
    assert learning.counts["predicted"] == len(due) and learning.counts["learned"] == len(due)
    assert len(book.answers()["day"]) == len(due) > first


def test_a_store_of_others_must_be_as_far(tmp_path):
    store = SqliteStore(tmp_path / "online.sqlite", STREAM)
    hour = Hour(minute(BEGIN) // 60, ())
    store.advance(hour.number * 60)
    with pytest.raises(TransientError):
        FeatureStore(store, LEARNING, own=False).feed(hour)
    store.advance((hour.number + 1) * 60)
    FeatureStore(store, LEARNING, own=False).feed(hour)


def test_the_topic_gives_the_same_as_the_events_in_order_however_often_it_is_read(tmp_path):
    from tests.streaming.fake_kafka import Broker, Consumer

    events = stream(100)
    broker = Broker("learning")
    expected = answers_of(learner(), events)

    def read(name: str) -> None:
        store = FeatureStore(SqliteStore(tmp_path / f"{name}.online.sqlite", STREAM), LEARNING, own=True)
        book = Book(tmp_path / f"{name}.sqlite")
        state = book.state()
        learning = learner(state=state)
        offsets = state.offsets if state else {}
        taken = from_topic(LEARNING, "learning", learning.hour, offsets, consumer=Consumer)
        command.run(learning, store, book, taken, None, commit_hours=7)

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
    by_flight = dict(zip(answers["id"], answers["sgd"], strict=True))
    assert by_flight == {name: expected[name].sgd for name in by_flight}
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
    corrected = observed(msgspec.structs.replace(first, at=first.at + timedelta(minutes=70), delay=75))
    first, other = observed(first), observed(flown(plan("b", BEGIN), 1)[0])
    closing = Closing(STREAM, None)
    for offset, event in enumerate((first, other, corrected)):
        closing.add(event, 0, offset)
    hour = minute(BEGIN) // 60
    end_ms = (hour + 1) * 3_600_000
    lateness_ms = round(1000 * (STREAM.bounds.allowed_lateness_s + STREAM.bounds.out_of_order_s))
    assert [*closing.over(end_ms + lateness_ms - 1, {0: 3})] == []
    assert [*closing.over(end_ms + lateness_ms, {0: 3})] == [Hour(hour, [other], {0: 2}, {0: 3})]
    closing.add(first, 0, 3)
    assert closing.passed == {"after its hour was taken": 1}
    assert [*closing.over(end_ms + 2 * lateness_ms, {0: 4})] == [Hour(hour + 1, [corrected], {0: 4}, {0: 4})]


def test_answers_of_the_server_and_of_batches_are_joined(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    class Server:
        def request(self, method, path, body):
            assert (method, path) == ("POST", "/v1/models/flight_delays:predict")
            count = len(json.loads(body)["instances"])
            return (200, {"predictions": [[0.5]] * count}) if count < 400 else (503, {"error": "busy"})

    rows = looked_up([msgspec.to_builtins(plan("x", BEGIN))])
    assert deployed.served(LEARNING, Server())(rows * 3) == [0.5] * 3
    with pytest.raises(TransientError):
        deployed.served(LEARNING, Server())(rows * 400)
    book, learning = Book(tmp_path / "state.sqlite"), learner()
    learning.take(1, [])
    book.write(
        learning.state(), [Answer("a", "2013-06-01", 1, 0.6, 0.6, None), Answer("b", "2013-06-01", 0, 0.1, 0.7, 0.3)]
    )
    folder = tmp_path / "predictions"
    (folder / "date=2013-06-01").mkdir(parents=True)
    with pytest.raises(TerminalError):
        deployed.scores(book, LEARNING, folder)
    table = pa.table({"flight_id": ["a", "b"], "probability": [0.9, 0.99]})
    pq.write_table(table, folder / "date=2013-06-01" / "part.parquet")
    answers, by_model = deployed.scores(book, LEARNING, folder)
    assert by_model["deployed"].tolist() == [0.9, 0.3] and answers["label"].tolist() == [1, 0]
    assert deployed.rates(answers, by_model, AUC) == "sgd 1.0000, passive_aggressive 0.0000, deployed 1.0000"


@pytest.mark.slow
def test_a_real_week_is_learned(flight_lake, tmp_path, monkeypatch):
    home = tmp_path / "a home"
    home.mkdir()
    (home / "lake").symlink_to(flight_lake)
    monkeypatch.setenv("AIRTIGHT_HOME", str(home))
    assert command.main(["flight_delays", "--from", "2013-06-03", "--to", "2013-06-10"]) == 0
    book = Book(home / "stream" / "flight_delays_learning.sqlite")
    answers, by_model = deployed.scores(book, LEARNING)
    assert len(answers["label"]) > 5000
    assert roc_auc(answers["label"], by_model["sgd"]) > 0.6
    assert roc_auc(answers["label"], by_model["passive_aggressive"]) > 0.6
    assert "2013-06-09" in (home / "reports" / "flight_delays_learning" / "stream.html").read_text()
