"""push: hands the judged model to the model server, as a version named by the data's interval."""

import json
import logging
from pathlib import Path
from typing import Any

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from airtight.audit.log import NOT_PUSHED, PUSHED, AuditLog
from airtight.files import digest_of_tree, write_text
from airtight.home import Home
from airtight.interval import Interval
from airtight.parameters import check_choice
from components.artifacts import Dataset
from components.data.examples import interval_of
from components.modelling import judged
from components.modelling.model_server import ModelServer
from components.rollout.anchoring import anchor_in
from components.rollout.delivery import AT_ONCE, HOW, deliver

log = logging.getLogger(__name__)

RECORD = "push.json"
"""What was done, inside a `PushedModel`."""


@component
def push(
    model: InputArtifact[standard_artifacts.Model],
    blessing: InputArtifact[standard_artifacts.ModelBlessing],
    infra_blessing: InputArtifact[standard_artifacts.InfraBlessing],
    dataset: InputArtifact[Dataset],
    pushed: OutputArtifact[standard_artifacts.PushedModel],
    model_name: Parameter[str],
    zone: Parameter[str],
    serving_root: Parameter[str] = "",
    server_url: Parameter[str] = "",
    timeout_s: Parameter[float] = 120.0,
    release: Parameter[str] = AT_ONCE,
) -> None:
    """Copies the SavedModel where the model server finds it, and waits until the server serves it.

    What a gate did not bless is not pushed: that is recorded, and is no failure. The copy is made under a name
    that the server ignores and renamed last. A version that the server cannot serve is taken back; the old one stays.
    A model's first version enters the model into what is served (`models.config`). While a person's choice of another
    version holds, or a release is under way, a new one is registered only.

    Args:
      model: The model that was judged.
      blessing: What evaluate decided.
      infra_blessing: What try_serving decided.
      dataset: Whose interval names the version.
      pushed: Custom properties `pushed` (1 or 0), `reason`, `version` (0 when not pushed), `interval_start`,
        `interval_end`, `model_uri`, `model_digest`, `took_over` (0 where it is registered only and nobody's champion),
        `awaits_release` (1 where a release is to try it), `overridden`; the same in `push.json`.
      model_name: The name under which it is served.
      zone: IANA time zone of the pipeline's days.
      serving_root: Folder of all served models; the versions lie in `serving_root/model_name/`. Empty is the state
        folder's `models/`, which the local model server watches.
      server_url: The server's REST address; empty is what $AIRTIGHT_MODEL_SERVER names, and there is none to ask
        when that is empty too.
      timeout_s: The server has so long to serve the version.
      release: `at_once` has the server serve a version that is the newest, also in place of one that a release left;
        `canary` registers it only, and the served one stays until a release has tried the newer one.

    Raises:
      TransientError: The server cannot be reached or is not done in time, or another push took the version.
      TerminalError: The server cannot load the model, a blessing is of another model, `release` is none of both, or
        the audit log is broken.
    """
    check_choice("release", release, HOW)
    ends = interval_of(dataset)
    record: dict[str, Any] = {
        "pushed": 0,
        "reason": _refusal(model, blessing, infra_blessing),
        "version": 0,
        "interval_start": ends[0],
        "interval_end": ends[1],
        "model_uri": model.uri,
        "model_digest": "",
        "took_over": 0,
        "awaits_release": 0,
        "overridden": "",
    }
    audit = AuditLog(model_name)
    if not record["reason"]:
        audit.check()
        source = Path(path_utils.serving_model_dir(model.uri))
        base_path = Path(serving_root) / model_name if serving_root else Home.current().models(model_name)
        server = ModelServer.named(server_url)
        record["model_digest"] = digest_of_tree(source)
        done = deliver(
            source,
            record["model_digest"],
            base_path,
            Interval.of(*ends),
            zone=zone,
            server=server,
            timeout_s=timeout_s,
            release=release,
        )
        record.update(pushed=1, version=done.version, reason=done.summary, overridden=done.overridden)
        record.update(took_over=int(done.took_over), awaits_release=int(done.awaits_release))
    log.info("%s", record["reason"])
    anchor = audit.append(
        PUSHED if record["pushed"] else NOT_PUSHED,
        version=record["version"],
        digest=record["model_digest"],
        interval=ends,
        reason=record["reason"],
        took_over=record["took_over"],
        awaits_release=record["awaits_release"],
        overridden=record["overridden"],
    )
    anchor_in(pushed, anchor)
    write_text(Path(pushed.uri) / RECORD, json.dumps(record, indent=1))
    for name, value in record.items():
        set_property = pushed.set_int_custom_property if isinstance(value, int) else pushed.set_string_custom_property
        set_property(name, value)


def _refusal(model: Any, blessing: Any, infra_blessing: Any) -> str:
    for judge, artifact in (("evaluate", blessing), ("try_serving", infra_blessing)):
        judged.check(judge, artifact, model)
        if artifact.get_int_custom_property("blessed") != 1:
            return f"Not pushed: {judge} did not bless the model."
    return ""
