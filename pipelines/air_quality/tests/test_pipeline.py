"""The pipeline air_quality holds together."""

from components.supervised import create_pipeline
from components.tasks import task_of
from pipelines.air_quality.lake import TABLE
from pipelines.air_quality.schema import SCHEMA
from pipelines.air_quality.settings import SETTINGS


def test_it_goes_from_the_lake_to_the_model_server() -> None:
    nodes = [node.id for node in create_pipeline(SETTINGS).components]
    assert nodes[0] == "ingest" and "push" in nodes


def test_its_table_has_what_its_task_predicts() -> None:
    assert task_of(SCHEMA).metrics
    assert SCHEMA.label in TABLE.schema.names
