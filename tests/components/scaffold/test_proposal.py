"""What is guessed of a table, and what is asked for by name."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airtight.errors import TerminalError
from components.data.feature_kinds import IMAGE_HEADS, IMAGE_TAILS
from components.data.lake import Lake, Table
from components.data.lake_import import ROW, fill
from components.scaffold.options import Options
from components.scaffold.proposal import lake_names, propose
from tests.components.scaffold import tables

PNG, PNG_END = IMAGE_HEADS["PNG"], IMAGE_TAILS["PNG"]


def proposed(data, **options):
    return propose(Options(name="bike", data=str(data), **options))


def of_text(tmp_path, text: str, **options):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    return proposed(path, **{"label": "y", **options})


def refusal(tmp_path, text: str, **options) -> str:
    with pytest.raises(TerminalError) as raised:
        of_text(tmp_path, text, **options)
    return str(raised.value)


def column(values, name: str = "y") -> str:
    return f"{name},x\n" + "".join(f"{value},{number % 7 / 4}\n" for number, value in enumerate(values))


def test_a_table_with_a_time(tmp_path):
    made = proposed(tables.write_csv(tmp_path / "rides.csv", tables.rides()), label="count")
    assert (made.task, made.time, made.label, made.rows) == ("regression", "when", "count", 9600)
    assert {feature.name: feature.kind for feature in made.features} == {
        "season": "category",
        "temp": "number",
        "wind": "number",
        "events": "categories",
        "hour": "number",
        "weekday": "category",
    }
    by_name = {feature.name: feature for feature in made.features}
    assert by_name["season"].values == tuple(sorted(tables.SEASONS))
    assert by_name["wind"].description.endswith("missing in 10.0%") and by_name["wind"].bounds[0] == 0
    assert by_name["temp"].always and by_name["temp"].bounds[1] > 22
    assert by_name["events"].separator == "|"
    # No two rows have one time: it is the key, and people read it on their clock.
    assert (made.table_key, made.keys, made.slices) == (("when",), ("when_local",), ("season",))
    schedule = made.schedule
    assert (schedule.name, schedule.interval, schedule.validation_days) == ("monthly", "2021-01", 14)
    assert (schedule.first, schedule.last) == (date(2020, 2, 1), date(2021, 2, 1))


def test_a_table_without_a_time_is_split_by_its_key(tmp_path):
    made = proposed(tables.write_csv(tmp_path / "flowers.csv", tables.flowers(), ";"), label="species")
    assert (made.task, made.classes) == ("multiclass", ("setosa", "versicolor", "virginica"))
    assert (made.time, made.schedule, made.keys, made.table_key) == ("", None, ("code",), ("code",))
    assert [feature.name for feature in made.features] == ["width", "colour"]
    assert made.left_out == {"garden": "it is always 'north'"}
    assert made.source.delimiter == ";"


def test_times_may_be_left_aside(tmp_path):
    made = proposed(tables.write_csv(tmp_path / "rides.csv", tables.rides(50)), label="count", time=("none",))
    assert (made.time, made.table_key) == ("", (ROW,))
    assert "a second time" in made.left_out["when"] and any("KEY=" in note for note in made.notes)


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        ([0, 1] * 50, "binary", ()),
        (["True", "false"] * 50, "binary", ()),
        (["no", "yes"] * 50, "multiclass", ("no", "yes")),
        ([*range(1, 6)] * 20, "multiclass", ("1", "2", "3", "4", "5")),
        ([2, 10, 1] * 20, "multiclass", ("1", "2", "10")),
        ([*range(40)] * 3, "regression", ()),
        ([n / 8 for n in range(60)], "regression", ()),
    ],
)
def test_the_task_follows_from_the_label(tmp_path, values, task, classes):
    made = of_text(tmp_path, column(values))
    assert (made.task, made.classes) == (task, classes)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        (column([0, 1]), {"label": ""}, "LABEL is not given, and cannot be guessed"),
        (column([0, 1]), {"label": "Y"}, "did you mean y?"),
        (column([*range(20)] * 5), {}, "TASK is not given, and cannot be guessed"),
        (column([1] * 20), {}, "The label y is always the same"),
        (column(["a", "b"] * 20), {"task": "regression"}, "does not fit the task regression"),
        (column(["a", "b"] * 20), {"task": "binary"}, "does not fit the task binary. Expected: 0 and 1"),
        (column([0.5, 1.5] * 20), {"task": "multiclass"}, "does not fit the task multiclass"),
        (column([f"w{n}" for n in range(300)]), {}, "does not fit any task"),
        ("y,a,b\n1,2020-01-01,2020-01-02\n0,2020-01-03,2020-01-04\n", {}, "TIME is not given"),
        ("y,a\n1,01/02/2020\n0,03/04/2020\n", {}, "TIME_FORMAT is not given"),
        ("y;x\n1;1,234\n0;2,345\n", {}, "DECIMAL is not given"),
        ("y,x,a\n1,2,2020-01-01\n", {"time": ("a",)}, "The label y is always the same"),
        ("y,x\n1,a\n0,b\n", {"time": ("x",)}, "The column x holds no times"),
        ("y,x\n1,5\n0,7\n", {"time": ("x",)}, "The column x holds no times"),
        ("y,x\n1,2\n0,2\n", {}, "No column is left to learn from"),
        ("y,x\n1,1\n0,2\n1,1\n", {"key": ("x",)}, "The column x does not tell rows apart"),
        ("y,x\n", {}, "has not a single row"),
        ("", {}, "is empty"),
        ("y,x\n1,2\n0,3,4\n", {}, "Row 3 of t.csv has 3 values"),
        ('y,x\n1,"a "b" c"\n', {}, "a quote within a value"),
    ],
)
def test_what_cannot_be_guessed_is_asked_for_and_what_is_wrong_is_named(tmp_path, text, options, expected):
    assert expected in refusal(tmp_path, text, **options)


def test_dates_of_two_forms_and_words_among_numbers_are_named_by_row(tmp_path):
    dates = "y,x,at\n" + "".join(f"{n % 2},{n},2020-01-{n + 1:02d}\n" for n in range(20)) + "1,3,01/31/2020\n"
    expected = "times of two forms. Expected: every time as ISO 8601. Received: '01/31/2020' in row 22, column at"
    assert expected in refusal(tmp_path, dates)
    numbers = "y,x\n" + "".join(f"{n % 2},{n / 2}\n" for n in range(60)) + "1,abc\n"
    assert "'abc' in row 62, column x of t.csv" in refusal(tmp_path, numbers)
    assert of_text(tmp_path, numbers, missing=("abc",)).features[0].kind == "number"


def test_rows_that_cannot_be_read_are_left_out_and_counted_where_a_person_says_so(tmp_path):
    lines = [f"{n % 2},{n / 2},2020-{1 + n // 28:02d}-{1 + n % 28:02d}\n" for n in range(300)]
    lines[20], lines[40], lines[60] = "1,abc,2020-01-21\n", "1,3.5,soon\n", "1,3.5\n"
    lines[80] = "1,3.5,\n"
    text = "y,x,at\n" + "".join(lines)
    assert "UNREADABLE=leave_out" in refusal(tmp_path, text)
    made = of_text(tmp_path, text, unreadable="leave_out", time=("at",))
    assert made.source.unreadable == "leave_out" and [f.kind for f in made.features if f.name == "x"] == ["number"]
    notes = " ".join(made.notes)
    for words in ("Row 62 of t.csv has 2 values", "'abc' in row 22, column x", "'soon' in row 42, column at"):
        assert words in notes
    lake = Lake(tmp_path / "lake")
    table = Table("t", pa.schema({"at": pa.timestamp("us", "UTC"), "x": pa.float64()}), ("at",), "at")
    assert fill(lake, table, made.source, "UTC").left_out == 4


def test_usual_marks_of_missing_numbers_are_known_and_written(tmp_path):
    made = of_text(tmp_path, "y,x\n" + "".join(f"{n % 2},{'?' if n % 5 == 0 else n / 2}\n" for n in range(60)))
    assert made.features[0].description == "0.5 to 29.5; missing in 20.0%" and "?" in made.source.missing


def test_forms_of_dates_and_numbers_are_found(tmp_path):
    lines = [f'{n % 2};{n % 28 + 1:02d}.{n // 28 + 1:02d}.2020 10:00;"{n + 1}.{n:03d},5"\n' for n in range(300)]
    made = of_text(tmp_path, "y;at;x\n" + "".join(lines))
    assert (made.source.time_format, made.source.decimal, made.source.thousands) == ("%d.%m.%Y %H:%M", ",", ".")
    assert made.features[0].bounds[1] > 300_299


def test_seconds_since_1970_and_parts_of_a_time(tmp_path):
    seconds = "y,x,at\n" + "".join(f"{n % 2},{n},{1_577_836_800 + 3600 * n}\n" for n in range(24 * 20))
    made = of_text(tmp_path, seconds, time=("at",))
    assert (made.source.time_format, made.schedule.name) == ("epoch_s", "daily")
    parts = "y,x,year,month,day\n" + "".join(f"{n % 2},{n % 50},2020,{n // 28 + 1},{n % 28 + 1}\n" for n in range(330))
    made = of_text(tmp_path, parts, time=("year", "month", "day"))
    assert (made.time, made.source.time) == ("time", ("year", "month", "day"))
    assert [feature.name for feature in made.features] == ["x", "weekday"]


def test_an_hour_that_the_zone_skips_is_named(tmp_path):
    text = "y,x,at\n" + "".join(f"{n % 2},{n},2020-03-08 {n:02d}:30:00\n" for n in range(24))
    assert "2020-03-08 02:30:00 in row 4" in refusal(tmp_path, text, time=("at",), time_zone="America/New_York")


def test_columns_that_repeat_the_label_are_left_out_and_those_near_it_are_questioned(tmp_path):
    header = "label,twice,name_of_label,near,id,fine\n"
    lines = [f"{n / 3},{2 * n / 3},{n % 5},{n / 3 + n % 9},{n},{n % 11}\n" for n in range(100)]
    made = of_text(tmp_path, header + "".join(lines), label="label")
    assert made.left_out == {"twice": "it repeats the label label"} and made.keys == ("id",)
    assert any("near known before" in note for note in made.notes)
    assert any("name_of_label" in note for note in made.notes)
    words = "species,code\n" + "".join(f"{'ab'[n % 2]},{'xy'[n % 2]}\n" for n in range(40))
    assert "No column is left" in refusal(tmp_path, words, label="species")
    assert [f.name for f in of_text(tmp_path, header + "".join(lines), label="label", drop=("near",)).features] == [
        "name_of_label",
        "fine",
    ]


def test_rows_of_one_time_are_told_apart_by_another_column(tmp_path):
    lines = [f"2020-01-{1 + n // 3:02d},{'abc'[n % 3]},{n % 7},{n * 1.5}\n" for n in range(90)]
    made = of_text(tmp_path, "at,station,x,y\n" + "".join(lines))
    assert (made.table_key, made.keys) == (("at", "station"), ("station",))
    assert "station" in [feature.name for feature in made.features]


def test_few_days_are_split_by_key(tmp_path):
    made = of_text(tmp_path, "id,at,x,y\n" + "".join(f"{n},2020-01-0{n % 3 + 1},{n % 5},{n / 2}\n" for n in range(60)))
    assert made.schedule is None and made.source.time == () and any("under five days" in note for note in made.notes)


def test_the_rhythm_follows_from_span_and_rows(tmp_path):
    def rhythm(days: int, per_day: int = 24) -> str:
        hours = [n * 24 // per_day for n in range(days * per_day)]
        lines = [f"2020-01-01T00:00:00,{n % 9},{n / 2}\n".replace("2020-01-01T00", _at(h)) for n, h in enumerate(hours)]
        return of_text(tmp_path, "at,x,y\n" + "".join(lines)).schedule.name

    assert rhythm(400) == "monthly"
    assert rhythm(60) == "weekly"
    assert rhythm(20) == "daily"
    assert rhythm(1500, per_day=1) == "yearly"
    assert rhythm(900, per_day=2) == "quarterly"


def _at(hour: int) -> str:
    from datetime import timedelta

    return f"{tables.START + timedelta(hours=hour):%Y-%m-%dT%H}"


def test_vectors_lists_images_and_texts_of_parquet(tmp_path):
    count = 60
    rows = {
        "id": list(range(count)),
        "pixels": [[float(n), 1.0, 2.0] for n in range(count)],
        "ragged": [[1.0] * (1 + n % 2) for n in range(count)],
        "tags": [["a", "b"][: 1 + n % 2] for n in range(count)],
        "picture": [PNG + bytes([n]) + PNG_END for n in range(count)],
        "story": [f"Once upon a time there was the number {n}, and it was alone." for n in range(count)],
        "digit": [n % 3 for n in range(count)],
    }
    pq.write_table(pa.table(rows), tmp_path / "digits.parquet")
    made = proposed(tmp_path / "digits.parquet", label="digit")
    assert {feature.name: feature.kind for feature in made.features} == {
        "pixels": "vector",
        "tags": "categories",
        "picture": "image",
        "story": "text",
    }
    assert made.features[0].length == 3 and "lengths from 1 to 2" in made.left_out["ragged"]
    assert (made.task, made.keys) == ("multiclass", ("id",))


def test_names_for_the_lake_are_plain_and_differ():
    assert lake_names(["pm2.5", "PM2 5", "Größe (cm)", "2nd", "row", "ok"]) == {
        "pm2.5": "pm2_5",
        "PM2 5": "PM2_5_2",
        "Größe (cm)": "Gr_e_cm",
        "2nd": "x_2nd",
        "row": "row_2",
        "ok": "ok",
    }


@pytest.mark.parametrize("name", ["", "Bike", "2bike", "bike-x", "class", "json", "a" * 31, "bike_promote"])
def test_a_name_must_be_one(name):
    with pytest.raises(TerminalError, match="The pipeline needs a"):
        Options(name=name, data="x.csv")


@pytest.mark.parametrize("cut", [PNG + b"1" + PNG_END[:-1], b"\xff\xd8\xff" + PNG_END, PNG + PNG_END + b"\0" * 1024])
def test_a_column_with_an_image_that_was_cut_off_is_none_of_images(cut):
    from components.data.sources import Rows, Source
    from components.scaffold.column_profile import ColumnScan

    scans = [ColumnScan("x", Source("x.parquet")) for _ in range(2)]
    for scan, values in zip(scans, ([PNG + PNG_END, b"", None], [PNG + PNG_END, cut]), strict=True):
        scan.add(Rows(pa.record_batch({"x": pa.array(values, pa.binary())}), 1, "x.parquet"))
    assert scans[0].profile().kind == "image"
    with pytest.raises(TerminalError, match="whole PNG and JPEG images"):
        scans[1].profile()


def test_one_pass_keeps_its_memory_where_rows_are_many(tmp_path):
    """What is counted of a column does not grow with its values."""
    from components.data.sources import Rows, Source
    from components.scaffold.column_profile import VALUES, ColumnScan

    scan = ColumnScan("x", Source("x.csv"))
    for piece in range(20):
        values = [f"value {piece * 2000 + n}" for n in range(2000)]
        scan.add(Rows(pa.record_batch({"x": pa.array(values)}), piece * 2000, "x.csv"))
    profile = scan.profile()
    assert profile.values == () and profile.unique and profile.rows == 40_000
    assert VALUES < 2000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"drop": ("y",)}, "The column y is wanted, and left out"),
        ({"time": ("at",), "drop": ("at",)}, "The column at is wanted, and left out"),
        ({"key": ("a", "b")}, "The columns a, b do not tell rows apart"),
    ],
)
def test_options_that_contradict_each_other_or_the_data_are_refused(tmp_path, options, expected):
    days = [f"2020-01-{1 + n // 8:02d}" for n in range(160)]
    text = "y,at,a,b\n" + "".join(f"{n % 2},{day},a{n % 2},{n // 2 % 2}\n" for n, day in enumerate(days))
    assert expected in refusal(tmp_path, text, **options)


def test_a_key_of_several_columns_is_unique_with_the_time_or_without_it(tmp_path):
    lines = [f"2020-01-{1 + n // 4:02d},a{n // 2 % 2},b{n % 2},{n},{n * 1.5}\n" for n in range(120)]
    text = "at,station,sensor,x,y\n" + "".join(lines)
    assert of_text(tmp_path, text, key=("station", "sensor")).table_key == ("at", "station", "sensor")
    assert of_text(tmp_path, text, key=("at", "station", "sensor")).table_key == ("at", "station", "sensor")
    assert of_text(tmp_path, text, key=("sensor", "x")).table_key == ("sensor", "x")


def test_what_is_made_of_the_time_takes_no_name_that_a_column_has(tmp_path):
    days = [f"2020-{1 + n // 28:02d}-{1 + n % 28:02d}" for n in range(300)]
    parts = "".join(f"{day.replace('-', ',')},{n % 7},{n / 2}\n" for n, day in enumerate(days))
    made = of_text(tmp_path, "year,month,day,time,y\n" + parts, time=("year", "month", "day"))
    assert made.time == "time_2" and [f.name for f in made.features] == ["time", "weekday"]
    local = "".join(f"{day},{n % 7},{n / 2}\n" for n, day in enumerate(days))
    made = of_text(tmp_path, "at,at_local,y\n" + local)
    assert (made.local_time, made.features[0].name) == ("at_local_2", "at_local")
    hours = "".join(f"{day} {n % 24:02d}:00,{n % 7},{n / 2}\n" for n, day in enumerate(days))
    made = of_text(tmp_path, "hour,x,y\n" + hours)
    assert made.time == "time" and [f.name for f in made.features] == ["x", "hour", "weekday"]


def test_times_that_are_missing_or_stand_for_none_are_named(tmp_path):
    lines = [f"{n % 2},{n % 9},{'' if n == 50 else f'{n % 28 + 1:02d}.{n // 28 + 1:02d}.2020'}\n" for n in range(300)]
    assert "Received: none in 1 of 300" in refusal(tmp_path, "y,x,at\n" + "".join(lines))
    lines = [f"{n % 2},{n % 9},{'9999-12-31' if n == 50 else f'2020-01-{n % 28 + 1:02d}'}\n" for n in range(300)]
    assert "9999-12-31 in the column at" in refusal(tmp_path, "y,x,at\n" + "".join(lines))


def test_a_mark_of_a_missing_label_is_no_class(tmp_path):
    made = of_text(tmp_path, "y,x\n" + "".join(f"{'01?'[n % 3]},{n % 9}\n" for n in range(90)))
    assert (made.task, made.source.missing[-1]) == ("binary", "?")


def test_true_and_false_as_classes_are_called_as_in_the_lake(tmp_path):
    rows = {"y": [n % 2 == 0 for n in range(60)], "x": [n % 9 for n in range(60)]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    assert proposed(tmp_path / "t.parquet", label="y", task="multiclass").classes == ("false", "true")


def test_numbers_at_the_end_of_what_a_float_holds_have_no_bounds(tmp_path):
    made = of_text(tmp_path, "y,x\n" + "".join(f"{n % 2},{(-1) ** n * 1.7e308 / (n + 1)}\n" for n in range(60)))
    assert (made.features[0].kind, made.features[0].bounds) == ("number", None)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([{"a": n} for n in range(60)]), "struct<a: int64>"),
        (pa.array(range(60), pa.time64("us")), "time64[us]"),
        (pa.array(range(60), pa.duration("s")), "duration[s]"),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path, values, kind):
    table = pa.table({"y": [n % 2 for n in range(60)], "x": [n % 9 for n in range(60)], "z": values})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(TerminalError, match="The column z cannot be a feature") as refused:
        proposed(tmp_path / "t.parquet", label="y")
    assert kind in str(refused.value) and "DROP=z" in str(refused.value)


def test_text_is_text_however_arrow_keeps_it(tmp_path):
    words = [f"v{n % 3}" for n in range(60)]
    columns = {"a": pa.array(words, pa.string_view()), "b": pa.array(words, pa.large_string())}
    columns |= {"c": pa.array(words).dictionary_encode(), "y": pa.array([n % 2 for n in range(60)])}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert [f.kind for f in proposed(tmp_path / "t.parquet", label="y").features] == ["category"] * 3
