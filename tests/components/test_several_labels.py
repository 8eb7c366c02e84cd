"""A table of two labels, one binary and one a number, from Spark to the served answer: each goes by its name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import tensorflow as tf
from pyspark.sql import functions as F
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.interval import Interval
from airtight.verdict import Verdict
from components import batch_predict, evaluate, monitor, train, transform, try_serving
from components.artifacts import Dataset, DriftReport, Predictions, ValidationReport
from components.data.dataset import DatasetReader, TableFiles
from components.data.examples import read_table
from components.data.lake import Lake
from components.data.lake_import import table_of
from components.modelling import raw_features, saved_model, tabular
from components.modelling.boosted_trees import TreeSettings
from components.schema import LABEL_KNOWN_AT, ExampleSchema, Feature, Label
from components.tasks import task_of
from components.tasks.thresholds import margins
from serving.loader import load
from serving.router import answers
from tests.components import toy

INTERVAL = Interval.parse("2020-03", "UTC")
FIRST, DAYS = date(2020, 2, 1), 60
SCHEMA = ExampleSchema(
    features=(Feature("colour", "category", "a colour"), Feature("size", "number", "a size", "m")),
    label="late",
    time="at",
    keys=("id",),
    slices=("colour",),
    baseline="size",
    more_labels=(Label("delay", "regression", quantiles=(0.1, 0.5, 0.9), baseline="colour", loss_weight=0.5),),
)
TABLE = table_of("flights", SCHEMA, ("id",))
EXPECTED_OUTPUTS = {"late_probability", "delay_prediction", "delay_quantiles"}


def make(table):
    """All rows; of some one label never comes."""
    return table("flights").withColumn(LABEL_KNOWN_AT, F.col("at"))


def build(schema, fitted, validation, tuned, seed):
    """A small network, and few trees beside it."""
    network = tabular.NetworkSettings(bins=16, crosses=1, hidden=(32, 16), members=2)
    settings = tabular.Settings(network, TreeSettings(most=40, unwatched=20))
    return tabular.build(schema, fitted, validation, tuned, seed, settings)


def rows_of(day: date) -> pa.Table:
    rng = np.random.default_rng(day.toordinal())
    colour, size = rng.choice(["red", "green"], 80), rng.normal(2, 1, 80)
    value = 30 * (colour == "red") + 20 * (size - 2) + rng.normal(0, 8, 80)
    late = pa.array((value + rng.normal(0, 5, 80) > 15).astype(np.int64), mask=np.arange(80) == 7)
    at = [datetime(day.year, day.month, day.day, 6, tzinfo=UTC) + timedelta(minutes=5 * place) for place in range(80)]
    columns = {"id": [f"{day}-{place:02}" for place in range(80)], "at": at, "colour": colour, "size": size}
    columns |= {"late": late, "delay": pa.array(value, mask=np.arange(80) == 9)}
    return pa.table({name: columns[name] for name in TABLE.schema.names}, TABLE.schema)


def artifact(kind, folder: Path):
    made = toy.artifact(kind, folder)
    if kind is standard_artifacts.Examples:
        made.set_string_custom_property("interval_start", INTERVAL.start.isoformat())
        made.set_string_custom_property("interval_end", INTERVAL.end.isoformat())
    return made


def make_examples(folder: Path, name: str, **settings) -> standard_artifacts.Examples:
    """Runs transform over the lake."""
    version = Lake(folder / "lake").write("flights", LAKE)
    kinds = {column.name: str(column.type) for column in TABLE.schema}
    files = TableFiles("flights", 1, None, "at", ("id",), kinds, (), version.files)
    start = datetime(2020, 2, 1, tzinfo=UTC)
    made = {n: artifact(k, folder / f"{name}-{n}") for n, k in (("dataset", Dataset), ("report", ValidationReport))}
    examples = artifact(standard_artifacts.Examples, folder / name)
    reader = DatasetReader(folder / "lake", "UTC", INTERVAL, start, start, INTERVAL.end, "now", {"flights": files})
    reader.write(Path(made["dataset"].uri))
    Verdict("validate", str(INTERVAL), ()).write(Path(made["report"].uri))
    given = {"transform": f"{__name__}:make", "schema": f"{__name__}:SCHEMA", "validation_days": 7} | settings
    transform.transform.EXECUTOR_SPEC.executor_class._FUNCTION(**made, examples=examples, **given)
    return examples


LAKE = {day: rows_of(day) for day in (FIRST + timedelta(days=place) for place in range(DAYS))}


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory):
    """Examples, the trained model's artifact and its record."""
    folder = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRTIGHT_HOME", str(folder / "home"))
        examples = make_examples(folder, "examples")
        model, run = (artifact(k, folder / k.__name__) for k in (standard_artifacts.Model, standard_artifacts.ModelRun))
        train.train.test_call(
            examples=examples,
            model=model,
            model_run=run,
            schema=f"{__name__}:SCHEMA",
            model_fn=f"{__name__}:build",
            epochs=6,
            batch_size=64,
            calibrate="late=scale, delay=shift",
        )
        yield folder, examples, model, json.loads((Path(run.uri) / train.RECORD).read_text())


