"""Which server is asked, which is asked again, and which is left out: without processes."""

from __future__ import annotations

import asyncio
import time

import pytest

from serving.router import attempts, backends, pool
from serving.router.attempts import Outcome, Quarantine, RetryBudget
from serving.router.config import settings_from_flags
from serving.router.pool import Attempt, Pool
from serving.router.trials import Answer

PATH = "/v1/models/m:predict"
GOOD, FAULT = Answer(200, b"good"), Answer(500, b"fault")


def test_retries_are_a_tenth_of_the_requests():
    budget = RetryBudget()
    assert sum(budget.take() for _ in range(100)) == 10
    for _ in range(1100):
        budget.add_request()
    assert sum(budget.take() for _ in range(1000)) == 100 and not budget.take()
    for _ in range(55):
        budget.add_request()
    assert sum(budget.take() for _ in range(100)) == 5


def test_a_body_that_cut_two_connections_is_held_for_a_while():
    now = [0.0]
    quarantine = Quarantine(hold_s=10, entries=3, clock=lambda: now[0])

    def cut(body: bytes) -> None:
        quarantine.cut(PATH, body, now[0])

    def holds(body: bytes) -> bool:
        return quarantine.holds(PATH, body)

    cut(b"a")
    assert not holds(b"a")
    cut(b"a")
    assert holds(b"a") and not holds(b"b")
    now[0] = 11.0
    assert not holds(b"a")
    for _ in range(2):
        cut(b"b")
        cut(b"")
    quarantine.clear(PATH, b"b")
    assert not holds(b"b") and not holds(b"")
    large = bytes(5 << 20)
    for body in (large, large, b"1", b"2"):
        cut(body)
    assert holds(large) and not holds(large + b"x")
    cut(b"3")
    assert not holds(large), "no more than three are remembered"


def test_once_cuts_are_forgotten_no_body_is_hashed_any_more(monkeypatch):
    now, hashed = [0.0], []
    digest = attempts._digest
    monkeypatch.setattr(attempts, "_digest", lambda *of: hashed.append(of) or digest(*of))
    quarantine = Quarantine(hold_s=10, clock=lambda: now[0])
    for body in (b"a", b"b", b"a"):
        quarantine.cut(PATH, body, now[0])
        now[0] += 4
    now[0] = 15
    assert quarantine.holds(PATH, b"a"), "that of b is over, and it stands in front of this one"
    now[0] = 30
    hashed.clear()
    for _ in range(3):
        assert not quarantine.holds(PATH, b"good")
        quarantine.clear(PATH, b"good")
    assert hashed == []


def test_what_one_version_does_with_a_body_holds_back_no_other_version():
    quarantine = Quarantine()
    for _ in range(2):
        quarantine.cut("/v1/models/m/versions/2:predict", b"a", time.monotonic())
    assert quarantine.holds("/v1/models/m/versions/2:predict", b"a")
    assert not quarantine.holds("/v1/models/m/versions/1:predict", b"a") and not quarantine.holds(PATH, b"a")


def test_a_server_that_ends_cuts_the_same_request_once_however_often_it_is_under_way():
    @scene
    async def ask(make):
        stand_ins = make(Outcome.ANSWERED)
        under_way = asyncio.Barrier(4)

        async def send(backend: backends.Backend, fresh: bool) -> Attempt:
            if not fresh:
                await under_way.wait()
                return Outcome.CUT, None, "the server has ended"
            return await stand_ins.send(backend, fresh)

        requests = [stand_ins.pool.ask(PATH, b"body", send) for _ in range(4)]
        assert {outcome for outcome, _, _ in await asyncio.gather(*requests)} == {Outcome.ANSWERED}
        assert await stand_ins.ask() is Outcome.ANSWERED

        async def cut(backend: backends.Backend, fresh: bool) -> Attempt:
            if not fresh:
                await under_way.wait()
            return Outcome.CUT, None, "the server has ended"

        requests = [stand_ins.pool.ask(PATH, b"deadly", cut) for _ in range(4)]
        assert {outcome for outcome, _, _ in await asyncio.gather(*requests)} == {Outcome.CUT}
        assert await stand_ins.ask(b"deadly") is Outcome.CUT and stand_ins.counts == [5]

    ask()


