"""The gRPC API: PredictionService and ModelService on tensorflow-serving-api's generated code."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
import numpy as np
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from airtight.errors import TerminalError
from serving import config, metadata, metrics, tensors_proto
from serving.errors import ServingError, invalid
from serving.inference import Runner
from serving.manager import Manager
from serving.signature import Signature
from serving.versions import Registry, Version

Handler = Callable[[Any, Any, grpc.aio.ServicerContext], Awaitable[Any]]


def _answered(method: Handler) -> Handler:
    """Turns a ServingError into the call's status, and counts and times the call."""

    @functools.wraps(method)
    async def handle(self: Any, request: Any, context: grpc.aio.ServicerContext) -> Any:
        started, status = time.perf_counter(), "OK"
        try:
            return await method(self, request, context)
        except ServingError as error:
            status = error.code.name
            await _abort(context, error)
        finally:
            name = request.model_spec.name if hasattr(request, "model_spec") else ""
            name = name if name in self.registry.models else ""
            metrics.REQUESTS.add(name, status)
            metrics.REQUEST_LATENCY.observe(1e6 * (time.perf_counter() - started), name, method.__name__, "GRPC")

    return handle


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata.

    Args:
      registry: What is served.
      runner: Runs inference.
    """

    def __init__(self, registry: Registry, runner: Runner) -> None:
        self.registry = registry
        self._runner = runner

    @_answered
    async def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs one signature on the request's tensors."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        version = resolve(self.registry, request.model_spec)
        runner, size = self._runner, request.ByteSize()
        with version as loaded:
            signature = loaded.signature(request.model_spec.signature_name)
            chosen = _filtered(request, signature)
            arrays = await runner.convert(size, _arrays, request, signature)
            outputs = await runner.run(version.model, signature, arrays)
            answered = sum(output.nbytes for output in outputs)
            return await runner.convert(answered, _response, outputs, signature, chosen, version)

    @_answered
    async def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Tells a version's signatures."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        return metadata.metadata(resolve(self.registry, request.model_spec))


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest.

    Args:
      registry: What is served.
      manager: Changes it.
    """

    def __init__(self, registry: Registry, manager: Manager) -> None:
        self.registry = registry
        self._manager = manager

    @_answered
    async def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.aio.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Tells the state of a model's versions."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        told = request.model_spec
        choice = told.WhichOneof("version_choice")
        number = told.version.value if choice == "version" else None
        if choice == "version_label":
            number = self.registry.labelled(told.name, told.version_label)
        return metadata.status(self.registry.states(told.name, number))

    @_answered
    async def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.aio.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the list of models."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerConfig type not supported by HandleReloadConfig. Only ModelConfigList is currently supported"
            )
        try:
            models = config.models_from_proto(request.config)
        except TerminalError as error:
            raise invalid(str(error)) from error
        await self._manager.reload(models)
        return model_management_pb2.ReloadConfigResponse()


def resolve(registry: Registry, told: model_pb2.ModelSpec) -> Version:
    """Finds the version that a ModelSpec names.

    Raises:
      ServingError: There is none.
    """
    choice = told.WhichOneof("version_choice")
    if choice == "version":
        return registry.resolve(told.name, told.version.value)
    return registry.resolve(told.name, label=told.version_label if choice == "version_label" else None)


def _filtered(request: predict_pb2.PredictRequest, signature: Signature) -> frozenset[str]:
    chosen = frozenset(request.output_filter)
    if len(chosen) != len(request.output_filter):
        raise invalid(f"duplicate output_filter: {', '.join(sorted(request.output_filter))}")
    unknown = chosen - {spec.name for spec in signature.outputs}
    if unknown:
        raise invalid(f"output tensor alias not found in signature: {', '.join(sorted(unknown))}")
    return chosen


def _arrays(request: predict_pb2.PredictRequest, signature: Signature) -> list[np.ndarray]:
    given, wanted = request.inputs, signature.inputs
    if len(given) != len(wanted) or any(spec.name not in given for spec in wanted):
        names = {spec.name for spec in wanted}
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(wanted)} len({{{','.join(sorted(given))}}}) != "
            f"len({{{','.join(sorted(names))}}}). Sent extra: {{{','.join(sorted(given.keys() - names))}}}. "
            f"Missing but required: {{{','.join(sorted(names - given.keys()))}}}."
        )
    return [tensors_proto.decode(given[spec.name], spec) for spec in wanted]


def _response(
    outputs: list[np.ndarray], signature: Signature, chosen: frozenset[str], version: Version
) -> predict_pb2.PredictResponse:
    answer = predict_pb2.PredictResponse(model_spec=metadata.spec(version, signature.name))
    for output, spec in zip(outputs, signature.outputs, strict=True):
        if not chosen or spec.name in chosen:
            answer.outputs[spec.name].CopyFrom(tensors_proto.encode(output, spec))
    return answer


async def _abort(context: grpc.aio.ServicerContext, error: ServingError) -> NoReturn:
    await context.abort(error.code, error.message)
    raise AssertionError("abort raises")
