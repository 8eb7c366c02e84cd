"""The two accounts: what is done, and where a run begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from airtight.errors import TerminalError
from streaming.accounts import Accounts, Entry

LOGS = {0: (0, 100), 1: (0, 100)}


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return Accounts(tmp_path / "accounts.sqlite")


def enter(accounts: Accounts, run: int, closed: int | None, **hours: dict[int, tuple[int, int]]) -> None:
    ends = {name: max(first + messages for first, messages in held.values()) for name, held in hours.items()}
    entries = {int(name[1:]): Entry(ends[name], 1000, (1000,), held) for name, held in hours.items()}
    accounts.enter(run, entries, closed)


def test_a_new_stream_begins_at_the_logs_beginning(accounts: Accounts) -> None:
    resume = accounts.begin({0: (7, 100)})
    assert (resume.run, resume.closed) == (1, None)
    assert resume.partitions[0].start == resume.partitions[0].next == 7


def test_it_begins_again_at_the_first_offset_of_what_is_not_done(accounts: Accounts) -> None:
    run = accounts.begin(LOGS).run
    enter(accounts, run, closed=6, p0={5: (0, 10), 6: (4, 20), 7: (9, 30)}, p1={5: (0, 10), 6: (8, 2)})
    accounts.write(5, 20)
    accounts.write(6, 21)  # One is missing.
    resume = accounts.begin(LOGS)
    assert {number: held.start for number, held in resume.partitions.items()} == {0: 4, 1: 8}
    assert {number: held.next for number, held in resume.partitions.items()} == {0: 39, 1: 10}
    accounts.write(6, 22)
    resume = accounts.begin(LOGS)
    assert {number: held.start for number, held in resume.partitions.items()} == {0: 9, 1: 10}
    assert resume.partitions[0].clock == 1000 and resume.partitions[0].recent == (1000,)


def test_an_hour_that_may_still_grow_is_not_done(accounts: Accounts) -> None:
    run = accounts.begin(LOGS).run
    enter(accounts, run, closed=None, p0={5: (3, 10)})
    accounts.write(5, 10)
    assert accounts.begin(LOGS).partitions[0].start == 3
    assert accounts.standing().undone == (5,)


def test_windows_that_reach_back_need_the_hours_before(accounts: Accounts) -> None:
    run = accounts.begin(LOGS).run
    enter(accounts, run, closed=7, p0={5: (0, 1), 6: (1, 1), 7: (2, 1)})
    accounts.write(5, 1)
    accounts.write(6, 1)
    assert accounts.begin(LOGS).partitions[0].start == 2
    assert accounts.begin(LOGS, reach=1).partitions[0].start == 1


def test_what_the_sink_wrote_never_shrinks(accounts: Accounts) -> None:
    accounts.write(5, 10)
    accounts.write(5, 3)
    assert accounts.written(5) == 10 and accounts.written(6) == 0


def test_a_run_that_was_overtaken_enters_nothing(accounts: Accounts, tmp_path: Path) -> None:
    old = accounts.begin(LOGS).run
    Accounts(accounts.path).begin(LOGS)
    with pytest.raises(TerminalError, match="Another run"):
        enter(accounts, old, closed=None, p0={5: (0, 10)})
    with pytest.raises(TerminalError, match="Another run"):
        accounts.turn_away(old, [(0, 1)])
    assert accounts.standing().messages == 0


def test_late_messages_are_remembered_as_long_as_they_may_be_read_again(accounts: Accounts) -> None:
    run = accounts.begin(LOGS).run
    enter(accounts, run, closed=None, p0={5: (3, 10)})
    accounts.turn_away(run, [(0, 1), (0, 5)])
    assert accounts.begin(LOGS).partitions[0].late == {5}


@pytest.mark.parametrize("log", [(4, 100), (0, 12)], ids=["deleted", "another topic"])
def test_a_log_that_lacks_what_is_needed_is_refused(accounts: Accounts, log: tuple[int, int]) -> None:
    run = accounts.begin(LOGS).run
    enter(accounts, run, closed=None, p0={5: (3, 10)})
    with pytest.raises(TerminalError, match="no longer holds"):
        accounts.begin({0: log, 1: (0, 100)})
    assert accounts.standing().run == run


def test_old_hours_are_forgotten_up_to_those_that_may_be_read_again(accounts: Accounts) -> None:
    run = accounts.begin(LOGS).run
    enter(accounts, run, closed=8, p0={hour: (hour, 1) for hour in (4, 5, 6, 7)})
    for hour in (4, 5, 7):
        accounts.write(hour, 1)
    assert accounts.forget(before=8, reach=1) == 1
    assert accounts.written(4) == 0 and accounts.written(5) == 1 and accounts.standing().undone == (6,)
    assert accounts.begin(LOGS, reach=1).partitions[0].start == 5
    accounts.write(6, 1)
    assert accounts.forget(before=7) == 2
    assert accounts.standing().undone == () and accounts.written(7) == 1
    assert accounts.begin(LOGS).partitions[0].start == 8


def test_what_the_store_has_lost_is_read_again(accounts: Accounts) -> None:
    run = accounts.begin(LOGS).run
    enter(accounts, run, closed=7, p0={5: (0, 2), 6: (2, 2), 7: (4, 2)})
    for hour in (5, 6, 7):
        accounts.write(hour, 2)
    assert accounts.recheck({6: 1, 7: 2}.get, hours=2) == [6]
    assert accounts.begin(LOGS).partitions[0].start == 2
