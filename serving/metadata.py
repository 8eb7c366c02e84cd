"""What GetModelStatus and GetModelMetadata say, as messages; REST prints the same messages as JSON."""

from __future__ import annotations

import json

from google.protobuf import json_format, message
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving.versions import Version


def status(versions: list[Version]) -> get_model_status_pb2.GetModelStatusResponse:
    """The state of each version."""
    answer = get_model_status_pb2.GetModelStatusResponse()
    for version in versions:
        entry = answer.model_version_status.add(version=version.number, state=version.state)
        if version.error is not None:
            entry.status.error_code = version.error.code.value[0]
            entry.status.error_message = version.error.message
    return answer


def status_json(versions: list[Version]) -> bytes:
    """The same as REST answers it: int64 as strings, defaults printed."""
    payload = _as_dict(status(versions))
    for entry, version in zip(payload["model_version_status"], versions, strict=True):
        entry.setdefault("status", {"error_code": "OK", "error_message": ""})
        entry["version"] = str(version.number)
    return _dump(payload)


def signatures(version: Version) -> get_model_metadata_pb2.SignatureDefMap:
    """The signatures of a version as its SavedModel describes them."""
    answer = get_model_metadata_pb2.SignatureDefMap()
    with version as loaded:
        for name, definition in loaded.definitions.items():
            answer.signature_def[name].CopyFrom(definition)
    return answer


def metadata(version: Version) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Name, version and signatures."""
    answer = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=spec(version, ""))
    answer.metadata["signature_def"].Pack(signatures(version), deterministic=True)
    return answer


def metadata_json(version: Version) -> bytes:
    """The same as REST answers it: `signature_def` is nested twice, without the type of the packed message."""
    model_spec = {"name": version.model, "signature_name": "", "version": str(version.number)}
    return _dump({"model_spec": model_spec, "metadata": {"signature_def": _as_dict(signatures(version))}})


def spec(version: Version, signature_name: str) -> model_pb2.ModelSpec:
    """Which version answered."""
    answer = model_pb2.ModelSpec(name=version.model, signature_name=signature_name)
    answer.version.value = version.number
    return answer


def _as_dict(proto: message.Message) -> dict:
    return json_format.MessageToDict(proto, always_print_fields_with_no_presence=True, preserving_proto_field_name=True)


def _dump(payload: dict) -> bytes:
    return json.dumps(payload, indent=1).encode()
