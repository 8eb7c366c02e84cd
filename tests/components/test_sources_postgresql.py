"""A table of PostgreSQL: its types, a user without the right to read it, and a password that is written nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from airtight.errors import TerminalError, TransientError
from benchmarks.postgresql import Cluster, binaries
from commands.new import main
from components.data.sources import Source, read

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql).")
    cluster = Cluster(programs)
    try:
        cluster.start()
        address = cluster.new_database()
        with sa.create_engine(address).begin() as connection:
            connection.execute(sa.text("create schema city"))
            connection.execute(
                sa.text(
                    "create table city.rides (id serial primary key, at timestamptz, fare numeric(6, 2), ok boolean, "
                    "day date, v float8[], note text)"
                )
            )
            connection.execute(
                sa.text(
                    "insert into city.rides (at, fare, ok, day, v, note) select "
                    "'2020-01-01 00:00+00'::timestamptz + n * interval '1 hour', n % 97 + 0.5, n % 2 = 0, "
                    "'2020-01-01'::date + n / 24, array[n, 1.5], 'note ' || n % 3 from generate_series(0, 19999) n"
                )
            )
            connection.execute(sa.text("create role reader login password 'p@ss'"))
            connection.execute(sa.text("grant usage on schema city to reader"))
        yield address
    finally:
        cluster.remove()


def test_types_come_in_pieces(database):
    pieces = list(read(Source(database, table="city.rides")))
    assert [piece.batch.num_rows for piece in pieces] == [16_384, 20_000 - 16_384]
    assert {field.name: str(field.type) for field in pieces[0].batch.schema} == {
        "id": "int64",
        "at": "timestamp[us, tz=UTC]",
        "fare": "double",
        "ok": "bool",
        "day": "date32[day]",
        "v": "list<item: double>",
        "note": "string",
    }


def test_a_table_without_the_right_to_read_it_is_named(database):
    url = sa.make_url(database).set(username="reader", password="p@ss").render_as_string(hide_password=False)
    with pytest.raises(TerminalError, match=r"reader may not read the table.*GRANT SELECT ON city.rides TO reader"):
        list(read(Source(url, table="city.rides")))


def test_a_wrong_password_and_a_server_that_is_away_are_told_without_the_password(database):
    wrong = sa.make_url(database).set(password="s3cret").render_as_string(hide_password=False)
    with pytest.raises(TransientError, match="does not answer") as raised:
        list(read(Source(wrong, table="city.rides")))
    assert "s3cret" not in str(raised.value)


def test_the_password_of_a_url_is_not_written(database, tmp_path: Path, capsys):
    for folder in ("pipelines", "dags"):
        (tmp_path / folder).mkdir()
    words = ["NAME=rides", f"DATA={database}", "TABLE=city.rides", "LABEL=fare", "TIME=at", "KEY=id"]
    assert main(words, tmp_path) == 0
    text = "".join(path.read_text() for path in tmp_path.rglob("*.py"))
    assert 'data="env:RIDES_DATABASE"' in text and 'table="city.rides"' in text
    password = sa.make_url(database).password or ""
    assert password not in text and "set RIDES_DATABASE" in capsys.readouterr().out
