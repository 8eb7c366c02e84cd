"""# Bike demand: which version is served

bike_demand_promote rolls back and forward, bike_demand_release tries a version on live requests first. A file of
its own: a training pipeline that does not compile never hides the way back.
"""

from airtight.supervised import OPERATIONS
from pipelines.bike_demand.settings import SETTINGS
from plugins.tfx_airflow.supervised import supervised_dags

globals().update(supervised_dags(SETTINGS, parts=OPERATIONS))
