"""# Bike demand

The DAGs of `pipelines/bike_demand` whose runs are intervals: bike_demand, which trains every month, and
bike_demand_batch_predict.
"""

from airtight.supervised import BY_INTERVAL
from pipelines.bike_demand.settings import SETTINGS
from plugins.tfx_airflow.supervised import supervised_dags

globals().update(supervised_dags(SETTINGS, parts=BY_INTERVAL))
