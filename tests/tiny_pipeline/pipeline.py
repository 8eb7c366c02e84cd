"""# Words

Writes words, copies them, counts them.
"""

from tfx.orchestration.pipeline import Pipeline

from airtight.parameters import Parameter
from runtime.parameters import interval_parameters, runtime_parameter
from tests.tiny_pipeline import steps

ZONE = "America/New_York"
TEXT = Parameter("text", "str", "word", "What to write.")
REPEAT = Parameter("repeat", "int", 3, "How often.", minimum=0, maximum=100)
TROUBLE = Parameter("trouble", "str", "none", "What goes wrong in the second step.")
PARAMETERS = (TEXT, REPEAT, TROUBLE)


def create_pipeline() -> Pipeline:
    """Gives the pipeline of three steps."""
    start, end = interval_parameters()
    write = steps.write(
        interval_start=start, interval_end=end, text=runtime_parameter(TEXT), repeat=runtime_parameter(REPEAT)
    ).with_id("write")
    copy = steps.break_on_request(words=write.outputs["words"], trouble=runtime_parameter(TROUBLE)).with_id("copy")
    count = steps.count(words=copy.outputs["copied"]).with_id("count")
    return Pipeline(pipeline_name="tiny", pipeline_root=None, components=[write, copy, count])


def create_long_pipeline() -> Pipeline:
    """Gives a pipeline whose nodes have the longest ids that Airflow takes for tasks."""
    start, end = interval_parameters()
    write = steps.write(
        interval_start=start, interval_end=end, text=runtime_parameter(TEXT), repeat=runtime_parameter(REPEAT)
    ).with_id("w" * 250)
    copy = steps.break_on_request(words=write.outputs["words"], trouble=runtime_parameter(TROUBLE)).with_id("c" * 250)
    return Pipeline(pipeline_name="longest", pipeline_root=None, components=[write, copy])
