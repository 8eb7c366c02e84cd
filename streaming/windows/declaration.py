"""What a pipeline declares of a stream: its topics, how a message is read, keys, measures, bounds and windows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from airtight.errors import TerminalError
from airtight.import_string import load
from streaming.windows.tables import Table

if TYPE_CHECKING:
    from streaming.topics import Topic

MINUTE_S = 60
KEY_SEPARATOR = "|"
PARTITIONS = 4
LEAST = 1e-9
"""A smaller value lies in the part of this one; and what adding up may leave over."""
QUANTILES = (0.5, 0.95, 0.99)
_NAME = re.compile(r"[a-z]\w*")
_IMPORT_STRING = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*")


def _check(ok: bool, subject: str, expected: str, received: object) -> None:
    if not ok:
        raise TerminalError(
            f"{subject} is not declared as it must be.",
            expected=expected,
            received=repr(received),
            remedy="Correct the stream's declaration.",
        )


@dataclass(frozen=True)
class Group:
    """Events told apart by fields; every key of a group has totals of its own.

    Args:
      name: An identifier in lower case, unique in the stream.
      by: Fields of the event that make the key, in this order; () is one key for all. An event that lacks one is in no
        total of the group.
      where: Fields and their values: only events with all of them are in the group.
    """

    name: str
    by: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(bool(_NAME.fullmatch(self.name)), "A group's name", "an identifier in lower case", self.name)
        _check(isinstance(self.by, tuple), f"The group {self.name}", "a tuple of fields", self.by)


@dataclass(frozen=True)
class Measure:
    """A number that is kept of each key and minute; how many events there are is always kept, as `count`.

    Args:
      name: An identifier in lower case, unique in the stream.
      kind: "sum" of a value; "mean", its sum over how many events there are, made when it is read; "max" of a value;
        "distribution", how often a value lies in which part of its range.
      of: The value of the event; "" is the one of the measure's own name. An event that lacks it adds 0, and nothing to
        a maximum or a distribution.
      ratio: Of a distribution whose parts grow: the end of one by that of the part before, above 1.
      width: Of a distribution whose parts are equal, their width, above 0.
      weight: Of a distribution the event's value that says how much it counts; "" counts each event once.
    """

    name: str
    kind: Literal["sum", "mean", "max", "distribution"] = "sum"
    of: str = ""
    ratio: float = 0.0
    width: float = 0.0
    weight: str = ""

    def __post_init__(self) -> None:
        _check(bool(_NAME.fullmatch(self.name)), "A measure's name", "an identifier in lower case", self.name)
        kinds = ("sum", "mean", "max", "distribution")
        _check(self.kind in kinds, f"The measure {self.name}", ", ".join(kinds), self.kind)
        if self.kind == "distribution":
            is_one = (self.ratio > 1) != (self.width > 0)
            _check(is_one, f"The distribution {self.name}", "a ratio above 1 or a width above 0", self)

    @property
    def value(self) -> str:
        """Name of the event's value."""
        return self.of or self.name

    def part_of(self, value: float) -> int:
        """The number of the part of a distribution in which a value lies."""
        if self.ratio:
            return math.ceil(math.log(max(value, LEAST), self.ratio))
        return math.floor(value * (1 / self.width))

    def summary(self, counts: Mapping[int, float]) -> dict[str, Any]:
        """A distribution for people: its quantiles, and [end of the part, how often] of each part that has some."""
        ends = {part: self.ratio**part if self.ratio else (part + 1) * self.width for part in sorted(counts)}
        summary: dict[str, Any] = {}
        for quantile in QUANTILES:
            left = quantile * sum(counts.values())
            summary[f"p{quantile * 100:g}"] = None
            for part, end in ends.items():
                left -= counts[part]
                if left <= LEAST:
                    summary[f"p{quantile * 100:g}"] = end
                    break
        return summary | {"parts": [[end, counts[part]] for part, end in ends.items()]}


@dataclass(frozen=True)
class Windows:
    """Windows that are written beside the minutes, for people and other programs; all of a stream's groups have them.

    Args:
      length_s: Seconds, whole minutes. Windows begin at multiples of `every_s` since 1970, UTC.
      every_s: Seconds from one to the next, whole minutes; 0 is `length_s`: fixed windows.
    """

    length_s: int
    every_s: int = 0

    def __post_init__(self) -> None:
        whole = self.length_s > MINUTE_S and not self.length_s % MINUTE_S and not self.every_s % MINUTE_S
        _check(
            whole and 0 <= self.every_s <= self.length_s,
            "A window",
            "whole minutes, more than one, and a slide that is not longer",
            self,
        )


@dataclass(frozen=True)
class Bounds:
    """How far times may be apart; all are stamps of the log, the clock of a host is asked by `idle_s` alone.

    Args:
      out_of_order_s: How much older than the newest message of the topics one that comes may be, by their stamps in
        Kafka. The watermark stays behind by it.
      allowed_lateness_s: How long after its event a message may be published. What is later is a late message, and
        changes no total.
      ahead_s: How long before its event a message may be published, where clocks differ. What is earlier is bad.
      idle_s: Silence of all topics after which event time goes on by the clock; 0 is never, for replays.
    """

    out_of_order_s: float
    allowed_lateness_s: float
    ahead_s: float = 300.0
    idle_s: float = 0.0

    def __post_init__(self) -> None:
        bounds = (self.out_of_order_s, self.allowed_lateness_s, self.ahead_s, self.idle_s)
        _check(min(bounds) >= 0, "A bound", "0 s or more", self)


