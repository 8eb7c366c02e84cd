"""Kinds with a list in a row: several categories, a vector of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from airtight.errors import TerminalError
from components.data.feature_kinds.feature_kind import FeatureKind
from components.data.feature_kinds.single import Number, Text
from components.schema import Feature

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType


class Categories(FeatureKind):
    """Object array of str [rows, items], each row's items first and "" after them; none is missing.

    A model gets rows padded with "": requests of one batch have lists of one length.
    """

    spark_type, stored = "array<string>", "lists of strings"

    @override
    def arrow_type(self, feature: Feature) -> pa.DataType:
        return pa.list_(pa.string())

    @override
    def holds(self, type_: pa.DataType) -> bool:
        return _is_list(type_) and Text().holds(type_.value_type)

    @override
    def missing(self, feature: Feature) -> Any:
        return []

    @override
    def takes(self, type_: DataType) -> bool:
        from pyspark.sql.types import ArrayType

        return isinstance(type_, ArrayType) and Text().takes(type_.elementType)

    @override
    def spark_missing(self, feature: Feature) -> Column:
        from pyspark.sql import functions as F

        return F.array().cast(self.spark_type)

    @override
    def spark_cast(self, column: Column) -> Column:
        from pyspark.sql import functions as F

        # An item that is null or "" is none: "" pads rows.
        return F.filter(column.cast(self.spark_type), lambda item: item.isNotNull() & (item != ""))

    @override
    def numpy(self, feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
        lists = column.combine_chunks()
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        width = max(1, int(lengths.max(initial=0)))
        rows = np.full((len(lists), width), "", object)
        items = lists.flatten().fill_null("").to_numpy(zero_copy_only=False)
        rows[np.arange(width) < lengths[:, None]] = items
        return rows

    @override
    def tensor(self, feature: Feature) -> tuple[str, tuple[int | None, ...]]:
        return "string", (None,)

    @override
    def parse_spec(self, feature: Feature) -> Any:
        import tensorflow as tf

        return tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True, default_value="")


class Vector(FeatureKind):
    """float32 [rows, length], a row of NaN where missing."""

    spark_type, stored = "array<float>", "lists of numbers"
    wrong = "of another length than the schema's, or hold an infinite number"

    @override
    def arrow_type(self, feature: Feature) -> pa.DataType:
        return pa.list_(pa.float32())

    @override
    def holds(self, type_: pa.DataType) -> bool:
        return _is_list(type_) and Number().holds(type_.value_type)

    @override
    def missing(self, feature: Feature) -> Any:
        return [float("nan")] * feature.length

    @override
    def takes(self, type_: DataType) -> bool:
        from pyspark.sql.types import ArrayType, NumericType

        return isinstance(type_, ArrayType) and isinstance(type_.elementType, NumericType)

    @override
    def spark_missing(self, feature: Feature) -> Column:
        from pyspark.sql import functions as F

        return F.array_repeat(F.lit(float("nan")).cast("float"), feature.length)

    @override
    def spark_cast(self, column: Column) -> Column:
        from pyspark.sql import functions as F

        missing = F.lit(float("nan")).cast("float")
        return F.transform(column.cast(self.spark_type), lambda value: F.coalesce(value, missing))

    @override
    def spark_wrong(self, feature: Feature, column: Column, value: Column) -> Column | None:
        from pyspark.sql import functions as F

        infinite = F.exists(value, lambda number: number.isin(float("inf"), float("-inf")))
        return column.isNotNull() & ((F.size(value) != feature.length) | infinite)

    @override
    def numpy(self, feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
        lists = column.combine_chunks()
        lengths = pc.list_value_length(lists)
        length = feature.length or (pc.max(lengths).as_py() or 0)
        wrong = pc.sum(pc.not_equal(lengths, length)).as_py() or 0
        if wrong:
            raise TerminalError(
                f"The vectors of {feature.name} are of different lengths.",
                expected=f"{length} numbers in each",
                received=f"another length in {wrong:,} of {len(lists):,} rows",
                remedy="Correct the schema's length, or the step that makes the examples.",
            )
        there = ~lists.is_null().to_numpy(zero_copy_only=False)
        rows = np.full((len(lists), length), np.nan, np.float32)
        rows[there] = Number().numpy(feature, pa.chunked_array([lists.flatten()])).reshape(-1, length)
        return rows

    @override
    def tensor(self, feature: Feature) -> tuple[str, tuple[int | None, ...]]:
        return "float32", (feature.length,)


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))
