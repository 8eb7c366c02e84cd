"""transform: any pipeline's function, checked, split by time and written as the same bytes again."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
import types
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from google.protobuf import text_format
from pyspark.sql import functions as F
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.trainer import executor as trainer
from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_executor import BaseExecutor as Executor
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts
from tfx.utils import path_utils
from tfx_bsl.tfxio import dataset_options

from airtight.errors import TerminalError
from airtight.files import digest_of_tree
from airtight.interval import Interval
from airtight.verdict import Check, Verdict
from components.artifacts import ChallengerReport, DataAlarms, Dataset, SummarizedDay, ValidationReport
from components.challenger import challenger
from components.data import examples as reading
from components.data.dataset import DatasetReader, TableFiles
from components.data.feature_kinds import IMAGE_HEADS, IMAGE_TAILS
from components.data.lake import Lake
from components.data.tfrecords import SCHEMA_FILE
from components.data_alarms import data_alarms
from components.schema import LABEL_KNOWN_AT, ExampleSchema, Feature
from components.summarize import summarize
from components.transform import transform
from tests.components import toy

pytestmark = pytest.mark.slow

ZONE = "America/New_York"
INTERVAL = Interval.parse("2013-03-12", ZONE)
SCHEMA = ExampleSchema(
    features=(Feature("colour", "category", "a colour"), Feature("size", "number", "a size", "m")),
    label="broken",
    time="at",
    keys=("id", "colour_again"),
    slices=("colour",),
)
INSTANT = pa.timestamp("us", tz="UTC")
COLUMNS = {"id": pa.int32(), "at": INSTANT, "colour": pa.string(), "size": pa.float64(), "broken_at": INSTANT}
DAYS = [date(2013, 3, 5) + timedelta(days=i) for i in range(8)]


def make(table):
    """The toy pipeline's function: what broke later is known as a label when it broke; what has no size never is."""
    parts = table("parts")
    return parts.select(
        *("colour", "size", "at", "id"),
        F.col("colour").alias("colour_again"),
        F.when(F.col("broken_at").isNotNull(), F.col("id") % 2).alias("broken"),
        F.col("broken_at").alias(LABEL_KNOWN_AT),
    )


def parts(day: date) -> pa.Table:
    """Four parts a local day, at 0, 6, 12 and 18 o'clock; each gets its label nine hours later, one never."""
    midnight = Interval.parse(day.isoformat(), ZONE).start.astimezone(UTC)
    at = [midnight + timedelta(hours=6 * i) for i in range(4)]
    known = [moment + timedelta(hours=9) for moment in at[:3]] + (
        [at[3] + timedelta(hours=9)] if day.day % 2 else [None]
    )
    number = day.toordinal() * 4
    rows = {
        "id": [number + i for i in (3, 1, 0, 2)],
        "at": [at[i] for i in (3, 1, 0, 2)],
        "colour": ["red", None, "blue", "red"],
        "size": [1.1, 2.2, None, 1e-3],
        "broken_at": [known[i] for i in (3, 1, 0, 2)],
    }
    return pa.table(rows, schema=pa.schema(COLUMNS))


