from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airtight.errors import TerminalError
from airtight.home import Home
from components.data.lake import Lake
from components.modelling.model_server import ModelServer, VersionState
from pipelines.flight_delays import demo
from pipelines.flight_delays.features import SCHEMA
from pipelines.flight_delays.lake import AIRLINES, AIRPORTS

FLIGHT = "2013-06-14/UA/1545/EWR"
RUN = "manual__1"


class FakeServer(ModelServer):
    """Serves the versions that a test names and answers every row alike."""

    def __init__(self, versions: dict[int, str], answer: Callable[[dict[str, Any]], Any] = lambda row: 0.25) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._versions = {number: VersionState(state, "") for number, state in versions.items()}
        self._answer = answer

    def versions(self, model: str) -> dict[int, VersionState]:
        return self._versions

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        assert method == "POST" and body
        row = json.loads(body)["instances"][0]
        self.asked.append((path, row))
        answer = self._answer(row)
        return (400, {"error": answer}) if isinstance(answer, str) else (200, {"predictions": [answer]})


class FakeAirflow:
    def __init__(self, outputs: dict[str, Any], runs: list[dict[str, Any]] | None = None) -> None:
        self._outputs, self._runs = outputs, runs or []

    def outputs(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        return self._outputs.get(task_id, {})

    def runs(self, dag_id: str, state: str) -> list[dict[str, Any]]:
        return self._runs


def row(flight_id: str, late: int) -> dict[str, Any]:
    day, carrier, number, origin = flight_id.split("/")
    told = {
        feature.name: "" if feature.kind == "category" else float("nan") for feature in SCHEMA.features
    } | dict.fromkeys(SCHEMA.keys, "")
    told |= {"flight_id": flight_id, "local_date": date.fromisoformat(day), "flight": int(number)}
    told |= {"carrier": carrier, "origin": origin, "dest": "BQN"}
    return told | {SCHEMA.label: late, SCHEMA.time: datetime(2013, 6, 14, 21, 45, tzinfo=UTC)}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A lake of two flights, and the examples that were made of them."""
    home = Home(tmp_path)
    lake = Lake(home.lake)
    delays = pa.table({"flight_id": [FLIGHT, "2013-06-14/B6/1/JFK"], "arr_delay": [42.0, -7.0]})
    lake.write("flights", {date(2013, 6, 14): delays})
    names = pa.table({"carrier": ["UA"], "name": ["United Air Lines Inc."]}, AIRLINES.schema)
    lake.write("airlines", {None: names})
    known = {name: [None] for name in AIRPORTS.schema.names} | {"faa": ["EWR"], "name": ["Newark Liberty Intl"]}
    lake.write("airports", {None: pa.table(known, AIRPORTS.schema)})
    split = tmp_path / "examples" / "Split-test"
    split.mkdir(parents=True)
    examples = pa.Table.from_pylist([row(FLIGHT, 1), row("2013-06-14/B6/1/JFK", 0)])
    pq.write_table(examples, split / "examples-00000-of-00001.parquet")
    return home


@pytest.fixture
def airflow(home: Home) -> FakeAirflow:
    return FakeAirflow(
        {
            "transform": {"examples": [{"uri": str(home.path / "examples"), "properties": {}}]},
            "push": {"pushed": [{"uri": "", "properties": {"version": 201307010400001}}]},
        },
        [{"dag_run_id": RUN, "conf": {"interval": "2013-06"}}],
    )


def ask(airflow: FakeAirflow, server: FakeServer, home: Home, chosen: str, *, named: bool = True) -> demo.Answer:
    return demo.ask(airflow, server, home, RUN, chosen, named=named)  # type: ignore[arg-type]


def test_a_flight_is_asked_as_the_pipeline_made_it(home: Home, airflow: FakeAirflow) -> None:
    server = FakeServer({201307010400001: "AVAILABLE"})
    answer = ask(airflow, server, home, FLIGHT)
    path, sent = server.asked[0]
    assert path == "/v1/models/flight_delays/versions/201307010400001:predict"
    assert tuple(sent) == SCHEMA.names, "the label and the keys stay here"
    assert sent["carrier"] == "UA" and sent["temp"] != sent["temp"], "what is missing is NaN"
    assert (answer.probability, answer.version, answer.arrival_delay) == (0.25, 201307010400001, 42.0)


def test_an_answer_by_name_is_understood(home: Home, airflow: FakeAirflow) -> None:
    server = FakeServer({201307010400001: "AVAILABLE"}, lambda row: {"probability": 0.75})
    assert ask(airflow, server, home, FLIGHT).probability == 0.75


def test_a_refusal_is_told(home: Home, airflow: FakeAirflow) -> None:
    server = FakeServer({201307010400001: "AVAILABLE"}, lambda row: "Missing input temp")
    with pytest.raises(TerminalError, match="Missing input temp"):
        ask(airflow, server, home, FLIGHT)


def test_an_unknown_flight_is_told(home: Home, airflow: FakeAirflow) -> None:
    with pytest.raises(TerminalError, match="no flight"):
        ask(airflow, FakeServer({201307010400001: "AVAILABLE"}), home, "2013-06-14/XX/1/EWR")


def test_chance_draws_the_same_flight_each_time(home: Home, airflow: FakeAirflow) -> None:
    drawn = {
        ask(airflow, FakeServer({1: "AVAILABLE"}), home, "2013-06", named=False).flight["flight_id"] for _ in range(5)
    }
    others = {
        ask(airflow, FakeServer({1: "AVAILABLE"}), home, str(n), named=False).flight["flight_id"] for n in range(20)
    }
    assert len(drawn) == 1
    assert len(others) == 2


@pytest.mark.parametrize(
    ("served", "pushed", "asked"),
    [
        ({201307010400001: "AVAILABLE"}, 201307010400001, 201307010400001),
        ({201307010400001: "END", 201310010400001: "AVAILABLE"}, 201307010400001, 201310010400001),
        ({201306010400001: "AVAILABLE"}, 0, 201306010400001),
    ],
)
def test_the_pushed_version_is_asked_or_the_newest(served: dict[int, str], pushed: int, asked: int) -> None:
    assert demo.version_to_ask(FakeServer(served), pushed) == asked


def test_a_server_without_a_model_is_told() -> None:
    with pytest.raises(TerminalError, match="serves no version"):
        demo.version_to_ask(FakeServer({201307010400001: "LOADING"}), 201307010400001)


def test_a_month_counts_as_served_only_while_its_model_is_there(home: Home, airflow: FakeAirflow) -> None:
    assert demo.served_run(airflow, home, "2013-06") == ""  # type: ignore[arg-type]
    (home.models("flight_delays") / "201307010400001").mkdir(parents=True)
    assert demo.served_run(airflow, home, "2013-06") == RUN  # type: ignore[arg-type]
    assert demo.served_run(airflow, home, "2013-07") == ""  # type: ignore[arg-type]


def test_a_month_of_an_earlier_pipeline_does_not_count_as_served(home: Home, airflow: FakeAirflow) -> None:
    (home.models("flight_delays") / "201307010400001").mkdir(parents=True)
    file = home.path / "examples" / "Split-test" / "examples-00000-of-00001.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["temp"]), file)
    assert demo.served_run(airflow, home, "2013-06") == ""  # type: ignore[arg-type]


def test_the_flight_in_words(home: Home, airflow: FakeAirflow) -> None:
    answer = ask(airflow, FakeServer({201307010400001: "AVAILABLE"}, lambda row: 0.314), home, FLIGHT)
    assert demo.in_words(answer, home) == (
        "United Air Lines Inc. flight UA 1545, Newark Liberty Intl (EWR) to BQN (BQN),\n"
        "planned for Friday, 14 June 2013, 17:45, as it stood at 17:15:\n"
        "  model flight_delays 201307010400001 says 31.4% that it arrives more than 15 minutes late;\n"
        "  it really arrived 42 minutes late, so it was late."
    )


def test_a_later_model_is_not_said_to_have_foreseen_the_flight(home: Home, airflow: FakeAirflow) -> None:
    text = demo.in_words(ask(airflow, FakeServer({201310010400001: "AVAILABLE"}), home, FLIGHT), home)
    assert "as it stood" not in text
    assert (
        "own version 201307010400001 is registered only: 201310010400001, of a later interval, is the served one"
        in text
    )
    text = demo.in_words(ask(airflow, FakeServer({201306010400001: "AVAILABLE"}), home, FLIGHT), home)
    assert "own version 201307010400001 is registered only: 201306010400001 was promoted by hand" in text
    airflow._outputs.pop("push")
    text = demo.in_words(ask(airflow, FakeServer({201306010400001: "AVAILABLE"}), home, FLIGHT), home)
    assert "as it stood at 17:15" in text, "its data end before the flight"
    assert "pushed no model, so the served version 201306010400001 was asked" in text


def test_an_early_flight_in_words(home: Home, airflow: FakeAirflow) -> None:
    answer = ask(airflow, FakeServer({1: "AVAILABLE"}), home, "2013-06-14/B6/1/JFK")
    assert "it really arrived 7 minutes early, so it was not late." in demo.in_words(answer, home)


def test_a_month_that_is_none_ends_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--interval", "June"]) == 64
    assert "2013-06 (a month)" in capsys.readouterr().err
