"""Which model a gate judged: written into its blessing and evaluation, and compared where these are relied on.

After a retry of some tasks and not of others, a run's current blessing may be of an earlier attempt's model.
"""

from __future__ import annotations

from pathlib import Path

from tfx.types import artifact
from tfx.utils import path_utils

from airtight.errors import TerminalError
from airtight.files import digest_of_tree

URI, ID, DIGEST = "current_model", "current_model_id", "current_model_digest"
"""Custom properties of a judgement; the first two are those of TFX's Evaluator."""


def write(judgement: artifact.Artifact, model: artifact.Artifact) -> None:
    """Notes in a blessing or an evaluation of which model it speaks: uri, id, and digest of the SavedModel."""
    judgement.set_string_custom_property(URI, model.uri)
    judgement.set_int_custom_property(ID, model.id)
    judgement.set_string_custom_property(DIGEST, _digest(model))


def check(judge: str, blessing: artifact.Artifact, model: artifact.Artifact) -> None:
    """Sees that a blessing speaks of this model.

    The content decides, not the id: where the cache gives an earlier judgement of equal content, it is one of this
    model. A blessing without a digest is TFX's own Evaluator's, and is held to the uri.

    Args:
      judge: The gate's node, for the message.
      blessing: What it said.
      model: The model that the blessing should be about.

    Raises:
      TerminalError: It speaks of another model, or of none.
    """
    digest = blessing.get_string_custom_property(DIGEST)
    uri = blessing.get_string_custom_property(URI)
    if digest == _digest(model) if digest else uri == model.uri:
        return
    raise TerminalError(
        f"The task {judge} judged another model than this one.",
        expected=f"a blessing of the model {model.uri}",
        received=f"one of {uri}" if uri else "one that names no model",
        remedy=f"Clear the task {judge}, so that it judges this model, and those after it.",
    )


def _digest(model: artifact.Artifact) -> str:
    return digest_of_tree(Path(path_utils.serving_model_dir(model.uri)))
