"""Learning online beside the deployed model: what a server or batch predictions say stands next to it."""

from __future__ import annotations

import json
import math
import re
import socket
from datetime import timedelta
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airtight.errors import TerminalError, TransientError
from airtight.home import Home
from components.measures.scores import roc_auc
from pipelines.flight_delays import clock
from pipelines.flight_delays.events import encode, key
from pipelines.flight_delays.learning import LEARNING
from pipelines.flight_delays.tests.learnable_flights import BEGIN, looked_up, plan, signal, stream
from streaming.learning import __main__ as command
from streaming.learning import deployed
from streaming.learning.book import Book
from tests.serving.router.stubs import standing
from tests.streaming.fake_kafka import Broker, Consumer

pytest.importorskip("river")

FLIGHTS = 200
STATE = "flight_delays_learning.sqlite"
WEEKDAYS = ("Mon", "Tue", "Wed")
ROW = msgspec.to_builtins(plan("x", BEGIN))


def number_of(row: dict) -> int:
    """Which of `stream`'s flights a row of features is about: they leave every ten minutes."""
    first = (BEGIN + timedelta(hours=24)).astimezone(ZoneInfo(clock.ZONE))
    minutes = WEEKDAYS.index(row["weekday"]) * 1440 + int(row["local_minute"])
    return (minutes - first.weekday() * 1440 - first.hour * 60 - first.minute) // 10


def probability(number: int) -> float:
    """What the deployed model says: it knows what the delay depends on."""
    return 1 / (1 + math.exp(-signal(number)))


