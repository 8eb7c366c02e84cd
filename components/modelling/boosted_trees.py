"""Boosted trees: trained by LightGBM, evaluated by TensorFlow, so that they live in the SavedModel.

Trees see numbers as they are, NaN where missing, and categories as codes, 0 for unknown and rare ones. The layer
gathers from arrays of nodes, all trees of all rows at once, one step for each level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import keras
import lightgbm
import numpy as np
import tensorflow as tf
from keras import layers

from airtight.errors import TerminalError
from components.modelling.row_store import RowReader, RowStore

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "learning_rate": 0.05,
        "num_leaves": 63,
        "max_depth": 10,  # Each level is a step of the layer, for every row; trees without a limit are no better.
        "min_child_samples": 20,
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 1,
        "verbose": -1,
        # Equal rows and settings give equal trees, whatever the machine.
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
    }
)
"""LightGBM's settings where a pipeline has no others."""


@dataclass(frozen=True)
class TreeSettings:
    """How trees are trained.

    Args:
      most: Trees at most.
      patience: Trees without a better validation loss before it ends.
      unwatched: Trees where no validation rows tell how many.
      rows: Rows that they learn from, at most: LightGBM holds them in memory, a byte or two for each value. Of more,
        about so many are drawn, by a hash of the row's number.
      parameters: LightGBM's, over `DEFAULTS`.
    """

    most: int = 1000
    patience: int = 50
    unwatched: int = 150
    rows: int = 4_000_000
    parameters: Mapping[str, Any] = field(default_factory=dict)


class _Table(lightgbm.Sequence):
    """Rows that lie on disk, as LightGBM reads them."""

    def __init__(self, store: RowStore) -> None:
        self.reader, self.batch_size = RowReader(store, 0), store.block

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            return self.reader.rows(index.start or 0, len(self) if index.stop is None else index.stop)
        return self.reader.row(index).astype(np.float64)  # As LightGBM wants what it samples.


def train_boosters(
    fitted: RowStore,
    watched: RowStore | None,
    categories: Sequence[int],
    objectives: Mapping[str, Mapping[str, Any]],
    trees: Mapping[str, Any],
    seed: int,
    settings: TreeSettings,
) -> dict[str, lightgbm.Booster]:
    """Trains a booster for each objective, all on the same binned rows.

    Args:
      fitted: Rows to learn from: (float32 [rows, features], target [rows] or [rows, labels]), or with weights [rows]
        behind them.
      watched: Validation rows, which choose how many iterations are kept; None trains `trees`.
      categories: Which of the features are codes.
      objectives: LightGBM's objective of each booster, by its name, with what belongs to it, and as `target` the place
        of its label where there are several.
      trees: By the same names how many iterations, where nothing is watched; `settings.unwatched` for others.
      seed: Of the rows and features that a tree looks at.
      settings: All else.

    Returns:
      The boosters by name, of the iterations that are kept.
    """
    shared = {**DEFAULTS, **settings.parameters, "seed": seed}
    data, targets = _dataset(fitted, categories, shared, None)
    judges, judged = (None, None) if watched is None else _dataset(watched, categories, shared, data)
    boosters = {}
    for name, objective in objectives.items():
        parameters = {**shared, **objective}
        if (place := parameters.pop("target", None)) is not None:
            data.set_label(np.ascontiguousarray(targets[:, place]))
            if judges is not None and judged is not None:
                judges.set_label(np.ascontiguousarray(judged[:, place]))
        if judges is None:
            boosters[name] = lightgbm.train(parameters, data, trees.get(name, settings.unwatched))
            continue
        stop = lightgbm.early_stopping(settings.patience, verbose=False)
        booster = lightgbm.train(parameters, data, settings.most, valid_sets=[judges], callbacks=[stop])
        boosters[name] = lightgbm.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))
    return boosters


