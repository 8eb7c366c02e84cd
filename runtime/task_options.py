"""Options of the Airflow task, chosen in the pipeline's code beside the node that they are for."""

from __future__ import annotations

from typing import Any, TypeVar

from tfx.dsl.components.base import base_node

from airtight.errors import TerminalError

ALLOWED = (
    "pool",
    "pool_slots",
    "queue",
    "priority_weight",
    "retries",
    "retry_delay_s",
    "timeout_s",
    "depends_on_past",
    "trigger_rule",
    "executor",
    "executor_config",
    "resources",
    "cold",
    "interpreter",
    "image",
)
"""What may be chosen; each is named as Airflow's operators name it, but for times, which are in seconds, and for where
the node runs instead of in the warm launcher's child: `cold` (True) in a process of its own, `interpreter` in one of
another Python, by its path, `image` in a container of that image."""
WHERE = ("cold", "interpreter", "image")
"""Of these, one at most."""

CACHE = ("cache", "cache_days", "cache_on")
"""What may be chosen of the cache: whether it is used, after how many days a result counts no longer (0 for never),
and `package.module:function`, which tells of the node's parameters what else its result rests on, outside of its
inputs: `(parameters: dict[str, Any]) -> str`."""

HISTORY_DAYS = "history_days"
"""What may be chosen of inputs across runs: days before the run's interval; what was made of them is among these
inputs, however much was made since."""

AFTER_PREVIOUS = "after_previous"
"""Kept by `in_order`: the node of the run before that must have ended."""

_ATTRIBUTE = "_airtight_task_options"
_Node = TypeVar("_Node", bound=base_node.BaseNode)


def task(node: _Node, **options: Any) -> _Node:
    """Notes options for the Airflow task of a node; the pipeline stays an ordinary TFX pipeline.

    Args:
      node: The node.
      **options: Names of `ALLOWED` and `CACHE`, and `history_days`, with JSON values.

    Returns:
      The node itself.

    Raises:
      TerminalError: An unknown option, or several places to run in.
    """
    known = (*ALLOWED, *CACHE, HISTORY_DAYS)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TerminalError(
            f"The node {node.id} has task options that do not exist.",
            expected=f"some of {', '.join(known)}",
            received=", ".join(unknown),
            remedy="Correct the names in the pipeline.",
        )
    chosen = chosen_for(node) | options
    where = [name for name in WHERE if chosen.get(name)]
    if len(where) > 1:
        raise TerminalError(
            f"The node {node.id} cannot run in several places.",
            expected=f"one of {', '.join(WHERE)}, or none",
            received=", ".join(where),
            remedy="Leave one of them in the pipeline.",
        )
    setattr(node, _ATTRIBUTE, chosen)
    return node


def in_order(*nodes: base_node.BaseNode, until: str) -> None:
    """Lets nodes wait for the run of the interval before, so that runs side by side pass them one after the other.

    What comes before the nodes runs in parallel; they themselves begin when the node `until` of the run before has
    ended, whatever was decided there.

    Args:
      *nodes: What waits, such as the gates and the resolver of what they compare with.
      until: Id of the node of the run before that must have ended; one of these nodes, or one that comes after them.
    """
    for node in nodes:
        setattr(node, _ATTRIBUTE, chosen_for(node) | {AFTER_PREVIOUS: until})


def chosen_for(node: base_node.BaseNode) -> dict[str, Any]:
    """What `task` noted for a node."""
    return getattr(node, _ATTRIBUTE, {})
