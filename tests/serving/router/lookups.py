"""What stands for pipelines' lookups in the router of the tests."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from airtight.errors import TerminalError, TransientError

NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)


class Doubling:
    """In place of a pipeline's lookup: the model's one input is twice what the client says."""

    def __call__(self, instances):
        if instances == ["away"]:
            raise TransientError("The store is away.", expected="a store", received="none", remedy="Start the stream.")
        if instances == ["broken"]:
            raise RuntimeError("secret")
        for number, instance in enumerate(instances):
            if not isinstance(instance, float):
                raise TerminalError("No.", expected="a float", received=f"instances[{number}]", remedy="Correct it.")
        freshness = [{"as_of": NOON, "behind_minutes": 3} for _ in instances]
        return [{"x": math.nan if instance < 0 else instance * 2} for instance in instances], freshness


class Mixed:
    """For a model that needs what this does not give."""

    def __call__(self, instances):
        return [{"nothing": 1.0} for _ in instances], [{} for _ in instances]
