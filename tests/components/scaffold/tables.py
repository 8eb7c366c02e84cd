"""Small tables of every form, as people have them."""

from __future__ import annotations

import json
import random
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2020, 1, 1)
SEASONS = ("winter", "spring", "summer", "autumn")


def rides(hours: int = 24 * 400) -> list[dict]:
    """Rides by the hour: a number to predict, from numbers, a category, several categories and a number that lacks."""
    draw = random.Random(0)
    rows = []
    for hour in range(hours):
        at = START + timedelta(hours=hour)
        temp = round(10 + 12 * draw.random(), 1)
        rows.append(
            {
                "when": at.isoformat(" "),
                "season": SEASONS[at.month % 12 // 3],
                "temp": temp,
                "wind": None if hour % 10 == 0 else round(20 * draw.random(), 2),
                "events": "|".join(draw.sample(("market", "concert", "match"), 1 + hour % 2)),
                "count": int(50 + 5 * temp + 20 * (8 <= at.hour <= 18) + 10 * draw.random()),
            }
        )
    return rows


def flowers(rows: int = 400) -> list[dict]:
    """Flowers without a time: three classes, a code of each row, a number and a constant."""
    draw = random.Random(1)
    return [
        {
            "code": f"f{row:04d}",
            "width": round(row % 3 + draw.random(), 2),
            "colour": draw.choice(("red", "blue")),
            "garden": "north",
            "species": ("setosa", "versicolor", "virginica")[row % 3],
        }
        for row in range(rows)
    ]


def digits(rows: int = 120) -> list[dict]:
    """Vectors, images, lists of categories and texts, with a class."""
    return [
        {
            "id": row,
            "pixels": [float(row % 3), 1.5, float(row % 7)],
            "tags": ["round", "thin"][: 1 + row % 2],
            "picture": b"\x89PNG\r\n\x1a\n" + bytes([row]) + b"\x00\x00\x00\x00IEND\xaeB`\x82",
            "story": f"Once upon a time there was the number {row}, and it was alone.",
            "digit": row % 3,
        }
        for row in range(rows)
    ]


def write_csv(path: Path, rows: list[dict], delimiter: str = ",") -> Path:
    lines = [delimiter.join(rows[0])]
    lines += [delimiter.join("" if value is None else str(value) for value in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_json_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_sqlite(path: Path, rows: list[dict], table: str) -> str:
    kinds = {int: "integer", float: "real", str: "text"}
    columns = ", ".join(f'"{name}" {kinds[type(value)]}' for name, value in rows[1].items())
    with sqlite3.connect(path) as database:
        database.execute(f"create table {table} ({columns})")
        marks = ", ".join("?" * len(rows[0]))
        database.executemany(f"insert into {table} values ({marks})", [tuple(row.values()) for row in rows])
    return f"sqlite:///{path}"


FORMS = ("csv", "json", "parquet", "sqlite", "flowers", "digits")
LABELS = {"flowers": "species", "digits": "digit"}
ROWS = {"flowers": 400, "digits": 120}


def words_for(form: str, folder: Path) -> list[str]:
    rows = rides(24 * 200)
    data = {
        "csv": lambda: write_csv(folder / "rides.csv", rows),
        "json": lambda: write_json_lines(folder / "rides.jsonl", rows),
        "parquet": lambda: write_parquet(folder / "rides.parquet", rows),
        "sqlite": lambda: write_sqlite(folder / "rides.db", rows, "rides"),
        "digits": lambda: write_parquet(folder / "digits.parquet", digits()),
        "flowers": lambda: write_csv(folder / "flowers.csv", flowers()),
    }[form]()
    return [f"DATA={data}", f"LABEL={LABELS.get(form, 'count')}"]