class Scene:
    """A pool of servers that answer as they are told; `sent` counts what each was sent."""

    def __init__(self, *outcomes: Outcome) -> None:
        servers = [f"--server=http://127.0.0.1:{2 * n + 1}=127.0.0.1:{2 * n + 2}" for n in range(len(outcomes))]
        self.pool = Pool(settings_from_flags(["--models_root=m", *servers]), lambda well: None)
        self.outcomes = dict(zip(self.pool.backends, outcomes, strict=True))
        self.sent = dict.fromkeys(self.pool.backends, 0)
        for backend in self.pool.backends:
            backend.healthy, backend.reason = True, ""

    async def send(self, backend: backends.Backend, fresh: bool) -> Attempt:
        self.sent[backend] += 1
        with backend.counted_request():
            outcome = self.outcomes[backend]
            # The good one takes longer, as a server that refuses at once does not work.
            await asyncio.sleep(0.005 if outcome is Outcome.ANSWERED else 0)
        answers = {Outcome.ANSWERED: GOOD, Outcome.FAULT: FAULT, Outcome.BUSY: FAULT, Outcome.FULL: FAULT}
        return outcome, answers.get(outcome), outcome.name

    async def ask(self, body: bytes = b"body", target: str = PATH, **kwargs: bool) -> Outcome:
        return (await self.pool.ask(target, body, self.send, **kwargs))[0]

    @property
    def counts(self) -> list[int]:
        return list(self.sent.values())


def scene(test):
    """Runs a test in an event loop and closes the pool that it made."""

    def run(*args):
        async def inside():
            made: list[Scene] = []

            def make(*outcomes: Outcome) -> Scene:
                made.append(Scene(*outcomes))
                return made[-1]

            try:
                await test(make, *args)
            finally:
                for each in made:
                    await each.pool.close()

        asyncio.run(inside())

    return run


@pytest.mark.parametrize("outcome", [Outcome.FAULT, Outcome.BUSY, Outcome.FULL, Outcome.CUT, Outcome.UNSENT])
def test_beside_a_server_that_fails_at_once_the_other_answers(outcome):
    @scene
    async def ask(make):
        stand_ins = make(outcome, Outcome.ANSWERED)
        outcomes: list[Outcome] = []

        async def client(name: int) -> None:
            for number in range(50):
                outcomes.append(await stand_ins.ask(b"%d %d" % (name, number)))

        await asyncio.gather(*(client(name) for name in range(8)))
        assert sum(one is not Outcome.ANSWERED for one in outcomes) < 4, "under 1 % of 400"
        assert stand_ins.counts[0] < 20

    ask()


def test_a_request_that_cuts_connections_is_sent_twice_in_all():
    @scene
    async def ask(make):
        for servers in (1, 2, 3, 5):
            stand_ins = make(*[Outcome.CUT] * servers)
            assert await stand_ins.ask() is Outcome.CUT
            assert sum(stand_ins.counts) == 2 and max(stand_ins.counts) == (2 if servers == 1 else 1)
            for _ in range(3):
                assert await stand_ins.ask() is Outcome.CUT
            assert sum(stand_ins.counts) == 2, "it is in quarantine"
            assert await stand_ins.ask(b"another") is Outcome.CUT
            assert sum(stand_ins.counts) == 4

    ask()


def test_a_fault_that_another_server_repeats_is_the_requests_and_ejects_nobody():
    @scene
    async def ask(make):
        stand_ins = make(Outcome.FAULT, Outcome.FAULT)
        for _ in range(9):
            assert await stand_ins.ask() is Outcome.FAULT
        assert stand_ins.counts == [9, 9]
        for _ in range(120):  # The budget for retries is spent long before.
            assert await stand_ins.ask() is Outcome.FAULT
        assert [backend.ejected_until for backend in stand_ins.pool.backends] == [0, 0]
        stand_ins = make(Outcome.FAULT, Outcome.FAULT)
        assert set(await asyncio.gather(*[stand_ins.ask(b"%d" % n) for n in range(8)])) == {Outcome.FAULT}
        assert [backend.ejected_until for backend in stand_ins.pool.backends] == [0, 0]

    ask()


def test_a_server_that_fails_what_another_answers_is_ejected():
    @scene
    async def ask(make):
        stand_ins = make(Outcome.FAULT, Outcome.ANSWERED)
        broken = stand_ins.pool.backends[0]
        for _ in range(50):
            broken.forgive()  # It is asked first again, as long as it is not ejected.
            assert await stand_ins.ask() is Outcome.ANSWERED
        assert broken.ejected_until > 0 and stand_ins.pool.backends[1].ejected_until == 0

    ask()


@pytest.mark.parametrize("other", [Outcome.BUSY, Outcome.FAULT, Outcome.FULL])
def test_a_server_that_lacks_the_model_speaks_for_no_server_that_fails(other):
    @scene
    async def ask(make):
        stand_ins = make(Outcome.ABSENT, other)
        assert {await stand_ins.ask() for _ in range(4)} == {other}
        assert {await stand_ins.ask(chosen=True) for _ in range(4)} <= {Outcome.ABSENT, other}
        stand_ins = make(Outcome.ABSENT, Outcome.UNSENT)
        assert {await stand_ins.ask() for _ in range(4)} == {Outcome.ABSENT}

    ask()


