"""The gRPC API: PredictionService and ModelService on tensorflow-serving-api's generated code."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from airtight.errors import TerminalError
from serving import config, examples, metadata, metrics, tensors_proto
from serving.deadlines import Deadlines
from serving.errors import Code, ServingError, invalid
from serving.inference import GRPC_INLINE_S, Runner
from serving.manager import Manager
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.notes import Answered
from serving.signature import Signature, size_of
from serving.versions import Registry, Version

_VERBS = {method: verb for verb, method in examples.METHODS.items()}

_INFERENCE = frozenset({"Predict", "Classify", "Regress", "MultiInference"})

Handler = Callable[[Any, Any, list[Answered]], Awaitable[Any]]
"""A method: the servicer, the request, and where it puts what it called."""


def _answered(method: Handler) -> Handler:
    """Turns a ServingError into the call's status; counts and times inference, as REST does."""

    @functools.wraps(method)
    async def handle(self: Any, request: Any, context: grpc.aio.ServicerContext) -> Any:
        started, status = time.perf_counter(), Code.UNKNOWN.name
        calls: list[Answered] = []
        method_name, noted = method.__name__, False
        is_inference = method_name in _INFERENCE
        name = _model_name(request) if is_inference else ""
        name = name if name in self.registry.models else ""  # Names that people make up are no label values.
        # A client's own deadline is kept by gRPC, which cancels the call.
        is_limited = context is not None and context.time_remaining() is None
        try:
            with self.deadlines.limited() if is_limited else contextlib.nullcontext():
                answer = await method(self, request, calls)
                if is_inference and self.log.durable:
                    seconds, noted = time.perf_counter() - started, True
                    noting = (name, _label(request), method_name, Code.OK.name, seconds)
                    await self.log.keep(*noting, protocol="gRPC", header_source=context, calls=calls)
            status = Code.OK.name
            return answer
        except ServingError as error:
            status = error.code.name
            await _abort(context, error)
        except TimeoutError:
            status = Code.DEADLINE_EXCEEDED.name
            await _abort(context, ServingError(Code.DEADLINE_EXCEEDED, f"Timed out after {self.deadlines.limit_s:g} s"))
        except asyncio.CancelledError:  # The client went away, or its deadline has passed.
            status = Code.CANCELLED.name
            raise
        finally:
            if is_inference:
                metrics.REQUESTS.add(name, status)
                seconds = time.perf_counter() - started
                metrics.REQUEST_LATENCY.observe(1e6 * seconds, name, method_name, "GRPC")
            if is_inference and not noted:
                noting = (name, _label(request), method_name, status, time.perf_counter() - started)
                self.log.note(*noting, protocol="gRPC", header_source=context, calls=calls)

    return handle


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata.

    Args:
      registry: What is served.
      runner: Runs inference.
      log: Gets a note of each call that was answered.
      timeout_s: A call whose client sets no deadline is answered with DEADLINE_EXCEEDED after so many seconds.
    """

    def __init__(self, registry: Registry, runner: Runner, log: PredictionLog, timeout_s: float | None = None) -> None:
        self.registry = registry
        self.deadlines = Deadlines(timeout_s)
        self.log = log
        self._runner = runner

    @_answered
    async def Predict(self, request: predict_pb2.PredictRequest, calls: list[Answered]) -> predict_pb2.PredictResponse:
        """Runs one signature on the request's tensors."""
        version = self.registry.resolve(*_chosen(request))
        runner, size = self._runner, request.ByteSize()
        with version as loaded:
            signature = loaded.signature(request.model_spec.signature_name)
            chosen = _filtered(request, signature)
            arrays = await runner.convert(version.model, size, tensors_proto.decode_inputs, request.inputs, signature)
            outputs = await runner.run(version.model, signature, arrays, GRPC_INLINE_S)
            calls.append(Answered(version.number, signature, arrays, outputs))
            return await runner.convert(version.model, size_of(outputs), _response, outputs, signature, chosen, version)

    @_answered
    async def Classify(
        self, request: classification_pb2.ClassificationRequest, calls: list[Answered]
    ) -> classification_pb2.ClassificationResponse:
        """Runs a signature of the method classify on tf.Examples."""
        version = self.registry.resolve(*_chosen(request))
        result, spec = await self._on_examples(version, request, request.input, "classify", calls)
        return classification_pb2.ClassificationResponse(result=result, model_spec=spec)

    @_answered
    async def Regress(
        self, request: regression_pb2.RegressionRequest, calls: list[Answered]
    ) -> regression_pb2.RegressionResponse:
        """Runs a signature of the method regress on tf.Examples."""
        version = self.registry.resolve(*_chosen(request))
        result, spec = await self._on_examples(version, request, request.input, "regress", calls)
        return regression_pb2.RegressionResponse(result=result, model_spec=spec)

    @_answered
    async def MultiInference(
        self, request: inference_pb2.MultiInferenceRequest, calls: list[Answered]
    ) -> inference_pb2.MultiInferenceResponse:
        """Runs several such signatures of one version, the first task's, on the same examples."""
        _check_tasks(request)
        answer = inference_pb2.MultiInferenceResponse()
        version = self.registry.resolve(*_chosen(request.tasks[0]))
        with version:  # A swap between two tasks does not take it away.
            for task in request.tasks:
                verb = _VERBS[task.method_name]
                result, spec = await self._on_examples(version, task, request.input, verb, calls)
                field = "classification_result" if verb == "classify" else "regression_result"
                answer.results.append(inference_pb2.InferenceResult(model_spec=spec, **{field: result}))
        return answer

    async def _on_examples(
        self, version: Version, request: Any, given: input_pb2.Input, verb: str, calls: list[Answered]
    ) -> tuple[examples.Result, model_pb2.ModelSpec]:
        with version as loaded:
            signature = loaded.signature(request.model_spec.signature_name)
            arrays = await self._runner.convert(
                version.model, given.ByteSize(), examples.arrays, given, signature, verb
            )
            outputs = await self._runner.run(version.model, signature, arrays, GRPC_INLINE_S)
            calls.append(Answered(version.number, signature, arrays, outputs))
            result = await self._runner.convert(
                version.model, size_of(outputs), examples.result, outputs, signature, verb, len(arrays[0])
            )
            return result, metadata.spec(version, signature.name)

    @_answered
    async def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, calls: list[Answered]
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Tells a version's signatures."""
        chosen = _chosen(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        return metadata.metadata(self.registry.resolve(*chosen))


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest.

    Args:
      registry: What is served.
      manager: Changes it.
    """

    deadlines = Deadlines(None)
    """The manager limits how long it waits for models."""

    def __init__(self, registry: Registry, manager: Manager) -> None:
        self.registry = registry
        self._manager = manager

    @_answered
    async def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, calls: list[Answered]
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Tells the state of a model's versions."""
        return metadata.status(self.registry.states(*_chosen(request)))

    @_answered
    async def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, calls: list[Answered]
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the list of models."""
        if not self._manager.settings.enable_reload_config:
            raise ServingError(Code.PERMISSION_DENIED, "The server was started with --enable_reload_config=false")
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


def _chosen(request: Any) -> tuple[str, int | None, str | None]:
    """Name, version and label that a request asks for, as the registry takes them.

    Raises:
      ServingError: INVALID_ARGUMENT, it names no model.
    """
    spec = request.model_spec
    if not spec.name:
        raise invalid("Missing ModelSpec")
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _model_name(request: Any) -> str:
    if isinstance(request, inference_pb2.MultiInferenceRequest):
        return request.tasks[0].model_spec.name if request.tasks else ""
    return request.model_spec.name


def _label(request: Any) -> str | None:
    if isinstance(request, inference_pb2.MultiInferenceRequest):
        return request.tasks[0].model_spec.version_label if request.tasks else None
    return request.model_spec.version_label


def _check_tasks(request: inference_pb2.MultiInferenceRequest) -> None:
    if not request.tasks:
        raise invalid("Inference request must have at least one task")
    if len({task.model_spec.name for task in request.tasks}) > 1:
        raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    names = [task.model_spec.signature_name for task in request.tasks]
    for name in names:
        if names.count(name) > 1:
            raise invalid(f"Duplicate evaluation of signature: {name}")
    for task in request.tasks:
        if task.method_name not in _VERBS:
            raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")


def _filtered(request: predict_pb2.PredictRequest, signature: Signature) -> frozenset[str]:
    if not request.output_filter:
        return frozenset()
    chosen = frozenset(request.output_filter)
    if len(chosen) != len(request.output_filter):
        raise invalid(f"duplicate output_filter: {', '.join(sorted(request.output_filter))}")
    unknown = chosen - {spec.name for spec in signature.outputs}
    if unknown:
        raise invalid(f"output tensor alias not found in signature: {', '.join(sorted(unknown))}")
    return chosen


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
