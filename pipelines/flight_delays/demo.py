"""`make demo`: one month from the lake to the model server, and a real flight of it asked of the served model."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

from airtight.errors import AirtightError, TerminalError
from airtight.home import Home
from airtight.interval import Interval
from components.data.examples import read_table
from components.data.lake import Lake
from components.modelling.model_server import OK, ModelServer
from components.schema import PREDICTION
from pipelines.flight_delays import clock, kafka
from pipelines.flight_delays.features import LATE_MINUTES, SCHEMA
from pipelines.flight_delays.topics import TOPICS
from runtime.client import fresh
from services.airflow_api import Airflow, show
from services.settings import USER, password_file
from services.supervisor import ALWAYS

DAG = MODEL = "flight_delays"
"""Name of the DAG, of the pipeline and of the served model."""
DAG_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What the served model said of one flight, and what the flight did.

    Args:
      flight: The flight's row of the examples: keys, features, label.
      version: Version of the model that answered.
      pushed: Version that the run pushed, 0 when it pushed none.
      probability: That the flight arrives more than LATE_MINUTES late.
      arrival_delay: Minutes behind schedule as it came, negative when early.
    """

    flight: Mapping[str, Any]
    version: int
    pushed: int
    probability: float
    arrival_delay: float


def run(interval: str, *, force: bool, flight_id: str) -> int:
    """Does all of it; what is done already is not done again.

    Args:
      interval: The month, such as 2013-06.
      force: Run the pipeline although the month is served already.
      flight_id: Which flight to ask about; empty for one drawn by chance, the same each time.

    Returns:
      The exit status.

    Raises:
      AirtightError: A step cannot be done; the message says why and what to do.
    """
    Interval.parse(interval, clock.ZONE)
    home = Home.current()
    settings = kafka.start(home, ALWAYS)
    airflow = Airflow.local(settings, home)
    served = None if force else served_run(airflow, home, interval)
    if served:
        print(f"{interval} is served already (run {served}); FORCE=1 runs it again.")
    else:
        build_lake(home)
        compile_pipeline(home)
        served = run_month(airflow, interval)
        if not served:
            return 1
    answer = ask(airflow, ModelServer(settings.model_url), home, served, flight_id or interval, named=bool(flight_id))
    print(f"\n{in_words(answer, home)}\n")
    print(f"Airflow's UI:  {airflow.run_url(DAG, served)}")
    print(f"Log in as:     {USER}, with the password in {password_file(home)} (make password)")
    print(f"Model server:  {settings.model_url}/v1/models/{MODEL}")
    print(f"Served models: {settings.router_url}/")
    print(f"Kafka:         {settings.kafka_servers}, topics {', '.join(topic.name for topic in TOPICS)}")
    print("Stop it all:   make stop")
    return 0


def build_lake(home: Home) -> None:
    """Builds the lake where it is not there yet; a minute's work is not started for nothing."""
    from pipelines.flight_delays.lake import TABLES, build

    lake = Lake(home.lake)
    if not all(lake.numbers(table.name) for table in TABLES):
        print("Building the data lake of 2013 ...", flush=True)
        build(home.lake)
    rows = ", ".join(f"{table.name} {lake.snapshot(table.name).rows:,}" for table in TABLES)
    print(f"The lake {home.lake} has the rows: {rows}.", flush=True)


def compile_pipeline(home: Home, source: str = DAG) -> None:
    """Compiles the pipeline by the warm launcher, unless its compiled pipeline is that of the present sources.

    Args:
      home: The state folder.
      source: A folder of `pipelines/`, or `package.module:function`.

    Raises:
      AirtightError: It does not compile.
    """
    compiled = fresh(source, home, say=partial(print, flush=True))
    print(f"The pipeline: {' -> '.join(node.id for node in compiled.nodes)}", flush=True)


