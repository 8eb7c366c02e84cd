"""The folder of a new pipeline: short, as `make lint` wants it, and true to its own data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airtight.home import ROOT
from components.data.lake import Lake
from components.scaffold.__main__ import main
from components.scaffold.writing import MOST_LINES
from tests.components.scaffold import tables

FORMS = ("csv", "json", "parquet", "sqlite", "flowers")


def words_for(form: str, folder: Path) -> list[str]:
    rows = tables.rides(24 * 200)
    data = {
        "csv": lambda: tables.write_csv(folder / "rides.csv", rows),
        "json": lambda: tables.write_json_lines(folder / "rides.jsonl", rows),
        "parquet": lambda: tables.write_parquet(folder / "rides.parquet", rows),
        "sqlite": lambda: tables.write_sqlite(folder / "rides.db", rows, "rides"),
        "flowers": lambda: tables.write_csv(folder / "flowers.csv", tables.flowers()),
    }[form]()
    return [f"DATA={data}", "LABEL=species" if form == "flowers" else "LABEL=count"]


@pytest.fixture
def root(tmp_path) -> Path:
    for folder in ("pipelines", "dags"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def importable(root, monkeypatch):
    """The new pipeline as part of the package `pipelines`, for this test alone."""
    import pipelines

    monkeypatch.setattr(pipelines, "__path__", [*pipelines.__path__, str(root / "pipelines")])
    yield
    for name in [name for name in sys.modules if name.startswith("pipelines.bike")]:
        del sys.modules[name]


@pytest.mark.parametrize("form", FORMS)
def test_the_folder_is_short_and_passes_lint(form, root, tmp_path, capsys):
    assert main(["NAME=bike", *words_for(form, tmp_path)], root) == 0
    folder = root / "pipelines" / "bike"
    names = ["__init__.py", "expectations.py", "lake.py", "schema.py", "settings.py", "tests/test_pipeline.py"]
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.py")) == [*names, "transform.py"]
    lines = sum(path.read_text().count("\n") for path in folder.rglob("*.py"))
    assert lines <= MOST_LINES
    assert (root / "dags" / "bike.py").read_text().count("\n") < 12
    assert "make demo PIPELINE=bike" in capsys.readouterr().out
    _lint(root)


def _lint(root: Path) -> None:
    (root / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("form", FORMS)
def test_its_lake_is_filled_and_has_what_its_schema_needs(form, root, tmp_path, importable):
    assert main(["NAME=bike", *words_for(form, tmp_path)], root) == 0
    from pipelines.bike import lake
    from pipelines.bike.schema import SCHEMA

    lake.fill(tmp_path / "lake")
    version = Lake(tmp_path / "lake").snapshot("bike")
    assert version.rows == (400 if form == "flowers" else 4800)
    for file in version.files[:3]:
        Lake(tmp_path / "lake").verify(lake.TABLE, file, "UTC")
    computed = {"hour", "weekday", "when_local"} if form != "flowers" else set()
    assert set(lake.TABLE.schema.names) == {*SCHEMA.names, SCHEMA.label, SCHEMA.time, *SCHEMA.keys} - computed - {""}


def test_a_table_of_many_columns_has_several_in_a_line(root, tmp_path):
    rows = [
        {f"number_{c}": row * c % 17 / 3 for c in range(150)} | {f"word_{c}": "abc"[(row + c) % 3] for c in range(30)}
        for row in range(60)
    ]
    labelled = [{**row, "y": f"class of a long name, the {number % 40}"} for number, row in enumerate(rows)]
    path = tables.write_csv(tmp_path / "wide.csv", labelled, ";")
    assert main(["NAME=wide", f"DATA={path}", "LABEL=y"], root) == 0
    folder = root / "pipelines" / "wide"
    assert sum(p.read_text().count("\n") for p in folder.rglob("*.py")) <= MOST_LINES
    _lint(root)


def test_a_table_too_wide_to_read_is_refused(root, tmp_path, capsys):
    rows = [
        {f"a_number_of_some_length_{c}": row * c % 17 / 3 for c in range(900)} | {"y": row / 3} for row in range(20)
    ]
    assert main(["NAME=wide", f"DATA={tables.write_csv(tmp_path / 'wide.csv', rows)}", "LABEL=y"], root) == 64
    assert "DROP=a,b" in capsys.readouterr().err
    assert list(root.rglob("*.py")) == []


def test_a_pipeline_is_replaced_only_by_force(root, tmp_path, capsys):
    words = ["NAME=bike", *words_for("flowers", tmp_path)]
    assert main(words, root) == 0
    (root / "pipelines" / "bike" / "mine.py").write_text("# mine\n")
    assert main(words, root) == 64
    assert "FORCE=1" in capsys.readouterr().err
    assert (root / "pipelines" / "bike" / "mine.py").exists()
    assert main([*words, "FORCE=1"], root) == 0
    assert not (root / "pipelines" / "bike" / "mine.py").exists()
    assert [path.name for path in (root / "pipelines").iterdir()] == ["bike"]


def test_nothing_is_left_of_a_pipeline_that_cannot_be_written(root, tmp_path, monkeypatch):
    from components.scaffold import writing

    def fails(*args: object, **kwargs: object) -> None:
        raise OSError("disk")

    words = ["NAME=bike", *words_for("flowers", tmp_path)]
    monkeypatch.setattr(writing.Path, "replace", fails)
    with pytest.raises(OSError, match="disk"):
        main(words, root)
    assert list(root.rglob("*.py")) == []


def test_odd_names_and_values_become_plain_code(root, tmp_path, importable):
    text = 'id,"say ""hi""",Größe,класс\n' + "".join(
        f'{n},"a\\b","{n % 3}\u00d7",{"да" if n % 2 else "нет"}\n' for n in range(80)
    )
    path = tmp_path / "odd 'name'.csv"
    path.write_text(text.replace("a\\b,", "c,"), encoding="utf-8")
    assert main(["NAME=bike", f"DATA={path}", "LABEL=класс"], root) == 0
    _lint(root)
    from pipelines.bike import lake
    from pipelines.bike.schema import SCHEMA

    assert SCHEMA.classes == ("да", "нет")
    lake.fill(tmp_path / "lake")
    assert Lake(tmp_path / "lake").snapshot("bike").rows == 80


def test_usage_and_wrong_options_are_told(root, capsys):
    assert main([], root) == 64
    assert "make new NAME=bike" in capsys.readouterr().out
    assert main(["LABL=x"], root) == 64
    assert "did you mean LABEL?" in capsys.readouterr().err
    assert main(["NAME=bike"], root) == 64
    assert "DATA=..." in capsys.readouterr().err
