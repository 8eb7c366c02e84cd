"""# Flight delays

The DAGs of `pipelines/flight_delays`: flight_delays, which trains, and flight_delays_promote, flight_delays_release and
flight_delays_batch_predict; and flight_delays_warm, which trains each month from the weights of the month before.
"""

from pipelines.flight_delays.settings import SETTINGS, WARM
from plugins.tfx_airflow.supervised import supervised_dags

globals().update(supervised_dags(SETTINGS) | supervised_dags(WARM))
