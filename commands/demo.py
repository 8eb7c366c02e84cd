"""`make demo`: one interval from the lake to the model server, and one of its rows asked of the served model."""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from airtight.errors import TerminalError
from airtight.home import Home
from airtight.import_string import load
from airtight.interval import Interval
from airtight.supervised import Supervised
from commands import arguments
from commands.preparation import compile_pipeline, fill_lake, start_services, unpaused
from components.data import examples
from components.modelling.model_server import AVAILABLE, OK, ModelServer
from components.schema import ExampleSchema
from services.airflow_api import Airflow
from services.run_progress import show
from services.state_folder import USER, password_file

SPLIT = "test"
"""The split of the examples that holds the interval's own rows."""


@dataclass(frozen=True)
class Answer:
    """What the served model answered to one row.

    Args:
      settings: The pipeline's.
      schema: Its schema.
      row: The row of the examples: keys, features, label, time.
      version: Version of the model that answered.
      pushed: Version that the run pushed, 0 when it pushed none.
      outputs: The model's outputs by name, of this row.
    """

    settings: Supervised
    schema: ExampleSchema
    row: Mapping[str, Any]
    version: int
    pushed: int
    outputs: Mapping[str, Any]

    @property
    def time(self) -> str:
        """The row's instant, on the pipeline's clock; "" where rows have no time."""
        if not self.schema.time:
            return ""
        return f"{self.row[self.schema.time].astimezone(ZoneInfo(self.settings.zone)):%A, %d %B %Y, %H:%M}"

    @property
    def is_foresight(self) -> bool:
        """Whether the model cannot have learned from the row: a version begins with the day on which its data end."""
        if not self.schema.time:
            return True  # Rows to judge by are the same ones, by their hash, in every run.
        day = self.row[self.schema.time].astimezone(ZoneInfo(self.settings.zone))
        return self.version == self.pushed or str(self.version)[:8] <= f"{day:%Y%m%d}"


def run(settings: Supervised, interval: str, home: Home, *, force: bool, key: str) -> int:
    """Does all of it; what is done already is not done again.

    Args:
      settings: The pipeline's.
      interval: The interval, such as 2013-06.
      home: The state folder.
      force: Run the pipeline although the interval is served already.
      key: Value of the schema's first key, of the row to ask about; "" draws one by chance, the same each time.

    Returns:
      The exit status.

    Raises:
      AirtightError: A step cannot be done; the message says why and what to do.
    """
    Interval.parse(interval, settings.zone)
    dag = settings.name
    running = start_services(settings, home)
    airflow = Airflow.local(running, home)
    served = "" if force else served_run(settings, airflow, home, interval)
    if served:
        print(f"{interval} is served already (run {served}); FORCE=1 runs it again.")
    else:
        fill_lake(settings, home)
        compile_pipeline(settings, home)
        served = run_interval(airflow, dag, interval)
        if not served:
            return 1
    answer = ask(settings, airflow, ModelServer(running.model_url), served, key, seed=interval)
    tell: Callable[[Answer, Home], str] = load(settings.in_words) if settings.in_words else in_words
    print(f"\n{tell(answer, home)}{not_its_own(answer)}\n")
    print(f"Airflow's UI:  {airflow.run_url(dag, served)}")
    print(f"Log in as:     {USER}, with the password in {password_file(home)} (make password)")
    print(f"Model server:  {running.model_url}/v1/models/{settings.name}")
    print(f"Served models: {running.router_url}/")
    print("Stop it all:   make stop")
    return 0


def run_interval(airflow: Airflow, dag: str, interval: str) -> str:
    """Triggers the DAG for an interval and prints its progress.

    Returns:
      The run's id; empty when it failed.
    """
    unpaused(airflow, dag)
    start = time.monotonic()
    run_id = airflow.trigger(dag, {"interval": interval})
    print(f"\nTriggered {dag} for {interval}: {airflow.run_url(dag, run_id)}", flush=True)
    succeeded = show(airflow, dag, run_id, lambda line: print(line, flush=True))
    print(f"The run {'succeeded' if succeeded else 'FAILED'} after {time.monotonic() - start:.0f} s.", flush=True)
    return run_id if succeeded else ""


