"""Which DAGs put a version of the model before the requests, beside the push: a person's promotion, and a release."""

from tfx.types.channel import BaseChannel, union

from components.artifacts import Promotion
from runtime.resolvers import of_all_runs

NODES = {"flight_delays_promote": "promote", "flight_delays_release": "finish"}
"""The pipelines, each with the node that makes `promotion`."""


def of_all_promotions() -> BaseChannel:
    """What all of them did, as an input of a node."""
    return union([of_all_runs(pipeline, Promotion, node, "promotion") for pipeline, node in NODES.items()])