def _dataset(
    store: RowStore, categories: Sequence[int], parameters: Mapping[str, Any], reference: lightgbm.Dataset | None
) -> tuple[lightgbm.Dataset, np.ndarray]:
    """The binned rows, with the first label, and the targets."""
    columns = [
        np.concatenate([store.read_array(array, block) for block in range(store.blocks)])
        for array in range(1, len(store.specs))
    ]
    data = lightgbm.Dataset(
        _Table(store),
        np.ascontiguousarray(columns[0].reshape(len(columns[0]), -1)[:, 0]),
        reference=reference,
        weight=columns[1] if len(columns) > 1 else None,
        categorical_feature=list(categories),
        params=dict(parameters),
    )
    return data, columns[0]


@keras.saving.register_keras_serializable("airtight")
class BoostedTrees(layers.Layer):
    """Logits, float32 [batch, 1, outputs], of boosters, of numbers [batch, numbers] and codes [batch, categories].

    Its weights are arrays of nodes, and are not trained: make it by `booster_to_layer`.

    Every node asks whether one column is at most its limit. Columns are the numbers with NaN as infinite, again with
    NaN as minus infinite (so a node chooses where a missing value goes by which of both it asks), and for each set of
    codes, one category's after the other's, whether a row's code is outside.

    Args:
      nodes: How many nodes there are in all trees.
      trees: For each output how many trees.
      sets: For each category how many sets of its codes.
      words: Codes that the sets tell apart; the last stands for all that are larger.
      depth: Levels below the root of the deepest tree.
    """

    def __init__(self, nodes: int, trees: list[int], sets: list[int], words: int, depth: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.nodes, self.trees, self.sets, self.words, self.depth = nodes, trees, sets, words, depth

    def build(self, *_: Any) -> None:
        """Makes the arrays, all zero."""

        def array(name: str, kind: str, *shape: int) -> Any:
            # Without autocast: logits are summed in float64, as LightGBM does.
            return self.add_weight(
                name=name, shape=shape, dtype=kind, initializer="zeros", trainable=False, autocast=False
            )

        # What a step needs of a node lies together: one look-up, and not one for each of them.
        self.node = array("node", "int32", self.nodes, 3)
        self.value = array("value", "float64", self.nodes)
        self.roots = array("roots", "int32", sum(self.trees))
        self.outside = [
            array(f"outside_{category}", "float32", self.words, sets) for category, sets in enumerate(self.sets)
        ]

    def call(self, numbers: Any, codes: Any) -> Any:
        """Goes down from all roots; a leaf goes on to itself, so that shallow trees wait for deep ones."""
        missing = tf.math.is_nan(numbers)
        # Infinity is a large number: it must not be taken for a missing one.
        numbers = tf.minimum(numbers, tf.float32.max)
        words = tf.unstack(tf.minimum(codes, self.words - 1), len(self.sets), axis=1)
        # A code's row of all sets at once: copied, where one set after the other would be looked up.
        outside = [tf.gather(table, word) for table, word in zip(self.outside, words, strict=True)]
        columns = tf.concat([tf.where(missing, np.inf, numbers), tf.where(missing, -np.inf, numbers), *outside], axis=1)
        rows, width = tf.shape(columns)[0], tf.shape(columns)[1]
        first = width * tf.range(rows)[:, None]
        values = tf.reshape(columns, [-1])
        at = tf.tile(self.roots[None, :], [rows, 1])
        for _ in range(self.depth):
            column, limit, right = tf.unstack(tf.gather(self.node, at), 3, axis=2)
            left = tf.gather(values, first + column) <= tf.bitcast(limit, tf.float32)
            at = right + tf.cast(left, tf.int32)
        leaves = tf.split(tf.gather(self.value, at), self.trees, axis=1)
        logits = tf.concat([tf.reduce_sum(of_output, axis=1, keepdims=True) for of_output in leaves], axis=1)
        return tf.cast(logits, tf.float32)[:, None, :]

    def compute_output_spec(self, numbers: Any, codes: Any) -> keras.KerasTensor:
        """Of one member."""
        return keras.KerasTensor((numbers.shape[0], 1, len(self.trees)), "float32")

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        sizes = {name: getattr(self, name) for name in ("nodes", "trees", "sets", "words", "depth")}
        return {**super().get_config(), **sizes}


def booster_to_layer(boosters: Sequence[lightgbm.Booster], numbers: int) -> BoostedTrees:
    """The trees of boosters as a layer, their raw scores one after the other as its outputs.

    Args:
      boosters: Trained by `train_boosters`, of the same features.
      numbers: How many of the features are numbers; the others, behind them, are categories.

    Raises:
      TerminalError: A node that this layer does not know.
    """
    flat = _FlatTrees(numbers)
    roots: list[int] = []
    trees: list[int] = []
    for booster in boosters:
        dump = booster.dump_model()
        # A booster of several classes has a tree of each in turn.
        outputs = dump["num_tree_per_iteration"]
        for output in range(outputs):
            of_output = dump["tree_info"][output::outputs]
            roots += [flat.add_tree(tree["tree_structure"]) for tree in of_output]
            trees.append(len(of_output))
    words = 2 + max((code for _, codes in flat.sets for code in codes), default=0)
    outside, columns, place = [], dict[int, int](), 2 * numbers
    for category in range(boosters[0].num_feature() - numbers):
        sets = [(codes, number) for (of, codes), number in flat.sets.items() if of == category]
        table = np.ones((words, len(sets)), np.float32)
        for at, (codes, number) in enumerate(sets):
            table[list(codes), at] = 0
            columns[2 * numbers + number] = place + at
        place += len(sets)
        outside.append(table)
    limits = np.array(flat.limit, np.float32).view(np.int32)
    node = np.stack([[columns.get(column, column) for column in flat.column], limits, flat.right], axis=1)
    layer = BoostedTrees(len(node), trees, [table.shape[1] for table in outside], words, flat.depth)
    layer.build()
    layer.set_weights([node.astype(np.int32), np.array(flat.value, np.float64), np.array(roots, np.int32), *outside])
    return layer


@dataclass
class _FlatTrees:
    """Arrays of nodes as they fill: the column that is compared, up to what, the right child, a leaf's value.

    The left child stands behind the right one.
    """

    numbers: int
    column: list[int] = field(default_factory=list)
    limit: list[np.float32] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    sets: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict)
    depth: int = 0

    def add_tree(self, root: dict[str, Any]) -> int:
        """Adds a tree of LightGBM's dump; answers the place of its root."""
        place = self._leaf()
        self._add(root, place, 0)
        return place

    def _add(self, node: dict[str, Any], place: int, level: int) -> None:
        self.depth = max(self.depth, level)
        if "leaf_value" in node:
            self.value[place] = node["leaf_value"]
            return
        self.column[place], self.limit[place] = self._split(node)
        self.right[place], left = self._leaf(), self._leaf()
        self._add(node["right_child"], self.right[place], level + 1)
        self._add(node["left_child"], left, level + 1)

    def _leaf(self) -> int:
        """Room for a node, until then a leaf: nothing is at most NaN, so that it goes on to itself."""
        self.column.append(0)
        self.limit.append(np.float32(np.nan))
        self.right.append(len(self.right))
        self.value.append(0.0)
        return len(self.right) - 1

    def _split(self, node: dict[str, Any]) -> tuple[int, np.float32]:
        feature = node["split_feature"]
        if node["decision_type"] == "==":
            codes = tuple(int(code) for code in node["threshold"].split("||"))
            number = self.sets.setdefault((feature - self.numbers, codes), len(self.sets))
            return 2 * self.numbers + number, np.float32(0)
        if node["missing_type"] not in ("NaN", "None"):
            raise TerminalError(
                "A tree treats missing values in a way that the exported model does not know.",
                expected="missing_type NaN or None",
                received=node["missing_type"],
                remedy="Leave zero_as_missing and use_missing of LightGBM as they are.",
            )
        limit = float(node["threshold"])
        # Where no fitted row lacked the number, LightGBM takes a missing one for 0.
        left = node["default_left"] if node["missing_type"] == "NaN" else limit >= 0
        return feature + self.numbers * int(left), _at_most(limit)


def _at_most(limit: float) -> np.float32:
    """The largest float32 at most a float64: of float32 values, exactly the same are at most either."""
    with np.errstate(over="ignore"):
        near = np.float32(limit)
    return near if float(near) <= limit else np.nextafter(near, np.float32(-np.inf))