def served_run(settings: Supervised, airflow: Airflow, home: Home, interval: str) -> str:
    """The newest run that pushed a model for the interval, if the model is still there and still fits the pipeline."""
    name = settings.name
    schema: ExampleSchema = load(settings.schema)
    for dag_run in airflow.runs(name, state="success"):
        run_id = str(dag_run["dag_run_id"])
        if (dag_run["conf"] or {}).get("interval") != interval or not (
            version := pushed_version(airflow, name, run_id)
        ):
            continue
        is_there = (home.models(name) / str(version)).is_dir()
        return run_id if is_there and _has_features(examples_of(airflow, name, run_id), schema) else ""
    return ""


def examples_of(airflow: Airflow, dag: str, run_id: str) -> Path | None:
    """Folder of the examples that a run made; None when it made none."""
    outputs = airflow.outputs(dag, run_id, "transform").get("examples", [])
    return Path(outputs[0]["uri"]) if outputs else None


def _has_features(folder: Path | None, schema: ExampleSchema) -> bool:
    """Whether a run of before had the features that the pipeline has now."""
    try:
        names = examples.names_in(folder, SPLIT) if folder else []
    except TerminalError:  # They were removed.
        names = []
    return bool(names) and set(schema.names) <= set(names)


def pushed_version(airflow: Airflow, dag: str, run_id: str) -> int:
    """The model version that a run pushed, 0 when it pushed none."""
    outputs = airflow.outputs(dag, run_id, "push").get("pushed", [])
    return int(outputs[0]["properties"].get("version", 0)) if outputs else 0


def ask(settings: Supervised, airflow: Airflow, server: ModelServer, run_id: str, key: str, *, seed: str) -> Answer:
    """Sends one row of a run's interval to the model server, exactly as the pipeline's transform made it.

    Args:
      settings: The pipeline's.
      airflow: What knows the run's outputs.
      server: The model server.
      run_id: The run.
      key: Value of the schema's first key; "" draws a row by chance.
      seed: Of that chance.

    Raises:
      TerminalError: The run has no examples, there is no such row, or the server refuses.
    """
    name = settings.name
    schema: ExampleSchema = load(settings.schema)
    folder = examples_of(airflow, name, run_id)
    if folder is None:
        raise TerminalError(
            "The run has no examples to draw a row from.",
            expected="the examples of its task transform",
            received=f"none in run {run_id}",
            remedy="Run the interval again: make demo FORCE=1.",
        )
    row = pick(folder, schema, key, seed=seed)
    pushed = pushed_version(airflow, name, run_id)
    version = version_to_ask(server, name, pushed)
    instance = {feature: _json(row[feature]) for feature in schema.names}
    body = json.dumps({"instances": [instance]}).encode()
    status, payload = server.request("POST", f"/v1/models/{name}/versions/{version}:predict", body)
    if status != OK:
        raise TerminalError(
            f"The model server refused the row {key_of(row, schema)}.",
            expected="a prediction",
            received=f"{status}: {payload}",
            remedy="See the model server's log: make logs.",
        )
    prediction = payload["predictions"][0]
    outputs = prediction if isinstance(prediction, dict) else {"prediction": prediction}
    return Answer(settings, schema, row, version, pushed, outputs)


def pick(folder: Path, schema: ExampleSchema, key: str, *, seed: str) -> dict[str, Any]:
    """One row of the interval: that with a value of the first key, or one drawn by chance.

    Raises:
      TerminalError: There is no such row.
    """
    columns = tuple(dict.fromkeys(filter(None, (*schema.keys, *schema.names, *schema.labels, schema.time))))
    count = examples.count(folder, SPLIT)
    place = random.Random(seed).randrange(count) if count and not key else -1
    first, example = 0, ""
    for batch in examples.batches(folder, SPLIT, schema, columns):
        keys = list(map(str, batch[schema.keys[0]].to_pylist())) if schema.keys else []
        example = example or next(iter(keys), "")
        here = keys.index(key) if key and key in keys else place - first
        if 0 <= here < batch.num_rows:
            return dict(batch.slice(here, 1).to_pylist()[0])
        first += batch.num_rows
    raise TerminalError(
        f"The interval has no row {key!r}." if key else "The interval has no rows.",
        expected=f"{schema.keys[0]} such as {example}" if example else "an interval with rows",
        received=key or "no rows",
        remedy="Correct --key, or leave it out." if key else "Choose another interval.",
    )