@pytest.mark.slow
def test_only_rows_of_which_every_label_is_known_are_examples(made):
    _, examples, _, _ = made
    table = read_table(Path(examples.uri), "test", SCHEMA)
    assert table.num_rows == 78 * (DAYS - 29)
    assert (table.schema.field("late").type, table.schema.field("delay").type) == (pa.int64(), pa.float64())
    assert not table["late"].null_count and not table["delay"].null_count


@pytest.mark.slow
def test_each_label_is_learned_measured_and_corrected_by_its_name(made):
    _, _, _, record = made
    scores, calibration = record["validation"], record["calibration"]
    assert scores["late_log_loss"] < 0.45 and scores["delay_pinball"] < 4, "without features .69, and 7"
    assert {"loss", "late_roc_auc", "delay_mae"} <= scores.keys()
    assert set(calibration["late"]) == {"scale", "shift"} and len(calibration["delay"]["shift"]) == 3
    assert set(record["tuned"]) == {f"trees_{place}" for place in range(4)}, "a booster, and one for each quantile"
    assert record["rows"]["train"].keys() >= {"label_mean", "delay_mean"}


@pytest.mark.slow
def test_what_is_served_bears_the_labels_names_in_every_signature(made):
    _, examples, model, _ = made
    table = read_table(Path(examples.uri), "test", SCHEMA)
    raw = {name: values[:50] for name, values in raw_features.columns(table, SCHEMA.features).items()}
    serving = saved_model.serving_folder(model.uri)
    predictions = saved_model.Predictor(serving, SCHEMA)(raw)
    assert predictions.shape == (50, 4)
    response = tf.saved_model.load(str(serving)).signatures["serving_default"](
        **raw_features.tensors(raw, SCHEMA.features)
    )
    assert set(response) == EXPECTED_OUTPUTS
    np.testing.assert_array_equal(response["late_probability"], predictions[:, 0])
    np.testing.assert_array_equal(response["delay_quantiles"], predictions[:, 1:])
    assert (np.diff(predictions[:, 1:], axis=1) >= 0).all()
    loaded = load(serving, serving, 1)
    methods = {name: loaded.signature(name).method for name in ("late_classify", "delay_regress")}
    assert methods == {
        "late_classify": "tensorflow/serving/classify",
        "delay_regress": "tensorflow/serving/regress",
    }
    task = task_of(SCHEMA)
    row = {name: value.numpy()[0].tolist() for name, value in response.items()}
    (compared,) = answers.from_rest("predict", json.dumps({"predictions": [row]}).encode())
    assert task.compared_output == "delay_prediction"
    assert task.score(predictions)[0] == pytest.approx(compared), "the router compares what a release does"


@pytest.mark.slow
def test_the_real_server_answers_both(made):
    _, examples, model, _ = made
    table = read_table(Path(examples.uri), "test", SCHEMA)
    raw = {name: values[:20] for name, values in raw_features.columns(table, SCHEMA.features).items()}
    checks = try_serving.trial(saved_model.serving_folder(model.uri), SCHEMA, raw, 100_000, 600)
    assert all(check.passed for check in checks), checks
    assert {"REST equals gRPC", "served equals called in process"} <= {check.name for check in checks}


def judge(folder: Path, examples, model, champion=None, **settings):
    evaluation = artifact(standard_artifacts.ModelEvaluation, folder / "evaluation")
    blessing = artifact(standard_artifacts.ModelBlessing, folder / "blessing")
    evaluate.evaluate.test_call(
        examples=examples,
        model=model,
        evaluation=evaluation,
        blessing=blessing,
        schema=f"{__name__}:SCHEMA",
        champion=[champion] if champion else [],
        **{"margin_rows": 2000, "analysis_rows": 0, **settings},
    )
    return evaluation, {check.name: check for check in Verdict.read(Path(evaluation.uri)).checks}


class Worse(tf.Module):
    """The model, but one of its outputs as if it knew little."""

    def __init__(self, folder: Path, output: str) -> None:
        super().__init__()
        self.model, self.output = tf.saved_model.load(str(folder)), output

    @tf.function
    def serve(self, colour, size):
        answer = dict(self.model.signatures["serving_default"](colour=colour, size=size))
        answer[self.output] = 0.5 + 0.2 * (answer[self.output] - 0.5)
        return answer


def worsened(folder: Path, model, output: str):
    module, worse = Worse(saved_model.serving_folder(model.uri), output), artifact(standard_artifacts.Model, folder)
    specs = (tf.TensorSpec([None], tf.string, name="colour"), tf.TensorSpec([None], tf.float32, name="size"))
    signature = module.serve.get_concrete_function(*specs)
    tf.saved_model.save(module, str(saved_model.serving_folder(worse.uri)), signatures={"serving_default": signature})
    return worse


