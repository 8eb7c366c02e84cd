"""A process that is told to end takes its job with it."""

from __future__ import annotations

import os
import signal

import pytest

from streaming.draining import drained, told_to_end


class Job:
    def __init__(self, fault: Exception | None = None) -> None:
        self.cancelled, self.fault = 0, fault

    def cancel(self) -> None:
        self.cancelled += 1
        if self.fault:
            raise self.fault


@pytest.fixture(autouse=True)
def _as_before():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("fault", [None, RuntimeError("the job server is away")])
def test_told_to_end_it_cancels_the_job_once_and_ends_well(fault: Exception | None) -> None:
    job = Job(fault)
    with pytest.raises(SystemExit) as ended, drained(job):
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 0 and job.cancelled == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "a second word changes nothing"


def test_a_job_that_ends_by_itself_is_not_cancelled_and_its_fault_is_told() -> None:
    job, before = Job(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="broken"), drained(job):
        raise ValueError("broken")
    assert job.cancelled == 0 and signal.getsignal(signal.SIGTERM) is before


def test_who_has_work_in_hand_is_told_and_ends_by_himself() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with told_to_end() as ended:
        assert not ended()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert ended()
    assert signal.getsignal(signal.SIGTERM) is before
