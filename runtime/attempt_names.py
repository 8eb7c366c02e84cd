"""How attempts and nodes are called in ML Metadata; without TFX, for whoever only reads lineage."""

from __future__ import annotations

from runtime.protocol import shortened

CONTEXT_TYPE = "node_attempt"
"""Type of the context of an attempt, in which a channel of a run is looked up once its producer's attempt is known."""
LONGEST_NAME = 255
LONGEST_NODE = 96


def context_name(run: str, node: str, attempt: str) -> str:
    """Gives the name of an attempt's context in ML Metadata, which takes 255 characters."""
    return f"{run}/{shortened(node, LONGEST_NODE)}/{attempt}"


def node_context_name(pipeline: str, node: str) -> str:
    """Gives the name of a node's context in ML Metadata, `<pipeline>.<node>`, which takes 255 characters."""
    return shortened(f"{pipeline}.{node}", LONGEST_NAME)