def version_to_ask(server: ModelServer, model: str, pushed: int) -> int:
    """The pushed version when it is served, otherwise the newest that is.

    Raises:
      TerminalError: The server serves no version at all.
    """
    available = [number for number, version in server.versions(model).items() if version.state == AVAILABLE]
    if not available:
        raise TerminalError(
            f"The model server serves no version of {model}.",
            expected=f"version {pushed}" if pushed else "a pushed model",
            received="none; the run pushed none" if not pushed else "none",
            remedy="The run's tasks evaluate, try_serving and push say why a model is not served.",
        )
    return pushed if pushed in available else max(available)


def key_of(row: Mapping[str, Any], schema: ExampleSchema) -> str:
    """What names a row for people."""
    return ", ".join(f"{key} {row[key]}" for key in schema.keys) or "drawn by chance"


def in_words(answer: Answer, home: Home) -> str:
    """The row, the prediction and what happened, for a person; for pipelines that have no words of their own."""
    outputs = "; ".join(
        f"{name} {_shown(value, _schema_of(name, answer.schema))}" for name, value in answer.outputs.items()
    )
    at = f", of {answer.time}" if answer.time else ""
    return (
        f"{answer.settings.title}, the row {key_of(answer.row, answer.schema)}{at}:\n"
        f"  model {answer.settings.name} {answer.version} says {outputs};\n"
        f"  it really was {', '.join(f'{label} {answer.row[label]}' for label in answer.schema.labels)}."
    )


def not_its_own(answer: Answer) -> str:
    """Why another model than the interval's own was asked; empty when it is its own."""
    if answer.version == answer.pushed:
        return ""
    if not answer.pushed:
        return f"\nThe run pushed no model, so the served version {answer.version} was asked."
    own = f"\nThe interval's own version {answer.pushed} is registered only: {answer.version}"
    if answer.version < answer.pushed:
        return f"{own} was promoted by hand."
    return f"{own}, of a later interval, is the served one.\nThat one may have learned from this row."


def _schema_of(output: str, schema: ExampleSchema) -> ExampleSchema:
    """The schema of the label that a served output is of."""
    alone = schema.by_label
    labels = [label for label in alone if output.startswith(f"{label}_")] if schema.more_labels else []
    return alone[max(labels, key=len, default=schema.label)]


def _shown(value: Any, schema: ExampleSchema) -> str:
    if isinstance(value, list):
        names = schema.classes if len(schema.classes) == len(value) else schema.quantiles
        labels = [f"{label} " for label in names] if len(names) == len(value) else [""] * len(value)
        return ", ".join(f"{label}{_shown(part, schema)}" for label, part in zip(labels, value, strict=True))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _json(value: Any) -> Any:
    """A feature's value as REST takes it."""
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def main(args: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, 1 for a run that failed, 64 or 75 for a fault."""
    parser = arguments.parser("commands.demo", __doc__ or "")
    parser.add_argument("--interval", default="", help="the interval, such as 2013-06; by default the settings' own")
    parser.add_argument("--key", default="", help="value of the schema's first key, of the row to ask about")
    parser.add_argument("--force", action="store_true", help="run the pipeline although the interval is served already")

    def command(settings: Supervised, chosen: argparse.Namespace) -> int:
        interval = chosen.interval or settings.example_interval
        return run(settings, interval, Home.current(), force=chosen.force, key=chosen.key)

    return arguments.run(parser, args, command)


if __name__ == "__main__":
    sys.exit(main())
