"""Tables from outside fill the lake whole, or not at all; what cannot be read is named by row and column."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airtight.errors import TerminalError, TransientError
from components.data import dealt_rows, lake_import, pieces
from components.data.lake import Lake, Table
from components.data.lake_import import ROW, fill, table_of
from components.data.sources import ReadReport, Rows, Source, csv_files, parsing, read
from components.schema import ExampleSchema, Feature

INSTANT = pa.timestamp("us", tz="UTC")
TABLE = Table("rides", pa.schema({"at": INSTANT, "x": pa.float64(), "s": pa.string()}), key=(), time="at")
HEADER, ROW_1, ROW_2 = "at,x,s\n", "2013-01-01,1.5,a\n", "2013-01-02,2,b\n"


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(tmp_path / "lake")


def written(folder: Path, text: str | bytes, name: str = "rides.csv", encoding: str = "utf-8") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return str(path)


def rows_of(lake: Lake, table: str) -> list[dict]:
    files = lake.snapshot(table).files
    return [row for file in files for row in pq.read_table(lake.path / file.path).to_pylist()]


def refusal(lake: Lake, source: Source, table: Table = TABLE) -> str:
    """The fault of a source; the lake has nothing of it, and no file is left."""
    with pytest.raises(TerminalError) as raised:
        fill(lake, table, source, "UTC")
    assert list(lake.path.rglob("*")) == []
    return str(raised.value)


# --- CSV -------------------------------------------------------------------------------------------------------------


def test_a_line_break_in_the_header_and_a_text_of_any_length_are_read(tmp_path):
    long = "a" * 200_000
    source = Source(written(tmp_path, f'at,"x\n1",s\n2013-01-01,1.5,{long}\n2013-01-02,2\n'))
    assert csv_files.guess_form(source.files()[0]) == ("utf-8", ",")
    with pytest.raises(TerminalError, match=r"Row 3 of rides\.csv has 2 values"):
        list(read(source))
    (tmp_path / "rides.csv").write_text(f'at,"x\n1",s\n2013-01-01,1.5,{long}\n')
    (rows,) = read(source)
    assert rows.batch.to_pylist() == [{"at": "2013-01-01", "x\n1": "1.5", "s": long}]
    with pytest.raises(TerminalError, match="is never closed"):
        list(read(Source(written(tmp_path, 'at,"x\n' + "2013-01-01,1\n" * 100_000))))


def test_a_number_that_no_float_holds_is_none(lake, tmp_path):
    source = Source(written(tmp_path, HEADER + ROW_1 + "2013-01-01,1e400,a\n"), time=("at",))
    assert "row 3, column x of rides.csv is not a number" in refusal(lake, source)


def test_csv_becomes_typed_rows_by_local_day(lake, tmp_path):
    source = Source(written(tmp_path, HEADER + "2013-01-01T23:30,1e3,\n" + ROW_1), time=("at",))
    assert str(fill(lake, TABLE, source, "Asia/Shanghai")) == "rides: 2 rows of 2013-01-01 to 2013-01-02, version 1"
    first, second = rows_of(lake, "rides")
    assert first == {"at": datetime(2013, 1, 1, tzinfo=UTC), "x": 1.5, "s": "a"}
    assert (second["x"], second["s"]) == (1000, None)
    assert fill(lake, TABLE, source, "Asia/Shanghai").version.number == 1


def test_quotes_delimiters_lines_and_doubled_quotes_within_a_value(lake, tmp_path):
    text = HEADER + '2013-01-01,1,"a ""b"", c"\n2013-01-02,2,"two\nlines"\n"2013-01-03","3",""\n'
    fill(lake, TABLE, Source(written(tmp_path, text), time=("at",)), "UTC")
    assert [row["s"] for row in rows_of(lake, "rides")] == ['a "b", c', "two\nlines", None]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("at;x;s\n2013-01-01;1,5;a\n", {"delimiter": ";", "decimal": ","}, 1.5),
        ('at,x,s\n2013-01-01,"1,234,567.5",a\n', {"thousands": ","}, 1234567.5),
        ("at;x;s\n2013-01-01;1.234.567,5;a\n", {"delimiter": ";", "thousands": ".", "decimal": ","}, 1234567.5),
        ("at\tx\ts\n01.02.2013\t 7 \ta\n", {"delimiter": "\t", "time_format": "%d.%m.%Y"}, 7),
        ("2013-01-01,2,a\n", {"header": ("at", "x", "s")}, 2),
        ("at,x,s\n2013-01-01,none,a\n", {"missing": ("none",)}, None),
        ("at,x,s\n1356998400,3,a\n", {"time_format": "epoch_s"}, 3),
        ("at,x,s\n2013-01-01T00:00+01:00,3,a\n", {"time_zone": ""}, 3),
    ],
)
def test_forms_of_numbers_and_times(lake, tmp_path, text, options, expected):
    fill(lake, TABLE, Source(written(tmp_path, text), time=("at",), **options), "UTC")
    assert [row["x"] for row in rows_of(lake, "rides")] == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "rides.csv is empty"),
        (HEADER, "rides.csv has not a single row"),
        (HEADER + ROW_1 + "2013-01-02,1.x,b\n", "row 3, column x of rides.csv is not a number"),
        (HEADER + ROW_1 + '2013-01-02,"1,000",b\n', "row 3, column x of rides.csv is not a number"),
        (HEADER + ROW_1 + "01/02/2013,1,b\n", "row 3, column at of rides.csv is not a time"),
        (HEADER + ROW_1 + "2013-02-30,1,b\n", "row 3, column at of rides.csv is not a time"),
        (HEADER + ROW_1 + ",1,b\n", "row 3, column at of rides.csv is not a time"),
        (HEADER + ROW_1 + "2013-01-02,1\n", "Row 3 of rides.csv has 2 values, not 3"),
        (HEADER + ROW_1 + "2013-01-02,1,b,c\n", "Row 3 of rides.csv has 4 values, not 3"),
        (HEADER + "2013-01-02;1;b\n", "DELIMITER=';'"),
        (HEADER + ROW_1 + '2013-01-02,1,"a "b" c"\n', "Line 3 of rides.csv has a quote within a value"),
        (HEADER + ROW_1 + '2013-01-02,1,"a\n', "A quote of rides.csv is never closed"),
        ("at,y,s\n" + ROW_1, "rides.csv has another header: it lacks columns of the table rides. Expected: x"),
        ("at,x,x\n" + ROW_1, "The header of rides.csv is none. Expected: a name for each column"),
        ("at,x,\n" + ROW_1, "column 3 without a name"),
        (HEADER + ROW_1 + "2013-01-01,2,a\n", "Several rows have the key at 2013-01-01"),
    ],
)
def test_bad_csv_is_refused_by_row_and_column_and_leaves_nothing(lake, tmp_path, text, expected):
    assert expected in refusal(lake, Source(written(tmp_path, text), time=("at",)))


def test_another_encoding_is_refused_by_line_and_read_by_name(lake, tmp_path):
    path = written(tmp_path, HEADER + ROW_1 + "2013-01-02,1,Zürich\n", encoding="cp1252")
    assert "Line 3 of rides.csv is not in utf-8" in refusal(lake, Source(path, time=("at",)))
    fill(lake, TABLE, Source(path, time=("at",), encoding="cp1252"), "UTC")
    assert rows_of(lake, "rides")[1]["s"] == "Zürich"
    assert csv_files.guess_form(Path(path)) == ("cp1252", ",")
    cyrillic = "".join(f"2013-01-01,{n},Москва и область\n" for n in range(9)).encode("koi8-r")
    with pytest.raises(TerminalError, match="ENCODING="):
        csv_files.guess_encoding(cyrillic)
    utf16 = written(tmp_path, HEADER + "2013-01-01,1,é\n", "wide.csv", "utf-16")
    fill(lake, TABLE, Source(utf16, time=("at",), encoding=csv_files.guess_form(Path(utf16))[0]), "UTC")
    assert rows_of(lake, "rides")[0]["s"] == "é"


def test_an_hour_that_the_clocks_skip_is_no_time_there(lake, tmp_path):
    path = written(tmp_path, HEADER + "2013-03-10T02:30,1,a\n")
    source = Source(path, time=("at",), time_zone="America/New_York")
    assert "row 2, column at of rides.csv is not a time" in refusal(lake, source)
    assert fill(lake, TABLE, Source(path, time=("at",)), "UTC").rows == 1


def test_rows_that_cannot_be_read_are_counted_where_the_source_says_so(lake, tmp_path):
    text = HEADER + ROW_1 + "2013-01-02,1,b,c\nnever,1,b\n2013-01-03,zz,b\n"
    made = fill(lake, TABLE, Source(written(tmp_path, text), time=("at",), unreadable="leave_out"), "UTC")
    assert (made.rows, made.left_out) == (1, 3)
    assert "row 4, column at" in "".join(made.examples)
    assert "row 5, column x" in "".join(made.examples)
    assert "3 rows are left out" in str(made)


def test_what_cannot_be_parsed_is_refused_though_a_row_before_it_was_left_out(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "BLOCK", 1 << 12)
    text = HEADER + ROW_1 + "2013-01-02,1\n" + ROW_2 + '2013-01-03,1,"' + "a" * (1 << 14) + '"\n' + ROW_2
    source = Source(written(tmp_path, text), time=("at",), unreadable="leave_out")
    assert "rides.csv cannot be parsed" in refusal(lake, source)


def test_a_row_is_named_by_its_place_in_the_file_also_behind_many_that_are_left_out(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "BLOCK", 1 << 12)
    text = HEADER + "".join("x\n" if n % 3 else f"2013-01-01,{n},a\n" for n in range(1500)) + "never,1,b\n"
    source = Source(written(tmp_path, text), time=("at",), unreadable="leave_out")
    *_, last = read(source)
    assert last.place(last.batch.num_rows - 1) == "row 1502 of rides.csv"


def test_a_file_of_nothing_but_rows_of_another_length_counts_them(tmp_path):
    source = Source(written(tmp_path, HEADER + "x\ny\n"), time=("at",), unreadable="leave_out")
    report = ReadReport(source)
    assert (list(read(source, report)), report.left_out) == ([], 2)


def test_rows_that_are_equal_are_there_once_and_counted(lake, tmp_path):
    made = fill(lake, TABLE, Source(written(tmp_path, HEADER + ROW_1 * 3 + ROW_2), time=("at",)), "UTC")
    assert (made.rows, made.doubled) == (2, 2)
    assert "2 doubled rows are there once" in str(made)


def test_many_numbers_that_are_no_time_are_no_time_at_the_first_try(monkeypatch):
    tries, time_of = [], parsing._time_of
    monkeypatch.setattr(parsing, "_time_of", lambda *given: tries.append(1) or time_of(*given))
    numbers = [1e9, float("inf"), -float("inf"), 1e300] * 500
    rows = Rows(pa.record_batch({"at": numbers, "day": ["2013-01-01"] * 2000}), 1, "rides.parquet")
    made = parsing.time_of(rows, Source("", time=("at",), time_format="epoch_s"))
    assert made.null_count == 1500 and made[0].as_py() == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
    assert parsing.time_of(rows, Source("", time=("day", "at"))).null_count == 2000
    assert len(tries) == 2


def test_rows_with_lists_are_equal_where_their_items_are_though_one_is_not_a_number(lake, tmp_path):
    vectors = tmp_path / "v.parquet"
    at = Table("rides", pa.schema({"at": INSTANT, "v": pa.list_(pa.float32())}), key=(), time="at")

    def filled(*rows: list[float | None] | None) -> int:
        times = pa.array([datetime(2013, 1, 1, tzinfo=UTC)] * len(rows), INSTANT)
        pq.write_table(pa.table({"at": times, "v": pa.array(rows, pa.list_(pa.float32()))}), vectors)
        return fill(lake, at, Source(str(vectors), time=("at",)), "UTC").doubled

    nan = float("nan")
    assert (filled([1.0, nan, None], [1.0, nan, None]), filled(None, None), filled([], [], [])) == (1, 1, 2)
    for rows in (([1.0, nan], [1.0, 2.0]), ([nan], [None]), ([1.0], [1.0, 1.0]), (None, []), ([1.0], [1.0], [2.0])):
        with pytest.raises(TerminalError, match=r"Several rows have the key at 2013-01-01 .*Received: v .* and "):
            filled(*rows)


def test_a_file_that_grows_while_it_is_read_is_a_fault_that_a_retry_may_heal(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "BLOCK", 1 << 12)
    path = written(
        tmp_path, HEADER + "".join(f"2013-01-{1 + n % 28:02d}T00:00:{n % 60:02d},{n},a\n" for n in range(2000))
    )
    pieces = read(Source(path, time=("at",)))
    next(pieces)
    with open(path, "a") as file:
        file.write(ROW_1)
    with pytest.raises(TransientError, match="changed while it was read"):
        list(pieces)


@pytest.mark.parametrize("name", ["rides.jsonl", "rides.jsonl.gz", "rides.csv.gz", "rides.parquet"])
def test_a_file_that_is_read_before_it_is_whole_may_be_whole_at_the_next_try(lake, tmp_path, monkeypatch, name):
    text = b'{"at": "2013-01-01", "x": 1.5, "s": "a"}\n' * 3 if "json" in name else (HEADER + ROW_1).encode() * 3
    whole = gzip.compress(text) if name.endswith(".gz") else text
    source = Source(written(tmp_path, whole[:-15], name), time=("at",))
    if "parquet" in name or "json" in name:
        refusal(lake, source)  # Where nobody writes to it, it is broken for good.
    stat = os.fstat

    def stat_before_it_grows(descriptor: int) -> os.stat_result:
        before = stat(descriptor)
        with open(source.data, "ab") as file:
            file.write(whole[-15:-14])
        return before

    monkeypatch.setattr(os, "fstat", stat_before_it_grows)
    with pytest.raises(TransientError, match=f"{name} changed while it was read"):
        fill(lake, TABLE, source, "UTC")
    assert lake.numbers("rides") == []


@pytest.mark.parametrize("name", ["rides.csv.gz", "rides.jsonl.gz"])
def test_what_cannot_be_unpacked_is_named(lake, tmp_path, name):
    row = HEADER if "csv" in name else '{"at": "2013-01-01T00:00:00Z"}\n'
    for content in (row.encode(), gzip.compress(row.encode())[:-4]):
        assert f"{name} cannot be unpacked" in refusal(lake, Source(written(tmp_path, content, name), time=("at",)))


def test_a_file_that_may_not_be_opened_is_named(lake, tmp_path):
    with pytest.raises(TerminalError, match="There are no such data"):
        Source(str(tmp_path / "no.csv")).files()
    with pytest.raises(TerminalError, match="does not say its format"):
        _ = Source(written(tmp_path, "x", "rides.xlsx")).format


def test_a_folder_of_compressed_files_is_read_in_order_and_needs_one_header(lake, tmp_path):
    folder = tmp_path / "rides"
    folder.mkdir()
    for name, text in {"b.csv.gz": HEADER + ROW_2, "a.csv.gz": HEADER + ROW_1}.items():
        (folder / name).write_bytes(gzip.compress(text.encode()))
    assert [rows.file for rows in read(Source(str(folder)))] == ["a.csv.gz", "b.csv.gz"]
    (folder / "c.csv.gz").write_bytes(gzip.compress(b"at,y,s\n"))
    with pytest.raises(TerminalError, match=r"c.csv.gz has another header"):
        list(read(Source(str(folder))))


def test_times_of_several_columns(lake, tmp_path):
    table = Table("t", pa.schema({"time": INSTANT, "x": pa.float64()}), key=(), time="time")
    parts = written(tmp_path, "year,month,day,hour,x\n2010,2,3,4,1\n", "parts.csv")
    fill(lake, table, Source(parts, time=("year", "month", "day", "hour"), time_zone="Asia/Shanghai"), "UTC")
    assert rows_of(lake, "t")[0]["time"] == datetime(2010, 2, 2, 20, tzinfo=UTC)
    hours = written(tmp_path, "day,hr,x\n2010-02-03,4,1\n", "hours.csv")
    fill(lake, table, Source(hours, time=("day", "hr")), "UTC")
    texts = written(tmp_path, "day,hr,x\n2010-02-04,04:30,1\n", "texts.csv")
    fill(lake, table, Source(texts, time=("day", "hr")), "UTC")
    assert [row["time"].hour for row in rows_of(lake, "t")] == [20, 4, 4]
    wrong = written(tmp_path, "day,hr,x\n2010-02-03,24,1\n", "wrong.csv")
    with pytest.raises(TerminalError, match=r"row 2, column day and hr of wrong.csv is not a time"):
        fill(lake, table, Source(wrong, time=("day", "hr")), "UTC")


# --- Static tables ---------------------------------------------------------------------------------------------------


def test_a_static_table_keeps_all_rows_in_any_order_of_the_source(lake, tmp_path):
    table = Table("flowers", pa.schema({"id": pa.string(), "x": pa.float64()}), key=("id",))
    lines = [f"{number},{number / 2}\n" for number in range(500)]
    first = fill(lake, table, Source(written(tmp_path, "id,x\n" + "".join(lines))), "UTC")
    again = fill(lake, table, Source(written(tmp_path, "id,x\n" + "".join(reversed(lines)))), "UTC")
    assert first.rows == 500 and again.version == first.version
    assert {row["id"] for row in rows_of(lake, "flowers")} == {str(number) for number in range(500)}


def test_rows_without_a_key_are_numbered(lake, tmp_path):
    table = Table("flowers", pa.schema({ROW: pa.int64(), "x": pa.float64()}), key=(ROW,))
    fill(lake, table, Source(written(tmp_path, "x\n1\n1\n2\n")), "UTC")
    assert sorted((row[ROW], row["x"]) for row in rows_of(lake, "flowers")) == [(0, 1), (1, 1), (2, 2)]


# --- Parquet, JSON lines, SQL ----------------------------------------------------------------------------------------


def test_parquet_keeps_its_types_lists_and_bytes(lake, tmp_path):
    table = Table(
        "digits",
        pa.schema({"id": pa.string(), "v": pa.list_(pa.float32()), "tags": pa.list_(pa.string()), "png": pa.binary()}),
        key=("id",),
    )
    path = tmp_path / "digits.parquet"
    given = {"id": [1, 2], "v": [[1.0, 2.0], [3.0, 4.0]], "tags": [["a", "b"], []], "png": [b"\x89PNG", None]}
    pq.write_table(pa.table(given), path)
    fill(lake, table, Source(str(path)), "UTC")
    rows = sorted(rows_of(lake, "digits"), key=lambda row: row["id"])
    assert rows[0] == {"id": "1", "v": [1.0, 2.0], "tags": ["a", "b"], "png": b"\x89PNG"}
    (file,) = lake.snapshot("digits").files
    lake.verify(table, file, "UTC")


@pytest.mark.parametrize(
    "values, kind",
    [
        (pa.array([[1]]), pa.float64()),
        (pa.array([{"a": 1}]), pa.float64()),
        (pa.array([datetime(2013, 1, 1)]), pa.float64()),
        (pa.array([datetime(2013, 1, 1)]), pa.int64()),
        (pa.array([date(2013, 1, 1)]), pa.int64()),
        (pa.array([b"x"]), pa.float64()),
        (pa.array([b"\xff"]), pa.string()),
        (pa.array([{"a": 1}]), pa.string()),
        (pa.array([datetime(2013, 1, 1)]), pa.list_(pa.float32())),
        (pa.array([True]), pa.list_(pa.float32())),
        (pa.array([Decimal(1)]), pa.list_(pa.float32())),
        (pa.array(["a"]), pa.binary()),
        (pa.array([Decimal(".5")]), pa.int64()),
        (pa.array([Decimal("1.5")]), pa.bool_()),
        (pa.array([2**63 + 5], pa.uint64()), pa.int64()),
        (pa.array([3_000_000_000]), pa.int32()),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_a_value_of_another_type_is_named_and_never_changed(lake, tmp_path, values, kind):
    table = Table("t", pa.schema({"x": kind, ROW: pa.int64()}), key=(ROW,), time=None)
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": values}), path)
    assert "What stands in row 1, column x of t.parquet is not " in refusal(lake, Source(str(path)), table)


def test_one_value_that_does_not_fit_is_left_out_alone(lake, tmp_path):
    table = Table("t", pa.schema({"y": pa.int64()}), key=("y",), time=None)
    path = tmp_path / "t.parquet"
    values = [Decimal(number) for number in range(50)]
    pq.write_table(pa.table({"y": pa.array([*values[:31], Decimal("1.5"), *values[31:]])}), path)
    made = fill(lake, table, Source(str(path), unreadable="leave_out"), "UTC")
    assert made.left_out == 1 and "row 32, column y" in made.examples[0]
    assert sorted(row["y"] for row in rows_of(lake, "t")) == list(range(50))


def test_numbers_of_other_sizes_become_those_of_the_lake(lake, tmp_path):
    wanted = {"a": pa.int64(), "b": pa.float64(), "c": pa.list_(pa.float32()), "d": pa.int64(), "e": pa.float64()}
    given = {
        "a": pa.array([Decimal("3.00")]),
        "b": pa.array([2**53 + 1]),
        "c": pa.array([[2**24 + 1, 0.1]]),
        "d": pa.array([True]),
        "e": pa.array([Decimal(".1")]),
    }
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(given), path)
    fill(lake, Table("t", pa.schema(wanted), key=("a",), time=None), Source(str(path)), "UTC")
    (row,) = rows_of(lake, "t")
    assert row == {"a": 3, "b": 2.0**53, "c": [2.0**24, pytest.approx(0.1)], "d": 1, "e": 0.1}


def test_an_epoch_that_no_instant_has_is_named(lake, tmp_path):
    for values in (pa.array([1, 10**15]), pa.array([1e3, 1e30]), pa.array([[1], [2]])):
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table({"at": values, "x": [1.0, 1], "s": ["a", "b"]}), path)
        fault = refusal(lake, Source(str(path), time=("at",), time_format="epoch_s"))
        assert "column at of t.parquet is not a time" in fault


def test_what_is_no_parquet_is_refused(lake, tmp_path):
    assert "is no whole Parquet file" in refusal(lake, Source(written(tmp_path, b"PAR1xx", "r.parquet"), time=("at",)))


def test_json_lines_may_lack_values(lake, tmp_path):
    lines = [{"at": "2013-01-01", "x": 1}, {"at": "2013-01-02", "s": "b", "x": 2.5}, {"at": "2013-01-03"}]
    path = written(tmp_path, "\n".join(map(json.dumps, lines)), "r.jsonl")
    fill(lake, TABLE, Source(path, time=("at",)), "UTC")
    assert [(row["x"], row["s"]) for row in rows_of(lake, "rides")] == [(1, None), (2.5, "b"), (None, None)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '{"at": "2013-01-02", "x": {"deep": 1}}',
            "Line 2 of r.jsonl is no row: an object within an object in column x",
        ),
        ("[1, 2]", "Line 2 of r.jsonl is no row: a list"),
        ('{"at": ', "Line 2 of r.jsonl is no row"),
        ('{"at": "2013-01-02", "x": "many"}', "The column x of r.jsonl has values of several types, from line 2 on"),
    ],
)
def test_bad_json_lines_are_refused_by_line(lake, tmp_path, line, expected):
    path = written(tmp_path, '{"at": "2013-01-01", "x": 1}\n' + line, "r.jsonl")
    assert expected in refusal(lake, Source(path, time=("at",)))


@pytest.fixture
def sqlite(tmp_path) -> str:
    with sqlite3.connect(tmp_path / "rides.db") as database:
        database.execute("create table rides (at timestamp, x numeric, s text)")
        database.execute(
            "insert into rides values ('2013-01-01 00:00:00', 1.5, 'a'), ('2013-01-02 12:00:00', null, 'b')"
        )
    return f"sqlite:///{tmp_path / 'rides.db'}"


def test_a_table_of_sqlite(lake, sqlite):
    fill(lake, TABLE, Source(sqlite, table="rides", time=("at",)), "UTC")
    assert [(row["x"], row["s"]) for row in rows_of(lake, "rides")] == [(1.5, "a"), (None, "b")]


def test_a_url_may_be_in_the_environment(lake, sqlite, monkeypatch):
    source = Source("env:RIDES_DATABASE", table="rides", time=("at",))
    with pytest.raises(TerminalError, match="environment variable RIDES_DATABASE"):
        fill(lake, TABLE, source, "UTC")
    monkeypatch.setenv("RIDES_DATABASE", sqlite)
    assert fill(lake, TABLE, source, "UTC").rows == 2


def test_a_table_or_a_database_that_is_not_there_is_named(lake, sqlite, tmp_path):
    assert "There is no table 'drives'" in refusal(lake, Source(sqlite, table="drives", time=("at",)))
    with pytest.raises(TransientError, match="does not answer"):
        fill(lake, TABLE, Source(f"sqlite:///{tmp_path}/no.db", table="rides", time=("at",)), "UTC")
    assert not (tmp_path / "no.db").exists()
    with pytest.raises(TerminalError, match="The database's URL is none"):
        fill(lake, TABLE, Source("nosuchsql://x/y", table="rides", time=("at",)), "UTC")


def test_a_broken_write_leaves_the_version_before(lake, tmp_path):
    fill(lake, TABLE, Source(written(tmp_path, HEADER + ROW_1), time=("at",)), "UTC")
    before = {str(path) for path in lake.path.rglob("*") if path.is_file()}
    bad = Source(written(tmp_path, HEADER + ROW_2 + "2013-01-03,zz,a\n"), time=("at",))
    with pytest.raises(TerminalError):
        fill(lake, TABLE, bad, "UTC")
    assert {str(path) for path in lake.path.rglob("*") if path.is_file()} == before


def test_rows_go_to_disk_when_they_are_many_and_come_back_in_order(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(dealt_rows, "BUFFER", 1000)
    monkeypatch.setattr(csv_files, "BLOCK", 1 << 12)
    lines = [f"2013-01-{1 + n % 7:02d}T{n // 7 % 24:02d}:{n % 60:02d}:{n // 168:02d},{n},s{n}\n" for n in range(2000)]
    made = fill(lake, TABLE, Source(written(tmp_path, HEADER + "".join(lines)), time=("at",)), "UTC")
    rows = rows_of(lake, "rides")
    assert made.rows == len(rows) == 2000
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)


def test_a_report_keeps_a_few_examples():
    source = Source("x.csv", unreadable="leave_out")
    report = ReadReport(source)
    for number in range(9):
        report.reject(source.error(f"{number}", expected="", received=""))
    assert (report.left_out, len(report.examples)) == (9, 5)
    assert os.path.basename(source.data) == source.name


@pytest.mark.parametrize("days", [28, 1])
def test_reading_and_filling_hold_a_bounded_part_of_the_data(lake, tmp_path, monkeypatch, days):
    monkeypatch.setattr(csv_files, "BLOCK", 1 << 16)
    monkeypatch.setattr(dealt_rows, "BUFFER", 1 << 18)
    monkeypatch.setattr(dealt_rows, "PIECE", 200)
    monkeypatch.setattr(pieces, "ROW_GROUP_BYTES", 1 << 18)
    words = "some words of a row " * 20
    lines = [
        f"2013-01-{1 + n % days:02d}T{n // 7 % 24:02d}:00:{n % 60:02d}.{n:06d},{n},{words}{n}\n" for n in range(40_000)
    ]
    source = Source(written(tmp_path, HEADER + "".join(lines)), time=("at",))
    size, before, held = os.path.getsize(source.data), pa.total_allocated_bytes(), []
    for _ in read(source):
        held.append(pa.total_allocated_bytes() - before)
    assert max(held) < size / 5
    for module, name in ((lake_import, "_typed"), (pieces, "_bytes")):  # While it is read, and while it is written.
        called = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, f=called: (held.append(pa.total_allocated_bytes() - before), f(*args))[1]
        )
    assert fill(lake, TABLE, source, "UTC").rows == 40_000
    assert max(held) < size / 5 and len(held) > 40
    rows = rows_of(lake, "rides")
    assert len(rows) == 40_000 and [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert lake.snapshot("rides").files[0].rows == sum(1 for row in rows if row["at"].day == 1)


def test_doubled_rows_are_found_across_pieces_and_parts(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(dealt_rows, "PIECE", 3)
    monkeypatch.setattr(dealt_rows, "BUFFER", 1)
    monkeypatch.setattr(csv_files, "BLOCK", 64)
    lines = [f"2013-01-01T00:00:{n % 20:02d},{n % 20},a\n" for n in range(100)]
    made = fill(lake, TABLE, Source(written(tmp_path, HEADER + "".join(lines)), time=("at",)), "UTC")
    assert (made.rows, made.doubled) == (20, 80)
    assert [row["x"] for row in rows_of(lake, "rides")] == list(range(20))
    lines[77] = lines[77].replace(",a", ",b")
    other = Source(written(tmp_path, HEADER + "".join(lines)), time=("at",))
    with pytest.raises(TerminalError, match=r"Several rows have the key at 2013-01-01 00:00:17.*s (a and b|b and a)"):
        fill(lake, TABLE, other, "UTC")


def test_a_column_that_is_called_row_is_no_key_under_another_name(lake, tmp_path):
    table = Table("t", pa.schema({ROW: pa.int64(), "row_2": pa.float64()}), key=(ROW,), time=None)
    fill(lake, table, Source(written(tmp_path, "row\n7\n7\n"), columns={"row_2": ROW}), "UTC")
    assert rows_of(lake, "t") == [{ROW: 0, "row_2": 7}, {ROW: 1, "row_2": 7}]


def test_json_lines_may_begin_with_a_byte_order_mark(tmp_path):
    (rows,) = read(Source(written(tmp_path, b'\xef\xbb\xbf{"a": 1}\n', "t.jsonl")))
    assert rows.batch.to_pylist() == [{"a": 1}]


def test_a_table_has_the_label_of_any_task_in_the_type_of_the_task():
    schema = ExampleSchema(
        (Feature("x", "number", "x"), Feature("v", "vector", "v", length=2)),
        label="y",
        time="",
        keys=("id",),
        slices=(),
        task="components.tasks.regression:Regression",
    )
    columns = dict(zip((made := table_of("t", schema, ("id",))).schema.names, made.schema.types, strict=True))
    assert columns == {"id": pa.string(), "x": pa.float64(), "v": pa.list_(pa.float32()), "y": pa.float64()}
    with pytest.raises(TerminalError, match="There is no such task"):
        table_of("t", replace(schema, task="regresion"), ("id",))


def test_not_a_number_is_a_missing_value(lake, tmp_path):
    nan = float("nan")
    pq.write_table(pa.table({"k": [1, 2], "n": [1.0, nan], "c": [nan, 2.0]}), tmp_path / "t.parquet")
    schema = pa.schema({"k": pa.int64(), "n": pa.int64(), "c": pa.string()})
    fill(lake, Table("t", schema, key=("k",), time=None), Source(str(tmp_path / "t.parquet")), "UTC")
    rows = sorted(rows_of(lake, "t"), key=lambda row: row["k"])
    assert rows == [{"k": 1, "n": 1, "c": None}, {"k": 2, "n": None, "c": "2"}]


def test_a_column_that_a_parquet_file_has_twice_is_named(tmp_path):
    pq.write_table(pa.table([[1], [2], [3]], names=["y", "x", "x"]), tmp_path / "t.parquet")
    with pytest.raises(TerminalError, match=r"Received: x twice"):
        list(read(Source(str(tmp_path / "t.parquet"))))
