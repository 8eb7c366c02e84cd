"""`make new` of tables with odd columns: a short folder that fills a lake, or an error that names what is odd."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands.new import main
from components.data.lake import Lake
from components.scaffold.writing import MOST_LINES

ROWS = 80
X = [n % 9 for n in range(ROWS)]
Y = [n % 2 for n in range(ROWS)]
NAN = float("nan")
DAYS = [date(2020, 1, 1) + timedelta(days=n) for n in range(ROWS)]


def _list(type_: pa.DataType) -> pa.Array:
    return pa.array([[]] * ROWS, pa.list_(type_))


@pytest.fixture
def made(root, tmp_path, capsys):
    """The command on a Parquet file of some columns: exit status, and what it printed."""

    def make(columns: dict, label: str = "y", *options: str, form: str = "parquet") -> tuple[int, str]:
        path = tmp_path / f"t.{form}"
        if form == "parquet":
            pq.write_table(pa.table(columns), path)
        else:
            lines = [columns, *zip(*columns.values(), strict=True)]
            path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines), encoding="utf-8")
        status = main(["NAME=bike", f"DATA={path}", f"LABEL={label}", *options], root)
        return status, "".join(capsys.readouterr())

    return make


@pytest.fixture
def filled(root, tmp_path, importable):
    """Fills the new pipeline's lake, whose folder is short, and returns the columns of the table."""

    def fill() -> list[str]:
        assert sum(path.read_text().count("\n") for path in (root / "pipelines").rglob("*.py")) <= MOST_LINES
        from pipelines.bike import lake

        lake.fill(tmp_path / "lake")
        assert Lake(tmp_path / "lake").snapshot("bike").rows == ROWS
        return list(lake.TABLE.schema.names)

    return fill


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pa.nulls(ROWS), "it has no values"),
        ([NAN] * ROWS, "it has no values"),
        (_list(pa.null()), "it has no values"),
        (_list(pa.float64()), "it has no values"),
        (_list(pa.string()), "it has no values"),
        ([b""] * ROWS, "it has no values"),
        (["?"] * ROWS, "it is always '?'"),
    ],
)
def test_a_column_without_values_is_left_out(values, reason, made, filled):
    status, output = made({"y": Y, "x": X, "empty": values})
    assert status == 0 and f"Left out:   empty: {reason}." in output
    assert filled() == ["row", "x", "y"]


def test_names_in_any_script_are_named_beside_those_of_the_lake(made, filled):
    columns = {"日付": DAYS, "気温": X, "ветер ☀": ["ab"[n % 5 // 3] for n in range(ROWS)], "目的": Y}
    status, output = made(columns, "目的", form="csv")
    assert status == 0 and "Renamed:    気温 is column_2." in output
    assert filled() == ["column", "column_2", "column_3", "column_4"]


def test_a_name_that_only_looks_alike_is_offered(made):
    status, output = made({"e\u0301": Y, "x": X}, "\u00e9")
    assert status == 64 and "did you mean e\u0301?" in output


@pytest.mark.parametrize(
    ("label", "received"),
    [
        (["a"] * ROWS, "'a'"),
        ([1] * ROWS, "1"),
        ([True] * ROWS, "True"),
        ([1.0, None] * (ROWS // 2), "1.0"),
        ([1.0, NAN] * (ROWS // 2), "1.0"),
        ([NAN] * ROWS, "no value at all"),
        (pa.nulls(ROWS), "no value at all"),
    ],
)
def test_a_label_of_one_class_is_refused(label, received, made, root):
    status, output = made({"y": label, "x": X})
    assert status == 64 and "The label y is always the same." in output and f"Received: {received}." in output
    assert list(root.rglob("*.py")) == []


def test_a_missing_label_in_a_column_of_numbers_is_no_class(made, filled):
    status, output = made({"y": [0.0, 1.0, 1.0, NAN] * (ROWS // 4), "x": X})
    assert status == 0 and "Task:       binary, of y." in output and "y is missing in 25.0%" in output
    assert "y" in filled()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_of_dates_alone_is_refused(form, made):
    status, output = made({"at": DAYS, "y": DAYS}, form=form)
    assert status == 64 and "The label y does not fit any task." in output and "Received: time, 80 values" in output


def test_beside_dates_a_label_suffices(made, filled):
    status, output = made({"at": DAYS, "y": Y})
    assert status == 0 and "category: weekday." in output
    assert filled() == ["at", "y"]


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"y": Y}, (), "No column is left to learn from.*Received: y: the label"),
        ({"y": Y, "id": list(range(ROWS)), "a": pa.nulls(ROWS)}, (), "y: the label, id: the key, a: it has no values"),
        ({"y": Y, "x": X, "at": pa.nulls(ROWS)}, ("TIME=at",), "The column at holds no times.*no value in 80 of 80"),
        ({"y": Y, "x": X, "k": pa.nulls(ROWS)}, ("KEY=k",), "k does not tell rows apart. Expected: no KEY"),
        ({"y": Y, "x": [[[1.0]]] * ROWS}, (), "The column x cannot be a feature.*Received: lists of lists of number"),
    ],
)
def test_what_is_odd_is_named(columns, options, expected, made):
    status, output = made(columns, "y", *options)
    assert status == 64 and re.search(expected, output)
