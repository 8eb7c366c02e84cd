"""Writes a proposal as a pipeline's folder and its DAG files: all, or none."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2

from airtight.errors import TerminalError
from components.data.sources import Source
from components.scaffold.features import ProposedFeature
from components.scaffold.proposal import Proposal

MOST_LINES = 150
"""A folder has at most so many lines."""
_MOST_DESCRIBED = 16
"""Up to so many columns have a line each; of more, several stand in one."""
_WIDTH = 112
_LONGEST_NAME = 40
_LATIN_END = "\u0180"
_WHOLE = 1e15
"""Below it a whole number is written as one."""
_TEST = "tests/test_pipeline.py"
_TEMPLATES = Path(__file__).parent / "templates"
_DAGS = {"dag.py": "{name}.py", "dag_operations.py": "{name}_operations.py"}
"""By its template, the name of each DAG file."""
_FILES = ("__init__.py", "settings.py", "lake.py", "schema.py", "transform.py", "expectations.py", _TEST)


def write(proposal: Proposal, root: Path, *, force: bool = False) -> list[Path]:
    """Writes `pipelines/<name>/`, `dags/<name>.py` and `dags/<name>_operations.py`.

    Args:
      proposal: What to write.
      root: The checkout.
      force: Whether a pipeline of that name is replaced.

    Returns:
      The files.

    Raises:
      TerminalError: There is such a pipeline already, or the table has so many columns that it would not be read.
    """
    name = proposal.options.name
    folder = root / "pipelines" / name
    dags = {template: root / "dags" / file.format(name=name) for template, file in _DAGS.items()}
    taken = [path for path in (folder, *dags.values()) if path.exists()]
    if taken and not force:
        raise TerminalError(
            f"There is a pipeline {name} already.",
            expected="a name that is free",
            received=[str(path.relative_to(root)) for path in taken],
            remedy="Give another name, or replace it: FORCE=1.",
        )
    texts, lines = _short(proposal)
    if lines > MOST_LINES:
        raise TerminalError(
            f"The folder would have {lines} lines.",
            expected=f"at most {MOST_LINES}",
            received=f"{len(proposal.features)} features",
            remedy="Leave columns out (DROP=a,b), or make one column of several: a list of numbers is one vector.",
        )
    with tempfile.TemporaryDirectory(prefix=".new-", dir=root / "pipelines") as place:
        made = Path(place) / name
        for path, text in texts.items():
            file = Path(place) / path if path in _DAGS else made / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        _move({made: folder, **{Path(place) / template: dag for template, dag in dags.items()}})
    return [*sorted(folder.rglob("*.py")), *dags.values()]


def _move(targets: dict[Path, Path]) -> None:
    """Moves each path to its target, what is there beside the path; puts all back where one cannot be moved."""
    replaced = {new: new.with_name(f"{new.name}.replaced") for new in targets}
    try:
        for new, target in targets.items():
            if target.exists():
                target.rename(replaced[new])
            new.rename(target)
    except OSError:
        for new, target in targets.items():
            if not new.exists():
                target.rename(new)
            if replaced[new].exists():
                replaced[new].rename(target)
        raise


def _short(proposal: Proposal) -> tuple[dict[str, str], int]:
    """The fullest texts of at most MOST_LINES lines, or the shortest, and their lines."""
    texts, lines = {}, 0
    described = len(proposal.features) <= _MOST_DESCRIBED
    for compact, bounds in (*[(False, True)] * described, (True, True), (True, False)):
        texts = render(proposal, compact=compact, bounds=bounds)
        lines = sum(text.count("\n") for path, text in texts.items() if path not in _DAGS)
        if lines <= MOST_LINES:
            break
    return texts, lines


def render(proposal: Proposal, *, compact: bool = False, bounds: bool = True) -> dict[str, str]:
    """The text of each file, by its path in the folder; those of `_DAGS` lie elsewhere.

    Args:
      proposal: What to write.
      compact: Whether several numbers and categories stand in a line.
      bounds: Whether each number in such a line is expected within its bounds.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    environment.filters |= {"quoted": quoted, "literal": literal}
    values = _values(proposal, compact=compact, bounds=bounds)
    rendered = {path: environment.get_template(f"{path}.jinja").render(values) for path in (*_FILES, *_DAGS)}
    return {path: _formatted(text, path) for path, text in rendered.items()}


