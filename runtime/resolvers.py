"""What a node takes from other runs, and resolvers by data time.

TFX's own resolvers go by artifact id, so a backfill of March would meet December's champion.
"""

from __future__ import annotations

import logging
from datetime import datetime

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types.channel import ExternalPipelineChannel

from airtight.errors import TerminalError
from runtime.cross_run import ByInterval

log = logging.getLogger(__name__)

EARLIER = 3
"""How many champions before the champion a candidate is held to as well."""


def of_all_runs(pipeline: str, kind: type[types.Artifact], node: str, key: str) -> ExternalPipelineChannel:
    """What the runs of another pipeline made, as an input of a node.

    The node is given the outputs of the newest `runtime.cross_run.NEWEST` executions, and, if an input of its own run
    has an interval, the latest that was known when that began.

    Args:
      pipeline: The other pipeline's name.
      kind: The artifacts' type.
      node: The node that makes them.
      key: The node's output.
    """
    return ExternalPipelineChannel(kind, owner="", pipeline_name=pipeline, producer_component_id=node, output_key=key)


class ChampionAsOf(ByInterval):
    """Gives the model that was champion when this run's interval began, or none yet.

    Inputs of the Resolver node, by key:
      dataset: This run's artifact with `interval_start`.
      pushed: PushedModel across runs, with `pushed` (1 or 0), `interval_end`, `version`, `model_uri`.
      model: Model across runs, which says of what type the champion is; it is looked up by its place.
      earlier: The same again, if the champions before it are wanted too.

    The output `model` holds one artifact or none, so its consumer takes it as an optional input. Pushed models whose
    interval ends after this run's begins do not count, whatever their ids; of several attempts the highest version.
    The output `earlier` holds the champions of up to EARLIER intervals before; TFX hands them on in the order of their
    ids. One whose model was removed is left out.
    """

    intervals = 1 + EARLIER

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Picks the champion.

        Raises:
          TerminalError: This run has no dataset, or the champion's model is gone.
        """
        if not input_dict["dataset"]:
            raise TerminalError(
                "The champion cannot be known without this run's data interval.",
                expected="one artifact at the input `dataset`",
                received="none",
                remedy="Clear the node that makes the dataset, so that it runs.",
            )
        (dataset, *_) = input_dict["dataset"]
        start = datetime.fromisoformat(_text(dataset, "interval_start"))
        candidates = [pushed for pushed in input_dict["pushed"] if _was_pushed(pushed) and _end(pushed) <= start]
        if not candidates:
            log.info("There was no champion yet at %s.", start.isoformat())
            return {key: value if key == "dataset" else [] for key, value in input_dict.items()}
        latest = max(candidates, key=lambda pushed: (_end(pushed), _version(pushed), pushed.id))
        model = _model_at(store, _text(latest, "model_uri"))
        if model is None:
            known = store.get_artifacts_by_uri(_text(latest, "model_uri"))
            raise TerminalError(
                f"The champion at {start.isoformat()}, version {_version(latest)}, is gone.",
                expected=f"its model at {_text(latest, 'model_uri')}",
                received="a model that was removed" if known else "no model of that place in the metadata",
                remedy="Run the champion's interval once more, so that it is made and pushed again.",
            )
        log.info("The champion at %s was version %s.", start.isoformat(), _version(latest))
        resolved = {**input_dict, "pushed": [latest], "model": [model]}
        if "earlier" in input_dict:
            before = [pushed for pushed in candidates if _end(pushed) < _end(latest)]
            resolved["earlier"] = [m for m in _champions_before(store, before) if m.uri != model.uri]
        return resolved


def _champions_before(store: mlmd.MetadataStore, pushed: list[types.Artifact]) -> list[types.Artifact]:
    """The model of the highest version of each of the last EARLIER intervals, where it is still there."""
    by_end: dict[datetime, types.Artifact] = {}
    for artifact in sorted(pushed, key=lambda artifact: (_end(artifact), _version(artifact), artifact.id)):
        by_end[_end(artifact)] = artifact
    uris = [_text(by_end[end], "model_uri") for end in sorted(by_end, reverse=True)[:EARLIER]]
    models = (_model_at(store, uri) for uri in dict.fromkeys(uris))
    return [model for model in models if model is not None]


def _model_at(store: mlmd.MetadataStore, uri: str) -> types.Artifact | None:
    """The model that lies at a place; None where it was removed."""
    live = [a for a in store.get_artifacts_by_uri(uri) if a.state == metadata_store_pb2.Artifact.LIVE]
    if not live or not fileio.exists(uri):
        return None
    (type_,) = store.get_artifact_types_by_id([live[-1].type_id])
    return artifact_utils.deserialize_artifact(type_, live[-1])


def _text(artifact: types.Artifact, name: str) -> str:
    if artifact.has_property(name):
        return str(getattr(artifact, name))
    return artifact.get_string_custom_property(name)


def _was_pushed(artifact: types.Artifact) -> bool:
    return artifact.get_int_custom_property("pushed") == 1


def _end(artifact: types.Artifact) -> datetime:
    return datetime.fromisoformat(_text(artifact, "interval_end"))


def _version(artifact: types.Artifact) -> int:
    return artifact.get_int_custom_property("version") or int(artifact.get_string_custom_property("version") or 0)
