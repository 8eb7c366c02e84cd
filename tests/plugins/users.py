"""Airflow's own login with DAGs that some users may not read, for tests: the simple auth manager has none such."""

from __future__ import annotations

import os
from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

VARIABLE = "TEST_UNREADABLE"
"""Environment variable: `user=dag_id,dag_id;user=...`, the DAGs that a user may not read."""


class ManagerByDag(SimpleAuthManager):
    """The simple auth manager, for which some DAGs are not there for some users."""

    def is_authorized_dag(self, *, method: Any, user: Any, access_entity: Any = None, details: Any = None) -> bool:
        """Refuses the DAGs that the environment names."""
        refused = dict(part.split("=") for part in os.environ.get(VARIABLE, "").split(";") if part)
        if details is not None and details.id in refused.get(user.username, "").split(","):
            return False
        return super().is_authorized_dag(method=method, user=user, access_entity=access_entity, details=details)
