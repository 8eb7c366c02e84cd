"""A pipeline's runtime parameters on Airflow's trigger form, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError

from airtight.errors import TerminalError
from airtight.interval import FORMS, PATTERN, Interval, time_zone
from airtight.parameters import Parameter, Scalar
from runtime.compiled_pipeline import CompiledPipeline

INTERVAL = "interval"
USE_CACHE = "use_cache"
WHEN_PREVIOUS_FAILED = "when_previous_failed"
SHARED = (INTERVAL, USE_CACHE, WHEN_PREVIOUS_FAILED)
"""Params that are no parameters of a pipeline, and that all pipelines of a DAG share."""
STOP, GO_ON = "stop", "go_on"
_JSON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


def form(compiled: CompiledPipeline, prefix: str = "") -> dict[str, Param]:
    """The typed fields of the trigger form.

    Args:
      compiled: The compiled pipeline.
      prefix: Put before each name, where several pipelines share one DAG; the interval is shared by all.
    """
    fields = {}
    if compiled.interval:
        fields[INTERVAL] = Param(
            None,
            description=f"Data interval, {FORMS}, in {compiled.zone}. Left empty, it is the run's own data interval.",
            type=["null", "string"],
            pattern=PATTERN,
            title="Data interval",
        )
    for parameter in compiled.parameters:
        default = {} if parameter.name in compiled.required else {"default": parameter.default}
        schema = _schema(parameter)
        if default.get("default") == "":
            # The form demands a text of whoever triggers, unless it may be null, which is then the default.
            schema["type"] = ["null", "string"]
        fields[prefix + parameter.name] = Param(**default, **schema)
    if any(node.cache.enabled for node in compiled.nodes):
        fields.setdefault(
            USE_CACHE,
            Param(
                True,
                description="Take a step's earlier result where its code, versions, settings and inputs are equal. "
                "Switched off, every step runs.",
                type="boolean",
                title="Use the cache",
            ),
        )
    if any(node.after_previous for node in compiled.nodes):
        fields.setdefault(
            WHEN_PREVIOUS_FAILED,
            Param(
                STOP,
                description="What becomes of this run's gates when those of the run of the interval before failed: "
                f"{STOP} fails them, too; {GO_ON} compares with the champion of an earlier interval.",
                type="string",
                enum=[STOP, GO_ON],
                title="When the run before failed",
            ),
        )
    return fields


def merged(fields: Mapping[str, Param], own: Mapping[str, Any], dag_id: str) -> dict[str, Param]:
    """A pipeline's fields and a DAG's own params, which win: with another default, range or wording.

    Args:
      fields: The pipeline's fields, as `form` gives them.
      own: The DAG's own params, `Param` or a bare default.
      dag_id: The DAG.

    Raises:
      TerminalError: One of the DAG's own has the name of a field, and another type.
    """
    params: dict[str, Param] = dict(fields)
    for name, value in own.items():
        param, field = value if isinstance(value, Param) else Param(value), fields.get(name)
        if field is not None and not param.schema and not param.description:
            # A bare default: all else is the pipeline's.
            param = Param(param.value, description=field.description, **field.schema)
        if field is not None:
            _check_type(name, dag_id, field, param)
        params[name] = param
    return params


def _check_type(name: str, dag_id: str, field: Param, param: Param) -> None:
    """Refuses a DAG's own param whose values the pipeline's parameter of that name cannot take."""
    taken, given = _types(field), _types(param)
    received = f"type {' or '.join(sorted(given))}"
    if "number" in taken:
        taken = {*taken, "integer"}
    fits = given <= taken
    if fits and param.has_value:
        received = f"the default {param.value!r}"
        try:
            Param(param.value, type=field.schema["type"]).resolve()
        except ParamValidationError:
            fits = False
    if not fits:
        raise TerminalError(
            f"The DAG {dag_id} has a param {name} of its own that does not fit the pipeline's parameter {name}.",
            expected=f"type {' or '.join(sorted(_types(field)))}",
            received=received,
            remedy="Name the DAG's own otherwise, or give TfxTaskGroup a prefix for the pipeline's.",
        )


def _types(param: Param) -> set[str]:
    """The JSON types that a param takes, without null; none for any."""
    kind = param.schema.get("type", [])
    return {kind} - {"null"} if isinstance(kind, str) else set(kind) - {"null"}


def use_cache(compiled: CompiledPipeline, params: Mapping[str, Any]) -> bool:
    """Whether the run may use earlier results; a parameter of the pipeline's own of that name is none of ours."""
    own = any(parameter.name == USE_CACHE for parameter in compiled.parameters)
    return own or bool(params.get(USE_CACHE, True))


def values(
    compiled: CompiledPipeline, params: Mapping[str, Any], data_interval: tuple[Any, Any], prefix: str = ""
) -> dict[str, Scalar]:
    """What a run says, in the pipeline's types.

    Args:
      compiled: The compiled pipeline.
      params: The run's params.
      data_interval: Start and end of the run's own data interval, datetimes with a zone, or None.
      prefix: As in `form`.

    Raises:
      TerminalError: A value that the parameter cannot take, or no interval at all.
    """
    given: dict[str, Any] = {p.name: _whole(p, params.get(prefix + p.name)) for p in compiled.parameters}
    given = {name: value for name, value in given.items() if value is not None}
    if compiled.interval:
        interval = interval_of(compiled.zone, params.get(INTERVAL), data_interval)
        # In one spelling, however the run came by its interval: the cache goes by what is written.
        zone = time_zone(compiled.zone)
        ends = {"interval_start": interval.start, "interval_end": interval.end}
        given |= {name: instant.astimezone(zone).isoformat() for name, instant in ends.items()}
    return compiled.bind(given)


def interval_of(zone: str, typed: str | None, data_interval: tuple[Any, Any]) -> Interval:
    """The interval of a run.

    Args:
      zone: IANA time zone in which bare dates are meant.
      typed: What the form says, or nothing.
      data_interval: The run's own data interval, which counts where the form says nothing.

    Raises:
      TerminalError: There is none.
    """
    if typed:
        return Interval.parse(typed, zone)
    start, end = data_interval
    if start is None or end is None or start >= end:
        raise TerminalError(
            "This run has no data interval.",
            expected=f"the interval on the trigger form: {FORMS}",
            received="an empty interval, and a run that was triggered without a data interval of its own",
            remedy="Trigger the DAG with an interval, or give it a schedule of data intervals.",
        )
    return Interval.of(start.isoformat(), end.isoformat())


def _schema(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _JSON_TYPES[parameter.type], "description": parameter.description or None}
    if parameter.minimum is not None:
        schema["minimum"] = parameter.minimum
    if parameter.maximum is not None:
        schema["maximum"] = parameter.maximum
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    return schema


def _whole(parameter: Parameter, value: Any) -> Any:
    """JSON does not tell 3 from 3.0, and forms may send either."""
    return int(value) if parameter.type == "int" and isinstance(value, float) and value.is_integer() else value
