"""A stream that runs as a program of the local services: the task that has it run, and the one that watches it.

The supervisor starts the program again within seconds when it dies. What is left to Airflow is what needs a decision or
a person's eyes: the first start, a program that the supervisor gave up, one that stands still, and new code. Wherever
it is stopped, the stream goes on from its accounts: no window is lost or doubled (adr/0014).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airtight.errors import AirtightError, TerminalError, TransientError
from airtight.home import Home
from plugins.tfx_airflow.polling import PollingTrigger
from services.settings import Settings
from services.supervisor import ENDED, Supervisor
from streaming import status as streams
from streaming.status import Running, Status

POLL_S = 5.0
CODE_S = 60.0
"""New code is looked for so often; it must look the same twice, so that a half-written checkout starts nothing."""
UP_S = 120.0
"""A started stream has so long to submit its job."""
SHORT = 12
"""Digits of a digest, for people."""
OVER, ENDED_BY_ITSELF, NEW_CODE, STALLED = "over", "ended", "new_code", "stalled"


class EnsureStream(BaseOperator):
    """Has a stream run, with what it needs, and with the code of the checkout.

    One that runs older code is drained: told to end, waited for, and started again. Nothing is started while the topic
    is not there.

    Args:
      stream: The stream's name.
      module: Dotted name of what runs; its code is compared with the checkout's.
      topic: What it reads.
      program: The program of the local services.
      needs: Programs that it needs.
      **kwargs: As for every operator.
    """

    template_fields = ()
    ui_color = "#e8eaf6"

    def __init__(
        self,
        *,
        stream: str,
        module: str,
        topic: str,
        program: str = "stream",
        needs: Sequence[str] = ("kafka", "flink-local"),
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("doc_md", "Starts the stream where it does not run, and again where its code is older.")
        super().__init__(**kwargs)
        self.stream, self.module, self.topic = stream, module, topic
        self.program, self.needs = program, tuple(needs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Starts, upgrades, or leaves it alone.

        Returns:
          What was done (started, upgraded, left), the code before and now, the process and how the stream does, for
          XCom.

        Raises:
          AirflowFailException: There is no such topic, there are no local services, or they do not know the program.
          AirflowException: It does not come up.
        """
        home = Home.current()
        supervisor = Supervisor(home)
        try:
            told = self._ensure(supervisor, home)
        except AirtightError as error:
            error.step = error.step or self.task_id
            raise (AirflowException if error.transient else AirflowFailException)(str(error)) from error
        self.log.info("%s", told["summary"])
        return told

    def _ensure(self, supervisor: Supervisor, home: Home) -> dict[str, Any]:
        state = state_of(supervisor, self.program)
        before, code = streams.running(home, self.stream), streams.code_of(self.module)
        settings = Settings.of_running(home)
        needs = [name for name in self.needs if name != "kafka" or not settings.kafka_elsewhere]
        supervisor.start(settings, needs)
        empty = self._topic_is_empty(settings.kafka_servers) if state in ENDED else False
        done = "left"
        if state in ENDED:
            done = "started"
        elif before is None or before.code != code:
            done = "upgraded"
            was = before.code[:SHORT] if before else "not known"
            self.log.info("Drained for new code: %s -> %s.", was, code[:SHORT])
            supervisor.end([self.program])
        supervisor.start(settings, (self.program,))
        now = _await_up(supervisor, home, self.stream, self.program, None if done == "left" else before)
        words = {
            "left": f"runs since {now.since}, process {now.pid}",
            "started": f"was started, process {now.pid}" + ("" if before is None else ", and goes on where it stopped"),
            "upgraded": f"runs new code, process {now.pid}, and goes on where it stopped",
        }
        return {
            "done": done,
            "code_before": before.code if before else "",
            "code": now.code,
            "pid": now.pid,
            "since": now.since,
            "status": streams.status(now).to_json(),
            "summary": f"The stream {self.stream} {words[done]}. Its code is {now.code[:SHORT]}."
            + (f" Nothing was published to {self.topic} yet." if empty else ""),
        }

    def _topic_is_empty(self, servers: str) -> bool:
        """Whether nothing is in it.

        Raises:
          TerminalError: There is no such topic.
          TransientError: The broker does not answer for long.
        """
        deadline = time.monotonic() + UP_S
        while True:
            try:
                messages = streams.messages_of(servers, self.topic)
                break
            except TransientError:
                # One that was started just now has not opened its port yet.
                if time.monotonic() > deadline:
                    raise
                time.sleep(min(POLL_S, 1.0))
        if messages is None:
            raise TerminalError(
                f"There is no topic {self.topic}: the stream {self.stream} has nothing to read, and is not started.",
                expected=f"the topic at {servers}",
                received="no partitions",
                remedy="Have it made: make kafka; or pause this DAG.",
            )
        return messages == 0