@pytest.fixture
def run(spark, tmp_path, monkeypatch):
    """Runs transform over the parts, with another function or setting."""
    code = types.ModuleType("toy_transform")
    code.make, code.SCHEMA = make, SCHEMA
    monkeypatch.setitem(sys.modules, "toy_transform", code)
    version = Lake(tmp_path / "lake").write("parts", {day: parts(day) for day in DAYS})
    columns = {name: str(kind) for name, kind in COLUMNS.items()}
    files = TableFiles("parts", 1, None, "at", ("id",), columns, (), version.files)
    start = datetime.combine(DAYS[0], datetime.min.time(), INTERVAL.start.tzinfo)

    def run(
        out: str = "examples",
        verdict: Verdict | None = None,
        training_start: datetime = start,
        labels_known_by: datetime = INTERVAL.end,
        **settings,
    ) -> standard_artifacts.Examples:
        artifacts = {}
        for name, kind in (("dataset", Dataset), ("report", ValidationReport), (out, standard_artifacts.Examples)):
            artifacts[name] = kind()
            artifacts[name].uri = str(tmp_path / name)
            (tmp_path / name).mkdir(exist_ok=True)
        instants = (start, training_start, labels_known_by)
        DatasetReader(tmp_path / "lake", ZONE, INTERVAL, *instants, "now", {"parts": files}).write(tmp_path / "dataset")
        (verdict or Verdict("validate", str(INTERVAL), ())).write(tmp_path / "report")
        given = {"transform": "toy_transform:make", "schema": "toy_transform:SCHEMA", "validation_days": 2} | settings
        transform.EXECUTOR_SPEC.executor_class._FUNCTION(
            dataset=artifacts["dataset"], report=artifacts["report"], examples=artifacts[out], **given
        )
        return artifacts[out]

    run.code = code
    return run


def split(examples: standard_artifacts.Examples, name: str) -> pa.Table:
    return pq.read_table(Path(examples.uri) / f"Split-{name}")


def test_rows_are_split_by_local_days_and_only_by_what_was_known(run):
    examples = run()
    days = {
        name: sorted(
            {moment.astimezone(INTERVAL.start.tzinfo).date() for moment in split(examples, name)["at"].to_pylist()}
        )
        for name in ("train", "validation", "test")
    }
    # March 10 has 23 hours, and 18 o'clock (19 by the clock) gets its label after midnight: too late at a part's end.
    assert days["train"][0] == DAYS[0]
    starts = [datetime(2013, 3, 10, 5, tzinfo=UTC), datetime(2013, 3, 12, 4, tzinfo=UTC)]
    assert (
        max(split(examples, "train")["at"].to_pylist())
        < starts[0]
        == min(split(examples, "validation")["at"].to_pylist())
    )
    assert (
        max(split(examples, "validation")["at"].to_pylist())
        < starts[1]
        == min(split(examples, "test")["at"].to_pylist())
    )
    rows = {name: split(examples, name).num_rows for name in days}
    # Three labels a day, and one more on the odd days 5, 7 and 9; on the 11th it comes too late.
    assert rows == {"train": 18, "validation": 6, "test": 3}
    known = {row["id"]: row["broken_at"] for day in DAYS for row in parts(day).to_pylist()}
    assert all(known[int(i)] < INTERVAL.start for i in split(examples, "validation")["id"].to_pylist())
    assert all(known[int(i)] < INTERVAL.end for i in split(examples, "test")["id"].to_pylist())
    assert examples.get_int_custom_property("rows_left_out") == 32 - sum(rows.values())


def test_for_prediction_every_row_of_the_interval_is_there_with_the_same_features_and_no_label(run):
    learned, examples = split(run("learned"), "test"), run(purpose="prediction")
    assert examples.splits == ["predict"] and examples.get_int_custom_property("rows_left_out") == 0
    rows = split(examples, "predict")
    assert rows.column_names == ["colour", "size", "at", "id", "colour_again"]
    assert rows.num_rows == examples.get_int_custom_property("rows_predict") == 4 > learned.num_rows
    labelled = [row for row in rows.to_pylist() if row["id"] in learned["id"].to_pylist()]
    assert str(labelled) == str(learned.drop_columns("broken").to_pylist())  # As text: NaN equals itself.


def test_for_watching_every_row_of_the_interval_is_there_with_its_label_where_that_was_known(run):
    learned = run("learned")
    examples = run(purpose="watching")
    assert examples.splits == ["train", "day"]
    day, known = split(examples, "day"), split(learned, "test")
    assert day.num_rows == 4 and day.column_names == known.column_names
    labels = {row["id"]: row["broken"] for row in day.to_pylist()}
    of_known = {row["id"]: row["broken"] for row in known.to_pylist()}
    assert labels == {id_: of_known.get(id_) for id_ in labels}, "what was known too late is no label"
    history = [split(learned, name)["id"].to_pylist() for name in ("train", "validation")]
    assert split(examples, "train")["id"].to_pylist() == history[0] + history[1]


