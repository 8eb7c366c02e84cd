"""A made-up stream for tests: orders of shops, with versions, bad and late messages; and a plain computation."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from streaming.run import in_process
from streaming.windows import tables
from streaming.windows.declaration import Bounds, Group, Identity, Measure, Stream, Windows
from streaming.windows.messages import BadMessage, Event, Message, SchemaNumber, json_reader
from streaming.windows.pipeline import build, messages_of
from streaming.windows.sqlite_store import SqliteStore

BEGIN = 1_370_080_800
"""2013-06-01 10:00 UTC."""
LATENESS_S = 7200
Rows = dict[tuple[str, str, int], tuple[Any, ...]]


class Order(msgspec.Struct):
    schema: SchemaNumber
    at: float
    id: str
    shop: str
    cents: int
    kind: str = "order"
    clerk: str | None = None


_read = json_reader(Order)


def parse(message: Message) -> Event | None:
    order = _read(message.value)
    if order.kind == "ping":
        return None
    if order.kind == "bad":
        raise BadMessage("bad kind", "as the test wants it")
    fields = {"shop": order.shop, "kind": order.kind} | ({"clerk": order.clerk} if order.clerk else {})
    record = {"shop": order.shop, "place": 1, "noted": int(order.at // 60), "town": "x", "opens": 9, "area": 0.5}
    return Event(order.at, fields, {"cents": order.cents}, order.id, records={"shops": record})


BY_OPENING, BY_TOWN = tables.Order("opens", beside=("shop",)), tables.Order("opens", equal=("town",))
SHOPS = tables.Table(
    "shops",
    key={"shop": str, "place": int},
    parts={"noted": {"town": str, "opens": int, "area": float}, "closed": {}},
    orders=(BY_OPENING, BY_TOWN),
)
STREAM = Stream(
    name="shops",
    topics=("test.shops",),
    parse="tests.streaming.windows.shops:parse",
    groups=(Group("all"), Group("shop_clerk", ("shop", "clerk")), Group("gifts", ("shop",), {"kind": "gift"})),
    measures=(Measure("cents"), Measure("mean", "mean", "cents"), Measure("largest", "max", "cents")),
    bounds=Bounds(out_of_order_s=60, allowed_lateness_s=LATENESS_S),
    identity=Identity(lifetime_s=86_400),
    windows=(Windows(300), Windows(600, 120)),
    tables=(SHOPS,),
)
ONCE = replace(STREAM, name="once", identity=None, windows=())
"""The same without versions."""


def message(**order: Any) -> Message:
    published = order.pop("published", order["at"])
    value = {"schema": 1, "shop": "a", "cents": 1, **order}
    return Message(value["shop"].encode(), msgspec.json.encode(value), round(published * 1000))


def orders(count: int, seed: int = 0, hours: float = 3, versions: float = 0.2) -> list[Message]:
    """Orders in the order of their publication, some of them published again: the same, or changed."""
    dice, made = random.Random(seed), []
    for number in range(count):
        order = {
            "at": BEGIN + dice.randrange(round(hours * 3600)),
            "id": f"o{number}",
            "shop": dice.choice("abc"),
            "cents": dice.randrange(-50, 1000),
            "kind": dice.choice(["order", "order", "gift"]),
            "clerk": dice.choice([None, "x", "y"]),
        }
        published = order["at"] + dice.randrange(3600)
        made.append(message(published=published, **order))
        while dice.random() < versions:
            published += dice.randrange(1, 3000)
            if dice.random() < 0.7:
                order |= {"at": order["at"] + dice.randrange(-90, 300), "cents": dice.randrange(1000)}
            made.append(message(published=published, **order))
    return sorted(made, key=lambda one: one.published_ms)


def plain(messages: Iterable[Message], minutes: int = 1, every: int = 1, *, once: bool = False) -> Rows:
    """The totals by a slow and obvious reading of their definition; messages in the order of their publication."""
    last: dict[str, Event] = {}
    for number, one in enumerate(messages):
        event = parse(one)
        assert event
        late_s = one.published_ms / 1000 - event.at
        name = str(number) if once else event.identity
        if -300 <= late_s <= LATENESS_S and (name not in last or one.published_ms / 1000 - last[name].at <= LATENESS_S):
            last[name] = event
    values: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for event in last.values():
        minute = int(event.at // 60)
        for group in STREAM.groups:
            inside = all(event.fields.get(name) == value for name, value in group.where.items())
            if inside and all(name in event.fields for name in group.by):
                key = "|".join(event.fields[name] for name in group.by)
                for start in range(minute // every * every, minute - minutes, -every):
                    values[group.name, key, start].append(event.values["cents"])
    return {place: (len(cents), sum(cents), sum(cents), max(cents)) for place, cents in values.items()}


def newest(messages: Iterable[Message]) -> dict[str, int]:
    """By shop the minute of its newest order that is not late: that of its record."""
    minutes: dict[str, int] = {}
    for one in messages:
        event = parse(one)
        if event and -300 <= one.published_ms / 1000 - event.at <= LATENESS_S:
            shop = event.fields["shop"]
            minutes[shop] = max(minutes.get(shop, 0), int(event.at // 60))
    return minutes


def recorded(store: SqliteStore) -> dict[str, int]:
    """The same of the store."""
    records = store.read([tables.Range("shops", BY_OPENING, (), 0, 99)])[0]
    return {record["shop"]: record["noted"] for record in records}


def written(store: SqliteStore, minutes: int = 1) -> Rows:
    return {(row.group, row.key, row.start): row.totals for row in store.rows(minutes)}


def run(stream: Stream, messages: list[Message], path: Path) -> SqliteStore:
    in_process(build(stream, messages_of(messages), str(path), follow=False))
    return SqliteStore(path, stream)


def parse_bad_kinds(message: Message) -> Event | None:
    return parse(message._replace(value=message.value.replace(b'"kind":"bad"', b'"kind":"order"')))


DEAD_SHOPS = replace(STREAM, dead_letters="test.shops.dead")