class WatchStream(BaseOperator):
    """Watches a stream until something is to be done, or a while is over; no worker is held meanwhile.

    It ends well in each case, and tells which: the next run of the DAG does what is to be done. Only one that stands
    still is ended here, so that the next run starts it again.

    Args:
      stream: The stream's name.
      module: Dotted name of what runs.
      program: The program of the local services.
      minutes: It is watched so long; then the next run begins.
      stalled_minutes: It stands still when it read nothing and finished nothing for so long though messages are there.
      **kwargs: As for every operator.
    """

    template_fields = ()
    ui_color = "#ede7f6"

    def __init__(
        self,
        *,
        stream: str,
        module: str,
        program: str = "stream",
        minutes: float = 60.0,
        stalled_minutes: float = 10.0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("doc_md", "Watches the stream: lag, watermark, dead letters; no worker is held.")
        super().__init__(**kwargs)
        self.stream, self.module, self.program = stream, module, program
        self.minutes, self.stalled_minutes = minutes, stalled_minutes

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Begins to watch; called again with what the trigger saw.

        Returns:
          Why the watching ended, and how the stream did, for XCom.

        Raises:
          TaskDeferred: It was not watched yet.
          AirflowFailException: There are no local services.
          AirflowException: The accounts cannot be read.
        """
        if event is None:
            self.defer(
                trigger=StreamWatched(
                    stream=self.stream,
                    module=self.module,
                    program=self.program,
                    until=(datetime.now(UTC) + timedelta(minutes=self.minutes)).isoformat(),
                    stalled_minutes=self.stalled_minutes,
                ),
                method_name="execute",
            )
        assert event is not None
        if error := event.get("error"):
            fault = AirtightError.from_json(error)
            fault.step = fault.step or self.task_id
            raise (AirflowException if fault.transient else AirflowFailException)(str(fault)) from fault
        self.log.info("The watching has ended: %s. %s", event["words"], event["summary"])
        if event["reason"] == STALLED:
            self.log.warning("It is ended; the next run starts it again where it stopped.")
            Supervisor(Home.current()).end([self.program])
        return event


class StreamWatched(PollingTrigger):
    """Fires when a stream ended, stands still or has new code, or when the while is over.

    Args:
      stream: The stream's name.
      module: Dotted name of what runs.
      program: The program of the local services.
      until: When the while is over, ISO 8601.
      stalled_minutes: See WatchStream.
    """

    poll_s = POLL_S

    def __init__(self, *, stream: str, module: str, program: str, until: str, stalled_minutes: float) -> None:
        super().__init__(stream=stream, module=module, program=program, until=until, stalled_minutes=stalled_minutes)
        self._moved: tuple[float, Any] = (time.monotonic(), None)
        self._code: tuple[float, str] = (time.monotonic(), "")

    def poll(self) -> dict[str, Any] | None:
        """Returns why the watching ends and how the stream does, or None while it goes on."""
        home = Home.current()
        try:
            state = state_of(Supervisor(home), self.arguments["program"])
            record = streams.running(home, self.arguments["stream"])
            if state in ENDED or record is None:
                return self._event(ENDED_BY_ITSELF, f"its program is {state}", record)
            if words := self._new_code(record):
                return self._event(NEW_CODE, words, record)
            if datetime.now(UTC) >= datetime.fromisoformat(self.arguments["until"]):
                return self._event(OVER, "the while is over, and the stream runs", record)
            if words := self._stalled(record):
                return self._event(STALLED, words, record)
        except AirtightError as error:
            return {"error": error.to_json()}
        return None

    def _event(self, reason: str, words: str, record: Running | None) -> dict[str, Any]:
        status = streams.status(record) if record else None
        return {
            "reason": reason,
            "words": words,
            "summary": "" if status is None else str(status),
            "status": {} if status is None else status.to_json(),
        }

    def _new_code(self, record: Running) -> str:
        asked, last = self._code
        if time.monotonic() - asked < CODE_S:
            return ""
        code = streams.code_of(self.arguments["module"])
        self._code = time.monotonic(), code
        if code == record.code or code != last:
            return ""
        return f"its code is {record.code[:SHORT]}, that of the checkout {code[:SHORT]}"

    def _stalled(self, record: Running) -> str:
        """Told after messages were there for long and nothing moved; the broker is asked once a minute."""
        since, seen = self._moved
        now = time.monotonic()
        if seen is not None and now - seen[0] < CODE_S:
            return ""
        status = streams.status(record)
        self.log.info("%s", status)
        moved = _moved(status, record)
        if seen is None or moved != seen[1] or not status.lag:
            since = now
        self._moved = since, (now, moved)
        if now - since < self.arguments["stalled_minutes"] * 60:
            return ""
        return f"{status.lag} messages wait, and nothing moved for {self.arguments['stalled_minutes']:g} minutes"


def state_of(supervisor: Supervisor, program: str) -> str:
    """The program's state, in the supervisor's words.

    Raises:
      TerminalError: There is no supervisor, or it does not know the program.
    """
    programs = {each.name: each.state for each in supervisor.programs()}
    if program not in programs:
        raise TerminalError(
            "The stream's program is not known here." if programs else "The local services do not run here.",
            expected=f"a supervisor at {supervisor.socket} with the program {program}",
            received=", ".join(programs) or "no supervisor",
            remedy="Start the services again: make stop start. In containers, let the engine keep the stream running.",
        )
    return programs[program]


def _moved(status: Status, record: Running) -> tuple[Any, ...]:
    return status.read, status.messages, status.undone, record.pid


def _await_up(supervisor: Supervisor, home: Home, stream: str, program: str, before: Running | None) -> Running:
    """Waits until the program runs and has left a record of its own."""
    deadline = time.monotonic() + UP_S
    while True:
        state, record = state_of(supervisor, program), streams.running(home, stream)
        if state == "RUNNING" and record is not None and record != before and record.alive:
            return record
        if state in ENDED or time.monotonic() > deadline:
            raise TransientError(
                f"The stream {stream} did not come up.\n{supervisor.log_tail(program)}",
                expected=f"the program {program} RUNNING within {UP_S:g} s, and its record",
                received=state if record is not None else f"{state}, no record",
                remedy=f"See {home.logs / program}.log; the next try goes on where the stream stopped.",
            )
        time.sleep(min(POLL_S, 1.0))
