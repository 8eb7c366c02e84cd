"""`make demo` of any pipeline: which run counts as served, which row is asked, and what a person reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airtight.errors import TerminalError
from airtight.home import Home
from commands import demo, preparation
from components.data import tfrecords
from components.data.lake import Lake
from components.modelling.model_server import ModelServer, VersionState
from tests.components import toy
from tests.tiny_supervised.settings import SETTINGS

RUN = "manual__1"
PUSHED = 202003020000001


class FakeServer(ModelServer):
    """Serves the versions that a test names and answers every row alike."""

    def __init__(self, versions: dict[int, str], answer: Callable[[dict[str, Any]], Any] = lambda row: 0.25) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._versions = {number: VersionState(state, "") for number, state in versions.items()}
        self._answer = answer

    def versions(self, model: str) -> dict[int, VersionState]:
        return self._versions

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        assert method == "POST" and body
        row = json.loads(body)["instances"][0]
        self.requests.append((path, row))
        answer = self._answer(row)
        return (400, {"error": answer}) if isinstance(answer, str) else (200, {"predictions": [answer]})


class FakeAirflow:
    def __init__(self, outputs: dict[str, Any], runs: list[dict[str, Any]] | None = None) -> None:
        self.made, self._runs = outputs, runs or []

    def outputs(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        assert dag_id == "toy"
        return self.made.get(task_id, {})

    def runs(self, dag_id: str, state: str) -> list[dict[str, Any]]:
        return self._runs


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The examples that a run made: two files, ids k0 and k1 in turn."""
    split = tmp_path / "examples" / "Split-test"
    split.mkdir(parents=True)
    for shard in range(2):
        rows = toy.table(10, shard).drop_columns(["id"])
        ids = pa.array([f"{shard}-{place}" for place in range(10)])
        pq.write_table(rows.append_column("id", ids), split / f"examples-0000{shard}-of-00002.parquet")
    return Home(tmp_path)


@pytest.fixture
def airflow(home: Home) -> FakeAirflow:
    return FakeAirflow(
        {
            "transform": {"examples": [{"uri": str(home.path / "examples"), "properties": {}}]},
            "push": {"pushed": [{"uri": "", "properties": {"version": PUSHED}}]},
        },
        [{"dag_run_id": RUN, "conf": {"interval": "2020-03-01"}}],
    )


def ask(airflow: FakeAirflow, server: FakeServer, key: str = "", seed: str = "2020-03-01") -> demo.Answer:
    return demo.ask(SETTINGS, airflow, server, RUN, key, seed=seed)  # type: ignore[arg-type]


def test_a_row_is_asked_as_the_pipeline_made_it(airflow: FakeAirflow) -> None:
    server = FakeServer({PUSHED: "AVAILABLE"}, lambda row: {"probability": 0.75})
    answer = ask(airflow, server, "1-7")
    path, sent = server.requests[0]
    assert path == f"/v1/models/toy/versions/{PUSHED}:predict"
    assert tuple(sent) == toy.SCHEMA.names, "the label and the keys stay here"
    assert answer.row["id"] == "1-7", "of the second file"
    assert (answer.version, answer.pushed, answer.outputs) == (PUSHED, PUSHED, {"probability": 0.75})


def test_an_output_without_a_name_is_a_prediction(airflow: FakeAirflow) -> None:
    assert ask(airflow, FakeServer({PUSHED: "AVAILABLE"})).outputs == {"prediction": 0.25}


def test_a_refusal_is_told(airflow: FakeAirflow) -> None:
    with pytest.raises(TerminalError, match="Missing input size"):
        ask(airflow, FakeServer({PUSHED: "AVAILABLE"}, lambda row: "Missing input size"))


@pytest.mark.parametrize("key", ["9-9", "0-1 "])
def test_an_unknown_row_is_told_with_an_example(airflow: FakeAirflow, key: str) -> None:
    with pytest.raises(TerminalError, match=r"no row .* Expected: id such as 0-0"):
        ask(airflow, FakeServer({PUSHED: "AVAILABLE"}), key)


def test_chance_draws_the_same_row_each_time_and_any_row(airflow: FakeAirflow) -> None:
    server = FakeServer({1: "AVAILABLE"})
    assert len({ask(airflow, server).row["id"] for _ in range(3)}) == 1
    drawn = {ask(airflow, server, seed=str(seed)).row["id"] for seed in range(40)}
    assert len(drawn) > 10 and {name[0] for name in drawn} == {"0", "1"}


