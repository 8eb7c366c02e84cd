"""label_quality: what becomes of each prediction, and how good a day was, as labels come."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from airtight.errors import TerminalError
from airtight.interval import Interval
from components.data.predictions import read
from components.measures import scores
from components.schema import ExampleSchema, Feature, Label
from components.watch import quality_days
from tests.components.quality.days import FIRST, NAMES, ROWS, World, day_rows, end_of
from tests.serving import models

pytestmark = pytest.mark.slow


def test_a_day_ripens_as_its_labels_come_and_its_figures_are_those_of_the_labelled_rows(spark, tmp_path, monkeypatch):
    world, rows = World(tmp_path), day_rows(0)
    world.predict({NAMES[0]: rows})
    hours = np.where(np.arange(ROWS) < 180, 1.0, 30.0)
    hours[-40:] = 5.0
    world.label(rows, hours)
    (day,) = world.judge(end_of(0), monkeypatch, spark).values()
    known = rows["at"] / 1e6 + hours * 3600 < end_of(0).timestamp()
    assert 0.5 < known.mean() < 0.99
    assert (day.rows, day.labelled, day.pending, day.state) == (ROWS, known.sum(), ROWS - known.sum(), "ripening")
    assert day.in_words == f"{int(100 * known.mean())} % ripe"
    value, lower, upper = day.figures["auc"]
    assert value == pytest.approx(scores.roc_auc(rows["broken"][known], rows["probability"][known]))
    assert lower < value < upper
    assert day.figures["log_loss"][0] == pytest.approx(
        scores.log_loss(rows["broken"][known], rows["probability"][known]), rel=1e-6
    )
    red = rows["colour"] == "red"
    slices = {tuple(one["slice"]): one for one in day.slices}
    assert slices["colour", "red"]["rows"] == (red & known).sum()
    assert slices["colour", "red"]["figures"]["log_loss"][0] == pytest.approx(
        scores.log_loss(rows["broken"][red & known], rows["probability"][red & known]), rel=1e-6
    )
    assert day.blocks.startswith("12 runs of consecutive rows")
    later = world.judge(end_of(2), monkeypatch, spark)
    assert (later[NAMES[0]].state, later[NAMES[0]].in_words, later[NAMES[0]].reopened) == ("ripe", "ripe", 0)
    assert later[NAMES[1]].in_words == "no predictions"
    page = (Path(world.results[-1].uri) / "report.html").read_text()
    assert "The last ripe day is 2020-03-06" in page and "<img" in page
    kept = pq.read_table(Path(world.results[0].uri) / f"date={NAMES[0]}" / "rows.parquet", partitioning=None)
    assert kept["_status"].to_pylist().count("labelled") == known.sum()


def test_a_correction_reopens_a_ripe_day_and_a_day_that_did_not_change_is_carried_on(spark, tmp_path, monkeypatch):
    world = World(tmp_path)
    days = [day_rows(number) for number in range(2)]
    world.predict(dict(zip(NAMES, days, strict=False)))
    for rows in days:
        world.label(rows, 1.0)
    first = world.judge(end_of(2), monkeypatch, spark)
    assert [first[day].state for day in NAMES[:2]] == ["ripe", "ripe"]
    corrected = {**{name: values[:3] for name, values in days[0].items()}, "broken": 1 - days[0]["broken"][:3]}
    world.label(corrected, 60.0)
    second = world.judge(end_of(3), monkeypatch, spark)
    assert (second[NAMES[0]].reopened, second[NAMES[0]].corrected, second[NAMES[0]].state) == (1, 3, "ripe")
    assert "It was ripe" in second[NAMES[0]].notes[0]
    assert second[NAMES[0]].figures["log_loss"] != first[NAMES[0]].figures["log_loss"]
    assert second[NAMES[1]].figures == first[NAMES[1]].figures
    made = {path.parent.name for path in Path(world.results[1].uri).glob("date=*/rows.parquet")}
    assert made == {f"date={NAMES[0]}"}, "the other day is not made again"
    assert world.results[1].reopened == 1
    samples = {path.parent.name for path in Path(world.results[1].uri).glob("date=*/sample.parquet")}
    assert samples == {f"date={day}" for day in NAMES[:2]}


def test_a_backfill_comes_to_the_same_bytes_however_spark_cuts_the_rows(spark, tmp_path, monkeypatch):
    results = []
    for place, shuffled in (("daily", False), ("backfill", True)):
        (tmp_path / place).mkdir()
        world = World(tmp_path / place)
        days = [day_rows(number) for number in range(2)]
        if shuffled:
            spark.conf.set("spark.sql.shuffle.partitions", "5")
            order = np.random.default_rng(0).permutation(ROWS)
            world.predict({n: {k: v[order] for k, v in rows.items()} for n, rows in zip(NAMES, days, strict=False)})
        else:
            world.predict(dict(zip(NAMES, days, strict=False)))
        for rows in days:
            world.label(rows, 1.0)
        for number in (0, 1):
            world.judge(end_of(number), monkeypatch, spark)
        folder = Path(world.results[-1].uri)
        results.append(
            {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        )
    spark.conf.set("spark.sql.shuffle.partitions", "2")
    assert results[0] == results[1] and "days.jsonl" in results[0]


def test_a_day_whose_predictions_are_no_longer_there_stays_as_it_was_known(spark, tmp_path, monkeypatch):
    world, days = World(tmp_path), [day_rows(number) for number in range(2)]
    world.predict({NAMES[0]: days[0]})
    world.predict({NAMES[0]: days[0]}, version=2, requested="former")
    for rows in days:
        world.label(rows, 1.0)
    known = world.judge(end_of(1), monkeypatch, spark)[NAMES[0]]
    assert known.state == "ripe" and known.pairs
    world.predict({NAMES[1]: days[1]})
    del world.batches[:2]
    later = world.judge(end_of(2), monkeypatch, spark)
    assert later[NAMES[1]].rows == ROWS
    kept = later[NAMES[0]]
    assert kept.notes[-1].startswith("Its predictions are no longer there: no label after")
    assert replace(kept, notes=known.notes) == known


def test_labels_that_contradict_each_other_or_are_of_no_prediction_or_older_than_it_are_counted(
    spark, tmp_path, monkeypatch
):
    world, rows = World(tmp_path), day_rows(0)
    logged = {name: np.concatenate([values[:100], values[150:]]) for name, values in rows.items()}
    world.predict({NAMES[0]: logged})
    world.label(rows, 1.0, slice(0, 200))
    wrong = {**rows, "broken": 1 - rows["broken"]}
    world.label(wrong, 1.0, slice(0, 7))  # At the same instant: nobody knows which is right.
    at = datetime.fromtimestamp(rows["at"][7] / 1e6, UTC) + timedelta(hours=1)
    world.labels.append((rows["id"][7], int(rows["at"][7]), None, at))  # A label, and that there is none.
    world.label(rows, 1.0, slice(8, 10))  # Twice the same is no contradiction.
    world.label(rows, -2.0, slice(200, 205))
    world.labels += [(rows["id"][n], int(rows["at"][n]), None, end_of(0) - timedelta(hours=1)) for n in range(205, 220)]
    (day,) = world.judge(end_of(0), monkeypatch, spark, gap_hours=30.0).values()
    assert (day.contradicted, day.early, day.never, day.unpredicted) == (8, 5, 15, 50)
    known = rows["at"][[*range(8, 100), *range(150, 200)]] / 1e6 + 3600 < end_of(0).timestamp()
    assert day.labelled == known.sum()
    assert day.rows == ROWS - 50 == day.labelled + day.pending + day.contradicted + day.early + day.never
    notes = " ".join(day.notes)
    assert "8 rows have labels of one instant that contradict each other" in notes
    assert "50 labels are of rows of which no prediction is known" in notes
    assert "5 labels are older than their prediction" in notes and "clocks are apart" in notes


def test_a_day_without_predictions_and_a_gap_within_a_day_are_said(spark, tmp_path, monkeypatch):
    world, days = World(tmp_path), [day_rows(number) for number in range(3)]
    at = (days[2]["at"] - days[2]["at"][0]) / 3.6e9
    gap = (at < 4) | (at > 18)
    world.predict({NAMES[0]: days[0], NAMES[2]: {name: values[gap] for name, values in days[2].items()}})
    for rows in days:
        world.label(rows, 0.1)
    judged = world.judge(end_of(3), monkeypatch, spark)
    assert list(judged) == list(NAMES[:4])
    assert judged[NAMES[1]].notes == [f"No prediction is known, and {ROWS} labels are."]
    assert judged[NAMES[2]].gap_hours > 13 and "Nothing was answered for" in judged[NAMES[2]].notes[0]
    assert judged[NAMES[0]].notes == []


def test_a_window_without_rows_is_not_enough_data_and_no_fault(spark, tmp_path, monkeypatch):
    world = World(tmp_path)
    (day,) = world.judge(end_of(0), monkeypatch, spark).values()
    assert (day.state, day.in_words, day.figures) == ("unripe", "no predictions", {})
    assert world.results[0].summary == "Not enough data: no prediction is known of any day."
    assert "Not enough data" in (Path(world.results[0].uri) / "report.html").read_text()


def test_labels_that_never_come_close_the_day(spark, tmp_path, monkeypatch):
    world, rows = World(tmp_path), day_rows(0)
    world.predict({NAMES[0]: rows})
    world.label(rows, 0.1, slice(0, 60))
    settings = {"close_after_days": 3}
    assert world.judge(end_of(1), monkeypatch, spark, **settings)[NAMES[0]].state == "unripe"
    closed = world.judge(end_of(2), monkeypatch, spark, **settings)[NAMES[0]]
    assert (closed.state, closed.never, closed.pending, closed.labelled) == ("ripe", ROWS - 60, 0, 60)
    assert f"{ROWS - 60} predictions get no label." in closed.notes
    again = world.judge(end_of(3), monkeypatch, spark, **settings)[NAMES[0]]
    assert (again.state, again.never, again.reopened) == ("ripe", ROWS - 60, 0)


def test_settings_that_do_not_hold_together_are_refused(spark, tmp_path, monkeypatch):
    with pytest.raises(TerminalError, match="settings of days"):
        World(tmp_path).judge(end_of(0), monkeypatch, spark, unripe_below=0.9, ripe_from=0.5)


def test_a_version_that_was_asked_beside_is_compared_on_the_same_rows(spark, tmp_path, monkeypatch):
    world, rows = World(tmp_path), day_rows(0)
    world.predict({NAMES[0]: rows}, version=2)
    worse = {**rows, "probability": np.clip(rows["probability"] * 0.5, 0.01, 0.99)}
    world.predict({NAMES[0]: {name: values[:200] for name, values in worse.items()}}, version=1, requested="1")
    world.label(rows, 0.1)
    day = world.judge(end_of(1), monkeypatch, spark)[NAMES[0]]
    assert (day.rows, day.beside) == (ROWS, 200)
    (pair,) = day.pairs
    labels, both = rows["broken"][:200], slice(0, 200)
    expected = scores.log_loss(labels, rows["probability"][both]) - scores.log_loss(labels, worse["probability"][both])
    assert (pair["version"], pair["beside"], pair["rows"], pair["metric"]) == (2, 1, 200, "log_loss")
    assert pair["difference"] == pytest.approx(expected, rel=1e-5) and pair["variance"] > 0
    assert {(one["version"], one["beside"], one["rows"]) for one in day.versions} == {(1, True, 200), (2, False, ROWS)}


CLASSES = ExampleSchema(
    (Feature("colour", "category", ""),), "kind", "at", ("id",), ("colour",), task="multiclass", classes=("a", "b", "c")
)
NUMBERS = ExampleSchema(
    (Feature("colour", "category", ""),),
    "length",
    "at",
    ("id",),
    ("colour",),
    task="regression",
    quantiles=(0.1, 0.5, 0.9),
)


def _task_rows(schema: ExampleSchema, number: int) -> dict[str, np.ndarray]:
    rows, rng = day_rows(number), np.random.default_rng([5, number])
    if schema.task == "multiclass":
        probabilities = rng.dirichlet([1.0, 1.0, 1.0], ROWS)
        names = np.array(["a", "b", "c"], object)
        rows["kind"] = names[[rng.choice(3, p=p) for p in probabilities]]
        rows["probabilities"] = probabilities
    else:
        middle = rng.uniform(0, 10, ROWS)
        rows["length"] = middle + rng.normal(size=ROWS) * (0.2 + middle / 5)
        rows["quantiles"] = middle[:, None] + np.array([-1.3, 0.0, 1.3]) * (0.2 + middle / 5)[:, None]
    del rows["probability"], rows["broken"]
    return rows


SEVERAL = replace(
    NUMBERS,
    label="broken",
    task="binary",
    quantiles=(),
    more_labels=(Label("length", "regression", (), (0.1, 0.5, 0.9)),),
)


def test_several_labels_are_judged_and_estimated_each_by_its_name(spark, tmp_path, monkeypatch):
    world, days = World(tmp_path, SEVERAL), []
    for number in range(4):
        rows, numbers = day_rows(number), _task_rows(NUMBERS, number)
        names = {"broken_probability": rows.pop("probability"), "length_quantiles": numbers["quantiles"]}
        days.append({**rows, **names, "length": numbers["length"].astype(object)})
    for rows in days:
        rows["length"][:5] = None  # One of the two will never come: the row has no label.
    world.predict(dict(zip(NAMES, days, strict=False)))
    beside = {**days[0], "broken_probability": np.full(ROWS, 0.5, np.float32)}
    world.predict({NAMES[0]: beside}, version=7, requested="former")
    for rows in days:
        world.label(rows, 25.0)
    world.judge(end_of(2), monkeypatch, spark)
    second = world.judge(end_of(4), monkeypatch, spark)
    day, rows = second[NAMES[0]], {name: values[5:] for name, values in days[0].items()}
    assert (day.state, day.labelled, day.never) == ("ripe", ROWS - 5, 5)
    expected = scores.log_loss(rows["broken"], rows["broken_probability"])
    assert day.figures["broken_log_loss"][0] == pytest.approx(expected, rel=1e-5)
    error = np.abs(rows["length"].astype(float) - rows["length_quantiles"][:, 1]).mean()
    assert day.figures["length_mae"][0] == pytest.approx(error, rel=1e-4)
    assert day.figures["length_pinball"][1] < day.figures["length_pinball"][0] < day.figures["length_pinball"][2]
    (pair,) = day.pairs
    assert (pair["metric"], pair["beside"]) == ("broken_log_loss", 7)
    even = scores.log_loss(rows["broken"], np.full(ROWS - 5, 0.5))
    assert pair["difference"] == pytest.approx(expected - even, rel=1e-4)
    newest = second[NAMES[3]]
    for name in ("broken_log_loss", "length_pinball"):
        assert newest.estimate[name] == pytest.approx(second[NAMES[2]].figures[name][0], rel=0.25)
    page = (Path(world.results[-1].uri) / "report.html").read_text()
    assert "of broken" in page and "of length" in page


@pytest.mark.parametrize("schema", [CLASSES, NUMBERS], ids=["classes", "numbers"])
def test_other_tasks_are_judged_and_estimated_alike(spark, tmp_path, monkeypatch, schema):
    world, days = World(tmp_path, schema), [_task_rows(schema, number) for number in range(4)]
    world.predict(dict(zip(NAMES, days, strict=False)))
    for rows in days:
        world.label(rows, 25.0)
    first = world.judge(end_of(2), monkeypatch, spark)
    assert first[NAMES[0]].state == "ripe"
    assert set(first[NAMES[0]].figures) >= ({"log_loss", "accuracy"} if schema is CLASSES else {"mae", "pinball"})
    second = world.judge(end_of(4), monkeypatch, spark)
    newest = second[NAMES[3]]
    name = "log_loss" if schema is CLASSES else "pinball"
    assert newest.estimate[name] == pytest.approx(second[NAMES[2]].figures[name][0], rel=0.25)
    third = world.judge(end_of(4) + timedelta(days=2), monkeypatch, spark)[NAMES[3]]
    assert third.state == "ripe"
    assert third.estimate_error[name] == pytest.approx(newest.estimate[name] - third.figures[name][0])


def test_an_estimate_is_made_before_labels_come_and_its_error_is_kept(spark, tmp_path, monkeypatch):
    world, days = World(tmp_path), [day_rows(number) for number in range(4)]
    for rows in days:  # Too sure of itself: calibration has something to mend.
        logit = np.log(rows["probability"] / (1 - rows["probability"]))
        rows["probability"] = (1 / (1 + np.exp(-2.5 * logit))).astype(np.float32)
    world.predict(dict(zip(NAMES, days, strict=False)))
    for rows in days:
        world.label(rows, 25.0)
    world.judge(end_of(2), monkeypatch, spark)
    newest = world.judge(end_of(3), monkeypatch, spark)[NAMES[3]]
    assert newest.state == "unripe" and newest.figures == {}
    later = world.judge(end_of(4) + timedelta(days=1), monkeypatch, spark)[NAMES[3]]
    error = newest.estimate["log_loss"] - later.figures["log_loss"][0]
    assert later.estimate == newest.estimate and later.estimate_error["log_loss"] == pytest.approx(error)
    p = days[3]["probability"].astype(np.float64)
    naive = float(np.mean(-(p * np.log(p) + (1 - p) * np.log(1 - p)))) - later.figures["log_loss"][0]
    assert abs(error) < abs(naive) / 2, "calibrated it is nearer than by the model's own probabilities"


def test_the_log_of_a_real_server_is_judged_by_request_id(spark, tmp_path, monkeypatch):
    from tests.components.test_batch_predict import save

    save(tmp_path / "models" / "toy" / "1", seed=1)
    flags = (f"--models_root={tmp_path / 'models'}", f"--prediction_log={tmp_path / 'log'}")
    with models.running(tmp_path / "server", *flags) as server:

        def ask(request_id: str, instances: list) -> list:
            connection = http.client.HTTPConnection("127.0.0.1", server.rest)
            body = json.dumps({"instances": instances})
            connection.request("POST", "/v1/models/toy:predict", body, {"x-request-id": request_id})
            response = connection.getresponse()
            payload = json.loads(response.read())
            return payload.get("predictions", [response.status])

        answers = {f"r{n}": ask(f"r{n}", [{"colour": "red", "size": n / 10}])[0] for n in range(40)}
        several = ask("many", [{"colour": "green", "size": float(n)} for n in range(10)])
        answers |= {f"many#{n}": value for n, value in enumerate(several)}
        assert ask("bad", [{"colour": "red"}]) == [400]
        around = Interval(datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1))
        deadline = time.monotonic() + 120
        while read(tmp_path / "log", "toy", around).num_rows < 51:
            assert time.monotonic() < deadline, "the log has not all rows"
            time.sleep(0.1)
    now = datetime.now(UTC)
    world = World(tmp_path)
    labels = {name: n % 2 for n, name in enumerate(answers)}
    world.labels = [(name, int(now.timestamp() * 1e6), label, now) for name, label in labels.items()]
    world.labels.append(("never asked", int(now.timestamp() * 1e6), 1, now))
    days = world.judge(now + timedelta(days=1), monkeypatch, spark, log_root=str(tmp_path / "log"), days=3)
    day = next(one for one in days.values() if one.rows)
    assert (day.rows, day.labelled, day.unanswered, day.unpredicted) == (50, 50, 1, 1)
    expected = scores.log_loss(np.array(list(labels.values())), np.array([answers[name] for name in labels]))
    assert day.figures["log_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert {one["slice"][1] for one in day.slices} == {"red", "green"}
    assert quality_days.read(Path(world.results[-1].uri)) == days
    # The former champion, asked in batch, of the rows of the log and of others; not again where it was asked live.
    names = [*answers, "not logged"]
    at = np.full(len(names), world.labels[0][1])
    scored = {"id": np.array(names), "at": at, "broken": at % 2, "colour": at.astype(str), "probability": at * 0 + 0.5}
    for version in (1, 7):
        world.predict({day.day: scored}, version=version, requested="former")
    days = world.judge(now + timedelta(days=1), monkeypatch, spark, log_root=str(tmp_path / "log"), days=3)
    (pair,) = days[day.day].pairs
    assert (pair["version"], pair["beside"], pair["rows"], days[day.day].rows) == (1, 7, 50, 50)
    assert pair["difference"] == pytest.approx(expected - np.log(2), rel=1e-4)


def test_a_log_is_joined_by_one_key(spark, tmp_path, monkeypatch):
    world = World(tmp_path)
    with pytest.raises(TerminalError, match="joined by one column"):
        world.judge(end_of(0), monkeypatch, spark, log_root=str(tmp_path), join="id, at")


def test_labels_without_the_columns_to_join_by_are_refused(spark, tmp_path, monkeypatch):
    world = World(tmp_path)
    monkeypatch.setattr(World, "table", lambda self, spark: spark.createDataFrame([("a",)], "id string"))
    with pytest.raises(TerminalError, match="no at, broken, label_known_at"):
        world.judge(FIRST + timedelta(days=1), monkeypatch, spark)


def test_a_damaged_result_of_the_day_before_is_refused(tmp_path):
    (tmp_path / "days.jsonl").write_text("{}")
    with pytest.raises(TerminalError, match="quality of earlier days"):
        quality_days.read(tmp_path)
