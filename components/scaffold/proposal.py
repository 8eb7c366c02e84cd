"""What a pipeline of a table could be: task, features, keys, splits and schedule, and what a person should look at."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from components.data.lake_import import ROW
from components.data.sources import Source
from components.scaffold import features as feature_proposals
from components.scaffold.column_profile import ColumnProfile
from components.scaffold.features import ProposedFeature
from components.scaffold.options import Options, ask
from components.scaffold.schedule import Schedule, propose_schedule
from components.scaffold.source_form import first_look, number_style, time_form
from components.scaffold.table_profile import TableProfile, profile
from components.schema import LABEL_KNOWN_AT

FEW, MANY = 10, 30
"""Whole numbers of up to FEW different values are classes, of more than MANY quantities; between, nobody knows."""
MOST_CLASSES = 100
_REPEATS, _NEARLY = 0.999, 0.95
"""Correlations with the label from which on a column repeats it, or nearly does."""
_LEAST_SHARED = 3
_IDS = re.compile(r"(^|_)(id|key|uuid|guid|no|nr|num|number|index|instant|record|name)($|_)", re.IGNORECASE)


@dataclass(frozen=True)
class Proposal:
    """A pipeline, as it will be written.

    Args:
      options: What the person said.
      source: How the data are read.
      rows: How many rows there are.
      label: The label's column in the lake.
      label_source: In the source.
      task: One of the options' TASKS.
      classes: Of a multiclass label.
      features: The inputs, in the order of the data.
      time: The time's column in the lake; "" for a table without one.
      local_time: Name of the key that is the local time, where no two rows have the same; "".
      keys: Columns that name a row for people.
      table_key: Columns of the lake's table that are unique together.
      schedule: When it runs; None where a person starts it.
      notes: What a person should look at.
      left_out: Columns that become nothing, each with the reason.
    """

    options: Options
    source: Source
    rows: int
    label: str
    label_source: ColumnProfile
    task: str
    classes: tuple[str, ...]
    features: tuple[ProposedFeature, ...]
    time: str
    local_time: str
    keys: tuple[str, ...]
    table_key: tuple[str, ...]
    schedule: Schedule | None
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def slices(self) -> tuple[str, ...]:
        """Categories of few values, by which quality is told apart."""
        few = [f.name for f in self.features if f.kind == "category" and 1 < len(f.values) <= feature_proposals.FEW]
        return tuple(few[:2])


def propose(options: Options) -> Proposal:
    """Looks at the data once, and decides what can be decided.

    Raises:
      TerminalError: The data cannot be read, or something cannot be guessed; it is asked for by name.
      TransientError: The data change while they are read, or the database does not answer.
    """
    source = first_look(options)
    table = profile(source, options.label, source.time, options.drop, options.key)
    source = time_form(source, table, options)
    style = number_style(source, table.columns, options.decimal)
    markers = {marker for column in table.columns.values() for marker in column.markers}
    missing = (*source.missing, *sorted(markers - set(source.missing)))
    source = replace(source, decimal=style.decimal, thousands=style.thousands, missing=missing)
    columns = {name: column.in_style(style) for name, column in table.columns.items()}
    task, classes = propose_task(source, columns[options.label], options.task)
    notes: list[str] = []
    schedule = None
    if source.time:
        times = table.time if table.time.days else columns[source.time[0]].span
        if times.span[1] == date.max:
            raise source.error(
                "A time has no day after it.",
                expected="the times of the rows",
                received=f"{date.max} in the column {source.time[0]}",
                remedy="Leave out rows without a time, or say TIME=none.",
            )
        schedule = propose_schedule(times, table.rows)
        if schedule is None:
            notes.append("The times span under five days, too few for past and future: rows are split by their key.")
    timed = schedule is not None
    names = lake_names(columns)
    key = _key(source, table, columns, options, timed=timed)
    left_out = _left_out(table, columns, options, source, key)
    made = [
        feature_proposals.of_column(names[name], column)
        for name, column in columns.items()
        if name not in (*left_out, *source.time, options.label) and not (name in key and column.unique)
    ]
    calendar: Sequence[ProposedFeature] = ()
    time = local_time = ""
    if schedule is not None:
        time = names[source.time[0]]
        if len(source.time) > 1 or feature_proposals.is_calendar(time):
            time = free_name("time", names.values())
        if len(source.time) == 1:
            names[source.time[0]] = time
        taken = [new for old, new in names.items() if old not in source.time]
        calendar = feature_proposals.of_calendar(schedule.fit, taken)
        if not key and "" in table.keys_with_time:
            local_time = free_name(f"{time}_local", names.values())
    if not made and not calendar:
        roles = {options.label: "the label"} | dict.fromkeys(source.time, "the time") | dict.fromkeys(key, "the key")
        raise source.error(
            "No column is left to learn from.",
            expected="a column beside label, time and key",
            received=[f"{name}: {reason}" for name, reason in (roles | left_out).items()],
            remedy="Name data with more columns.",
        )
    if share := columns[options.label].share_missing:
        notes.append(f"{options.label} is missing in {share:.1%} of the rows: nothing is learned from them.")
    notes += _warnings(table, options, left_out)
    renamed = {new: old for old, new in names.items() if new != old and old in columns}
    table_key = tuple(names[name] for name in key) if key else ((time,) if local_time else (ROW,))
    if timed and key and not (table.key_alone if options.key else key[0] in table.keys):
        table_key = tuple(dict.fromkeys((time, *table_key)))
    if table_key == (ROW,):
        notes.append("No column tells rows apart: the row's number does. KEY=... names columns that do.")
    source = replace(
        source,
        columns={new: old for new, old in renamed.items() if old not in source.time and old not in left_out},
        time=source.time if timed else (),
    )
    return Proposal(
        options=options,
        source=source,
        rows=table.rows,
        label=names[options.label],
        label_source=columns[options.label],
        task=task,
        classes=classes,
        features=(*made, *calendar),
        time=time,
        local_time=local_time,
        keys=(local_time,) if local_time else tuple(name for name in table_key if name != time),
        table_key=table_key,
        schedule=schedule,
        notes=notes,
        left_out=left_out,
    )


def propose_task(source: Source, label: ColumnProfile, task: str) -> tuple[str, tuple[str, ...]]:
    """The task of a label, and its classes.

    Args:
      source: For errors.
      label: The label's column.
      task: What the person says; "" is guessed.

    Raises:
      TerminalError: The label has one value, or none, or none of this task; or it may be of two tasks.
    """
    values = [value for value, _ in label.values]
    count = len(values)
    if label.kind == "empty" or count == 1:
        raise source.error(
            f"The label {label.name} is always the same.",
            expected="at least two values",
            received=repr(values[0]) if values else "no value at all",
            remedy="Name another column: LABEL=...",
        )
    numbers = label.kind == "number" and label.whole
    truth = label.kind == "bool" or (numbers and count == 2 and (label.low, label.high) == (0, 1))  # noqa: PLR2004
    classes = tuple(sorted(map(_word, values), key=lambda name: (len(name), name) if numbers else (0, name)))
    fits = {
        "binary": truth,
        "multiclass": (label.kind in ("text", "bool") or numbers) and 1 < count <= MOST_CLASSES,
        "regression": label.kind == "number",
    }
    if task and fits[task]:
        return task, classes if task == "multiclass" else ()
    if task or not any(fits.values()):
        needs = {
            "binary": "0 and 1, or true and false",
            "multiclass": f"2 to {MOST_CLASSES} texts or whole numbers",
            "regression": "numbers",
        }
        raise source.error(
            f"The label {label.name} does not fit {'the task ' + task if task else 'any task'}.",
            expected=needs[task] if task else "; ".join(f"{name}: {values}" for name, values in needs.items()),
            received=f"{label.kind}, {f'{count} values, such as ' if count else 'many values'}"
            + ", ".join(repr(value) for value in values[:4]),
            remedy="Name another column (LABEL=...) or task (TASK=...), or write a label that fits into the data.",
        )
    if truth:
        return "binary", ()
    if not fits["multiclass"] or (numbers and not 1 < count <= MANY):
        return "regression", ()
    if numbers and count > FEW:
        raise ask(
            "TASK",
            "multiclass, if its numbers are names of classes; regression, if they are quantities",
            f"a label {label.name} of {count} whole numbers, {label.low:g} to {label.high:g}",
            example="regression",
        )
    return "multiclass", classes


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()  # As the lake has it.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _key(
    source: Source, table: TableProfile, columns: dict[str, ColumnProfile], options: Options, *, timed: bool
) -> tuple[str, ...]:
    """The columns of the source that tell rows apart, beside the time."""
    ids = [name for name in table.keys if _is_id(columns[name]) and name not in (options.label, *source.time)]
    with_time = [name for name in table.keys_with_time if name] if timed else []
    if options.key:
        if not table.key_alone and not (timed and table.key_with_time):
            columns_do = f"columns {', '.join(options.key)} do" if options.key[1:] else f"column {options.key[0]} does"
            unique = ", ".join([*ids, *with_time])
            raise source.error(
                f"The {columns_do} not tell rows apart.",
                expected=f"one of {unique}" if unique else "no KEY: no column tells rows apart",
                received=f"KEY={','.join(options.key)}, of which values are there twice",
                remedy="Name another column, or several (KEY=a,b), or leave KEY out.",
            )
        return options.key
    named = [name for name in ids if _IDS.search(name)]
    if named or ids:
        return ((named or ids)[0],)
    if timed and "" in table.keys_with_time:
        return ()
    named = [name for name in with_time if _IDS.search(name)]
    return ((named or with_time)[0],) if with_time else ()


def _is_id(column: ColumnProfile) -> bool:
    """Whether a column of which no two rows have the same value names rows, and is no quantity and no text."""
    if column.kind == "text":
        return column.mean_length < feature_proposals.TEXT_LENGTH
    running = column.whole and column.high - column.low + 1 == column.rows
    return column.kind == "number" and column.whole and (running or bool(_IDS.search(column.name)))


def _left_out(
    table: TableProfile,
    columns: dict[str, ColumnProfile],
    options: Options,
    source: Source,
    key: tuple[str, ...],
) -> dict[str, str]:
    """Columns that become neither feature nor key, each with the reason."""
    reasons = dict.fromkeys(options.drop, "DROP names it")
    for name, column in columns.items():
        if name in (options.label, *source.time):
            continue
        if name in key:
            continue
        elif name in table.same_as_label or abs(table.correlations.get(name, 0)) >= _REPEATS:
            reasons[name] = f"it repeats the label {options.label}"
        elif column.kind == "empty":
            reasons[name] = "it has no values"
        elif len(column.values) == 1 and not column.missing:
            reasons[name] = f"it is always {column.values[0][0]!r}"
        elif column.kind == "time":
            reasons[name] = "a second time: make features of it in transform.py"
        elif name in table.keys and _is_id(column):
            reasons[name] = "it names rows: no two have the same"
        elif column.kind == "vector" and len(column.lengths) > 1:
            reasons[name] = f"its vectors have lengths from {column.lengths[0]} to {column.lengths[-1]}"
    return reasons


def _warnings(table: TableProfile, options: Options, left_out: dict[str, str]) -> list[str]:
    notes = [f"{table.unreadable}."] if table.unreadable else []
    notes += [f"{name}: {column.unreadable}." for name, column in table.columns.items() if column.unreadable]
    if table.no_time and table.time.days:
        notes.append(f"Rows without a time are left out, such as {table.no_time}.")
    if table.repeated:
        notes.append(f"{table.repeated:,} rows are there more than once.")
    label = options.label.lower()
    for name, column in table.columns.items():
        if name in (*left_out, options.label, *options.time):
            continue
        near = abs(table.correlations.get(name, 0))
        shared = min(len(name), len(label)) >= _LEAST_SHARED and (label in name.lower() or name.lower() in label)
        if near >= _NEARLY or shared:
            why = f"goes along with the label (correlation {near:.2f})" if near >= _NEARLY else "has the label's name"
            notes.append(f"Is {name} known before {options.label} is? It {why}. If not: DROP={name}.")
        if column.share_missing > 1 / 2:
            notes.append(f"{name} is missing in {column.share_missing:.0%} of the rows.")
    return notes


def lake_names(columns: Iterable[str]) -> dict[str, str]:
    """Names for the lake, by those of the source: letters, digits and _, none twice whatever its case."""
    names: dict[str, str] = {}
    for column in columns:
        name = re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_") or "column"
        name = f"x_{name}" if name[0].isdigit() else name
        names[column] = free_name(name, (*names.values(), LABEL_KNOWN_AT, ROW))
    return names


def free_name(name: str, taken: Iterable[str]) -> str:
    """The name, with a number where it is taken, whatever its case."""
    lowered = {other.lower() for other in taken}
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return name if name.lower() not in lowered else next(n for n in numbered if n.lower() not in lowered)