def test_a_day_without_rows_passes_to_the_end_of_the_watch(run, tmp_path):
    run.code.make = lambda table: make(table).where(F.col("at") < F.lit(INTERVAL.start))
    examples = run(purpose="watching")
    assert [split(examples, name).num_rows for name in examples.splits] == [24, 0]
    schema = {"schema": "toy_transform:SCHEMA", "zone": ZONE}
    pushed = toy.artifact(standard_artifacts.PushedModel, tmp_path / "push")
    pushed.set_int_custom_property("version", 7)
    served = {"champion": [toy.artifact(standard_artifacts.Model, tmp_path / "model")], "champion_pushed": [pushed]}
    summary = toy.artifact(SummarizedDay, tmp_path / "summary")
    summarize.test_call(examples=examples, summary=summary, **served, **schema)
    assert (summary.day, summary.rows, summary.labelled) == ("2013-03-12", 0, 0)
    report = toy.artifact(ChallengerReport, tmp_path / "report")
    challenger.test_call(examples=examples, report=report, **served, **schema)
    assert (report.version, report.rows, report.summary) == (7, 0, "No label is known: nothing is compared.")
    alarms = toy.artifact(DataAlarms, tmp_path / "alarms")
    data_alarms.test_call(summary=summary, alarms=alarms)
    assert (alarms.alarm, alarms.summary) == (0, "2013-03-12: not enough data: 0 rows.")


def test_rows_without_a_time_cannot_be_watched(run):
    run.code.SCHEMA = dataclasses.replace(SCHEMA, time="")
    with pytest.raises(TerminalError, match="cannot be watched"):
        run(purpose="watching")


def test_columns_are_typed_filled_and_in_order(run):
    table = split(run(), "train")
    assert table.column_names == ["colour", "size", "broken", "at", "id", "colour_again"]
    assert [str(kind) for kind in table.schema.types] == [
        "string",
        "float",
        "int64",
        "timestamp[us, tz=UTC]",
        "string",
        "string",
    ]
    assert {"", "red", "blue"} == set(table["colour"].to_pylist())
    sizes = table["size"].to_pylist()
    assert any(math.isnan(size) for size in sizes) and not table["size"].null_count
    assert set(table["broken"].to_pylist()) == {0, 1}
    assert table["at"].to_pylist() == sorted(table["at"].to_pylist())


def test_the_same_input_gives_the_same_bytes(run, spark):
    one = run("one")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    run.code.make = lambda table: make(table).orderBy(F.rand())
    other = run("other")
    spark.conf.set("spark.sql.shuffle.partitions", "2")
    digests = [examples.get_string_custom_property("digest") for examples in (one, other)]
    assert digests[0] == digests[1] == digest_of_tree(Path(one.uri))


def test_the_artifact_says_what_it_is(run, caplog):
    caplog.set_level(logging.INFO)
    examples = run()
    assert examples.splits == ["train", "validation", "test"]
    assert examples_utils.get_payload_format(examples) == example_gen_pb2.PayloadFormat.FORMAT_PARQUET
    assert examples.get_string_custom_property("interval_start") == INTERVAL.start.isoformat()
    assert examples.get_string_custom_property("interval_end") == INTERVAL.end.isoformat()
    assert examples.get_int_custom_property("rows_train") == split(examples, "train").num_rows
    assert "32 rows of 2 features from 32 parts" in caplog.text
    assert "rows are left out" in caplog.text


def test_other_columns_than_the_schema_are_refused(run, tmp_path):
    run.code.make = lambda table: make(table).drop("size").withColumn("sise", F.lit(1.0))
    with pytest.raises(TerminalError, match="no size, sise in excess"):
        run()
    assert not list((tmp_path / "examples").iterdir())


