"""What Airflow loads from this folder: the plugin's name, so that `airflow plugins` shows that it is there.

`.airflowignore` beside it keeps the plugin loader, which imports files by path, away from the package.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class AirtightPlugin(AirflowPlugin):
    """Airtight: TFX pipelines as Airflow DAGs."""

    name = "airtight"
