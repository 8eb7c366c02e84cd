"""What the pipelines of a supervised pipeline are put together of: nodes, their parameters, their data steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tfx.dsl.components.base.base_node import BaseNode
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.pipeline import Pipeline
from tfx.types.channel import BaseChannel, union

from airtight.import_string import load
from airtight.parameters import Parameter
from airtight.supervised import PROMOTIONS, Supervised
from components.artifacts import Promotion
from runtime.parameters import Declaration, declare, interval_parameters, runtime_parameter
from runtime.resolvers import of_all_runs
from runtime.task_options import task


def of_all_promotions(settings: Supervised) -> BaseChannel:
    """What all promotions and releases of the model did, as an input of a node."""
    return union([of_all_runs(settings.id_of(part), Promotion, node, "promotion") for part, node in PROMOTIONS.items()])


class Nodes:
    """The nodes of one part, as they are made; also for the modules of other parts.

    Args:
      settings: The pipeline's settings.
      part: The part.
    """

    def __init__(self, settings: Supervised, part: str) -> None:
        self.settings = settings
        self.id = settings.id_of(part)
        self._parameters = list(settings.run_parameters(part))
        self._nodes: list[BaseNode] = []

    def given(self, *names: str) -> dict[str, RuntimeParameter]:
        """What the run decides, by the names of parameters."""
        by_name = {parameter.name: parameter for parameter in self._parameters}
        return {name: runtime_parameter(by_name[name]) for name in names}

    def others(self, *names: str) -> dict[str, RuntimeParameter]:
        """What the run decides beside these."""
        return self.given(*(parameter.name for parameter in self._parameters if parameter.name not in names))

    def add(self, node_id: str, component: Callable[..., BaseNode], **inputs: Any) -> BaseNode:
        """Makes a node of its component, or of what the settings put in the component's place."""
        for name, value in self.settings.node_parameters.get(node_id, {}).items():
            if isinstance(value, Parameter):
                self._parameters.append(value)
            inputs[name] = runtime_parameter(value) if isinstance(value, Parameter) else value
        made = self.settings.components.get(node_id, component)
        node: BaseNode = (load(made) if isinstance(made, str) else made)(**inputs).with_id(node_id)
        self._nodes.append(node)
        return node

    def pipeline(self, *, cache: bool) -> Pipeline:
        """The pipeline of the nodes, which declares the parameters that they use."""
        values = (value for node in self._nodes for value in node.exec_properties.values())
        used = {value.name for value in values if isinstance(value, RuntimeParameter)}
        parameters = tuple(parameter for parameter in self._parameters if parameter.name in used)
        pipeline = Pipeline(pipeline_name=self.id, components=self._nodes, enable_cache=cache)
        return declare(pipeline, Declaration(parameters, self.settings.zone, self.settings.doc))


def examples_nodes(
    nodes: Nodes, window: Mapping[str, Any], purpose: Mapping[str, Any], *, expects: bool = True
) -> tuple[BaseNode, BaseNode]:
    """Adds ingest, validate and transform.

    Args:
      nodes: The nodes.
      window: What ingest takes beside tables and interval.
      purpose: What transform takes beside data, schema and function.
      expects: Whether the data must meet the pipeline's expectations.

    Returns:
      ingest and transform.
    """
    from components.ingest import ingest
    from components.transform import transform
    from components.validate import validate

    settings = nodes.settings
    start, end = interval_parameters()
    data = nodes.add(
        "ingest",
        ingest,
        tables=settings.tables,
        zone=settings.zone,
        interval_start=start,
        interval_end=end,
        **window,
        **nodes.given("lake_version"),
    )
    # An earlier result of ingest holds as long as the lake has the same versions of its tables.
    task(data, cache_on="components.ingest:lake_state")
    dataset = data.outputs["dataset"]
    nothing = "components.measures.judging:nothing_expected"
    expectations = (settings.expectations if expects else "") or nothing
    valid = nodes.add("validate", validate, dataset=dataset, expectations=expectations, pipeline=nodes.id)
    transformed = nodes.add(
        "transform",
        transform,
        dataset=dataset,
        report=valid.outputs["report"],
        transform=settings.transform,
        schema=settings.schema,
        **purpose,
    )
    return data, transformed
