"""A SavedModel's graph and its functions: which nodes run for a tensor, and where a value comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tensorflow.core.framework import attr_value_pb2, graph_pb2, node_def_pb2


@dataclass(frozen=True, slots=True)
class Place:
    """A node and where it stands.

    Args:
      scope: The function's name; empty for the graph itself.
      node: The node.
    """

    scope: str
    node: node_def_pb2.NodeDef


class Graph:
    """Nodes of a graph and of its functions.

    Args:
      definition: As stored.
    """

    def __init__(self, definition: graph_pb2.GraphDef) -> None:
        self.functions = {function.signature.name: function for function in definition.library.function}
        # By function, and under the empty name the graph itself.
        self.scopes = {"": {node.name: node for node in definition.node}} | {
            name: {node.name: node for node in function.node_def} for name, function in self.functions.items()
        }
        self._gradients = {gradient.function_name: gradient.gradient_func for gradient in definition.library.gradient}
        self._callers: dict[str, list[Place]] | None = None

    def reached(self, tensors: Iterable[str]) -> list[Place]:
        """All nodes that run for these tensors of the graph; of a function that is called, every node."""
        nodes = self.scopes[""]
        places: dict[str, Place] = {}
        waiting = [node_name(tensor) for tensor in tensors]
        while waiting:
            name = waiting.pop()
            node = nodes.get(name)
            if node is None or name in places:
                continue
            places[name] = Place("", node)
            waiting += [node_name(tensor) for tensor in node.input]
        return [*places.values(), *self._bodies(places.values())]

    def all_places(self) -> Iterator[Place]:
        """Every node of the graph and of its functions."""
        for scope, nodes in self.scopes.items():
            for node in nodes.values():
                yield Place(scope, node)

    def arguments(self, scope: str) -> list[str]:
        """The names of a function's arguments, in their order."""
        return [argument.name for argument in self.functions[scope].signature.input_arg] if scope else []

    def callers(self, scope: str) -> list[Place]:
        """The nodes that call a function."""
        if self._callers is None:
            self._callers = {}
            for place in self.all_places():
                for name in self._called(place.node):
                    self._callers.setdefault(name, []).append(place)
        return self._callers.get(scope, [])

    def _bodies(self, callers: Iterable[Place]) -> list[Place]:
        seen: set[str] = set()
        places: list[Place] = []
        waiting = [name for place in callers for name in self._called(place.node)]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            body = self.functions[name].node_def
            places += [Place(name, node) for node in body]
            waiting += [called for node in body for called in self._called(node)]
            waiting += [self._gradients[name]] if self._gradients.get(name) in self.functions else []
        return places

    def _called(self, node: node_def_pb2.NodeDef) -> list[str]:
        return [name for name in (node.op, *_functions_of(node.attr)) if name in self.functions]


def node_name(tensor: str) -> str:
    """The node that a tensor, or a control input, comes from."""
    return tensor.lstrip("^").split(":")[0]


def _functions_of(attributes: Mapping[str, attr_value_pb2.AttrValue]) -> Iterator[str]:
    for value in attributes.values():
        if value.HasField("func"):
            yield value.func.name
            yield from _functions_of(value.func.attr)
        for function in value.list.func:
            yield function.name
            yield from _functions_of(function.attr)
