"""What is expected of the rows of air_quality: what warns is reported, all else stops a run."""

from collections.abc import Iterator

from pyspark.sql import SparkSession

from components.data.dataset import DatasetReader
from components.measures import expect
from components.measures.judging import Subject
from pipelines.air_quality.lake import TABLE
from pipelines.air_quality.schema import SCHEMA


def subjects(reader: DatasetReader, spark: SparkSession) -> Iterator[Subject]:
    """The rows, and what is expected of them."""
    expectations = [
        expect.unique(*TABLE.key),
        expect.mostly_given("tomorrow", 0.91),
        expect.one_of("tomorrow", SCHEMA.classes),
        expect.between("pm25", 0, 1500, warns=True),
        expect.between("pm25_24h", 0, 1000, warns=True),
        expect.between("dew_point", -74, 62, warns=True),
        expect.between("temperature", -50, 73, warns=True),
        expect.between("pressure", 960, 1100, warns=True),
        expect.one_of("wind_direction", ("NE", "NW", "SE", "cv"), warns=True),
        expect.between("wind", 0, 880, warns=True),
        expect.between("wet", 0, 54, warns=True),
    ]
    return expect.subjects_of(reader, spark, TABLE, expectations)
