"""Releases under way: which side answers a request, what each side's answers are counted as, and shadow requests."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from airtight.files import write_text
from airtight.rollout import arm_metrics, rules
from airtight.rollout.arm_metrics import FORMAT
from airtight.rollout.state import CANARY, SHADOW, SPLIT, Release
from serving.router import answers, metrics
from serving.router.arm_metrics import CELLS, SIDES, Arm, Counts, Outcome

logger = logging.getLogger(__name__)

STABLE, CANDIDATE = SIDES
MAX_SHADOWS, MAX_SHADOW_BYTES = 32, 64 << 20
"""Shadow requests under way at once; more are dropped and counted."""
SAVE_S = 2.0
STANDING_S = 2.0
"""Between two times that a release's rules are worked out for the status."""
_OK, _NOT_FOUND, GATEWAY_TIMEOUT = 200, 404, 504


@dataclass(frozen=True)
class Answer:
    """An answer of either API.

    Args:
      code: HTTP status; of a gRPC answer the one that its code is mapped to.
      content: The body, or the serialized message.
      rest: What else the API that asked wants to keep of it.
    """

    code: int
    content: bytes
    rest: Any = None


Ask = Callable[[int | None, str], Awaitable[Answer]]
"""Asks for a version (None: the server chooses) as a side (empty: none), and always answers."""
Read = Callable[[bytes], list[float] | None]
"""The numbers of an answer."""


@dataclass(frozen=True)
class RoutedRequest:
    """One request.

    Args:
      key: The caller's key, or None.
      ask: Sends it.
      read: Reads an answer's numbers.
      size: Its bytes.
    """

    key: str | None
    ask: Ask
    read: Read
    size: int


@dataclass
class Trial:
    """One release and what is counted for it."""

    release: Release
    counts: Counts = field(default_factory=Counts)
    _stood: tuple[float, dict[str, Any]] | None = None

    @functools.cached_property
    def until(self) -> float:
        """Seconds since 1970 from which on the candidate gets no request: nobody ended the release in time."""
        return datetime.fromisoformat(self.release.until).timestamp() if self.release.until else math.inf

    def version(self, side: str) -> int:
        """A side's version."""
        return self.release.stable if side == STABLE else self.release.candidate

    def as_dict(self) -> dict[str, Any]:
        """As the status tells it."""
        release = self.release
        status = {
            "id": release.id,
            "format": FORMAT,
            "stable": release.stable,
            "candidate": release.candidate,
            "mode": release.mode,
            "share": release.share,
            "since": release.since,
            "until": release.until,
            "low": release.low,
            "high": release.high,
            "sides": {side: self.counts.side(side).as_dict(self.version(side)) for side in SIDES},
            "pairs": self.counts.pairs.as_dict(),
        }
        return status | {"standing": self._standing(status)}

    def _standing(self, status: dict[str, Any]) -> dict[str, Any]:
        """How the release stands by its margins; worked out anew every few seconds at most, as it takes a while."""
        if not self._stood or time.monotonic() - self._stood[0] > STANDING_S:
            counts = arm_metrics.Counts.of({"releases": {"": status}}, "")
            assert counts is not None
            standing = rules.decide(counts, rules.Margins.of(self.release.margins)).to_json()
            self._stood = (time.monotonic(), standing)
        return self._stood[1]


def place(release_id: str, key: str) -> float:
    """Where a caller's key lies in 0..1 in a release: the candidate's side is below its share.

    The first eight bytes of SHA-256 over id, a line feed and key, as a number, of 2^64.
    """
    return int.from_bytes(_digest(release_id, key)[:8]) / 2**64


def cell(release_id: str, key: str) -> int:
    """The group that a caller's requests are counted in, apart from its place: the ninth byte."""
    return _digest(release_id, key)[8] % CELLS


