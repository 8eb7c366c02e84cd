"""What is asked of ML Metadata, and how much comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import ml_metadata as mlmd
from google.protobuf import message


@dataclass
class Calls:
    """The calls of a store.

    Args:
      counts: How many there were, by method.
      items: How many executions, artifacts, events and so on came back, by method.
    """

    counts: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)


@contextmanager
def counted() -> Iterator[Calls]:
    """Counts the calls that this process makes."""
    calls, theirs = Calls(), mlmd.MetadataStore._call_method

    def call(store: mlmd.MetadataStore, method: str, request: message.Message, response: message.Message) -> Any:
        answer = theirs(store, method, request, response)
        calls.counts[method] += 1
        repeated = [value for spec, value in response.ListFields() if spec.label == spec.LABEL_REPEATED]
        calls.items[method] += sum(map(len, repeated))
        return answer

    with mock.patch.object(mlmd.MetadataStore, "_call_method", call):
        yield calls