@dataclass(frozen=True)
class Identity:
    """Events that have an identity count once: the last version counts, by the time of its publication.

    Args:
      lifetime_s: How long after the last message of an identity the next one is still known for a version of it,
        seconds of event time. The state grows with it.
    """

    lifetime_s: float

    def __post_init__(self) -> None:
        _check(self.lifetime_s > 0, "The lifetime of an identity", "more than 0 s", self.lifetime_s)


@dataclass(frozen=True)
class BadShare:
    """When bad messages are no exception any more: the job stops, rather than emptying the topic into the dead letters.

    Args:
      limit: Share of the last messages, 0 to 1.
      messages: About how many messages that share is taken of; fewer stop nothing.
    """

    limit: float = 0.2
    messages: int = 500

    def __post_init__(self) -> None:
        ok = 0 < self.limit <= 1 and self.messages > 0
        _check(ok, "The limit of bad messages", "a share above 0 up to 1, of one message or more", self)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream of events and what is kept of it.

    Args:
      name: An identifier in lower case: of the job, of the store's tables, of the consumer group.
      topics: Topics of Kafka.
      parse: Import string of the function (`messages.Message`) -> `messages.Event`, or None for what is no event of
        this stream; it raises `messages.BadMessage`.
      groups: By which keys events are told apart.
      measures: What is kept of each key and minute, beside how many events there are.
      bounds: How far times may be apart.
      identity: How long versions of one event are known; None where each message counts.
      windows: Further windows.
      dead_letters: Topic of bad and late messages; "" has them counted only.
      bad_share: When the job stops.
      keep_days: What is older than this before the watermark, the store forgets.
      tables: What is kept beside the totals; events bring their records.
      messages: Import string of what a message is, a `msgspec.Struct` or a union of them, of which `schemas` makes a
        JSON Schema; "" where messages have none.
      replay: Import string of the function (lake, start, end) -> iterator of `messages.Message` in the order of their
        publication, which makes messages of the lake's rows; "" for none.
      made: Topics as they are to be, the stream's and others that belong to it; see `all_topics`.
      zone: IANA name of the time zone of days that a person names.
    """

    name: str
    topics: tuple[str, ...]
    parse: str
    groups: tuple[Group, ...]
    bounds: Bounds
    measures: tuple[Measure, ...] = ()
    identity: Identity | None = None
    windows: tuple[Windows, ...] = ()
    dead_letters: str = ""
    bad_share: BadShare = field(default_factory=BadShare)
    keep_days: int = 30
    tables: tuple[Table, ...] = ()
    messages: str = ""
    replay: str = ""
    made: tuple[Topic, ...] = ()
    zone: str = "UTC"

    def __post_init__(self) -> None:
        subject = f"The stream {self.name!r}"
        _check(bool(_NAME.fullmatch(self.name)), subject, "an identifier in lower case", self.name)
        _check(
            bool(self.topics) and not isinstance(self.topics, str), subject, "a tuple of one topic or more", self.topics
        )
        _check(self.dead_letters not in self.topics, subject, "dead letters in another topic", self.dead_letters)
        _check(bool(self.groups), subject, "one group or more", self.groups)
        for names in (
            [group.name for group in self.groups],
            ["count", *(measure.name for measure in self.measures)],
            [table.name for table in self.tables],
        ):
            _check(len({*names}) == len(names), subject, "names that are there once", names)
        _check(self.keep_days > 0, subject, "one day or more that the store keeps", self.keep_days)
        for name in (self.parse, *filter(None, (self.messages, self.replay))):
            _check(bool(_IMPORT_STRING.fullmatch(name)), subject, "package.module:attribute", name)

    @property
    def all_topics(self) -> tuple[Topic, ...]:
        """`made`, and the stream's that are not among them: of four partitions, that of dead letters of one."""
        from streaming.topics import Topic

        partitions = {**dict.fromkeys(self.topics, PARTITIONS), **({self.dead_letters: 1} if self.dead_letters else {})}
        names = {topic.name for topic in self.made}
        return (*self.made, *(Topic(name, number) for name, number in partitions.items() if name not in names))

    def values_of(self, totals: Sequence[Any]) -> dict[str, Any]:
        """Totals of a key by name, for people.

        Args:
          totals: Of the key: how many events, then each measure's.

        Returns:
          `count` and each measure; means and maxima of no event are None, distributions as `Measure.summary`.
        """
        count, *rest = totals
        values: dict[str, Any] = {"count": count}
        for measure, total in zip(self.measures, rest, strict=True):
            values[measure.name] = total
            if measure.kind == "mean":
                values[measure.name] = total / count if count else None
            elif measure.kind == "distribution":
                values[measure.name] = measure.summary(total)
        return values


def declared(name: str) -> Stream:
    """The stream that a pipeline declares.

    Args:
      name: Of the pipeline, whose module `streams` has it as `STREAM`; or an import string of it.

    Raises:
      TerminalError: There is none.
    """
    stream = load(_import_string(name))
    _check(isinstance(stream, Stream), f"The stream of {name}", "a streaming.windows.declaration.Stream", stream)
    return stream


def modules_of(name: str) -> tuple[str, ...]:
    """Modules whose code, with all that they rest on, is what a stream runs; `name` as for `declared`."""
    return "streaming.windows.__main__", _import_string(name).partition(":")[0]


def _import_string(name: str) -> str:
    return name if ":" in name else f"pipelines.{name}.streams:STREAM"