def test_a_value_that_is_no_number_is_refused(run):
    run.code.make = lambda table: make(table).withColumn("size", F.when(F.col("id") % 8 == 1, "large").otherwise("1.5"))
    with pytest.raises(TerminalError, match=r"no numbers, infinite.*size in 4 of 32 rows, such as \('\d+', '"):
        run()


@pytest.mark.parametrize("value", ["double('Infinity')", "double('-Infinity')", "1e39"])
@pytest.mark.parametrize("purpose", ["training", "prediction"])
def test_infinite_numbers_are_refused_or_made_missing_and_counted(run, value, purpose, tmp_path):
    run.code.make = lambda table: make(table).withColumn("size", F.when(F.col("id") % 4 == 1, F.expr(value)))
    with pytest.raises(TerminalError, match=r"make made values that are no numbers, infinite.*size in \d of"):
        run(purpose=purpose)
    assert not list((tmp_path / "examples").iterdir())
    examples = run("counted", purpose=purpose, wrong_values="missing")
    sizes = split(examples, examples.splits[-1])["size"].to_pylist()
    assert not any(math.isinf(size) for size in sizes)
    assert examples.get_int_custom_property("wrong_values") == (8 if purpose == "training" else 1)


def test_doubled_rows_are_refused(run):
    run.code.make = lambda table: make(table).unionByName(make(table).where("id % 8 = 0"))
    with pytest.raises(TerminalError, match="examples are there more than once"):
        run()


@pytest.mark.parametrize("days", [7, 30])
def test_a_split_without_rows_is_refused(run, days):
    with pytest.raises(TerminalError, match="no examples for train"):
        run(validation_days=days)


def test_rows_before_the_window_feed_features_and_are_not_trained_on(run):
    window = datetime.combine(DAYS[2], datetime.min.time(), INTERVAL.start.tzinfo)
    whole, cut = split(run(), "train"), split(run("cut", training_start=window), "train")
    assert cut.num_rows < whole.num_rows
    assert cut["id"].to_pylist() == whole["id"].to_pylist()[-cut.num_rows :]
    assert min(cut["at"].to_pylist()) >= window


def test_a_day_is_judged_with_the_labels_that_are_known_by_then(run):
    # The parts of 0, 6 and 12 o'clock get their labels at 9, 15 and 21 o'clock; the one of 18 o'clock never does.
    for hours, rows in ((-9, 1), (-8, 2), (0, 3), (24, 3)):
        known_by = INTERVAL.end + timedelta(hours=hours)
        assert split(run(f"by{hours}", labels_known_by=known_by), "test").num_rows == rows


def test_no_validation_days_make_an_empty_split(run):
    examples = run(validation_days=0)
    assert split(examples, "validation").num_rows == 0
    assert split(examples, "validation").column_names == split(examples, "train").column_names


def test_data_that_did_not_pass_are_not_transformed(run, tmp_path):
    failed = Verdict("validate", str(INTERVAL), (Check("ids are unique", False),))
    with pytest.raises(TerminalError, match=r"did not pass validation.*ids are unique"):
        run(verdict=failed)
    assert not list((tmp_path / "examples").iterdir())


def _removed(path: Path) -> None:
    path.unlink()


def _replaced(path: Path) -> None:
    pq.write_table(parts(DAYS[0]).slice(1), path)


LOST = [(_removed, "was removed after ingest"), (_replaced, r"was replaced after ingest.*Expected: sha256 \w{64}")]


@pytest.mark.parametrize(("lose", "message"), LOST)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_file_that_is_no_longer_what_ingest_saw_stops_the_node(run, lose, message, when, tmp_path):
    def lost(table):
        (path,) = (tmp_path / "lake").glob(f"parts/date={DAYS[0]}/*.parquet")
        made = None if when == "before" else make(table)
        lose(path)
        # Spark is lazy: it reads what lies there when it computes.
        return made or make(table)

    run.code.make = lost
    with pytest.raises(TerminalError, match=rf"of {DAYS[0]}, parts/date={DAYS[0]}/\w+.parquet, {message}"):
        run()
    assert not list((tmp_path / "examples").iterdir())