class Model:
    """A model server's answers: first those of `statuses`, then probabilities; it tells which flights it answered."""

    def __init__(self, *statuses: int) -> None:
        self.statuses, self.answered = list(statuses), []

    def __call__(self, request, body: bytes) -> None:
        rows = json.loads(body)["instances"]
        code = self.statuses.pop(0) if self.statuses else 200
        answer = {"error": "not now"}
        if code == 200:
            self.answered += [number_of(row) for row in rows]
            answer = {"predictions": [probability(number_of(row)) for row in rows]}
        content = json.dumps(answer).encode()
        # Head and body are two packets: the second shall not wait until the first is confirmed.
        request.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request.send_response(code)
        request.send_header("content-length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A state folder, and a topic with the events; the next days' weather of nobody closes the last hours."""
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIRTIGHT_KAFKA", str(tmp_path))
    broker = Broker(str(tmp_path))
    for event in stream(FLIGHTS):
        broker.add(sum(key(event)) % 2, int(event.at.timestamp() * 1000), encode(event))
    for hour in range(5):
        at = BEGIN + timedelta(days=5, hours=hour)
        for partition in (0, 1):
            late = plan(f"later {hour} {partition}", at + timedelta(hours=24), at)
            broker.add(partition, int(at.timestamp() * 1000), encode(late))
    yield SimpleNamespace(home=Home.current(), broker=broker, path=tmp_path)
    del Broker.all[str(tmp_path)]


def learned(world, *flags: str, **settings) -> tuple[dict, dict, str]:
    """What `learn` makes of a command line: the answers, what each model answered, and the page."""
    options = command._parser().parse_args(["flight_delays", "--topic", *flags])
    report = command.learn(options, world.home, consumer=Consumer, **settings)
    book = Book(options.state or world.home.path / "stream" / STATE)
    try:
        return *deployed.scores(book, LEARNING, options.predictions), report.read_text()
    finally:
        book.close()


def auc_on_page(page: str, model: str) -> tuple[int, float, float]:
    """Of the table of the whole: how many predictions, AUC, and that on the rows that all answered."""
    (row,) = re.findall(rf"</span> {model}</td><td class=n>([\d,]+)</td>(.*?)</tr>", page)
    own, common = re.findall(r">([\d.]+|-)</td>", row[1])
    return int(row[0].replace(",", "")), *(float(value) if value != "-" else math.nan for value in (own, common))


def test_what_the_server_says_stands_next_to_what_was_learned(world, caplog):
    model = Model()
    caplog.set_level("INFO")
    with standing(model) as server:
        answers, by_model, page = learned(world, "--server", f"http://127.0.0.1:{server.rest}")
    assert {path for path, _ in server.requests} == {"/v1/models/flight_delays:predict"}
    assert sorted(model.answered)[:FLIGHTS] == list(range(FLIGHTS)), "each flight once"
    numbers = [int(name[1:]) for name in answers["id"]]
    assert numbers == list(range(FLIGHTS))
    assert by_model["deployed"].tolist() == [probability(number) for number in numbers]
    expected = {name: roc_auc(answers["label"], scores) for name, scores in by_model.items()}
    assert expected["deployed"] > 0.85 and expected["deployed"] > max(expected["sgd"], expected["passive_aggressive"])
    for name, auc in expected.items():
        assert auc_on_page(page, name) == (FLIGHTS, pytest.approx(auc, abs=5e-5), pytest.approx(auc, abs=5e-5))
    # By day, too: a column of its own, and a point of the curve for each day.
    assert page.count("<title>deployed, 2013-06-0") == len(set(answers["day"])) and "<th class=n>deployed</th>" in page
    assert f"deployed {expected['deployed']:.4f}" in caplog.text and f"sgd {expected['sgd']:.4f}" in caplog.text


def test_what_batches_say_stands_next_to_it_on_the_flights_that_they_know(world):
    folder = world.path / "batches" / "date=2013-06-04"
    folder.mkdir(parents=True)
    known = range(0, FLIGHTS, 2)
    rows = {"flight_id": [f"f{n:05}" for n in known] + ["x"], "probability": [*map(probability, known), 0.5]}
    pq.write_table(pa.table(rows), folder / "part.parquet")
    answers, by_model, page = learned(world, "--predictions", str(world.path / "batches"))
    there = ~np.isnan(by_model["deployed"])
    assert there.tolist() == [number % 2 == 0 for number in range(FLIGHTS)]
    auc = roc_auc(answers["label"][there], by_model["deployed"][there])
    assert auc_on_page(page, "deployed") == (len(known), pytest.approx(auc, abs=5e-5), pytest.approx(auc, abs=5e-5))
    count, whole, common = auc_on_page(page, "sgd")
    assert count == FLIGHTS and whole == pytest.approx(roc_auc(answers["label"], by_model["sgd"]), abs=5e-5)
    assert common == pytest.approx(roc_auc(answers["label"][there], by_model["sgd"][there]), abs=5e-5)
    assert f"on the {len(known)} rows that all answered" in page


def test_batches_count_where_no_server_was_asked(world):
    first = [f"f{number:05}" for number in range(60)]
    (world.path / "batches").mkdir()
    batches = pa.table({"flight_id": first, "probability": pa.array([0.25] * 30 + [None] * 30)})
    pq.write_table(batches, world.path / "batches" / "part.parquet")
    # What is predicted in the first hours finds no model; a later one does.
    model = Model(404, 404, 404)
    with standing(model) as server:
        flags = ("--server", f"http://127.0.0.1:{server.rest}", "--predictions", str(world.path / "batches"))
        _, by_model, page = learned(world, *flags)
    unasked = sorted(set(range(FLIGHTS)) - set(model.answered))
    assert 3 < len(unasked) < 30 and f"no deployed model to ask</td><td class=n>{len(unasked)}" in page
    assert by_model["deployed"][unasked].tolist() == [0.25] * len(unasked)
    assert by_model["deployed"][len(unasked) :].tolist() == [probability(n) for n in range(len(unasked), FLIGHTS)]


def test_folders_without_batches_are_told_before_anything_is_learned(world):
    with pytest.raises(TerminalError, match="no batch predictions"):
        learned(world, "--predictions", str(world.path / "nothing"))
    assert not (world.home.path / "stream").exists()


def test_a_server_that_fails_once_changes_nothing(world):
    with standing(Model(*[200] * 30, 503)) as server:
        flags = ("--server", f"http://127.0.0.1:{server.rest}")
        with pytest.raises(TransientError, match="deployed model did not answer"):
            learned(world, *flags)
        interrupted = learned(world, *flags)
        other = learned(world, *flags, "--state", str(world.path / "other.sqlite"))
    for part in (0, 1):
        assert {name: column.tolist() for name, column in interrupted[part].items()} == {
            name: column.tolist() for name, column in other[part].items()
        }
    assert not np.isnan(interrupted[1]["deployed"]).any()


@pytest.mark.parametrize(
    ("code", "kind"), [(429, TransientError), (500, TransientError), (400, TerminalError), (404, TerminalError)]
)
def test_a_refusal_may_heal_or_not(code, kind):
    server = SimpleNamespace(request=lambda method, path, body: (code, {"error": "why"}))
    with pytest.raises(kind, match="why"):
        deployed.served(LEARNING, server)(looked_up([ROW]))


@pytest.mark.parametrize("prediction", [0.5, [0.5], {"probability": 0.5}, {"probability": [0.5]}, 1], ids=str)
def test_a_probability_is_found_in_whatever_form(prediction):
    server = SimpleNamespace(request=lambda method, path, body: (200, {"predictions": [prediction]}))
    (number,) = deployed.served(LEARNING, server)(looked_up([ROW]))
    assert number in (0.5, 1.0) and isinstance(number, float)


@pytest.mark.parametrize(
    "answer",
    [
        *({}, [], "busy", {"predictions": [0.5]}, {"predictions": [None] * 2}, {"predictions": [[]] * 2}),
        *({"outputs": [0.5, 0.5]}, {"predictions": [{"another": 0.5}] * 2}, {"predictions": ["NaN", 0.5]}),
        {"predictions": [math.nan, 0.5]},
    ],
    ids=str,
)
def test_an_answer_that_is_no_probability_is_refused(answer):
    server = SimpleNamespace(request=lambda method, path, body: (200, answer))
    with pytest.raises(TerminalError, match="deployed model did not answer"):
        deployed.served(LEARNING, server, may_lack=True)(looked_up([ROW] * 2))


def test_what_is_missing_is_asked_for_as_in_training():
    bodies = []

    def request(method, path, body):
        bodies.append(json.loads(body)["instances"][0])
        return 200, {"predictions": [0.5]}

    row = looked_up([ROW])[0] | {"carrier": None, "temp": None, "distance": 7}
    assert deployed.served(LEARNING, SimpleNamespace(request=request))([row]) == [0.5]
    (body,) = bodies
    assert body["carrier"] == "" and math.isnan(body["temp"]) and body["distance"] == 7.0
    assert list(body) == list(LEARNING.schema.names)
