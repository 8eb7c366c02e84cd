"""A split is summarized to the same bytes in this process and by Spark, whatever Spark's pieces are."""

import pyarrow.parquet as pq
import pytest

from components.watch.summarizing import summary_of
from tests.components import tables, toy


def test_rows_without_labels_count(tmp_path):
    rows = tables.table(tables.BINARY, 300, 1)
    toy.examples(tmp_path, day=rows)
    summary = summary_of(tmp_path, "day", tables.BINARY, "2020-01-01")
    assert (summary.day, summary.rows, summary.labelled) == ("2020-01-01", 300, 300)
    assert set(summary.numbers) == {"size"} and set(summary.categories) == {"colour"}


@pytest.mark.slow
def test_spark_counts_to_the_same_bytes(tmp_path, spark):
    toy.examples(tmp_path, day=tables.table(tables.ALL, 2500, 1))
    for number in range(1, 4):
        more = tables.table(tables.ALL, 700, number + 1)
        pq.write_table(more, tmp_path / "Split-day" / f"examples-{number:05d}-of-00004.parquet", row_group_size=100)
    here = summary_of(tmp_path, "day", tables.ALL, "2020-01-01")
    assert here.rows == 4600
    assert summary_of(tmp_path, "day", tables.ALL, "2020-01-01", many_rows=1).to_json() == here.to_json()