def run_month(airflow: Airflow, interval: str) -> str:
    """Triggers the DAG for an interval and tells its progress.

    Returns:
      The run's id; empty when it failed.
    """
    airflow.await_dag(DAG, DAG_TIMEOUT_S)
    airflow.unpause(DAG)
    start = time.monotonic()
    run_id = airflow.trigger(DAG, {"interval": interval})
    print(f"\nTriggered {DAG} for {interval}: {airflow.run_url(DAG, run_id)}", flush=True)
    succeeded = show(airflow, DAG, run_id, lambda line: print(line, flush=True))
    print(f"The run {'succeeded' if succeeded else 'FAILED'} after {time.monotonic() - start:.0f} s.", flush=True)
    return run_id if succeeded else ""


def served_run(airflow: Airflow, home: Home, interval: str) -> str:
    """The newest run that pushed a model for the interval, if the model is still there and still fits the pipeline."""
    for told in airflow.runs(DAG, state="success"):
        run_id = str(told["dag_run_id"])
        if (told["conf"] or {}).get("interval") != interval or not (version := pushed_version(airflow, run_id)):
            continue
        fits = (home.models(MODEL) / str(version)).is_dir() and _has_features(examples_of(airflow, run_id))
        return run_id if fits else ""
    return ""


def examples_of(airflow: Airflow, run_id: str) -> Path | None:
    """Folder of the examples that a run made; None when it tells of none."""
    outputs = airflow.outputs(DAG, run_id, "transform").get("examples", [])
    return Path(outputs[0]["uri"]) if outputs else None


def _has_features(examples: Path | None) -> bool:
    """Whether a run of before had the features that the pipeline has now."""
    files = sorted(examples.glob("Split-test/*.parquet")) if examples else []
    return bool(files) and set(SCHEMA.names) <= set(pq.read_schema(files[0]).names)


def pushed_version(airflow: Airflow, run_id: str) -> int:
    """The model version that a run pushed, 0 when it pushed none."""
    outputs = airflow.outputs(DAG, run_id, "push").get("pushed", [])
    return int(outputs[0]["properties"].get("version", 0)) if outputs else 0


def ask(airflow: Airflow, server: ModelServer, home: Home, run_id: str, chosen: str, *, named: bool) -> Answer:
    """Sends one flight of a run's month to the model server, exactly as the pipeline's transform made it.

    Args:
      airflow: Where the run's outputs are told.
      server: The model server.
      home: The state folder.
      run_id: The run.
      chosen: The flight's id when `named`, otherwise what chance is seeded with.
      named: Whether `chosen` is a flight.

    Raises:
      TerminalError: The run has no examples, there is no such flight, or the server refuses.
    """
    examples = examples_of(airflow, run_id)
    if examples is None:
        raise TerminalError(
            "The run tells no examples to draw a flight from.",
            expected="the examples of its task transform",
            received=f"none in run {run_id}",
            remedy="Run the month again: make demo FORCE=1.",
        )
    columns = (*SCHEMA.keys, *SCHEMA.names, SCHEMA.label, SCHEMA.time)
    flight = pick(read_table(examples, "test", SCHEMA, columns), chosen, named=named)
    pushed = pushed_version(airflow, run_id)
    version = version_to_ask(server, pushed)
    body = json.dumps({"instances": [{name: flight[name] for name in SCHEMA.names}]}).encode()
    status, told = server.request("POST", f"/v1/models/{MODEL}/versions/{version}:predict", body)
    if status != OK:
        raise TerminalError(
            f"The model server refused the flight {flight['flight_id']}.",
            expected="a probability",
            received=f"{status}: {told}",
            remedy="See the model server's log: make logs.",
        )
    prediction = told["predictions"][0]
    probability = prediction[PREDICTION] if isinstance(prediction, dict) else prediction
    return Answer(flight, version, pushed, float(probability), arrival_delay(home, flight))


def pick(flights: pa.Table, chosen: str, *, named: bool) -> dict[str, Any]:
    """One row: the flight of that id, or one drawn by chance with `chosen` as the seed.

    Raises:
      TerminalError: No such flight.
    """
    ids = flights["flight_id"].to_pylist()
    if named and chosen not in ids:
        raise TerminalError(
            f"The month has no flight {chosen!r}.",
            expected=f"an id such as {ids[0]}" if ids else "a month with flights",
            received=chosen,
            remedy="Correct the flight's id, or leave it out.",
        )
    row = ids.index(chosen) if named else random.Random(chosen).randrange(len(ids))
    return flights.slice(row, 1).to_pylist()[0]