def test_failures_in_a_row_eject_a_server_longer_each_time_and_never_more_than_half(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(backends.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pool.time, "monotonic", lambda: now[0])

    @scene
    async def ask(make):
        stand_ins = make(*[Outcome.BUSY] * 5)
        for _ in range(60):
            await stand_ins.ask()
        ejected = [backend for backend in stand_ins.pool.backends if backend.ejected_until]
        assert len(ejected) == 2
        first = ejected[0]
        assert first.ejected_until == now[0] + 5 and "ejected for 5 s" in first.as_dict()["reason"]
        assert not first.as_dict()["healthy"]
        assert set(stand_ins.pool.order()[:3]).isdisjoint(ejected)
        lengths = []
        for _ in range(8):
            now[0] = first.ejected_until + 1
            stand_ins.pool._blame(
                first, (Outcome.BUSY, None, "again")
            )  # One failure is enough for a server that was ejected before.
            lengths.append(first.ejected_until - now[0])
        assert lengths == [10, 20, 40, 80, 160, 300, 300, 300]
        now[0] = first.ejected_until + 61
        stand_ins.pool._blame(first, (Outcome.BUSY, None, "after a long time"))
        assert first.ejected_until - now[0] == 5
        first.answered(0.001, good=True)
        now[0] = first.ejected_until
        stand_ins.pool._blame(first, (Outcome.BUSY, None, "after an answer, one failure is no row"))
        assert first.ejected_until == now[0]
        last = make(Outcome.BUSY)
        for _ in range(20):
            await last.ask()
        assert last.pool.backends[0].ejected_until == 0

    ask()


def test_the_version_on_trial_is_not_the_servers_fault_and_its_faults_are_counted():
    @scene
    async def ask(make):
        stand_ins = make(Outcome.FAULT, Outcome.ANSWERED)
        outcomes = [await stand_ins.ask(chosen=True, blame=False) for _ in range(20)]
        assert outcomes.count(Outcome.FAULT) == 10, "the judge is to see them, so no other server hides them"
        assert stand_ins.pool.backends[0].ejected_until == 0

    ask()


def test_a_version_that_a_server_lacks_is_asked_of_the_others():
    @scene
    async def ask(make):
        stand_ins = make(Outcome.ABSENT, Outcome.ABSENT, Outcome.ANSWERED)
        for _ in range(50):
            assert await stand_ins.ask(chosen=True) is Outcome.ANSWERED

    ask()


def test_refusals_make_no_server_look_fast():
    @scene
    async def ask(make):
        stand_ins = make(Outcome.ANSWERED, Outcome.ANSWERED)
        refusing = stand_ins.pool.backends[0]

        async def send(backend: backends.Backend, fresh: bool) -> Attempt:
            outcome, answer, reason = await stand_ins.send(backend, fresh)
            return outcome, Answer(404, b"") if backend is refusing else answer, reason

        for _ in range(40):
            await stand_ins.pool.ask(PATH, b"", send)
        assert stand_ins.counts == [20, 20]

    ask()


def test_requests_that_nobody_waited_for_make_a_server_slow(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(pool.time, "monotonic", lambda: now[0])

    @scene
    async def ask(make):
        stand_ins = make(Outcome.ANSWERED, Outcome.ANSWERED)
        hanging = stand_ins.pool.backends[0]

        async def send(backend: backends.Backend, fresh: bool) -> Attempt:
            stand_ins.sent[backend] += 1
            with backend.counted_request():
                if backend is hanging:
                    await asyncio.Event().wait()
                now[0] += 0.005
            return Outcome.ANSWERED, GOOD, ""

        for _ in range(40):
            request = asyncio.ensure_future(stand_ins.pool.ask(PATH, b"", send))
            while not request.done() and not hanging.in_flight:
                await asyncio.sleep(0)
            now[0] += 0.1 if hanging.in_flight else 0.0
            request.cancel()
            await asyncio.wait([request])
        assert 0 < stand_ins.counts[0] < 4

    ask()


def test_servers_that_are_much_alike_share_the_requests():
    @scene
    async def ask(make):
        stand_ins = make(Outcome.ANSWERED, Outcome.ANSWERED)
        for number, backend in enumerate(stand_ins.pool.backends):
            backend.answered(0.01 + number * 0.005, good=True)
        order = [stand_ins.pool.order()[0] for _ in range(40)]
        assert [order.count(backend) for backend in stand_ins.pool.backends] == [20, 20]

    ask()
