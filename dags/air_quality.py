"""# Air quality

Which class is the air of Beijing of in 24 hours? The DAGs of `pipelines/air_quality` whose runs are intervals.
"""

from airtight.supervised import BY_INTERVAL
from pipelines.air_quality.settings import SETTINGS
from plugins.tfx_airflow.supervised import supervised_dags

globals().update(supervised_dags(SETTINGS, parts=BY_INTERVAL))
