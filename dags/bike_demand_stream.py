"""# Bike demand: the stream

bike_demand_stream keeps the job of `pipelines/bike_demand/streams.py` running, bike_demand_stop ends it.
"""

from plugins.tfx_airflow.stream_dags import stream_dags

globals().update(
    stream_dags("bike_demand", description="rides of each hour, once it has ended.", tags=["stream", "bikes"])
)
