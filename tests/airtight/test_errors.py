"""Faults keep their family and their words across a process boundary."""

import pickle

import pytest

from airtight.errors import AirtightError, TerminalError, TransientError


@pytest.mark.parametrize("family", [TransientError, TerminalError])
def test_a_fault_survives_json_and_process_boundaries(family):
    fault = family("It broke.", expected="a", received=["b", "c"], remedy="Mend it.", step="ingest")
    for copy in (AirtightError.from_json(fault.to_json()), pickle.loads(pickle.dumps(fault))):  # noqa: S301
        assert type(copy) is family
        assert str(copy) == str(fault) == "ingest: It broke. Expected: a. Received: b, c. What to do: Mend it."


def test_at_most_five_examples_are_told():
    text = str(TerminalError("Unknown airports.", received=[f"X{i}" for i in range(8)]))
    assert "X4 and 3 more" in text
    assert "X5" not in text


def test_what_is_empty_is_not_told():
    assert str(TerminalError("It broke.")) == "It broke."
