"""The folder of a new pipeline: short, as `make lint` wants it, and true to its own data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airtight.home import ROOT
from commands.new import main
from components.data.lake import Lake
from components.scaffold.features import ProposedFeature
from components.scaffold.writing import MOST_LINES, _bounds, literal
from tests.components.scaffold import tables


@pytest.mark.parametrize("form", tables.FORMS)
def test_the_folder_is_short_and_passes_lint(form, root, tmp_path, capsys):
    assert main(["NAME=bike", *tables.words_for(form, tmp_path)], root) == 0
    folder = root / "pipelines" / "bike"
    names = ["__init__.py", "expectations.py", "lake.py", "schema.py", "settings.py", "tests/test_pipeline.py"]
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.py")) == [*names, "transform.py"]
    lines = _lines(root)
    assert lines <= MOST_LINES
    dags = sorted((root / "dags").iterdir())
    assert [dag.name for dag in dags] == ["bike.py", "bike_operations.py"]
    assert all(dag.read_text().count("\n") < 14 for dag in dags)
    output = capsys.readouterr().out
    assert "make demo PIPELINE=bike" in output and f"Written, {lines} lines and" in output
    _lint(root)


def test_a_table_of_some_columns_has_several_in_a_line_where_each_in_its_own_is_too_long(root, tmp_path):
    rows = [
        row | {f"x{c}": c * n % 17 / 3 for c in range(10)} | {"count": ("low", "high")[n % 2]}
        for n, row in enumerate(tables.rides(24 * 200))
    ]
    assert main(["NAME=bike", f"DATA={tables.write_csv(tmp_path / 't.csv', rows)}", "LABEL=count"], root) == 0
    assert _lines(root) <= MOST_LINES
    schema = (root / "pipelines" / "bike" / "schema.py").read_text()
    assert "RANGES" in schema and '"x9": (' in schema
    _lint(root)


def _lines(root: Path) -> int:
    return sum(path.read_text().count("\n") for path in (root / "pipelines").rglob("*.py"))


def _lint(root: Path) -> None:
    (root / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("form", tables.FORMS)
def test_its_lake_is_filled_and_has_what_its_schema_needs(form, root, tmp_path, importable):
    assert main(["NAME=bike", *tables.words_for(form, tmp_path)], root) == 0
    from pipelines.bike import lake
    from pipelines.bike.schema import SCHEMA

    lake.fill(tmp_path / "lake")
    version = Lake(tmp_path / "lake").snapshot("bike")
    assert version.rows == tables.ROWS.get(form, 4800)
    for file in version.files[:3]:
        Lake(tmp_path / "lake").verify(lake.TABLE, file, "UTC")
    computed = {"hour", "weekday", "when_local"} if form not in tables.ROWS else set()
    assert set(lake.TABLE.schema.names) == {*SCHEMA.names, SCHEMA.label, SCHEMA.time, *SCHEMA.keys} - computed - {""}


@pytest.mark.parametrize(("columns", "bounded"), [(60, True), (140, False)])
def test_a_table_of_many_columns_has_several_in_a_line(columns, bounded, root, tmp_path):
    rows = [
        {f"number_{c}": row * c % 17 / 3 for c in range(columns)}
        | {f"word_{c}": "abc"[(row + c) % 3] for c in range(30)}
        for row in range(60)
    ]
    labelled = [{**row, "y": f"class of a long name, the {number % 12}"} for number, row in enumerate(rows)]
    path = tables.write_csv(tmp_path / "wide.csv", labelled, ";")
    assert main(["NAME=wide", f"DATA={path}", "LABEL=y"], root) == 0
    folder = root / "pipelines" / "wide"
    assert _lines(root) <= MOST_LINES
    assert ("RANGES" in (folder / "expectations.py").read_text()) == bounded
    _lint(root)


def test_a_table_too_wide_to_read_is_refused(root, tmp_path, capsys):
    rows = [
        {f"a_number_of_some_length_{c}": row * c % 17 / 3 for c in range(900)} | {"y": row / 3} for row in range(20)
    ]
    assert main(["NAME=wide", f"DATA={tables.write_csv(tmp_path / 'wide.csv', rows)}", "LABEL=y"], root) == 64
    assert "DROP=a,b" in capsys.readouterr().err
    assert list(root.rglob("*.py")) == []


def test_a_pipeline_is_replaced_only_by_force(root, tmp_path, capsys):
    words = ["NAME=bike", *tables.words_for("flowers", tmp_path)]
    assert main(words, root) == 0
    (root / "pipelines" / "bike" / "mine.py").write_text("# mine\n")
    assert main(words, root) == 64
    assert "FORCE=1" in capsys.readouterr().err
    assert (root / "pipelines" / "bike" / "mine.py").exists()
    assert main([*words, "FORCE=1"], root) == 0
    assert not (root / "pipelines" / "bike" / "mine.py").exists()
    assert [path.name for path in (root / "pipelines").iterdir()] == ["bike"]


@pytest.mark.parametrize("last", ["bike", "bike.py", "bike_operations.py"])
def test_a_pipeline_that_cannot_be_written_leaves_all_as_it_was(last, root, tmp_path, monkeypatch):
    from components.scaffold import writing

    rename = writing.Path.rename

    def fails(path: Path, target: Path) -> Path:
        if target.name == last and not path.name.endswith(".replaced"):
            raise OSError("disk")
        return rename(path, target)

    words = ["NAME=bike", *tables.words_for("flowers", tmp_path)]
    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk"):
        patched.setattr(writing.Path, "rename", fails)
        main(words, root)
    assert list(root.rglob("*.py")) == []
    assert main(words, root) == 0
    for dag in (root / "dags").iterdir():
        dag.write_text("# mine\n")
    (root / "pipelines" / "bike" / "mine.py").write_text("# mine\n")
    files = {path: path.read_text() for path in root.rglob("*.py")}
    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk"):
        patched.setattr(writing.Path, "rename", fails)
        main([*words, "FORCE=1"], root)
    assert {path: path.read_text() for path in root.rglob("*.py")} == files


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


@pytest.mark.parametrize("name", ["Größe \u00d7 \u2019\u202e.csv", f"{'a b ' * 30}.csv", f"{'ab' * 60}.csv"])
def test_odd_names_of_files_pass_lint(name, root, tmp_path):
    path = tmp_path / name
    path.write_text("y,x\n" + "".join(f"{n % 2},{n % 9}\n" for n in range(80)), encoding="utf-8")
    assert main(["NAME=bike", f"DATA={path}", "LABEL=y"], root) == 0
    _lint(root)


def test_code_has_each_value_as_it_is():
    values = ('a "b" \\ {{c}}', "日本 \u202e", "\U0001d4b3\U0001f600", "\n\t\x7f")
    assert eval(literal(values)) == values
    bounds = ((1234567, 1234569), (0.1, 2.5), (-74.0, 1e300), (2.0**63, 2.0**63))
    for low, high in bounds:
        feature = ProposedFeature("x", "number", "", bounds=(float(low), float(high)))
        assert eval(_bounds(feature)) == (low, high)


def test_usage_and_wrong_options_are_told(root, capsys):
    assert main([], root) == 64
    assert "make new NAME=bike" in capsys.readouterr().out
    assert main(["LABL=x"], root) == 64
    assert "did you mean LABEL?" in capsys.readouterr().err
    assert main(["NAME=bike"], root) == 64
    assert "DATA=..." in capsys.readouterr().err
