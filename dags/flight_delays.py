"""# Flight delays

The DAGs of `pipelines/flight_delays` whose runs are intervals: flight_delays, which trains, flight_delays_warm, which
trains each month from the weights of the month before, and flight_delays_batch_predict.
"""

from airtight.supervised import BY_INTERVAL
from pipelines.flight_delays.settings import SETTINGS, WARM
from plugins.tfx_airflow.supervised import supervised_dags

globals().update(supervised_dags(SETTINGS, WARM, parts=BY_INTERVAL))
