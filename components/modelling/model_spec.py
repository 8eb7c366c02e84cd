"""What a pipeline's model function answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import keras


@dataclass(frozen=True)
class ModelSpec:
    """A model, its network not yet fitted.

    Args:
      preprocess: From raw features by name, each [batch, ...], to the network's inputs, any nest of tensors of numbers
        [batch, ...] whose other dimensions are fixed.
      build_network: Builds the network, from these inputs to logits [batch, members, outputs]; see
        `components.modelling.heads` for what the outputs are. None where the ensemble member answers alone.
      ensemble_member: From raw features by name, each [batch, ...], to logits [batch, members, outputs]: a model that
        is fitted already and takes no part in the network's training. Its prediction and the network's are averaged
        half and half, in the epoch's choice as in the exported model. None: the network answers alone.
      tuned: What the validation rows decided about this model, as JSON knows it; a refit is given it, and the training
        record keeps it.
      vocabulary: For weights of the network whose rows belong to words, by name as `components.modelling.weights` gives
        it (such as `embedding_0/embeddings`), the words in the order of the rows; "" is all others. A fit that starts
        from another's weights finds its rows by them.
      ensemble_rows: Rows that the ensemble member learned from, where they are a sample; the training record keeps it.
    """

    preprocess: keras.Model
    build_network: Callable[[], keras.Model] | None
    ensemble_member: keras.Model | None = None
    tuned: Mapping[str, int | float | str] = field(default_factory=dict)
    vocabulary: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ensemble_rows: int | None = None
