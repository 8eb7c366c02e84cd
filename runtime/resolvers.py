"""What a node takes from other runs, and resolvers by data time.

TFX's own resolvers go by artifact id, so a backfill of March would meet December's champion.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types.channel import ExternalPipelineChannel

from airtight.errors import TerminalError
from airtight.served_history import Takeover, served, takeover_of_promotion, takeover_of_push
from runtime.cross_run import ByInterval, promotions_by, pushes_of, served_by, versions_promoted
from runtime.lineage.artifacts import Scalar, scalars

log = logging.getLogger(__name__)

EARLIER = 3
"""How many champions before the champion a candidate is held to as well."""


def of_all_runs(pipeline: str, kind: type[types.Artifact], node: str, key: str) -> ExternalPipelineChannel:
    """What the runs of another pipeline made, as an input of a node.

    The node is given the outputs of the newest `runtime.cross_run.NEWEST` executions, and, if an input of its own run
    has an interval, the latest that was known when that began, and those of the interval; with
    `task(node, history_days=...)` those of as many days before it, too.

    Args:
      pipeline: The other pipeline's name.
      kind: The artifacts' type.
      node: The node that makes them.
      key: The node's output.
    """
    return ExternalPipelineChannel(kind, owner="", pipeline_name=pipeline, producer_component_id=node, output_key=key)


class ChampionAsOf(ByInterval):
    """Gives the model that served when this run's interval began, or none yet.

    Inputs of the Resolver node, by key:
      dataset: This run's artifact with `interval_start`.
      pushed: PushedModel across runs, with `pushed` (1 or 0), `took_over`, `interval_end`, `version`, `model_uri`.
      model: Model across runs, which says of what type the champion is; it is looked up by its place.
      earlier: The same again, if the champions before it are wanted too.
      promotions: Promotion across runs, with `took_over`, `to_version`, `interval_end`, `as_of`, where there are any.

    Which version served follows from the records of `airtight.served_history`: pushes that took over and promotions,
    by a person or a release, in data time. What a later interval brought does not count, whatever its id.

    The output `model` holds one artifact or none, so its consumer takes it as an optional input; `pushed` holds its
    push, and `promotions` the promotion that put it there, if one did. The output `earlier` holds the up to
    EARLIER champions of intervals before; TFX hands them on in the order of their ids. One whose model was removed is
    left out.
    """

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
        resolved = {key: value if key == "dataset" else [] for key, value in input_dict.items()}
        promotions = _promotions_by(store, start)
        champions = _served(store, promotions.values(), start, 1 + EARLIER * ("earlier" in input_dict))
        if not champions:
            log.info("There was no champion yet at %s.", start.isoformat())
            return resolved
        champion, *earlier = champions
        pushed = _push_of(store, champion)
        uri = _text(pushed, "model_uri") if pushed else ""
        model = _model_at(store, uri)
        if pushed is None or model is None:
            raise TerminalError(
                f"The champion at {start.isoformat()}, version {champion.version}, is gone.",
                expected=f"its model at {uri}" if pushed else "the record of its push",
                received="a model that was removed"
                if store.get_artifacts_by_uri(uri)
                else "no model of that place in the metadata",
                remedy="Run the champion's interval once more, so that it is made and pushed again.",
            )
        log.info("The champion at %s was version %d.", start.isoformat(), champion.version)
        resolved |= {"pushed": [pushed], "model": [model]}
        if promotion := promotions.get(champion.order):
            log.info("Since then: %s", _text(promotion, "summary"))
            resolved["promotions"] = [promotion]
        if "earlier" in input_dict:
            pushes = (_push_of(store, takeover) for takeover in earlier)
            models = (_model_at(store, _text(push, "model_uri")) for push in pushes if push)
            resolved["earlier"] = list({m.id: m for m in models if m is not None and m.uri != model.uri}.values())
        return resolved


def _served(
    store: mlmd.MetadataStore, promotions: Iterable[types.Artifact], instant: datetime, count: int
) -> list[Takeover]:
    def pushes(by: datetime) -> list[Takeover]:
        takeovers = (takeover_of_push(_properties(push), push.id) for push in served_by(store, by))
        return [takeover for takeover in takeovers if takeover]

    promoted = (takeover_of_promotion(_properties(promotion), promotion.id) for promotion in promotions)
    return served(pushes, [takeover for takeover in promoted if takeover], instant, count)


def _promotions_by(store: mlmd.MetadataStore, instant: datetime) -> dict[int, types.Artifact]:
    """The newest promotions of versions that this producer pushed, by id: of any other nobody knows the model."""
    promotions = promotions_by(store, instant)
    pushed = {push.get_int_custom_property("version") for push in pushes_of(store, versions_promoted(promotions))}
    return {promotion.id: promotion for promotion in promotions if promotion.to_version in pushed}


def _push_of(store: mlmd.MetadataStore, takeover: Takeover) -> types.Artifact | None:
    """The push of a version that served; of several the latest, which is what lies there."""
    return max(pushes_of(store, {takeover.version}), key=lambda push: push.id, default=None)


def _model_at(store: mlmd.MetadataStore, uri: str) -> types.Artifact | None:
    """The model that lies at a place; None where it was removed."""
    if not uri:
        return None
    live = [a for a in store.get_artifacts_by_uri(uri) if a.state == metadata_store_pb2.Artifact.LIVE]
    if not live or not fileio.exists(uri):
        return None
    (type_,) = store.get_artifact_types_by_id([live[-1].type_id])
    return artifact_utils.deserialize_artifact(type_, live[-1])


def _text(artifact: types.Artifact, name: str) -> str:
    if artifact.has_property(name):
        return str(getattr(artifact, name))
    return artifact.get_string_custom_property(name)


def _properties(artifact: types.Artifact) -> dict[str, Scalar]:
    proto = artifact.mlmd_artifact
    return scalars(proto.properties) | scalars(proto.custom_properties)
