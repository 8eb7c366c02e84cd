"""# Air quality: which version is served

air_quality_promote rolls back and forward, air_quality_release tries a version on live requests first. A file of
its own: a training pipeline that does not compile never hides the way back.
"""

from airtight.supervised import OPERATIONS
from pipelines.air_quality.settings import SETTINGS
from plugins.tfx_airflow.supervised import supervised_dags

globals().update(supervised_dags(SETTINGS, parts=OPERATIONS))
