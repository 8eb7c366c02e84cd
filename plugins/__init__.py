"""Airflow without TFX: DAGs and task groups from compiled pipelines, the operator, the plugin."""