def version_to_ask(server: ModelServer, pushed: int) -> int:
    """The pushed version when it is served, otherwise the newest that is.

    Raises:
      TerminalError: The server serves no version at all.
    """
    available = [number for number, told in server.versions(MODEL).items() if told.state == "AVAILABLE"]
    if not available:
        raise TerminalError(
            f"The model server serves no version of {MODEL}.",
            expected=f"version {pushed}" if pushed else "a pushed model",
            received="none; the run pushed none" if not pushed else "none",
            remedy="The run's tasks evaluate, try_serving and push say why a model is not served.",
        )
    return pushed if pushed in available else max(available)


def arrival_delay(home: Home, flight: Mapping[str, Any]) -> float:
    """Minutes by which the flight really came late, from the lake."""
    lake = Lake(home.lake)
    day = str(flight["local_date"])
    files = [file for file in lake.snapshot("flights").files if file.day == day]
    rows = pa.concat_tables(
        pq.read_table(lake.path / f.path, columns=["flight_id", "arr_delay"]) for f in files
    ).to_pylist()
    return float(next(row["arr_delay"] for row in rows if row["flight_id"] == flight["flight_id"]))


def in_words(answer: Answer, home: Home) -> str:
    """The flight, the prediction and what happened, for a person."""
    flight = answer.flight
    airlines, airports = _names(home, "airlines", "carrier"), _names(home, "airports", "faa")
    departure: datetime = flight[SCHEMA.time].astimezone(ZoneInfo(clock.ZONE))
    known = departure - clock.CUTOFF
    minutes = round(answer.arrival_delay)
    came = f"{minutes} minutes late" if minutes > 0 else f"{-minutes} minutes early" if minutes else "on time"
    late = "so it was late" if flight[SCHEMA.label] else "so it was not late"
    # A version begins with the day on which its data end: one of after the flight may have learned from it.
    foresight = answer.version == answer.pushed or str(answer.version)[:8] <= f"{departure:%Y%m%d}"
    stood = f", as it stood at {known:%H:%M}" if foresight else ""
    return (
        f"{airlines.get(flight['carrier'], flight['carrier'])} flight {flight['carrier']} {flight['flight']}, "
        f"{airports.get(flight['origin'], flight['origin'])} ({flight['origin']}) to "
        f"{airports.get(flight['dest'], flight['dest'])} ({flight['dest']}),\n"
        f"planned for {departure:%A, %d %B %Y, %H:%M}{stood}:\n"
        f"  model {MODEL} {answer.version} says {answer.probability:.1%} "
        f"that it arrives more than {LATE_MINUTES} minutes late;\n"
        f"  it really arrived {came}, {late}.{_not_its_own(answer)}"
    )


def _not_its_own(answer: Answer) -> str:
    """Why another model than the month's own was asked; empty when it is its own."""
    if answer.version == answer.pushed:
        return ""
    if not answer.pushed:
        return f"\nThe run pushed no model, so the served version {answer.version} was asked."
    if answer.version < answer.pushed:
        return f"\nThe month's own version {answer.pushed} is registered only: {answer.version} was promoted by hand."
    return (
        f"\nThe month's own version {answer.pushed} is registered only: {answer.version}, of a later interval, is the "
        "served one.\nThat one may have learned from this flight."
    )


def _names(home: Home, table: str, key: str) -> dict[str, str]:
    lake = Lake(home.lake)
    files = lake.snapshot(table).files
    rows = pa.concat_tables(pq.read_table(lake.path / f.path, columns=[key, "name"]) for f in files).to_pylist()
    return {row[key]: row["name"] for row in rows}


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, 1 for a run that failed, 64 or 75 for a fault."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--interval", default="2013-06", help="the month")
    parser.add_argument("--flight", default="", help="id of the flight to ask about, such as 2013-06-14/UA/1545/EWR")
    parser.add_argument("--force", action="store_true", help="run the pipeline although the month is served already")
    told = parser.parse_args(arguments)
    try:
        return run(told.interval, force=told.force, flight_id=told.flight)
    except AirtightError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