def _values(proposal: Proposal, *, compact: bool, bounds: bool) -> dict[str, Any]:
    options, schedule = proposal.options, proposal.schedule
    bounded = [f for f in proposal.features if compact and f.kind == "number" and f.bounds]
    categories = [f for f in proposal.features if compact and f.kind == "category" and not f.computed]
    described = [f for f in proposal.features if f not in (*bounded, *categories)]
    long_classes = proposal.classes if len(literal(proposal.classes)) > _WIDTH - len("    classes=") else ()
    title = options.name.replace("_", " ").capitalize()
    made = {f.name: f.computed for f in proposal.features if f.computed}
    if proposal.local_time:
        made[proposal.local_time] = 'F.date_format(local, "yyyy-MM-dd HH:mm:ss")'
    extent = f"{proposal.rows:,} rows"
    if schedule:
        extent += " of {} to {}".format(*schedule.fit.span)
    return {
        "name": options.name,
        "title": title,
        "sentence": f"Predicts {proposal.label} ({proposal.task}) of {_data_name(proposal.source)}.",
        "data": _data_name(proposal.source),
        "extent": extent,
        "zone": options.time_zone,
        "schedule": schedule,
        "interval_day": _yesterday(),
        "source": _arguments(proposal.source, proposal.features),
        "table_key": proposal.table_key,
        "computed": tuple(made),
        "made": made,
        "label": proposal.label,
        "task": proposal.task,
        "classes": proposal.classes,
        "long_classes": _wrapped(f"{quoted(name)}," for name in long_classes),
        "time": proposal.time,
        "keys": proposal.keys,
        "slices": proposal.slices,
        "features": described,
        "ranges": _wrapped(f"{quoted(f.name)}: {_bounds(f)}," for f in bounded if bounds),
        "numbers": _wrapped(f"{quoted(f.name)}," for f in bounded if not bounds),
        "categories": _wrapped(f"{quoted(f.name)}," for f in categories),
        "expectations": list(_expectations(proposal, described, bool(long_classes))),
    }


def _expectations(proposal: Proposal, described: list[ProposedFeature], long_classes: bool) -> Iterable[str]:
    label = proposal.label_source
    if not label.missing:
        yield f"given({quoted(proposal.label)})"
    else:
        yield f"mostly_given({quoted(proposal.label)}, {max(0.0, 1 - 2 * label.share_missing):.2g})"
    if proposal.classes:
        yield f"one_of({quoted(proposal.label)}, {'CLASSES' if long_classes else literal(proposal.classes)})"
    elif proposal.task == "binary":
        yield f"one_of({quoted(proposal.label)}, (0, 1))"
    for feature in described:
        if feature.bounds:
            yield f"between({quoted(feature.name)}, {_bounds(feature)[1:-1]}, warns=True)"
        elif feature.values and len(literal(feature.values)) < _WIDTH // 2:
            yield f"one_of({quoted(feature.name)}, {literal(feature.values)}, warns=True)"
        elif feature.always and not feature.computed:
            yield f"given({quoted(feature.name)}, warns=True)"


def _arguments(source: Source, features: tuple[ProposedFeature, ...]) -> dict[str, str]:
    """What a Source is made with, as code: what is no default."""
    separators = {feature.name: feature.separator for feature in features if feature.separator}
    plain = Source(source.data)
    values = {field.name: getattr(source, field.name) for field in fields(source)} | {"separators": separators}
    if not source.time:
        values["time_zone"] = plain.time_zone
    return {name: literal(value) for name, value in values.items() if name == "data" or value != getattr(plain, name)}


def _data_name(source: Source) -> str:
    name = source.name if not source.table else f"the table {source.table}"
    plain = "".join(c if _is_plain(c) and c not in '"\\' else "_" for c in name)
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[:_LONGEST_NAME]} ..."


def _bounds(feature: ProposedFeature) -> str:
    assert feature.bounds is not None
    return "({}, {})".format(
        *(f"{bound:.0f}" if abs(bound) < _WHOLE and bound.is_integer() else bound for bound in feature.bounds)
    )


def _yesterday() -> date:
    return datetime.now(UTC).date() - timedelta(days=1)


def quoted(text: str) -> str:
    """A string literal with double quotes, as ruff writes it."""
    written = json.dumps(text, ensure_ascii=False)
    # Letters stay; signs that look like others are written as numbers, as the linter wants it.
    return "".join(
        c if _is_plain(c) else f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}" for c in written
    )


def _is_plain(c: str) -> bool:
    return c.isprintable() and (c.isascii() or (c.isalpha() and c < _LATIN_END))


def literal(value: Any) -> str:
    """A value as code."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(key)}: {literal(item)}' for key, item in value.items())}}}"
    return repr(value)


def _wrapped(items: Iterable[str]) -> str:
    """Items side by side, in lines of the checkout's width."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) < _WIDTH:
            lines[-1] += f" {item}"
        else:
            lines.append(item)
    return textwrap.indent("\n".join(lines), "    ")


def _formatted(text: str, path: str) -> str:
    """As `make lint` wants it."""
    command = [sys.executable, "-m", "ruff", "format", "--quiet", "--line-length", "120", "--stdin-filename", path, "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 and done.stdout else text
