"""A split is summarized to the same bytes in this process and by Spark, whatever Spark's pieces are."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.watch import day_summary, summarizing
from components.watch.summarizing import joined, summary_of
from tests.components import tables, toy


def test_rows_without_labels_count(tmp_path):
    rows = tables.table(tables.BINARY, 300, 1)
    toy.examples(tmp_path, day=rows)
    summary = summary_of(tmp_path, "day", tables.BINARY, "2020-01-01")
    assert (summary.day, summary.rows, summary.labelled) == ("2020-01-01", 300, 300)
    assert summary.labels == {"label": 300}
    assert set(summary.numbers) == {"size"} and set(summary.categories) == {"colour"}


def lacking(rows: pa.Table, **every: int) -> pa.Table:
    """Each so many rows lack a label."""
    for name, step in every.items():
        values = [None if place % step == 0 else value for place, value in enumerate(rows[name].to_pylist())]
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values, rows.schema.field(name).type))
    return rows


def test_labels_are_counted_by_name(tmp_path):
    toy.examples(tmp_path, day=lacking(tables.table(tables.SEVERAL, 300, 1), label=2, other=3))
    summary = summary_of(tmp_path, "day", tables.SEVERAL, "2020-01-01")
    assert summary.labels == {"label": 150, "other": 200}
    assert (summary.rows, summary.labelled) == (300, 100)


def test_the_largest_sources_are_summed(tmp_path, monkeypatch):
    rows = tables.table(tables.BINARY, 300, 1)
    toy.examples(tmp_path, day=rows)
    summary = summary_of(tmp_path, "day", tables.BINARY, "2020-01-01", source="colour")
    counts = summary.categories["colour"].counts
    assert {source: sums["size"].rows for source, sums in summary.sources.items()} == dict(counts)
    monkeypatch.setattr(summarizing, "MOST_SOURCES", 1)
    summary = summary_of(tmp_path, "day", tables.BINARY, "2020-01-01", source="colour")
    assert list(summary.sources) == [max(counts, key=counts.get)]
    monkeypatch.setattr(day_summary, "MOST_CATEGORIES", 1)
    assert not summary_of(tmp_path, "day", tables.BINARY, "2020-01-01", source="colour").sources, "names of rows"


@pytest.mark.slow
def test_spark_counts_labels_by_name_too(tmp_path, spark):
    toy.examples(tmp_path, day=lacking(tables.table(tables.SEVERAL, 300, 1), label=2, other=3))
    here = summary_of(tmp_path, "day", tables.SEVERAL, "2020-01-01")
    assert here.labels == {"label": 150, "other": 200}
    assert summary_of(tmp_path, "day", tables.SEVERAL, "2020-01-01", many_values=1).to_json() == here.to_json()


@pytest.mark.slow
def test_spark_counts_to_the_same_bytes(tmp_path, spark):
    toy.examples(tmp_path, day=tables.table(tables.ALL, 2500, 1))
    for number in range(1, 4):
        more = tables.table(tables.ALL, 700, number + 1)
        pq.write_table(more, tmp_path / "Split-day" / f"examples-{number:05d}-of-00004.parquet", row_group_size=100)
    here = summary_of(tmp_path, "day", tables.ALL, "2020-01-01", source="colour")
    assert (here.rows, set(here.sources)) == (4600, {"red", "green"})
    by_spark = summary_of(tmp_path, "day", tables.ALL, "2020-01-01", many_values=1, source="colour")
    assert by_spark.to_json() == here.to_json()


def test_batches_are_joined_until_they_are_many_rows_or_bytes(monkeypatch):
    batches = [pa.table({"size": list(range(100))}) for _ in range(7)]
    assert [table.num_rows for table in joined(batches)] == [700]
    monkeypatch.setattr(summarizing, "_JOINED_ROWS", 250)
    assert [table.num_rows for table in joined(batches)] == [300, 300, 100]
    monkeypatch.setattr(summarizing, "_JOINED_BYTES", 1500)
    assert [table.num_rows for table in joined(iter(batches))] == [200, 200, 200, 100]
    assert list(joined([])) == []