@pytest.mark.slow
def test_the_gate_measures_each_label_against_its_own_baseline_and_the_report_shows_both(made, tmp_path):
    _, examples, model, _ = made
    evaluation, checks = judge(tmp_path, examples, model, analysis_rows=60)
    names = {"late_auc", "late_log_loss", "delay_mae", "delay_pinball"}
    assert {f"{name} against the baseline" for name in names} <= checks.keys()
    assert all(check.passed for check in checks.values() if check.severity == "blocking"), checks
    page = (Path(evaluation.uri) / evaluate.REPORT).read_text()
    assert "<h3>late</h3>" in page and "<h3>delay</h3>" in page and "pinball loss of delay" in page
    assert {path.name for path in (Path(evaluation.uri) / evaluate.ANALYSIS).iterdir()} == {"late", "delay"}
    for metric in ("late_roc_auc", "delay_pinball"):
        assert evaluation.get_float_custom_property(metric) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "wrong"), [("late_probability", {"late_log_loss"}), ("delay_quantiles", {"delay_mae", "delay_pinball"})]
)
def test_a_loss_of_either_label_stops_the_candidate(made, tmp_path, output, wrong):
    _, examples, model, _ = made
    _, checks = judge(tmp_path, examples, worsened(tmp_path / "worse", model, output), model)
    failed = {name for name, check in checks.items() if not check.passed and check.severity == "blocking"}
    assert {f"{name} against the champion" for name in wrong} <= failed
    assert not any(name.startswith("delay" if output.startswith("late") else "late") for name in failed), failed


@pytest.mark.slow
def test_monitor_watches_each_label_and_each_prediction(made, tmp_path):
    _, examples, model, _ = made
    drift = artifact(DriftReport, tmp_path / "drift")
    monitor.monitor.test_call(examples=examples, drift=drift, schema=f"{__name__}:SCHEMA", model=model)
    checks = {check.name for check in Verdict.read(Path(drift.uri)).checks}
    assert {"prediction of late", "prediction of delay", "label rate of late", "delay"} <= checks
    page = (Path(drift.uri) / monitor.REPORT).read_text()
    assert "Mean of late, day by day" in page and "Mean of delay, day by day" in page


@pytest.mark.slow
def test_batch_predictions_have_a_column_for_each_output(made, tmp_path):
    folder, _, model, _ = made
    examples = make_examples(folder, "to-score", purpose="prediction")
    shutil.copytree(saved_model.serving_folder(model.uri), tmp_path / "models" / "m" / "1")
    predictions = artifact(Predictions, tmp_path / "predictions")
    batch_predict.batch_predict.EXECUTOR_SPEC.executor_class._FUNCTION(
        examples=examples,
        predictions=predictions,
        model_name="m",
        schema=f"{__name__}:SCHEMA",
        zone="UTC",
        version="1",
        serving_root=str(tmp_path / "models"),
    )
    rows = ds.dataset(sorted(map(str, Path(predictions.uri).glob("date=*/*.parquet")))).to_table()
    assert set(rows.column_names) == {"id", "at", "version", *EXPECTED_OUTPUTS, *SCHEMA.slices}
    assert rows.num_rows == 80 * (DAYS - 29), "also those of which a label never came"
    summary = json.loads((Path(predictions.uri) / batch_predict.SUMMARY).read_text())
    assert summary["labels"].keys() == {"late", "delay"} and summary["labels"]["late"]["mean"] == summary["mean"]


def test_for_watching_a_row_has_all_its_labels_or_none(spark, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    examples = make_examples(tmp_path, "watched", purpose="watching")
    rows = read_table(Path(examples.uri), "day", SCHEMA)
    lacking = [{n for n, label in enumerate(rows[name].to_pylist()) if label is None} for name in SCHEMA.labels]
    assert lacking[0] == lacking[1] and 0 < len(lacking[0]) < rows.num_rows


def test_margins_go_by_label():
    task = task_of(SCHEMA)
    assert margins("delay_mae=5%, late_auc=0.1", task)["delay_mae"].amount == 0.05
    with pytest.raises(TerminalError, match="'auc', which is no metric"):
        margins("auc=0.1", task)


@pytest.mark.parametrize(
    "change",
    [
        {"more_labels": (Label("late"),)},
        {"more_labels": (Label("size", "regression"),)},
        {"more_labels": (Label("delay", "regression", quantiles=(0.9, 0.1)),)},
        {"more_labels": (Label("kind", "multiclass"),)},
        {"task": "regression", "reference": "size"},
    ],
)
def test_labels_that_do_not_go_together_are_refused(change):
    with pytest.raises(TerminalError, match=r"do not go together|does not fit the task"):
        task_of(dataclasses.replace(SCHEMA, **change))


def test_one_label_is_as_simple_as_before():
    alone = dataclasses.replace(SCHEMA, more_labels=())
    task = task_of(alone)
    assert list(task.metrics) == ["auc", "log_loss"] and task.outputs == ("probability",)
    assert dict(task.parts) == {"late": task}
