"""Whether the cost of a call follows from the sizes of its inputs, so that a call tells what the next one costs.

What loops, branches, waits, unpacks, or makes a tensor as large as a value says costs what the request's values make
it cost: a second call of the same size may take a thousand times as long. Such a signature never runs on the event
loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tensorflow.core.framework import node_def_pb2, types_pb2

from serving.graph import Graph, Place, node_name
from serving.operations import stays_within

_BY_VALUE = re.compile(
    r"_?While|StatelessWhile|For|_?If|StatelessIf|(?:Stateless)?Case|_?(?:Ref)?Switch(?:N)?|(?:Ref)?(?:Enter|NextIteration)|"
    r"\w*Dataset\w*|\w*Iterator\w*|\w*Queue\w*|Barrier\w*|(?:Ordered)?Map(?:Stage|Unstage|Peek)\w*|Stage\w*|Unstage|"
    r"\w*Mutex\w*|\w*Accumulator\w*|Sleep\w*|(?:Un)?[Bb]atch|BatchFunction|"
    r"Decode(?:Jpeg|AndCropJpeg|Png|Gif|Bmp|WebP|Jxl|Image|Wav|Compressed)|ParseTensor|DynamicStitch|"
    r"ParallelDynamicStitch|RandomPoisson\w*|EditDistance|\w*(?:Sparse|Ragged)Cross\w*|Xla\w+"
)
_SIZES: tuple[tuple[re.Pattern[str], tuple[int, ...]], ...] = tuple(
    (re.compile(operations), inputs)
    for operations, inputs in (
        (r"Range|RaggedRange", (0, 1, 2)),
        (r"Fill|Empty|RaggedTensorToTensor|Conv\dDBackpropInput\w*|TensorArrayV\d|MirrorPadGrad", (0,)),
        (
            r"Random\w+|Stateless(?:Random|Truncated|Parameterized)\w+|TruncatedNormal|ParameterizedTruncatedNormal",
            (0,),
        ),
        (r"Stateful\w*(?:Uniform|Normal|Binomial)\w*", (2,)),
        (r"Tile|BroadcastTo|OneHot|\w*Pad(?:V2)?|(?:Dense|Sparse)?Bincount|SparseToDense|TensorListReserve", (1,)),
        (r"Resize\w+|ExtractGlimpse\w*|(?:Stateless)?Multinomial|EmptyTensorList|TensorListResize", (1,)),
        (r"LinSpace|ScatterNd|UnsortedSegment\w+|SparseTensorDenseMatMul|RaggedBincount|Image\w+Transform\w+", (2,)),
        (r"\w+WithNumSegments|CropAndResize|SparseFillEmptyRows|MatrixDiag\w*", (2, 3)),
    )
)
"""Operations whose output is as large as an input says, and which of their inputs that are."""
_ONLY_SIZES = frozenset({"Const", "Shape", "ShapeN", "Size", "Rank", "VarHandleOp", "ReadVariableOp", "VariableShape"})
"""What does not depend on the values of a request."""


def is_steady(graph: Graph, inputs: Iterable[str], outputs: Iterable[str]) -> bool:
    """Whether what a call costs follows from the sizes of its inputs.

    Args:
      graph: The model's.
      inputs: The tensors that a request gives.
      outputs: The tensors that it asks for.
    """
    given = {node_name(tensor) for tensor in inputs}
    return not any(
        not stays_within(place.node) or _BY_VALUE.fullmatch(place.node.op) or _is_sized_by_value(graph, place, given)
        for place in graph.reached(outputs)
    )


def _is_sized_by_value(graph: Graph, place: Place, given: set[str]) -> bool:
    for operations, inputs in _SIZES:
        if operations.fullmatch(place.node.op):
            data = [tensor for tensor in place.node.input if not tensor.startswith("^")]
            sizes = [data[index] for index in inputs if index < len(data)]
            return any(_is_of_request(graph, tensor, place.scope, given, set()) for tensor in sizes)
    return False


def _is_of_request(graph: Graph, tensor: str, scope: str, given: set[str], seen: set[tuple[str, str]]) -> bool:
    """Whether a value depends on the values of a request, through as many calls as there are."""
    waiting = [(tensor, scope)]
    while waiting:
        tensor, scope = waiting.pop()
        name = node_name(tensor)
        if tensor.startswith("^") or (scope, name) in seen:
            continue
        seen.add((scope, name))
        node = graph.scopes[scope].get(name)
        if node is None:
            arguments = graph.arguments(scope)
            if name not in arguments:
                return True
            index = arguments.index(name)
            callers = [place for place in graph.callers(scope) if index < len(place.node.input)]
            if not callers:
                return True
            waiting += [(place.node.input[index], place.scope) for place in callers]
        elif (not scope and name in given) or node.op.startswith("Placeholder"):
            return not _is_resource(node)
        elif node.op not in _ONLY_SIZES:
            waiting += [(tensor, scope) for tensor in node.input]
    return False


def _is_resource(node: node_def_pb2.NodeDef) -> bool:
    return node.attr["dtype"].type == types_pb2.DT_RESOURCE
