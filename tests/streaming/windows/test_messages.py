"""Reading messages, dead letters, and when there are too many of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import msgspec
import pytest

from airtight.errors import TerminalError
from streaming.run import in_process
from streaming.windows import letters
from streaming.windows.declaration import BadShare, Bounds, Group, Measure, Stream, Windows, declared
from streaming.windows.letters import Judged, Letter, StopAtBadShare, letter_bytes
from streaming.windows.messages import BadMessage, Event, Message, read
from streaming.windows.pipeline import build, messages_of
from streaming.windows.sqlite_store import SqliteStore
from tests.streaming.windows.shops import BEGIN, LATENESS_S, STREAM, message, orders, parse, plain, written


def reason(one: Message) -> str:
    with pytest.raises(BadMessage) as caught:
        read(parse, STREAM, one)
    return caught.value.reason


def test_an_added_field_and_a_newer_schema_are_read() -> None:
    event = read(parse, STREAM, message(at=BEGIN, id="a", schema=7, colour="red"))
    assert event is not None
    assert (event.at, event.fields["shop"], event.published_ms) == (BEGIN, "a", BEGIN * 1000)
    assert read(parse, STREAM, message(at=BEGIN, id="a", kind="ping")) is None


def test_reasons() -> None:
    good = message(at=BEGIN, id="a")
    assert reason(good._replace(value=b"")) == "no value"
    assert reason(good._replace(value=b"x" * (2 << 20))) == "too large"
    assert reason(good._replace(value=b"{")) == "no JSON"
    assert reason(good._replace(value=b'{"at":' + b"[" * 100_000)) in ("no JSON", "wrong schema")
    assert reason(good._replace(value=b"\xff\xfe")) == "no JSON"
    assert reason(message(at=BEGIN, id=7)) == "wrong schema"
    assert reason(message(at=BEGIN, id="a", schema=0)) == "wrong schema"
    assert reason(message(at=BEGIN, id="a", published=BEGIN + LATENESS_S + 1)) == "late"
    assert reason(message(at=BEGIN, id="a", published=BEGIN - 301)) == "ahead"
    assert read(parse, STREAM, message(at=BEGIN, id="a", published=BEGIN + LATENESS_S))


def answering(event: Any) -> Any:
    return lambda _: event


POISON = {
    "an hour that is none": (lambda one: int("13h"), "unreadable"),
    "400 digits": (lambda one: float(10**400), "unreadable"),
    "a sum that SQLite cannot hold": (answering(Event(BEGIN, {}, {"rides": 93 * 10**17})), "out of range"),
    "a version that cannot be held": (answering(Event(BEGIN, {}, {"rides": -(10**30)}, "a")), "out of range"),
    "no number": (answering(Event(BEGIN, {}, {"rides": float("nan")})), "out of range"),
    "a text in place of a number": (answering(Event(BEGIN, {}, {"rides": "7"})), "unreadable"),
    "no text in a key": (answering(Event(BEGIN, {"shop": None})), "unreadable"),
    "NUL in a key, which PostgreSQL does not take": (answering(Event(BEGIN, {"shop": "a\0"})), "out of range"),
    "a key that PostgreSQL does not take": (answering(Event(BEGIN, {"shop": "a" * 2001})), "out of range"),
    "half a character": (answering(Event(BEGIN, {"shop": "\ud800"})), "unreadable"),
    "NUL in a record": (answering(Event(BEGIN, {}, records={"shops": {"shop": "\0"}})), "out of range"),
    "a number of a record": (answering(Event(BEGIN, {}, records={"shops": {"opens": 2**64}})), "out of range"),
    "no time": (answering(Event(float("inf"), {})), "ahead"),
    "a time that is a text": (answering(Event("12:00", {})), "unreadable"),
}


@pytest.mark.parametrize(("parse", "reason"), POISON.values(), ids=POISON)
def test_whatever_a_message_does_to_its_reader_or_would_do_to_the_store_it_is_bad(parse: Any, reason: str) -> None:
    with pytest.raises(BadMessage) as caught:
        read(parse, STREAM, message(at=BEGIN, id="a"))
    assert caught.value.reason == reason
    assert letter_bytes(Letter(reason, caught.value.detail, b"", b"", 0))


def test_what_is_no_fault_of_the_message_is_none() -> None:
    for fault in (TerminalError("a", expected="b", received="c", remedy="d"), MemoryError()):

        def fails(_: Message, fault: BaseException = fault) -> Event:
            raise fault

        with pytest.raises(type(fault)):
            read(fails, STREAM, message(at=BEGIN, id="a"))


@pytest.mark.parametrize("years", [-40, 40])
def test_no_clock_of_this_host_is_asked(years: int) -> None:
    at = BEGIN + years * 365 * 86_400
    assert read(parse, STREAM, message(at=at, id="a"))


class Kept(beam.DoFn):
    """In place of a broker."""

    letters: ClassVar[list[Letter]] = []

    def __init__(self, *_: Any) -> None:
        pass

    def process(self, letter: Letter) -> None:
        Kept.letters.append(letter)


def test_bad_and_late_messages_are_letters_and_the_rest_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "WriteLetters", Kept)
    monkeypatch.setattr(Kept, "letters", [])
    good = orders(200, versions=0)
    first = message(at=BEGIN + 5, id="v", cents=5)
    correction = message(at=BEGIN + 10, id="v", published=BEGIN + LATENESS_S + 6)
    wrong = [message(at=BEGIN, id="b", kind="bad"), message(at=BEGIN, id="l", published=BEGIN + LATENESS_S + 1)]
    stream = replace(STREAM, dead_letters="dead")
    source, path = messages_of([first, *good, *wrong, correction]), tmp_path / "store.sqlite"
    in_process(build(stream, source, str(path), follow=False, servers="a stand-in writes"))
    assert written(SqliteStore(path, STREAM)) == plain([first, *good])
    assert sorted(letter.reason for letter in Kept.letters) == ["bad kind", "late", "late correction"]
    kept = {letter.reason: (letter.key, letter.value, letter.published_ms) for letter in Kept.letters}
    assert kept == {"bad kind": wrong[0], "late": wrong[1], "late correction": correction}


def judge(items: list[Judged | Letter], limit: BadShare) -> None:
    pairs = [(b"", letter_bytes(item)) for item in items]
    in_process(
        lambda pipeline: (
            pipeline
            | beam.Create(pairs, reshuffle=False).with_output_types(tuple[bytes, bytes])
            | beam.ParDo(StopAtBadShare("shops", limit))
        )
    )


def test_too_large_a_share_of_bad_messages_stops_the_job() -> None:
    bad, late = Letter("no JSON", "line 1", b"", b"", 0), Letter("late", "", b"", b"", 0)
    limit = BadShare(0.2, 100)
    judge([Judged(90), *[bad] * 20, *[late] * 90], limit)
    with pytest.raises(TerminalError, match=r"20.4% of the last messages of the stream shops are bad, lastly: no JSON"):
        judge([Judged(90), *[bad] * 40], limit)
    with pytest.raises(TerminalError, match="bad"):
        # What was long ago counts less and less.
        judge([Judged(10_000), *[bad] * 100], limit)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: replace(STREAM, topics="t"), "tuple of one topic"),
        (lambda: replace(STREAM, groups=()), "one group or more"),
        (lambda: replace(STREAM, groups=(Group("a"), Group("a", ("shop",)))), "there once"),
        (lambda: replace(STREAM, measures=(Measure("count"),)), "there once"),
        (lambda: replace(STREAM, parse="no.function"), "package.module:attribute"),
        (lambda: replace(STREAM, dead_letters="test.shops"), "another topic"),
        (lambda: Windows(90), "whole minutes"),
        (lambda: Windows(120, 180), "slide"),
        (lambda: Bounds(-1, 0), "0 s or more"),
        (lambda: BadShare(0), "above 0"),
        (lambda: Measure("a", "median"), "sum, mean, max, distribution"),
        (lambda: Group("A b"), "lower case"),
        (lambda: declared("tests.streaming.windows.shops:BEGIN"), "Stream"),
    ],
)
def test_a_wrong_declaration_is_refused_in_words(make: Any, words: str) -> None:
    with pytest.raises(TerminalError, match=words):
        make()


def test_a_stream_is_found_by_its_pipelines_name() -> None:
    stream = declared("bike_demand")
    assert isinstance(stream, Stream)
    assert stream.values_of((0, 0, 0, None)) == {"count": 0, "rides": 0, "mean_rides": None, "most_rides": None}
    assert stream.values_of((2, 5, 5, 3))["mean_rides"] == 2.5
    with pytest.raises(TerminalError, match="cannot be found"):
        declared("no_such_pipeline")


def test_what_a_letter_holds_is_read_back() -> None:
    letter = Letter("r", "d", b"k", b"v", 5)
    assert msgspec.msgpack.decode(letter_bytes(letter), type=Judged | Letter) == letter


def test_what_is_too_large_for_a_broker_is_cut_and_says_so() -> None:
    step = letters.WriteLetters(replace(STREAM, dead_letters="dead"), "")
    record = step._record(Letter("too large", "d" * 2000, b"k" * 500_000, b"v" * 2_000_000, 5))
    sizes = {name: text.decode() for name, text in record["headers"]}
    assert (sizes[letters.SIZE], sizes[letters.KEY_SIZE]) == ("2000000", "500000")
    assert len(record["key"]) + len(record["value"]) + len(sizes[letters.DETAIL]) < 1 << 20