@functools.lru_cache(maxsize=1024)
def _digest(release_id: str, key: str) -> bytes:
    return hashlib.sha256(f"{release_id}\n{key}".encode("utf-8", "surrogateescape")).digest()


class Trials:
    """All releases under way; the event loop's thread alone touches them.

    Args:
      state_file: Where counts are kept across a restart, or None.
    """

    def __init__(self, state_file: Path | None = None) -> None:
        self.of: dict[str, Trial] = {}
        self._random = random.Random()
        self._shadows: set[asyncio.Task[None]] = set()
        self._shadow_bytes = 0
        self._state_file = state_file
        self._saved = ""
        self._saving = asyncio.Lock()
        self._kept = _read_state(state_file)

    def follow(self, releases: Mapping[str, Release]) -> None:
        """Takes over what `releases.json` says; a release that goes on under its id goes on counting."""
        now = {}
        for model, release in releases.items():
            trial = self.of.get(model)
            if trial is None or trial.release.id != release.id:
                trial = Trial(release, self._kept.pop(release.id) if release.id in self._kept else Counts())
                logger.info("Release %s of %s: %s", release.id, model, release)
            elif trial.release != release:
                logger.info("Release %s of %s is now: %s", release.id, model, release)
                trial = Trial(release, trial.counts)
            now[model] = trial
        self._kept.clear()
        for model in self.of.keys() - now.keys():
            logger.info("Release %s of %s is over", self.of[model].release.id, model)
        self.of = now

    async def answer(self, trial: Trial, request: RoutedRequest) -> tuple[Answer, str]:
        """Has one request answered.

        Args:
          trial: The release of the request's model.
          request: The request.

        Returns:
          The answer, and the side that it is of; no side where no server had the chosen version (any more).

        Raises:
          CancelledError: Nobody waits any longer; the request is counted as one that got no answer in time.
        """
        release, key = trial.release, request.key
        drawn = self._random.random() if not key or release.mode == CANARY else place(release.id, key)
        within = drawn < release.share and time.time() < trial.until
        side = CANDIDATE if within and release.mode != SHADOW else STABLE
        if not release.share:
            # The candidate is being loaded, or taken back: there is nothing to compare with, so no count is kept.
            trial = Trial(release)
        group = None
        if release.mode == SPLIT:
            group = cell(release.id, key) if key else self._random.randrange(CELLS)
        started = time.perf_counter()
        try:
            answer = await request.ask(trial.version(side), side)
        except asyncio.CancelledError:
            # A version that hangs is known by its callers, who do not wait as long as the router would. There is no
            # shadow: the stable version had less time for this request than the candidate would have.
            milliseconds = 1e3 * (time.perf_counter() - started)
            for arm in trial.counts.side(side).counted(group):
                arm.traffic.add(GATEWAY_TIMEOUT, milliseconds)
            raise
        if answer.code == _NOT_FOUND:
            for arm in trial.counts.side(side).counted(group):
                arm.unserved += 1
            metrics.resent("version")
            # What a server would choose may be the candidate: it does only where nobody has the stable version, either.
            if side == CANDIDATE:
                answer = await request.ask(release.stable, STABLE)
            if answer.code == _NOT_FOUND:
                answer = await request.ask(None, "")
            return answer, ""
        milliseconds = 1e3 * (time.perf_counter() - started)
        arms = trial.counts.side(side).counted(group)
        # Counted when the answer is on its way, and all at once: nobody reads a request whose numbers are missing.
        count = self._count_and_shadow if within and release.mode == SHADOW else self._count
        asyncio.get_running_loop().call_soon(count, trial, arms, answer, request, milliseconds)
        return answer, side

    def as_dict(self) -> dict[str, Any]:
        """As the status tells it."""
        return {model: trial.as_dict() for model, trial in sorted(self.of.items())}

    async def run(self) -> None:
        """Saves the counts again and again."""
        while True:
            await asyncio.sleep(SAVE_S)
            await self.save()

    async def save(self) -> None:
        """Saves the counts where they have changed; a disk that does not take them is logged and stops nothing.

        One write follows another, also one that nobody waits for any more: else the older one might end last.
        """
        if self._state_file is not None:
            await asyncio.shield(self._save(self._state_file))

    async def _save(self, file: Path) -> None:
        async with self._saving:
            await self._write(file)

    async def _write(self, file: Path) -> None:
        counted = {**self._kept, **{trial.release.id: trial.counts for trial in self.of.values()}}
        text = json.dumps({key: asdict(counts) for key, counts in counted.items()})
        if text == self._saved:
            return
        self._saved = text
        try:
            await asyncio.to_thread(write_text, file, text)
        except Exception:  # Whatever a disk has, requests are answered.
            logger.exception("The counts of the releases could not be saved")
            self._saved = ""

    async def close(self) -> None:
        """Drops the shadow requests under way and saves."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)
        await self.save()

    def _count(
        self, trial: Trial, arms: tuple[Arm, ...], answer: Answer, request: RoutedRequest, milliseconds: float
    ) -> list[float] | None:
        """Counts an answer; gives back its numbers."""
        for arm in arms:
            arm.traffic.add(answer.code, milliseconds)
        return self._count_numbers(trial.release, arms, answer, request.read)

    def _count_and_shadow(
        self, trial: Trial, arms: tuple[Arm, ...], answer: Answer, request: RoutedRequest, milliseconds: float
    ) -> None:
        numbers = self._count(trial, arms, answer, request, milliseconds)
        self._shadow(trial, Outcome(answer.code, numbers, milliseconds), request)

    def _count_numbers(self, release: Release, arms: tuple[Arm, ...], answer: Answer, read: Read) -> list[float] | None:
        """Counts an answer's numbers, which it gives back, in units of the release's range."""
        if answer.code != _OK:
            return None
        if len(answer.content) > answers.LARGEST:
            for arm in arms:
                arm.numbers.skipped += 1
            return None
        numbers = read(answer.content)
        if numbers is not None and (release.low, release.high) != (0, 1):
            numbers = [(number - release.low) / (release.high - release.low) for number in numbers]
        for arm in arms:
            arm.numbers.add(numbers)
        return numbers

    def _shadow(self, trial: Trial, ours: Outcome, request: RoutedRequest) -> None:
        if len(self._shadows) >= MAX_SHADOWS or self._shadow_bytes + request.size > MAX_SHADOW_BYTES:
            trial.counts.pairs.dropped += 1
            return
        task = asyncio.get_running_loop().create_task(self._ask_shadow(trial, ours, request))
        self._shadows.add(task)
        self._shadow_bytes += request.size

        def over(ended: asyncio.Task[None]) -> None:
            self._shadows.discard(ended)
            self._shadow_bytes -= request.size
            if not ended.cancelled() and (error := ended.exception()) is not None:
                logger.error("A shadow request failed", exc_info=error)

        task.add_done_callback(over)

    async def _ask_shadow(self, trial: Trial, ours: Outcome, request: RoutedRequest) -> None:
        started = time.perf_counter()
        answer = await request.ask(trial.release.candidate, SHADOW)
        if answer.code == _NOT_FOUND:
            trial.counts.candidate.unserved += 1
            return
        milliseconds = 1e3 * (time.perf_counter() - started)
        trial.counts.candidate.traffic.add(answer.code, milliseconds)
        numbers = self._count_numbers(trial.release, (trial.counts.candidate,), answer, request.read)
        trial.counts.pairs.add_outcomes(ours, Outcome(answer.code, numbers, milliseconds))


def _read_state(path: Path | None) -> dict[str, Counts]:
    """The counts by release id; counting begins anew where they cannot be read."""
    if path is None or not path.exists():
        return {}
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): Counts.from_saved(counts) for key, counts in saved.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("The counts in %s cannot be read and begin anew: %r", path, error)
        return {}
