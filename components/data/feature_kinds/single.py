"""Kinds with one value in a row: a number, a text, an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from typing_extensions import override

from components.data.feature_kinds.feature_kind import FeatureKind
from components.schema import Feature

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

IMAGE_HEADS = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}
"""The first bytes of an image, by format."""
IMAGE_TAILS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
"""What ends it: a file that was cut off has none. Some programs write a little behind it."""
BEHIND = 1024
"""Bytes at the end in which that is looked for."""


def is_image(value: bytes) -> bool:
    """Whether bytes are a PNG or a JPEG, from beginning to end."""
    end = value[-BEHIND:]
    return any(value.startswith(head) and IMAGE_TAILS[name] in end for name, head in IMAGE_HEADS.items())


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


class Image(FeatureKind):
    """Object array of bytes [rows], of a PNG or JPEG file, b"" where missing. Its beginning and end are looked at."""

    spark_type, stored = "binary", "bytes"
    wrong = "neither a whole PNG nor a whole JPEG"

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
        for name, head in IMAGE_HEADS.items():
            begins = F.substring(value, 1, len(head)) == F.lit(bytearray(head))
            ends = F.contains(F.substring(value, -BEHIND, BEHIND), F.lit(bytearray(IMAGE_TAILS[name])))
            right = right | (begins & ends)
        return column.isNotNull() & ~right

    @override
    def numpy(self, feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
        values: np.ndarray = column.fill_null(b"").to_numpy(zero_copy_only=False)
        return values.astype(object)

    @override
    def tensor(self, feature: Feature) -> tuple[str, tuple[int | None, ...]]:
        return "string", ()