def test_a_run_without_examples_is_told(airflow: FakeAirflow) -> None:
    airflow.made.pop("transform")
    with pytest.raises(TerminalError, match="no examples to draw a row from"):
        ask(airflow, FakeServer({PUSHED: "AVAILABLE"}))


@pytest.mark.parametrize(
    ("served", "pushed", "chosen"),
    [
        ({201307010400001: "AVAILABLE"}, 201307010400001, 201307010400001),
        ({201307010400001: "END", 201310010400001: "AVAILABLE"}, 201307010400001, 201310010400001),
        ({201306010400001: "AVAILABLE"}, 0, 201306010400001),
    ],
)
def test_the_pushed_version_is_asked_or_the_newest(served: dict[int, str], pushed: int, chosen: int) -> None:
    assert demo.version_to_ask(FakeServer(served), "toy", pushed) == chosen


def test_a_server_without_a_model_is_told() -> None:
    with pytest.raises(TerminalError, match="serves no version of toy"):
        demo.version_to_ask(FakeServer({201307010400001: "LOADING"}), "toy", 201307010400001)


def served_run(airflow: FakeAirflow, home: Home, interval: str) -> str:
    return demo.served_run(SETTINGS, airflow, home, interval)  # type: ignore[arg-type]


def test_an_interval_counts_as_served_only_while_its_model_is_there(home: Home, airflow: FakeAirflow) -> None:
    assert served_run(airflow, home, "2020-03-01") == ""
    (home.models("toy") / str(PUSHED)).mkdir(parents=True)
    assert served_run(airflow, home, "2020-03-01") == RUN
    assert served_run(airflow, home, "2020-03-02") == ""
    folder = home.path / "examples" / "Split-test"
    for file in folder.glob("*.parquet"):
        tfrecords.write(folder / f"{file.stem}.tfrecord.gz", [pq.read_table(file)])
        file.unlink()
    assert served_run(airflow, home, "2020-03-01") == RUN, "in either format"
    shutil.rmtree(folder)
    assert served_run(airflow, home, "2020-03-01") == ""


def test_an_interval_of_an_earlier_pipeline_does_not_count_as_served(home: Home, airflow: FakeAirflow) -> None:
    (home.models("toy") / str(PUSHED)).mkdir(parents=True)
    file = home.path / "examples" / "Split-test" / "examples-00000-of-00002.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["size"]), file)
    assert served_run(airflow, home, "2020-03-01") == ""


def test_the_row_in_words(home: Home, airflow: FakeAirflow) -> None:
    answer = ask(airflow, FakeServer({PUSHED: "AVAILABLE"}, lambda row: {"probability": 0.31415926}), "0-3")
    assert demo.in_words(answer, home) == (
        "Broken parts, the row id 0-3, of Wednesday, 01 January 2020, 00:03:\n"
        f"  model toy {PUSHED} says probability 0.3142;\n"
        f"  it really was broken {answer.row['broken']}."
    )
    assert demo.not_its_own(answer) == ""
    classes = ask(
        airflow, FakeServer({PUSHED: "AVAILABLE"}, lambda row: {"class": "red", "probabilities": [0.25, 1e-6]})
    )
    assert "says class red; probabilities 0.25, 1e-06;" in demo.in_words(classes, home)


def test_another_version_than_the_intervals_own_is_told(airflow: FakeAirflow) -> None:
    later = ask(airflow, FakeServer({202104010000001: "AVAILABLE"}))
    assert "of a later interval, is the served one" in demo.not_its_own(later) and not later.is_foresight
    earlier = ask(airflow, FakeServer({201901010000001: "AVAILABLE"}))
    assert "201901010000001 was promoted by hand" in demo.not_its_own(earlier) and earlier.is_foresight
    airflow.made.pop("push")
    assert "pushed no model, so the served version 201901010000001" in demo.not_its_own(
        ask(airflow, FakeServer({201901010000001: "AVAILABLE"}))
    )


def test_a_lake_is_filled_once_and_its_rows_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path)
    preparation.fill_lake(SETTINGS, home)
    assert "Filling the lake of toy" in capsys.readouterr().out
    preparation.fill_lake(SETTINGS, home)
    assert capsys.readouterr().out == f"The lake {home.lake} has the rows: parts 3,100.\n"
    assert len(Lake(home.lake).numbers("parts")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pipeline", "flight_delays", "--interval", "June"], "2013-06 (a month)"),
        (["--pipeline", "no_such"], "There is no supervised pipeline no_such"),
    ],
)
def test_an_interval_or_a_pipeline_that_is_none_ends_with_a_word(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(arguments) == 64
    assert message in capsys.readouterr().err
