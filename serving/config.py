"""Settings of the server and of each model: flags and config files of TensorFlow Serving."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from airtight.errors import TerminalError
from serving import config_messages, listening, tfs_flags
from serving.batching_parameters import BatchingParameters, opportunistic, parameters_from_file
from serving.listening import Listening
from serving.prediction_log.settings import Logging, LogSettings, add_flags, from_flags, logging_of, names
from serving.version_folders import local

METRICS_PATH = "/monitoring/prometheus/metrics"


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are served.

    Args:
      latest: Serve so many of the highest versions.
      every: Serve all of them.
      specific: Serve exactly these; it wins over the others when not empty.
    """

    latest: int = 1
    every: bool = False
    specific: frozenset[int] = frozenset()

    def choose(self, versions: Iterable[int]) -> set[int]:
        """The versions to serve, of those that are there."""
        if self.specific:
            return set(versions) & self.specific
        ordered = sorted(versions)
        return set(ordered if self.every else ordered[-self.latest :])


@dataclass(frozen=True)
class ModelSettings:
    """One model: where its versions lie and which are served.

    Args:
      name: The model's name in requests.
      base_path: Folder with one numeric sub-folder for each version.
      policy: Which versions are served.
      labels: Names for versions, such as {"stable": 201307010400001}.
      logging: What is logged of its requests; None is what the flags say.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: dict[str, int] = field(default_factory=dict)
    logging: Logging | None = None


@dataclass(frozen=True, kw_only=True)
class Settings(Listening):
    """All settings of one server process, beside where it listens; the names are those of the flags.

    Args:
      models: Models named by flags or by a config file.
      models_root: Folder whose every sub-folder is a model, or None.
      file_system_poll_wait_seconds: Between two looks at the base paths; 0 looks once, a negative value never again.
      config_poll_wait_seconds: Between two readings of the config file; 0 reads it once.
      model_config_file: The file that `models` came from, or None.
      servable_versions_always_present: Keep the last version when the base path is empty.
      allow_version_labels_for_unavailable_models: A label may name a version that is not served yet.
      max_num_load_retries: Further tries to load a version before it counts as broken.
      load_retry_interval_s: Between those tries.
      num_load_threads: Versions that load at the same time.
      num_unload_threads: Versions that unload at the same time.
      initial_load_wait_s: The server listens when its models have loaded, or after this many seconds.
      workers: Threads for inference that is too long for the event loop, and TensorFlow's own.
      batching: Concurrent requests run as one call; None runs each alone.
      prediction_cache_entries: So many answers are kept; 0 keeps none.
      prediction_cache_bytes: The memory that they may take.
      prediction_cache_ttl_s: An answer is kept so long; 0 keeps it until there is no room.
      grpc_api_timeout_s: A gRPC call whose client sets no deadline has so many seconds; None: no limit.
      max_waiting_requests: Requests of one version of a model that may wait for a thread; further ones are UNAVAILABLE.
      grpc_channel_arguments: Further options of gRPC's core.
      max_model_bytes: A version with more bytes on disk is refused; 0 leaves it to the memory that is free.
      enable_reload_config: HandleReloadConfigRequest is answered; otherwise it is PERMISSION_DENIED.
      enable_model_warmup: What a version brings along for it is replayed before the version is available.
      metrics_path: Where Prometheus' metrics are; None where they are not.
      allow_ops: Operations that a model may use although they reach beyond it, such as ReadFile.
      prediction_log: Where requests and answers are logged.
    """

    who = "model server"

    models: tuple[ModelSettings, ...] = ()
    models_root: Path | None = None
    file_system_poll_wait_seconds: float = 1.0
    config_poll_wait_seconds: float = 0.0
    model_config_file: Path | None = None
    servable_versions_always_present: bool = False
    allow_version_labels_for_unavailable_models: bool = False
    max_num_load_retries: int = 0
    load_retry_interval_s: float = 1.0
    num_load_threads: int = 2
    num_unload_threads: int = 1
    initial_load_wait_s: float = 60.0
    workers: int = 2
    batching: BatchingParameters | None = None
    prediction_cache_entries: int = 0
    prediction_cache_bytes: int = 64 << 20
    prediction_cache_ttl_s: float = 0.0
    grpc_api_timeout_s: float | None = 30.0
    max_waiting_requests: int = 1000
    grpc_channel_arguments: tuple[tuple[str, int | str], ...] = ()
    max_model_bytes: int = 0
    enable_reload_config: bool = True
    enable_model_warmup: bool = True
    metrics_path: str | None = METRICS_PATH
    allow_ops: frozenset[str] = frozenset()
    prediction_log: LogSettings = field(default_factory=LogSettings)


def models_from_text(text: str, source: str) -> tuple[ModelSettings, ...]:
    """Reads a ModelServerConfig in protobuf's text format.

    Raises:
      TerminalError: It cannot be read, or names a model badly.
    """
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise TerminalError(
            "The model config file cannot be read.",
            expected="a ModelServerConfig in protobuf's text format, such as "
            'model_config_list { config { name: "m" base_path: "/models/m" model_platform: "tensorflow" } }',
            received=f"{source}: {error}",
            remedy="Correct the file.",
        ) from error
    return models_from_proto(config)


def models_from_proto(config: model_server_config_pb2.ModelServerConfig) -> tuple[ModelSettings, ...]:
    """Turns TensorFlow Serving's message into settings.

    Raises:
      TerminalError: A model without name or base path, named twice, or of another platform than TensorFlow.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise _refusal("custom_model_config is not supported", "model_config_list")
    models = tuple(_model(entry) for entry in config.model_config_list.config)
    called = [model.name for model in models]
    if len(set(called)) != len(called):
        raise _refusal(f"model names {sorted(called)}", "each model's name once")
    return models


