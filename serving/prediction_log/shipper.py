"""The process that turns closed journals of the prediction log into Parquet files, or sends them to Kafka.

    python -m serving.prediction_log.shipper

The model server starts it with the first row, and its work costs no request anything. It reads lines of JSON on
standard input, each a `Job` to look after now, and writes one for each journal that Kafka took. When its input ends,
with the server and however that ended, it finishes what there is and ends. It may be killed at any time: a journal is
removed when its rows are where they belong, and the next shipper does the rest. It does not import TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from airtight.predictions import JOURNAL
from serving.prediction_log import parquet_files
from serving.prediction_log.claimed_journal import ClaimedJournal, claim, report
from serving.prediction_log.journals import ROLL_BYTES
from serving.prediction_log.kafka_sender import AWAY_S, KafkaAway, KafkaSender

logger = logging.getLogger(__name__)

AGAIN_S = 60.0
"""All journals are looked at so often; and again after so long where something failed."""
FALLBACK_S = 60.0
"""Rows wait so long for a Kafka that is away, then they go to the fallback."""
END_S = 10.0
"""The journals of a server that is being killed are waited for so long."""
NICE = 10
MOST_FILES = 200
"""At most so many journals become one file of the fallback, and no more where they reach `ROLL_BYTES` (memory)."""


@dataclass(frozen=True)
class Job:
    """Journals below a folder, and what becomes of them.

    Args:
      root: The folder; without a topic, the Parquet files are made there, too.
      owner: Part of the names of the server's own journals.
      servers: Kafka's, host:port,host:port.
      topic: The topic; empty without Kafka.
      fallback: Folder for rows that Kafka does not take; empty without one.
      too_large: Folder for rows that no message of Kafka's holds, where there is no fallback; empty loses them.
    """

    root: str
    owner: str
    servers: str = ""
    topic: str = ""
    fallback: str = ""
    too_large: str = ""

    def line(self) -> bytes:
        """The job as a line of JSON."""
        return json.dumps(vars(self)).encode() + b"\n"


_Waiting = dict[tuple[Path, pa.Schema], list[ClaimedJournal]]
"""Journals that go to the fallback together, by folder and columns."""


class Shipper:
    """Looks after one job.

    Args:
      job: The job.
      sender: Sends rows to Kafka; None where they become files.
    """

    def __init__(self, job: Job, sender: KafkaSender | None) -> None:
        self._job, self._root, self._sender = job, Path(job.root), sender
        self._fallback = Path(job.fallback) if job.fallback else None
        self._too_large = Path(job.too_large) if job.too_large else self._fallback
        self.due_at = 0.0
        """When the journals are to be looked at, by the monotonic clock."""
        self._looked_at = 0.0
        self._failed: dict[Path, float] = {}  # Journals that could not be shipped, and when they are tried again.

    def work(self, last: bool = False) -> bool:
        """Ships all journals that no server writes.

        Args:
          last: Nobody does it later, so what Kafka does not take goes to the fallback at once.

        Returns:
          Whether there are journals of this job's own server that it still holds.
        """
        now = self._looked_at = time.monotonic()
        self.due_at = now + AGAIN_S
        self._failed = {path: again_at for path, again_at in self._failed.items() if again_at > now and not last}
        held = False
        waiting: _Waiting = defaultdict(list)
        for path in sorted(self._root.glob(f"*/date=*/.*{JOURNAL}")):
            if path in self._failed:
                continue
            claimed = None
            try:
                claimed = claim(path)
                if claimed is None:
                    held = held or self._job.owner in path.name
                else:
                    self._ship_or_wait(claimed, waiting, last)
            except Exception:
                # Whatever is wrong with one journal is no fault of the others.
                logger.exception("%s of the prediction log cannot be shipped now", path)
                self._put_off(path, claimed)
        for claims in waiting.values():
            self._fall_back(claims)
        return held

    def close(self) -> None:
        """Closes the connection to Kafka."""
        if self._sender is not None:
            self._sender.close()

    def _put_off(self, path: Path, claimed: ClaimedJournal | None) -> None:
        """Leaves a journal that could not be shipped alone for `AGAIN_S`."""
        self._failed[path] = self._looked_at + AGAIN_S
        if claimed is not None:
            claimed.let_go()

    def _ship_or_wait(self, claimed: ClaimedJournal, waiting: _Waiting, last: bool) -> None:
        try:
            self._ship(claimed)
        except KafkaAway:
            self.due_at = time.monotonic() + AWAY_S
            self._let_wait(claimed, waiting, last)

    def _ship(self, claimed: ClaimedJournal) -> None:
        if self._sender is not None:
            self._sender.check()
        contents = claimed.contents
        if self._sender is None:
            if self._job.owner not in claimed.path.name:
                logger.warning("%s, left by a server that was killed, is closed", claimed.path)
            parquet_files.write(_final(claimed.path, self._root), contents.schema, claimed.tables())
            report(claimed.model, broken=claimed.finish())
            return
        too_large = self._send(claimed)
        lost = 0
        if self._too_large:
            parquet_files.write(_final(claimed.path, self._too_large), contents.schema, too_large)
        elif lost := sum(rows.num_rows for rows in too_large):
            logger.warning("%d rows of the prediction log are lost: they are larger than Kafka's messages", lost)
        broken = claimed.finish()
        report(claimed.model, written=contents.rows - lost, too_large=lost, broken=broken)

    def _send(self, claimed: ClaimedJournal) -> Iterator[pa.Table]:
        """Sends a journal's rows; gives back those of which a message is too large."""
        assert self._sender is not None, "rows are sent"
        for table in claimed.tables():
            if (rows := self._sender.send(table)).num_rows:
                yield rows

    def _let_wait(self, claimed: ClaimedJournal, waiting: _Waiting, last: bool) -> None:
        """Leaves a journal to a later look; or gathers it for the fallback, with all younger ones of its kind."""
        if self._fallback:
            schema = claimed.written_schema()
            if schema is None:
                report(claimed.model, broken=claimed.finish())
                return
            key = (claimed.path.parent, schema)
            if last or key in waiting or time.time() - claimed.path.stat().st_mtime > FALLBACK_S:
                waiting[key].append(claimed)
                size = sum(os.fstat(other.file.fileno()).st_size for other in waiting[key])
                if size >= ROLL_BYTES or len(waiting[key]) >= MOST_FILES:
                    self._fall_back(waiting.pop(key))
                return
        claimed.let_go()

    def _fall_back(self, claims: list[ClaimedJournal]) -> None:
        assert self._fallback is not None, "rows fall back to it"
        readable: list[ClaimedJournal] = []
        for claimed in claims:
            try:
                if claimed.contents.schema is not None:
                    readable.append(claimed)
            except Exception:
                logger.exception("%s of the prediction log cannot be read now", claimed.path)
                self._put_off(claimed.path, claimed)
        if not readable:
            return
        final = _final(readable[0].path, self._fallback)
        try:
            schemas = [claimed.contents.schema for claimed in readable]
            schema = pa.unify_schemas(schemas, promote_options="permissive")
            parquet_files.write(final, schema, chain.from_iterable(claimed.tables() for claimed in readable))
            # The first one first: while it is there, the file may be written again.
            broken = sum([claimed.finish() for claimed in readable])
        except Exception:
            for claimed in readable:
                self._put_off(claimed.path, claimed)
            logger.exception("Rows that Kafka did not take cannot be moved to %s now", final)
            return
        logger.warning("Rows that Kafka did not take are in %s", final)
        report(readable[0].model, written=sum(claimed.contents.rows for claimed in readable), broken=broken)


