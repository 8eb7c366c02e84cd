"""# Bike demand

The DAGs of `pipelines/bike_demand`: bike_demand, which trains every month, and bike_demand_promote,
bike_demand_release and bike_demand_batch_predict.
"""

from pipelines.bike_demand.settings import SETTINGS
from plugins.tfx_airflow.supervised import supervised_dags

globals().update(supervised_dags(SETTINGS))