def _model(entry: model_server_config_pb2.ModelConfig) -> ModelSettings:
    if not entry.name or not entry.base_path:
        raise _refusal(f"name {entry.name!r}, base_path {entry.base_path!r}", "a name and a base_path for each model")
    if "\0" in entry.base_path:
        raise _refusal(f"base_path {entry.base_path!r}", "a path without NUL, which no file system knows")
    if entry.model_platform not in ("", "tensorflow"):
        raise _refusal(f"model_platform {entry.model_platform!r}", 'model_platform "tensorflow"')
    choice = entry.model_version_policy
    kind = choice.WhichOneof("policy_choice")
    if kind == "specific" and not choice.specific.versions:
        raise _refusal("a specific version policy without versions", "at least one version")
    policy = VersionPolicy(
        latest=max(choice.latest.num_versions, 1) if kind == "latest" else 1,
        every=kind == "all",
        specific=frozenset(choice.specific.versions) if kind == "specific" else frozenset(),
    )
    logged = logging_of(entry.name, entry.logging_config) if entry.HasField("logging_config") else None
    return ModelSettings(entry.name, local(entry.base_path), policy, dict(entry.version_labels), logged)


def settings_from_flags(arguments: Sequence[str]) -> Settings:
    """Reads the command line.

    Raises:
      TerminalError: Flags that contradict each other, or a config file that cannot be read.
    """
    flags = _parser().parse_args(arguments)
    sources = [flag for flag in (flags.model_config_file, flags.model_base_path, flags.models_root) if flag]
    if len(sources) != 1:
        raise TerminalError(
            "The server does not know what to serve.",
            expected="exactly one of --model_base_path (with --model_name), --model_config_file, --models_root",
            received=f"{len(sources)} of them",
            remedy="Correct the flags.",
        )
    tfs_flags.log_those_given(flags)
    workers = flags.tensorflow_session_parallelism or _session_threads(flags) or os.cpu_count() or 1
    models: tuple[ModelSettings, ...] = ()
    if flags.model_base_path:
        models = (ModelSettings(flags.model_name, flags.model_base_path),)
    elif flags.model_config_file:
        comes_later = flags.model_config_file_poll_wait_seconds > 0 and not flags.model_config_file.exists()
        models = () if comes_later else models_from_file(flags.model_config_file)
    return Settings(
        **listening.from_flags(flags),
        models=models,
        models_root=flags.models_root,
        file_system_poll_wait_seconds=flags.file_system_poll_wait_seconds,
        config_poll_wait_seconds=flags.model_config_file_poll_wait_seconds,
        model_config_file=flags.model_config_file,
        servable_versions_always_present=flags.servable_versions_always_present,
        allow_version_labels_for_unavailable_models=flags.allow_version_labels_for_unavailable_models,
        max_num_load_retries=flags.max_num_load_retries,
        load_retry_interval_s=flags.load_retry_interval_micros / 1e6,
        num_load_threads=flags.num_load_threads or workers,
        num_unload_threads=flags.num_unload_threads or 1,
        initial_load_wait_s=flags.initial_load_wait_seconds,
        workers=workers,
        batching=_batching(flags, workers),
        prediction_cache_entries=flags.prediction_cache_entries,
        prediction_cache_bytes=flags.prediction_cache_bytes,
        prediction_cache_ttl_s=flags.prediction_cache_ttl_seconds,
        grpc_api_timeout_s=flags.grpc_api_timeout_in_ms / 1e3 or None,
        max_waiting_requests=flags.max_waiting_requests,
        grpc_channel_arguments=flags.grpc_channel_arguments,
        max_model_bytes=flags.max_model_bytes,
        enable_reload_config=flags.enable_reload_config,
        enable_model_warmup=flags.enable_model_warmup,
        metrics_path=_metrics_path(flags.monitoring_config_file),
        allow_ops=flags.allow_ops,
        prediction_log=from_flags(flags),
    )


def _session_threads(flags: argparse.Namespace) -> int:
    return max(flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism)


