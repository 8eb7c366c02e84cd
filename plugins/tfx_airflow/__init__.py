"""TFX pipelines as Airflow DAGs: reads compiled pipelines, imports no TFX."""

from plugins.tfx_airflow.dag import TfxDag, TfxTaskGroup
from plugins.tfx_airflow.operator import TfxNodeOperator

__all__ = ["TfxDag", "TfxNodeOperator", "TfxTaskGroup"]