def _final(journal: Path, root: Path) -> Path:
    """The Parquet file of a journal, below a folder, by model and day as the journal."""
    name = journal.name.removeprefix(".").removesuffix(JOURNAL)
    return root / journal.parent.parent.name / journal.parent.name / f"{name}.parquet"


def main() -> None:
    """Ships until standard input ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # It ends with the server, which may still write.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.nice(NICE)
    with contextlib.suppress(OSError):
        # Where memory is short, the kernel is to end this process and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    shippers: dict[bytes, Shipper] = {}
    for lines in _input(shippers):
        for line in lines:
            if line not in shippers:
                job = Job(**json.loads(line))
                shippers[line] = Shipper(job, KafkaSender(job.servers, job.topic) if job.topic else None)
            shippers[line].due_at = 0.0
        for shipper in shippers.values():
            if time.monotonic() >= shipper.due_at:
                shipper.work()
    deadline = time.monotonic() + END_S
    while any([shipper.work(last=True) for shipper in shippers.values()]) and time.monotonic() < deadline:
        time.sleep(0.05)  # The kernel takes the locks from a process that was killed, one by one.
    for shipper in shippers.values():
        shipper.close()


def _input(shippers: dict[bytes, Any]) -> Iterator[list[bytes]]:
    """The lines of standard input that have come, or none when one of the shippers is due, until the input ends."""
    rest = b""
    while True:
        due_s = min((shipper.due_at for shipper in shippers.values()), default=None)
        wait_s = None if due_s is None else max(0.0, due_s - time.monotonic())
        if not select.select([0], [], [], wait_s)[0]:
            yield []
            continue
        content = os.read(0, 1 << 16)
        if not content:
            return
        *lines, rest = (rest + content).split(b"\n")
        yield lines


if __name__ == "__main__":
    main()