def _metrics_path(file: Path | None) -> str | None:
    if file is None:
        return METRICS_PATH
    config = config_messages.read(file, "MonitoringConfig", "monitoring_config_file").prometheus_config
    return (config.path or METRICS_PATH) if config.enable else None


def _batching(flags: argparse.Namespace, workers: int) -> BatchingParameters | None:
    if flags.enable_batching:
        file = flags.batching_parameters_file
        return parameters_from_file(file, workers) if file else opportunistic(workers)
    if flags.batching_parameters_file:
        raise TerminalError(
            "The batching parameters would not be used.",
            expected="--enable_batching beside --batching_parameters_file",
            received="--batching_parameters_file alone",
            remedy="Add --enable_batching, or leave the file out.",
        )
    return None


def models_from_file(path: Path) -> tuple[ModelSettings, ...]:
    """Reads a config file.

    Raises:
      TerminalError: It is not there or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TerminalError(
            "The model config file cannot be read.",
            expected="a text file",
            received=f"{path}: {error}",
            remedy="Correct --model_config_file.",
        ) from error
    return models_from_text(text, str(path))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m serving", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    listening.add_flags(parser, timeout_ms=30_000)
    add("--model_name", default="default", help="the model's name, with --model_base_path")
    add("--model_base_path", type=local, help="folder with a numeric sub-folder for each version")
    add("--model_config_file", type=Path, help="ModelServerConfig in protobuf's text format")
    add("--model_config_file_poll_wait_seconds", type=float, default=0.0, help="read it again so often; 0 never")
    add("--models_root", type=Path, help="folder whose every sub-folder is a model")
    add("--file_system_poll_wait_seconds", type=float, default=1.0, help="look for versions so often; 0 looks once")
    add("--servable_versions_always_present", **listening.boolean("keep the last version when the base path is empty"))
    add("--allow_version_labels_for_unavailable_models", **listening.boolean("labels may name versions not served yet"))
    add("--max_num_load_retries", type=int, default=0, help="further tries before a version counts as broken")
    add("--load_retry_interval_micros", type=int, default=1_000_000, help="between those tries")
    add("--num_load_threads", type=_natural, default=0, help="loads at the same time; 0: one a thread for inference")
    add("--num_unload_threads", type=_natural, default=0, help="versions that unload at once; 0: one")
    add("--initial_load_wait_seconds", type=_seconds, default=60.0, help="listen then, though models still load")
    add("--grpc_api_timeout_in_ms", type=_natural, default=30_000, help="of calls without a deadline; 0: no limit")
    add("--max_waiting_requests", type=_natural, default=1000, help="of one version; others are UNAVAILABLE (503)")
    add("--grpc_channel_arguments", type=_arguments, default=(), help="gRPC options: name=value,name=value")
    add("--enable_reload_config", **listening.boolean("take HandleReloadConfigRequest from anybody", default=True))
    add("--enable_model_warmup", **listening.boolean("replay the requests that a version brings along", default=True))
    add("--max_model_bytes", type=int, default=0, help="larger versions are refused; 0: what fits in memory")
    add("--allow_ops", type=names, default=frozenset(), help="operations beyond the model that are allowed: Op,Op")
    add("--enable_batching", **listening.boolean("run concurrent requests as one call"))
    add("--batching_parameters_file", type=Path, help="BatchingParameters in protobuf's text format")
    add("--prediction_cache_entries", type=_natural, default=0, help="answers that are kept; 0 keeps none")
    add("--prediction_cache_bytes", type=_natural, default=64 << 20, help="the memory that they may take")
    add("--prediction_cache_ttl_seconds", type=_seconds, default=0.0, help="how long; 0: while there is room")
    add_flags(parser)
    add("--tensorflow_session_parallelism", type=int, default=0, help="threads for inference, 0 for one a core")
    add("--tensorflow_intra_op_parallelism", type=int, default=0, help="the same; the larger of both counts")
    add("--tensorflow_inter_op_parallelism", type=int, default=0, help="the same; the larger of both counts")
    add("--monitoring_config_file", type=Path, help="MonitoringConfig in protobuf's text format")
    add("--version", action="version", version="Airtight model server, TensorFlow Serving's contract")
    tfs_flags.add_flags(parser)
    return parser


def _natural(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"0 or more, not {text}")
    return int(text)


def _seconds(text: str) -> float:
    if not 0 <= float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"0 or more, not {text}")
    return float(text)


def _arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    pairs = [argument.partition("=") for argument in text.split(",") if argument]
    if any(not name or not value for name, _, value in pairs):
        raise argparse.ArgumentTypeError(f"name=value,name=value, not {text!r}")
    return tuple((name, int(value) if value.lstrip("-").isdigit() else value) for name, _, value in pairs)


def _refusal(received: str, expected: str) -> TerminalError:
    return TerminalError(
        "The model config is not usable.", expected=expected, received=received, remedy="Correct the model config."
    )