@pytest.mark.parametrize("value", ["2", "0.5", "-1"])
def test_a_label_that_is_none_is_refused_with_its_row(run, value):
    first = DAYS[0].toordinal() * 4
    run.code.make = lambda table: make(table).withColumn(
        "broken", F.when(F.col("id") == first, F.expr(value)).otherwise(F.col("broken"))
    )
    with pytest.raises(TerminalError, match=rf"neither 0 nor 1: {value}.*{first}"):
        run()


def test_a_label_of_another_type_is_refused_and_nothing_becomes_one_silently(run):
    run.code.make = lambda table: make(table).withColumn("broken", F.lit("yes"))
    with pytest.raises(TerminalError, match="string"):
        run()
    run.code.make = lambda table: make(table).withColumn("broken", F.col("broken") == 1)
    assert set(split(run("booleans"), "train")["broken"].to_pylist()) == {0, 1}


@pytest.mark.parametrize("value", ["-1.0", "double('NaN')", "double('Infinity')", "null"])
def test_weights_are_written_and_one_that_is_none_is_refused_with_its_row(run, value):
    run.code.SCHEMA = dataclasses.replace(SCHEMA, weight="importance")
    run.code.make = lambda table: make(table).withColumn("importance", F.lit(0.5))
    assert set(split(run("right"), "train")["importance"].to_pylist()) == {0.5}
    assert "importance" not in split(run("predicted", purpose="prediction"), "predict").column_names
    first = DAYS[0].toordinal() * 4
    weight = F.when(F.col("id") == first, F.expr(value)).otherwise(1.0)
    run.code.make = lambda table: make(table).withColumn("importance", weight)
    with pytest.raises(TerminalError, match=rf"weights that are none.*importance in 1 of 32 rows, such as \('{first}'"):
        run(wrong_values="missing")


def wide(table):
    """Every kind of feature: of row 4n what is wrong of its kind, of the others what is right, missing or nothing."""
    wrong, missing = F.col("id") % 4 == 0, F.col("id") % 4 == 1
    png, jpeg = (F.lit(bytearray(head + b"." * 2000 + IMAGE_TAILS[name])) for name, head in IMAGE_HEADS.items())
    cut_off = F.when(F.col("id") % 8 == 0, F.substring(png, 1, 1500)).otherwise(F.substring(jpeg, 1, 1500))

    def dealt(right, other):
        return F.when(wrong, other).when(~missing, right)

    return make(table).withColumns(
        {
            "tags": F.array(F.lit("b"), F.lit(None), F.lit(""), F.col("colour")),
            "words": F.concat(F.lit("Zürich "), F.col("colour")),
            "place": dealt(F.array(F.lit(1), F.lit(None)).cast("array<double>"), F.array(F.lit(1.0))),
            "photo": dealt(
                F.when(F.col("id") % 4 == 2, png).otherwise(F.concat(jpeg, F.lit(bytearray(100)))),
                F.when(F.col("id") % 16 == 0, F.lit(bytearray(b"GIF89a"))).otherwise(cut_off),
            ),
        }
    )


WIDE = dataclasses.replace(
    SCHEMA,
    features=(
        *SCHEMA.features,
        Feature("tags", "categories", "tags"),
        Feature("words", "text", "words"),
        Feature("place", "vector", "a place", length=2),
        Feature("photo", "image", "a photo"),
    ),
)


