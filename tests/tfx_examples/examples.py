"""TFX's examples, unchanged, with the arguments of TFX's own tests; each function gives one pipeline.

The environment says where they read and write: `TFX_EXAMPLES` has the data, `TFX_EXAMPLES_OUT` takes what a run makes.
"""

import os
from pathlib import Path
from typing import Any

import tfx.examples
from tfx import v1 as tfx_v1
from tfx.examples.chicago_taxi_pipeline import taxi_pipeline_native_keras
from tfx.examples.custom_components.container_components import download_grep_print_pipeline
from tfx.examples.custom_components.hello_world.example import taxi_pipeline_hello
from tfx.examples.imdb import imdb_pipeline_native_keras
from tfx.examples.mnist import mnist_pipeline_native_keras
from tfx.examples.penguin import penguin_pipeline_local, penguin_pipeline_local_infraval
from tfx.examples.penguin.experimental import penguin_pipeline_sklearn_local
from tfx.orchestration import metadata
from tfx.orchestration.pipeline import Pipeline

MULTI_PROCESSING = ["--direct_running_mode=multi_processing", "--direct_num_workers=0"]


def hello_world() -> Pipeline:
    """Its component, between an ExampleGen and StatisticsGen."""
    places = _places("hello_world")
    del places["serving_model_dir"]
    return taxi_pipeline_hello._create_pipeline(**places, data_root=_data("chicago_taxi_pipeline"))


def penguin() -> Pipeline:
    """As TFX ships it, without Tuner and BulkInferrer: with the resolver of Transform's cache."""
    return _penguin("penguin")


def penguin_full() -> Pipeline:
    """All that its `__main__` switches on."""
    return _penguin("penguin_full", enable_tuning=True, enable_bulk_inferrer=True)


def penguin_schema() -> Pipeline:
    """With a schema of the user's own, and ExampleValidator."""
    return _penguin("penguin_schema", user_provided_schema_path=_data("penguin/schema.pbtxt"))


def penguin_span() -> Pipeline:
    """A window of the last two spans, the present one by its date."""
    return _penguin(
        "penguin_span",
        data_root=_data("spans"),
        examplegen_input_config=tfx_v1.proto.Input(
            splits=[tfx_v1.proto.Input.Split(name="test", pattern="day{SPAN}/*")]
        ),
        examplegen_range_config_date="20220102",
        resolver_range_config=tfx_v1.proto.RangeConfig(rolling_range=tfx_v1.proto.RollingRange(num_spans=2)),
    )


def penguin_diff() -> Pipeline:
    """With ExampleDiff beside another data set."""
    return _penguin("penguin_diff", enable_example_diff=True)


def penguin_multi() -> Pipeline:
    """With the Beam arguments of its `__main__`."""
    return _penguin("penguin_multi", beam_pipeline_args=MULTI_PROCESSING)


def penguin_infraval() -> Pipeline:
    """With InfraValidator, which starts a container."""
    return penguin_pipeline_local_infraval._create_pipeline(
        **_places("penguin_infraval"),
        data_root=_data("penguin"),
        module_file=_code("penguin/penguin_utils_keras.py"),
        accuracy_threshold=0.1,
        user_provided_schema_path=_data("penguin/schema.pbtxt"),
        beam_pipeline_args=[],
        infra_validator_host_ip_address="localhost",
        make_warmup=True,
    )


def penguin_sklearn() -> Pipeline:
    """With scikit-learn."""
    return penguin_pipeline_sklearn_local._create_pipeline(
        **_places("penguin_sklearn"),
        data_root=_data("penguin"),
        trainer_module_file=_code("penguin/experimental/penguin_utils_sklearn.py"),
        evaluator_module_file=_code("penguin/experimental/sklearn_predict_extractor.py"),
        beam_pipeline_args=[],
    )


def taxi() -> Pipeline:
    """Chicago's taxis, with Keras."""
    return taxi_pipeline_native_keras._create_pipeline(
        **_places("taxi"),
        data_root=_data("chicago_taxi_pipeline"),
        module_file=_code("chicago_taxi_pipeline/taxi_utils_native_keras.py"),
        beam_pipeline_args=[],
    )


def imdb() -> Pipeline:
    """Sentiments of reviews."""
    return imdb_pipeline_native_keras._create_pipeline(
        **_places("imdb"),
        data_root=_data("imdb"),
        module_file=_code("imdb/imdb_utils_native_keras.py"),
        beam_pipeline_args=[],
    )


def mnist() -> Pipeline:
    """Handwritten digits, with ids that have a dot."""
    return mnist_pipeline_native_keras._create_pipeline(
        **_places("mnist"),
        data_root=_data("mnist"),
        module_file=_code("mnist/mnist_utils_native_keras.py"),
        beam_pipeline_args=[],
        accuracy_threshold=0.5,
    )


def containers() -> Pipeline:
    """Three components that are containers."""
    places = _places("containers")
    return Pipeline(
        pipeline_name=places["pipeline_name"],
        pipeline_root=places["pipeline_root"],
        components=download_grep_print_pipeline.create_pipeline_component_instances(
            text_url="file:///etc/hostname", pattern="."
        ),
        metadata_connection_config=metadata.sqlite_metadata_connection_config(places["metadata_path"]),
    )


def _penguin(name: str, **options: Any) -> Pipeline:
    usual = {
        "data_root": _data("penguin"),
        "module_file": _code("penguin/penguin_utils_keras.py"),
        "accuracy_threshold": 0.1,
        "user_provided_schema_path": None,
        "enable_tuning": False,
        "enable_bulk_inferrer": False,
        "enable_example_diff": False,
        "examplegen_input_config": None,
        "examplegen_range_config_date": None,
        "resolver_range_config": None,
        "beam_pipeline_args": [],
        "enable_transform_input_cache": True,
    }
    return penguin_pipeline_local.create_pipeline(**_places(name), **usual | options)


def _places(name: str) -> dict[str, str]:
    out = Path(os.environ["TFX_EXAMPLES_OUT"]) / name
    return {
        "pipeline_name": name,
        "pipeline_root": str(out / "root"),
        "metadata_path": str(out / "metadata.sqlite"),
        "serving_model_dir": str(out / "serving"),
    }


def _data(place: str) -> str:
    return str(Path(os.environ["TFX_EXAMPLES"]) / place)


def _code(place: str) -> str:
    return str(Path(next(iter(tfx.examples.__path__))) / place)
