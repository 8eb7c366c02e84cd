"""A watch's chain step by step, each with its time: alarm, decision, training, verdicts, release, outcome."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from airtight.served_spans import took_over
from airtight.verdict import FILE_NAME, Verdict
from runtime.lineage.artifacts import Artifact
from runtime.lineage.versions import published_at
from runtime.lineage.watch_chain import FAILED, NOT_BEGUN, PROMOTION, Chain

STEPS = ALARM, DECISION, RUN, VERDICTS, RELEASE, OUTCOME = (
    *("Alarm", "Decision", "Training", "Verdicts", "Release", "Outcome"),
)


@dataclass(frozen=True)
class ChainStep:
    """One step of a chain.

    Args:
      name: ALARM, DECISION, RUN, VERDICTS, RELEASE or OUTCOME.
      at: When it was made, by the clock, ISO 8601, UTC; "" where it was not yet.
      words: What it says.
    """

    name: str
    at: str
    words: str


def steps(chain: Chain, state: str | None = None) -> list[ChainStep]:
    """The steps that a chain has come to, in their order.

    Args:
      chain: The chain.
      state: What the scheduler says of the training where no node of it has begun, such as "queued"; "" where it has no
        such run, None where it was not asked.
    """
    properties = chain.decision.properties
    decided = f"{properties['action']}: {properties['reason']}"
    made = [
        ChainStep(ALARM, _when(chain.alarms, chain.losses), _alarm(chain)),
        ChainStep(DECISION, published_at(chain.decision), decided),
    ]
    if chain.run is None:
        return [*made, ChainStep(RUN, "", _not_begun(chain, state))] if chain.outcome == NOT_BEGUN else made
    began, ended = min(step.started for step in chain.run.steps.values()), chain.run.ended
    at, minutes = began.isoformat(timespec="seconds"), (ended - began).total_seconds() / 60
    made.append(ChainStep(RUN, at, f"{_interval(properties['trains'])}; {minutes:.1f} min up to its last step"))
    if verdicts := [words for artifact in chain.verdicts if (words := _verdict(artifact))]:
        made.append(ChainStep(VERDICTS, _when(*chain.verdicts), "; ".join(verdicts)))
    if chain.version and chain.pushed:
        made.append(_release(chain, chain.pushed))
    at = ended.isoformat(timespec="seconds") if chain.outcome == FAILED else chain.settled_at
    return [*made, ChainStep(OUTCOME, at, _outcome(chain))]


def in_lines(chain: Chain) -> list[str]:
    """A chain as text, a step a line."""
    properties = chain.decision.properties
    mark = " (a backfill)" if chain.is_backfilled else ""
    lines = [f"{step.name:<9} {step.at[:19].replace('T', ' '):<19}  {step.words}" for step in steps(chain)]
    return [f"{properties['day']}: {properties['action']}{mark}: {chain.outcome}", *(f"  {line}" for line in lines)]


def _when(*artifacts: Artifact | None) -> str:
    """When the last of some artifacts was published."""
    return max((published_at(artifact) for artifact in artifacts if artifact), default="")


def _alarm(chain: Chain) -> str:
    """What the regret says, and the data where they alarm."""
    regret = str(chain.decision.properties.get("regret", ""))
    data = (
        str(chain.alarms.properties.get("summary", "")) if chain.alarms and chain.alarms.properties.get("alarm") else ""
    )
    return " ".join(filter(None, (regret, data))) or "No alarm."


def _not_begun(chain: Chain, state: str | None) -> str:
    trains = _interval(chain.decision.properties.get("trains", ""))
    if state:
        return f"{trains}: the run is {state}, and no node of it has begun"
    if chain.is_backfilled:
        return f"would have trained {trains}: a backfill triggers nothing"
    if state is None:
        return f"would train {trains}: it waits, or none was triggered"
    return f"would have trained {trains}: the watch was to report only, or an earlier training held this one"


def _interval(ends: object) -> str:
    """The days of an interval `start/end`."""
    start, _, end = str(ends).partition("/")
    return f"{start[:10]} to {end[:10]}" if end else "an interval that is not recorded"


def _verdict(artifact: Artifact) -> str:
    """What one step said; "" where it says nothing of its own."""
    properties, file = artifact.properties, Path(artifact.uri) / FILE_NAME
    if artifact.type.name == "TrainingClearance":
        return "faults of the data were accepted" if properties.get("accepted") else "clear_training passed"
    if not file.is_file():
        return ""
    verdict = Verdict.read(file.parent)
    return f"{verdict.gate} passed" if verdict.passed else str(verdict)


def _release(chain: Chain, pushed: Artifact) -> ChainStep:
    """How its version came to serve, or was to; what took it back is the outcome."""

    def is_own(artifact: Artifact) -> bool:
        """Whether it tried this version or had it served, and not another one beside it or in its place."""
        properties = artifact.properties
        return artifact.type.name != PROMOTION or (
            properties.get("to_version") == chain.version and took_over(properties)
        )

    own = list(filter(is_own, chain.releases))
    if not own:
        words = "it took over when it was pushed" if pushed.properties.get("took_over") else "it was registered"
        return ChainStep(RELEASE, published_at(pushed), f"version {chain.version}: {words}")
    properties = own[-1].properties
    return ChainStep(RELEASE, published_at(own[-1]), str(properties.get("summary") or properties.get("reason", "")))


def _outcome(chain: Chain) -> str:
    parts = [f"{chain.outcome}: {chain.words}" if chain.words else chain.outcome]
    if chain.saved is not None:
        parts.append(f"it saves {chain.saved:.3g} a row so far")
    if chain.judged:
        judged = chain.judged.properties
        parts.append(f"{str(judged['outcome']).replace('_', ' ')}: {judged['reason']}")
    return "; ".join([*(part.removesuffix(".") for part in parts[:-1]), parts[-1]])
