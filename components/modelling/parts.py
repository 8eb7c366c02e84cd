"""What a pipeline's model function is given, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np

from components.data.examples import Columns


@dataclass(frozen=True)
class Labelled:
    """Raw rows with their labels.

    Args:
      columns: Raw features by name, each [rows].
      labels: 0 or 1, [rows].
    """

    columns: Columns
    labels: np.ndarray


@dataclass(frozen=True)
class Parts:
    """A model, its network not yet fitted.

    Args:
      preprocess: From raw features by name, each [batch], to the network's inputs, any nest of tensors [batch, ...].
      build_network: Builds the network, from these inputs to logits [batch, members].
      companion: From raw features by name, each [batch], to logits [batch, members]: a model that is fitted already and
        takes no part in the network's training. Its probability and the network's are averaged half and half, in the
        epoch's choice as in the exported model. None: the network answers alone.
      chosen: What the validation rows decided about these parts, as JSON knows it; a refit is given it, and the
        training record keeps it.
      words: For weights of the network whose rows belong to words, by name as `components.modelling.weights` gives it
        (such as `embedding_0/embeddings`), the words in the order of the rows; "" is all others. A fit that starts from
        another's weights finds its rows by them.
    """

    preprocess: keras.Model
    build_network: Callable[[], keras.Model]
    companion: keras.Model | None = None
    chosen: Mapping[str, int | float | str] = field(default_factory=dict)
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
