"""Models that learn from any declared stream: here numbers, of a meter, over the lake and over a topic."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from airtight.errors import TerminalError
from airtight.home import Home
from components.schema import Feature, Label
from streaming.learning import __main__ as command
from streaming.learning import deployed
from streaming.learning.book import Book
from streaming.learning.declaration import declared
from streaming.learning.hours import observer
from streaming.learning.models import Inputs, OnlineModels, Weights
from streaming.windows.messages import Message
from streaming.windows.sqlite_store import SqliteStore
from tests.streaming.fake_kafka import Broker, Consumer
from tests.streaming.learning import meters

pytest.importorskip("river")
DECLARATION = "tests.streaming.learning.meters:LEARNING"
DELAYED = "tests.streaming.learning.meters:LATE"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path))
    monkeypatch.setenv("AIRTIGHT_KAFKA", str(tmp_path))
    return Home.current()


def answers(home: Home, state: str = "meters_learning.sqlite") -> dict[str, np.ndarray]:
    book = Book(home.path / "stream" / state)
    try:
        return deployed.scores(book, meters.LEARNING)[0]
    finally:
        book.close()


def test_a_regression_is_learned_from_the_lake_and_goes_on(home):
    days = [(meters.BEGIN + timedelta(days=number)).date().isoformat() for number in (1, 10, 20)]
    assert command.main([DECLARATION, "--from", days[0], "--to", days[1]]) == 0
    assert command.main([DECLARATION, "--to", days[2]]) == 0
    by_and_by = answers(home)
    assert command.main([DECLARATION, "--from", days[0], "--to", days[2], "--state", str(home.path / "stream/x")]) == 0
    at_once = answers(home, "x")
    for name in set(at_once) - {"deployed"}:
        assert by_and_by[name].tolist() == at_once[name].tolist()
    assert np.isnan(at_once["deployed"]).all()
    assert len(at_once["id"]) == 2 * 24 * 19 - 2 and len(set(at_once["day"])) == 19
    page = (home.reports("meters_learning") / "stream.html").read_text()
    assert "Mean absolute error by day" in page and ">MAE<" in page and "AUC" not in page
    late = slice(-200, None)
    labels = at_once["label"][late]
    # The last reading alone is as wrong as can be; who always says the mean is half as wrong.
    mean = np.abs(labels - labels.mean()).mean()
    for name in ("sgd", "passive_aggressive"):
        assert np.abs(labels - at_once[name][late]).mean() < mean


def test_the_topic_gives_what_the_lake_gives(home, monkeypatch):
    end = meters.BEGIN + timedelta(days=5)
    broker = Broker(str(home.path))
    for number, message in enumerate(meters.messages(home.lake, meters.BEGIN, end)):
        broker.add(number % 2, message.published_ms, message.value)
    broker.add(0, int(end.timestamp() * 1000), b"no JSON")
    flags = command._parser().parse_args([DECLARATION, "--topic"])
    command.learn(flags, home, consumer=Consumer)
    of_topic = answers(home)
    book = Book(home.path / "stream" / "meters_learning.sqlite")
    assert book.state().topic == "first"
    book.close()
    with monkeypatch.context() as patched:
        patched.setattr(Consumer, "partitions_for_topic", lambda *_: None)
        broker.id = None
        with pytest.raises(TerminalError, match="There is no topic"):
            command.learn(flags, home, consumer=Consumer)
    broker.id = "made anew"
    with pytest.raises(TerminalError, match=r"(?s)was made anew.*id first"):
        command.learn(flags, home, consumer=Consumer)
    state = str(home.path / "stream/x")
    assert command.main([DECLARATION, "--from", "2013-06-01", "--to", "2013-06-05", "--state", state]) == 0
    of_lake = answers(home, "x")
    by_id = dict(zip(of_lake["id"], of_lake["sgd"], strict=True))
    shared = {name: value for name, value in zip(of_topic["id"], of_topic["sgd"], strict=True) if name in by_id}
    assert len(shared) > 150 and shared == {name: by_id[name] for name in shared}
    del Broker.all[str(home.path)]


def learned(home: Home, name: str) -> tuple[bytes, list, list]:
    """What a state, its answers and its store hold."""
    book = Book(home.path / name)
    state, columns = book.state(), ("id", "day", "label", "sgd", "passive_aggressive")
    answers = {column: list(book.answers()[column]) for column in columns}
    book.close()
    store = SqliteStore(home.path / f"{name}.windows.sqlite", meters.STREAM)
    return msgspec.json.encode(state), answers, sorted(store.rows())


def test_the_lake_gives_the_same_in_whatever_order_events_were_published(home, caplog):
    def run(declaration: str, name: str, *flags: str) -> None:
        assert command.main([declaration, *flags, "--state", str(home.path / name)]) == 0

    whole = ("--from", "2013-06-02", "--to", "2013-06-05")
    run(DECLARATION, "in order", *whole)
    expected = learned(home, "in order")
    assert len(expected[1]["id"]) > 100
    run(DELAYED, "late", *whole)
    assert "Messages that were passed over: {'late': 25, 'no JSON': 6}" in caplog.text
    assert learned(home, "late") == expected
    run(DELAYED, "by and by", "--from", "2013-06-02", "--to", "2013-06-03")
    run(DELAYED, "by and by", "--to", "2013-06-05")
    assert learned(home, "by and by") == expected, "nothing of the hours about midnight is lost, or there twice"


def test_the_topic_gives_what_the_lake_gives_in_whatever_order_events_were_published(home):
    broker = Broker(str(home.path))
    for message in meters.late_messages(home.lake, meters.BEGIN, meters.BEGIN + timedelta(days=5)):
        broker.add(sum(message.key) % 2, message.published_ms, message.value)
    flags = [DELAYED, "--from", "2013-06-02", "--to", "2013-06-05", "--state"]
    state = str(home.path / "topic")
    command.learn(command._parser().parse_args([*flags, state, "--topic"]), home, consumer=Consumer)
    assert command.main([*flags, str(home.path / "lake")]) == 0
    _, of_topic, _ = learned(home, "topic")
    _, of_lake, _ = learned(home, "lake")
    assert len(of_topic["id"]) > 100 and of_topic == of_lake
    del Broker.all[str(home.path)]


def reading(at: datetime, published: datetime | None = None, meter: str = "a") -> Message:
    hour = int(at.timestamp()) // 3600
    published = published or at + timedelta(hours=1, seconds=10)
    value = {"schema": 1, "meter": meter, "hour": hour, "litres": 1.0}
    return Message(b"", msgspec.json.encode(value), round(published.timestamp() * 1000))


def test_a_stamp_of_today_ends_no_hours_and_what_comes_too_late_is_counted(home, caplog):
    today, flags = datetime(2033, 1, 1, tzinfo=UTC), command._parser().parse_args([DECLARATION, "--topic"])
    broker = Broker(str(home.path), partitions=1)

    def learn(messages: list[Message]) -> tuple[int, str]:
        """The last hour that was taken, and what is logged of messages that were passed over."""
        caplog.clear()
        for message in messages:
            broker.add(0, message.published_ms, message.value)
        command.learn(flags, home, consumer=Consumer)
        book = Book(home.path / "stream" / "meters_learning.sqlite")
        last = book.state().hour
        book.close()
        return last, "".join(line for line in caplog.messages if "passed over" in line)

    begin = int(meters.BEGIN.timestamp()) // 3600
    hours, others = (
        [reading(meters.BEGIN + timedelta(hours=number), meter=meter) for number in range(250)] for meter in "ab"
    )
    # The producer's clock is wrong; the event is not.
    last, passed = learn([*hours[:100], reading(meters.BEGIN, today), *hours[100:190], hours[199], *hours[190:199]])
    assert (last, passed) == (begin + 197, "Messages that were passed over: {'late': 1}")
    # What is read again beside an hour that was open is not too late.
    last, passed = learn(hours[200:240])
    assert (last, passed) == (begin + 237, "")
    # A message of today, in every respect.
    last, passed = learn([*hours[240:], reading(today)])
    assert (last, passed) == (begin + 250, "")
    last, passed = learn(others[240:])
    assert (last, passed) == (begin + 250, "Messages that were passed over: {'after its hour was taken': 10}")
    del Broker.all[str(home.path)]


def test_a_message_of_which_no_rows_can_be_made_is_passed_over():
    passed = Counter()
    observe = observer(replace(meters.LEARNING, subjects="tests.streaming.learning.test_learning:no_subjects"), passed)
    assert observe(reading(meters.BEGIN)) is None
    assert passed == {"unreadable": 1}


def no_subjects(message: Message) -> list:
    raise KeyError("no such field")


def test_weights_of_a_regression_come_back_to_the_bit():
    settings = meters.LEARNING.settings
    models = OnlineModels("regression", settings)
    inputs = [Inputs({"last": number % 7}, [f"meter={number % 3}"]) for number in range(60)]
    for number, one in enumerate(inputs[:30]):
        models.learn(one, float(number))
    kept = msgspec.json.decode(msgspec.json.encode(models.weights()), type=Weights)
    again = OnlineModels("regression", settings, kept)
    for number, one in enumerate(inputs[30:]):
        assert models.predict(one) == again.predict(one)
        models.learn(one, float(number))
        again.learn(one, float(number))
    with pytest.raises(TerminalError, match="other settings"):
        OnlineModels("binary", settings, models.weights())


@pytest.mark.parametrize(
    "change",
    [
        {"task": "multiclass", "classes": ("a", "b")},
        {"more_labels": (Label("other"),)},
        {"features": (Feature("words", "text", "x"),)},
    ],
    ids=["classes", "labels", "text"],
)
def test_rows_that_these_models_cannot_learn_are_refused(change):
    with pytest.raises(TerminalError, match="cannot learn"):
        replace(meters.LEARNING, schema=replace(meters.SCHEMA, **change))


def test_what_is_no_declaration_is_refused():
    assert declared(DECLARATION) is meters.LEARNING
    with pytest.raises(TerminalError, match="declares no models"):
        declared("tests.streaming.learning.meters:STREAM")
