"""The kinds of features: how each is checked, stored, and given to a model, in Spark, Arrow, NumPy and TensorFlow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from airtight.errors import TerminalError
from components.schema import ExampleSchema, Feature

if TYPE_CHECKING:
    import tensorflow as tf
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

IMAGE_HEADS = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}
"""The first bytes of an image, by format."""


class FeatureKind(ABC):
    """What steps ask about features of one kind. Methods take the feature, whose name and length they need."""

    spark_type: ClassVar[str]
    """Type of the column that Spark writes."""
    stored: ClassVar[str]
    """What a column of examples holds, in words."""
    wrong: ClassVar[str] = ""
    """What is wrong with a value that `spark_wrong` finds, in words; empty where every value is right."""

    @abstractmethod
    def arrow_type(self, feature: Feature) -> pa.DataType:
        """Type of the column in examples."""

    @abstractmethod
    def holds(self, type_: pa.DataType) -> bool:
        """Whether a column of this type can be read as this kind."""

    @abstractmethod
    def missing(self, feature: Feature) -> Any:
        """The value that stands for a missing one, as a Python object."""

    @abstractmethod
    def takes(self, type_: DataType) -> bool:
        """Whether a Spark column of this type becomes this kind without loss of meaning."""

    @abstractmethod
    def spark_missing(self, feature: Feature) -> Column:
        """The missing value as a Spark literal."""

    def spark_cast(self, column: Column) -> Column:
        """The column as `spark_type`; null stays null."""
        return column.cast(self.spark_type)

    def spark_wrong(self, feature: Feature, column: Column, value: Column) -> Column | None:
        """Whether a value of the column, cast to `value`, is none of this kind; None where every value is right."""
        return None

    @abstractmethod
    def numpy(self, feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
        """A column of examples as a model takes it, [rows, *shape]; null is missing.

        Raises:
          TerminalError: A value has another shape.
        """

    @abstractmethod
    def tensor(self, feature: Feature) -> tuple[str, tuple[int | None, ...]]:
        """TensorFlow's type and a row's shape of the served input; None is padded to the longest row of the batch."""

    def tensor_spec(self, feature: Feature) -> tf.TensorSpec:
        """The served input, [batch, *shape]."""
        import tensorflow as tf

        dtype, shape = self.tensor(feature)
        return tf.TensorSpec([None, *shape], dtype, name=feature.name)

    def parse_spec(self, feature: Feature) -> Any:
        """How `tf.io.parse_example` reads the feature; one that an example lacks is missing."""
        import tensorflow as tf

        dtype, shape = self.tensor(feature)
        return tf.io.FixedLenFeature(shape, dtype, self.missing(feature))


class Number(FeatureKind):
    """float32 [rows], NaN where missing."""

    spark_type, stored = "float", "numbers"
    wrong = "no numbers, infinite, or beyond what a float32 holds"

    @override
    def arrow_type(self, feature: Feature) -> pa.DataType:
        return pa.float32()

    @override
    def holds(self, type_: pa.DataType) -> bool:
        return bool(pa.types.is_floating(type_) or pa.types.is_integer(type_))

    @override
    def missing(self, feature: Feature) -> Any:
        return float("nan")

    @override
    def takes(self, type_: DataType) -> bool:
        from pyspark.sql.types import BooleanType, NullType, NumericType, StringType

        return isinstance(type_, (NumericType, BooleanType, StringType, NullType))

    @override
    def spark_missing(self, feature: Feature) -> Column:
        from pyspark.sql import functions as F

        return F.lit(float("nan")).cast("float")

    @override
    def spark_cast(self, column: Column) -> Column:
        return column.try_cast(self.spark_type)

    @override
    def spark_wrong(self, feature: Feature, column: Column, value: Column) -> Column | None:
        return column.isNotNull() & (value.isNull() | value.isin(float("inf"), float("-inf")))

    @override
    def numpy(self, feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
        values: np.ndarray = column.fill_null(float("nan")).to_numpy(zero_copy_only=False)
        return values.astype(np.float32)

    @override
    def tensor(self, feature: Feature) -> tuple[str, tuple[int | None, ...]]:
        return "float32", ()


class Text(FeatureKind):
    """Object array of str [rows], "" where missing: a category, or a text."""

    spark_type, stored = "string", "strings"

    @override
    def arrow_type(self, feature: Feature) -> pa.DataType:
        return pa.string()

    @override
    def holds(self, type_: pa.DataType) -> bool:
        return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))

    @override
    def missing(self, feature: Feature) -> Any:
        return ""

    @override
    def takes(self, type_: DataType) -> bool:
        from pyspark.sql.types import ArrayType, BinaryType, MapType, StructType

        return not isinstance(type_, (ArrayType, BinaryType, MapType, StructType))

    @override
    def spark_missing(self, feature: Feature) -> Column:
        from pyspark.sql import functions as F

        return F.lit("")

    @override
    def numpy(self, feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
        values: np.ndarray = column.fill_null("").to_numpy(zero_copy_only=False)
        return values.astype(object)

    @override
    def tensor(self, feature: Feature) -> tuple[str, tuple[int | None, ...]]:
        return "string", ()


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


class Image(FeatureKind):
    """Object array of bytes [rows], of a PNG or JPEG file, b"" where missing. Only the first bytes are looked at."""

    spark_type, stored = "binary", "bytes"
    wrong = "neither a PNG nor a JPEG"

    @override
    def arrow_type(self, feature: Feature) -> pa.DataType:
        return pa.binary()

    @override
    def holds(self, type_: pa.DataType) -> bool:
        return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))

    @override
    def missing(self, feature: Feature) -> Any:
        return b""

    @override
    def takes(self, type_: DataType) -> bool:
        from pyspark.sql.types import BinaryType

        return isinstance(type_, BinaryType)

    @override
    def spark_missing(self, feature: Feature) -> Column:
        from pyspark.sql import functions as F

        return F.lit(bytearray())

    @override
    def spark_wrong(self, feature: Feature, column: Column, value: Column) -> Column | None:
        from pyspark.sql import functions as F

        right = F.octet_length(value) == 0
        for head in IMAGE_HEADS.values():
            right = right | (F.substring(value, 1, len(head)) == F.lit(bytearray(head)))
        return column.isNotNull() & ~right

    @override
    def numpy(self, feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
        values: np.ndarray = column.fill_null(b"").to_numpy(zero_copy_only=False)
        return values.astype(object)

    @override
    def tensor(self, feature: Feature) -> tuple[str, tuple[int | None, ...]]:
        return "string", ()


KINDS: dict[str, FeatureKind] = {
    "number": Number(),
    "category": Text(),
    "categories": Categories(),
    "text": Text(),
    "vector": Vector(),
    "image": Image(),
}


def kind_of(feature: Feature) -> FeatureKind:
    """What a feature's kind is.

    Raises:
      TerminalError: There is no such kind, or a vector has no length.
    """
    if feature.kind not in KINDS or (feature.kind == "vector") != (feature.length > 0):
        raise TerminalError(
            f"The schema's feature {feature.name} is none.",
            expected=f"one of the kinds {', '.join(KINDS)}; a length of 1 or more for a vector, and for no other",
            received=f"kind {feature.kind!r}, length {feature.length}",
            remedy="Correct the pipeline's schema.",
        )
    return KINDS[feature.kind]


def parse_specs(schema: ExampleSchema) -> dict[str, Any]:
    """How `tf.io.parse_example` reads the features of a schema, by name."""
    return {feature.name: kind_of(feature).parse_spec(feature) for feature in schema.features}


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))