def test_every_kind_of_feature_is_written_and_wrong_values_are_named_or_counted(run, tmp_path):
    run.code.SCHEMA, run.code.make = WIDE, wide
    with pytest.raises(TerminalError) as refused:
        run()
    for words in (
        "of another length than the schema's, or hold an infinite number; neither a whole PNG nor a whole JPEG",
        "photo in 8 of 32 rows, such as ('",
        "place in 8 of 32 rows, such as ('",
    ):
        assert words in str(refused.value)
    assert not list((tmp_path / "examples").iterdir())
    examples = run("counted", wrong_values="missing")
    assert examples.get_int_custom_property("wrong_values") == 16
    rows = reading.read_table(Path(examples.uri), "train", WIDE, (*WIDE.names, "id"))
    raw = reading.features(rows, WIDE)
    assert raw["tags"].shape == (18, 2) and raw["place"].shape == (18, 2)
    for index, row in enumerate(rows.to_pylist()):
        rest = int(row["id"]) % 4
        assert row["tags"] == ["b", *([row["colour"]] if row["colour"] else [])]
        assert row["words"] == (f"Zürich {row['colour']}" if row["colour"] else "")
        assert row["photo"][:1] == {0: b"", 1: b"", 2: b"\x89", 3: b"\xff"}[rest]
        there = raw["place"][index]
        assert np.isnan(there).all() if rest < 2 else there[0] == 1 and np.isnan(there[1])


def test_a_column_that_cannot_become_its_kind_is_refused_before_spark_computes(run):
    run.code.make = lambda table: make(table).withColumn("size", F.array(F.lit(1.0)))
    with pytest.raises(TerminalError, match=r"column size .* of another type.*array<double>"):
        run()


def test_many_shards_are_the_rows_of_one_and_tfrecords_too(run):
    one, many = run("one"), run("many", shard_rows=5)
    records = run("records", shard_rows=5, format="tfrecord")
    for name in one.splits:
        assert str(split(many, name).to_pylist()) == str(split(one, name).to_pylist())  # As text: NaN equals itself.
        again = reading.read_table(Path(records.uri), name, SCHEMA, split(one, name).column_names)
        assert str(again.to_pylist()) == str(split(one, name).to_pylist())
    assert len(reading.files_of(Path(many.uri), "train")) == 4
    assert examples_utils.get_payload_format(records) == example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE
    assert examples_utils.get_file_format(records) == "tfrecords_gzip"


def fit_as_tfx_does(fn_args):
    """What TFX's Trainer calls: reads what it was given by TFX's own reader, fits a model and exports it."""
    schema = text_format.Parse((Path(fn_args.train_files[0]).parents[1] / SCHEMA_FILE).read_text(), schema_pb2.Schema())
    options = dataset_options.TensorFlowDatasetOptions(batch_size=4, num_epochs=1, shuffle=False, label_key="broken")
    rows = fn_args.data_accessor.tf_dataset_factory(fn_args.train_files, options, schema).cache()
    sizes = rows.map(lambda features, label: (features["size"][:, None], label))
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(loss="binary_crossentropy")
    model.fit(sizes.map(lambda size, label: (tf.where(tf.math.is_nan(size), 0.0, size), label)), verbose=0)
    model.export(fn_args.serving_model_dir, verbose=False)
    read = [(float(size.item()), int(label.item())) for size, label in sizes.unbatch().as_numpy_iterator()]
    Path(fn_args.model_run_dir, "read.json").write_text(json.dumps(read))


def test_tfxs_own_trainer_learns_from_the_tfrecords(run, tmp_path):
    examples = run(format="tfrecord", shard_rows=5)
    model, model_run = standard_artifacts.Model(), standard_artifacts.ModelRun()
    model.uri, model_run.uri = str(tmp_path / "model"), str(tmp_path / "model_run")
    Path(model_run.uri).mkdir()
    steps = {"train_args": '{"splits": ["train"]}', "eval_args": '{"splits": ["test"]}'}
    trainer.GenericExecutor(Executor.Context(tmp_dir=str(tmp_path))).Do(
        {"examples": [examples]},
        {"model": [model], "model_run": [model_run]},
        {**steps, "run_fn": f"{__name__}.{fit_as_tfx_does.__name__}"},
    )
    rows = reading.read_table(Path(examples.uri), "train", SCHEMA)
    expected = list(zip(rows["size"].to_pylist(), rows["broken"].to_pylist(), strict=True))
    assert str(json.loads(Path(model_run.uri, "read.json").read_text())) == str([list(row) for row in expected])
    served = tf.saved_model.load(path_utils.serving_model_dir(model.uri))
    assert 0 < served.serve(tf.constant([[1.0]])).numpy().item() < 1


