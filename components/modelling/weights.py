"""A fitted network's weights in a file of their own, from which a later fit may start."""

from __future__ import annotations

import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from airtight.errors import TerminalError
from airtight.files import new_file

_WEIGHT, _WORDS = "weights/", "words/"
_COUNTED = re.compile(r"_\d+$")


def file_of(artifact_uri: str) -> Path:
    """Where a `Model` artifact holds them: outside of its SavedModel, so that they are neither served nor pushed."""
    return Path(artifact_uri) / "Weights" / "weights.npz"


@dataclass(frozen=True)
class Carried:
    """What a network took over.

    Args:
      weights: How many weights it took over, those with some new rows among them.
      fresh: Names of those that it did not, because they are new or of another shape.
      new_words: How many rows are of words that were not known, and start afresh.
    """

    weights: int
    fresh: tuple[str, ...] = ()
    new_words: int = 0

    def __str__(self) -> str:
        message = f"{self.weights} of {self.weights + len(self.fresh)} weights carried over, {self.new_words} new words"
        return message + (f"; afresh: {', '.join(self.fresh)}" if self.fresh else "")


@dataclass(frozen=True)
class Weights:
    """A network's weights by name.

    Args:
      arrays: Each weight by its path in the network. Keras counts names up in a process, so here layers of one name are
        counted anew, from 0 in the network's own order: `dense_0/kernel`, `dense_1/kernel`.
      vocabulary: For weights whose rows belong to words, the words in the order of the rows; "" is all others.
    """

    arrays: Mapping[str, np.ndarray]
    vocabulary: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, network: keras.Model, vocabulary: Mapping[str, Sequence[str]]) -> Weights:
        """Those of a network.

        Raises:
          TerminalError: `vocabulary` names a weight that the network lacks, or one of another number of rows.
        """
        arrays = dict(zip(_names(network), network.get_weights(), strict=True))
        for name, rows in vocabulary.items():
            if name not in arrays or len(arrays[name]) != len(rows):
                raise TerminalError(
                    f"The words of the weight {name} do not fit the network.",
                    expected=f"one of {', '.join(arrays)}, with a row for each of {len(rows)} words",
                    received=f"{len(arrays[name])} rows" if name in arrays else "no such weight",
                    remedy="Correct `vocabulary` in the ModelSpec that the model function answers.",
                )
        return cls(arrays, vocabulary)

    @classmethod
    def read(cls, path: Path) -> Weights:
        """Those of a file.

        Raises:
          TerminalError: The file is none that `write` wrote.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                kept = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise TerminalError(
                f"The weights in {path} cannot be read.",
                expected="plain arrays in a NumPy archive",
                received=str(error).splitlines()[0],
                remedy="Train that model again, or start from scratch.",
            ) from error
        arrays = {name.removeprefix(_WEIGHT): array for name, array in kept.items() if name.startswith(_WEIGHT)}
        vocabulary = {
            name.removeprefix(_WORDS): rows.tolist() for name, rows in kept.items() if name.startswith(_WORDS)
        }
        return cls(arrays, vocabulary)

    def write(self, path: Path) -> None:
        """Writes them, equal weights as equal bytes: NumPy gives every member of its archive the same date."""
        members = {_WEIGHT + name: array for name, array in self.arrays.items()}
        members |= {_WORDS + name: np.array(rows, np.str_) for name, rows in self.vocabulary.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **members)  # type: ignore[arg-type]  # Its stub takes them for its one option.

    def carry_into(self, network: keras.Model, vocabulary: Mapping[str, Sequence[str]]) -> Carried:
        """Gives a new network these weights where name and shape agree, and rows of words by their words.

        Args:
          network: Built, with its fresh start, which all keeps that is not known here.
          vocabulary: As in `Weights`, of this network.
        """
        arrays = {name: array.copy() for name, array in Weights.of(network, vocabulary).arrays.items()}
        fresh, new_words = [], 0
        for name, array in arrays.items():
            old, by_word = self.arrays.get(name), name in vocabulary
            if old is None or by_word != (name in self.vocabulary) or _shape(old, by_word) != _shape(array, by_word):
                fresh.append(name)
            elif by_word:
                rows = {word: row for row, word in enumerate(self.vocabulary[name])}
                known = [row for row, word in enumerate(vocabulary[name]) if word in rows]
                array[known] = old[[rows[vocabulary[name][row]] for row in known]]
                new_words += len(array) - len(known)
            else:
                array[...] = old
        network.set_weights(list(arrays.values()))
        return Carried(len(arrays) - len(fresh), tuple(fresh), new_words)


def _shape(array: np.ndarray, by_word: bool) -> tuple[int, ...]:
    return array.shape[1:] if by_word else array.shape


def _names(network: keras.Model) -> list[str]:
    """Each weight's path, with every layer's number counted anew among those of its name in the same place."""
    seen: defaultdict[str, list[str]] = defaultdict(list)
    names = []
    for weight in network.weights:
        *layers, last = weight.path.split("/")
        path, raw = "", ""
        for layer in layers:
            base = path + _COUNTED.sub("", layer)
            raw += f"{layer}/"
            alike = seen[base]
            if raw not in alike:
                alike.append(raw)
            path = f"{base}_{alike.index(raw)}/"
        names.append(path + last)
    return names
