"""TensorFlow Serving's flags that have no meaning here: taken, so that its scripts start this server, and logged."""

from __future__ import annotations

import argparse
import logging

logger = logging.getLogger(__name__)

_LOOP = "one event loop answers all requests"
_NO_TFLITE = "TensorFlow Lite models are not served"
_ALWAYS = "that is always so here"
WITHOUT_EFFECT: dict[str, str] = {
    "rest_api_num_threads": _LOOP,
    "grpc_max_threads": _LOOP,
    "enable_per_model_batching_parameters": "the batching parameters hold for all models",
    "flush_filesystem_caches": "the operating system keeps the file cache",
    "tensorflow_session_config_file": "sessions are configured by the server's own flags",
    "platform_config_file": "TensorFlow is the one platform",
    "per_process_gpu_memory_fraction": "models run on the processor",
    "saved_model_tags": "the meta graph with the tag 'serve' is loaded",
    "num_request_iterations_for_warmup": "each recorded request is replayed once",
    "remove_unused_fields_from_bundle_metagraph": "only the signatures are kept",
    "prefer_tflite_model": _NO_TFLITE,
    "num_tflite_pools": _NO_TFLITE,
    "num_tflite_interpreters_per_pool": _NO_TFLITE,
    "enable_signature_method_name_check": "methods are checked by classify and regress alone",
    "xla_cpu_compilation_enabled": "graphs run as they were saved",
    "xla_gpu_compilation_enabled": "graphs run as they were saved",
    "enable_profiler": "there is no profiler service",
    "thread_pool_factory_config_file": "threads are the server's own",
    "mixed_precision": "graphs run as they were saved",
    "skip_initialize_tpu": "models run on the processor",
    "enable_grpc_healthcheck_service": _ALWAYS,
    "enable_serialization_as_tensor_content": "answers hold their values in the fields of their types",
}
"""Why each has no effect."""
REFUSED = "use_alts_credentials"
"""Taken when false: a server that is to be secure must not start without being so."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds them to a command line."""
    group = parser.add_argument_group("TensorFlow Serving's flags that have no effect here")
    for name, reason in WITHOUT_EFFECT.items():
        group.add_argument(f"--{name}", nargs="?", const="true", metavar="VALUE", help=reason.replace("%", "%%"))
    group.add_argument(f"--{REFUSED}", nargs="?", const="true", default="false", type=_false, help="only false")


def log_those_given(flags: argparse.Namespace) -> None:
    """Says in the log which of the given flags have no effect, and why."""
    for name, reason in WITHOUT_EFFECT.items():
        if getattr(flags, name) is not None:
            logger.warning("--%s=%s has no effect: %s", name, getattr(flags, name), reason)


def _false(text: str) -> str:
    if text.lower() not in ("false", "0"):
        raise argparse.ArgumentTypeError("ALTS is not supported; use --ssl_config_file")
    return text