def test_tfrecords_are_the_same_bytes_again(run, spark):
    one = run("one", format="tfrecord")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    other = run("other", format="tfrecord")
    spark.conf.set("spark.sql.shuffle.partitions", "2")
    digests = [examples.get_string_custom_property("digest") for examples in (one, other)]
    assert digests[0] == digests[1]


def test_without_a_time_rows_are_split_by_a_hash_of_their_keys(run):
    run.code.SCHEMA = dataclasses.replace(SCHEMA, time="", keys=("id",))

    def timeless(table):
        many = make(table).drop("at", LABEL_KNOWN_AT, "colour_again").crossJoin(F.broadcast(numbers()))
        return many.withColumn("id", F.col("id").cast("long") * 1000 + F.col("copy")).drop("copy")

    def numbers():
        from pyspark.sql import SparkSession

        return SparkSession.getActiveSession().range(50).withColumnRenamed("id", "copy")

    run.code.make = timeless
    examples = run()
    rows = {name: split(examples, name)["id"].to_pylist() for name in examples.splits}
    total = sum(map(len, rows.values()))
    assert total + examples.get_int_custom_property("rows_left_out") == 32 * 50
    assert 0.75 < len(rows["train"]) / total < 0.85 and 0.05 < len(rows["test"]) / total < 0.15
    assert all(ids == sorted(ids) for ids in rows.values())
    again = run("again", shard_rows=100)
    assert [split(again, name)["id"].to_pylist() for name in rows] == list(rows.values())
    run.code.make = lambda table: timeless(table).unionByName(timeless(table).where("id % 8 = 0"))
    with pytest.raises(TerminalError, match="examples are there more than once"):
        run("doubled")


def test_labels_of_every_task_are_written_as_it_has_them_and_wrong_ones_are_named(run, caplog):
    first = DAYS[0].toordinal() * 4
    tasks = {
        "multiclass": ({"classes": ("whole", "broken")}, F.expr("if(broken = 1, 'broken', 'whole')")),
        "regression": ({"quantiles": (0.1, 0.9)}, F.expr("double(broken * 2.5 + 1)")),
    }
    wrong = {"multiclass": "'bent'", "regression": "double('Infinity')"}
    values = {"multiclass": {"whole", "broken"}, "regression": {1.0, 3.5}}
    for task, (declared, label) in tasks.items():
        run.code.SCHEMA = dataclasses.replace(SCHEMA, task=task, **declared)
        run.code.make = lambda table, label=label: make(table).withColumn(
            "broken", F.when(F.expr("broken >= 0"), label)
        )
        examples = run(task)
        assert set(split(examples, "train")["broken"].to_pylist()) == values[task]
        assert "rounded" not in caplog.text
        records = run(f"{task}-records", format="tfrecord")
        assert ("float32 alone: broken are rounded" in caplog.text) == (task == "regression")
        for name in examples.splits:
            rows = reading.read_table(Path(records.uri), name, run.code.SCHEMA, ("broken", "id"))
            assert rows.to_pylist() == split(examples, name).select(["broken", "id"]).to_pylist()
        value = F.when(F.col("id") == first, F.expr(wrong[task])).otherwise(label)
        run.code.make = lambda table, value=value: make(table).withColumn("broken", value)
        with pytest.raises(TerminalError, match=rf"{first}"):
            run(f"{task}-wrong")
