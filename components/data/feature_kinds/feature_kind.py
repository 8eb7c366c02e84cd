"""The interface of a kind of features: steps ask it whatever depends on the kind, and know no kind themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from components.schema import Feature

if TYPE_CHECKING:
    import tensorflow as tf
    from pyspark.sql import Column
    from pyspark.sql.types import DataType


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
