"""The Spark session of a node: the machine's warm one over Spark Connect, or a local one of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airtight.errors import TerminalError, TransientError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LOG = logging.getLogger(__name__)

_CONNECT_MODE = "SPARK_CONNECT_MODE_ENABLED"
REMOTE = "SPARK_REMOTE"
"""Environment variable that names a Spark Connect server, such as sc://127.0.0.1:15002."""
MASTER = "AIRTIGHT_SPARK_MASTER"
"""Environment variable that names the master of a session of one's own, such as spark://host:7077. Its workers must see
the lake, the models and what steps write under the same paths, and have this project's packages."""
LOCAL = "local[*]"
LOCAL_IP = "SPARK_LOCAL_IP"
"""Environment variable with the address at which a driver on this machine listens; loopback by default."""
TOKEN_FILE = "SPARK_TOKEN_FILE"
"""Environment variable that names the file with the server's token; unset for a server that wants none."""
DEFAULT_PORT = 15002
PROBE_S = 5.0
"""How long an unreachable server is waited for; Spark's own client would try for ten minutes."""

SESSION_SETTINGS = {
    # Instants are UTC everywhere; a local time is computed where it is needed, from the pipeline's zone.
    "spark.sql.session.timeZone": "UTC",
    # A bad cast or an overflow raises instead of becoming NULL.
    "spark.sql.ansi.enabled": "true",
    # Tables are small files, one for each day: listing them in the driver and packing many into one task is quickest.
    "spark.sql.shuffle.partitions": "8",
    # What a step reads of a shuffle at once is bounded: many small parts are put together up to this size.
    "spark.sql.adaptive.coalescePartitions.initialPartitionNum": "200",
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "16m",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",
    "spark.sql.files.openCostInBytes": "131072",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # Rows that are read together, whatever their bytes: 4,096, as Spark has it, of 500 kB fill the heap, and rows of
    # numbers are read no faster so.
    "spark.sql.parquet.columnarReaderBatchSize": "512",
    # Spark's own default has nanoseconds that Arrow reads as another type.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}
"""What every session is set to, local or remote."""


def local_settings(folder: Path) -> dict[str, str]:
    """Settings of a Spark driver on this machine, which listens at SPARK_LOCAL_IP and writes below `folder` only.

    Args:
      folder: An existing folder for scratch files and the log configuration.
    """
    log4j = folder / "log4j2.properties"
    log4j.write_text(
        "rootLogger.level=error\nrootLogger.appenderRef.stderr.ref=stderr\n"
        "appender.stderr.type=Console\nappender.stderr.name=stderr\nappender.stderr.target=SYSTEM_ERR\n"
        "appender.stderr.layout.type=PatternLayout\nappender.stderr.layout.pattern=%p %c{1}: %m%n%ex\n",
        encoding="utf-8",
    )
    # A cluster's workers on other machines must reach it.
    address = os.environ.get(LOCAL_IP) or "127.0.0.1"
    return {
        **SESSION_SETTINGS,
        "spark.log.level": "ERROR",
        "spark.driver.memory": os.environ.get("SPARK_DRIVER_MEMORY", "2g"),
        "spark.driver.host": address,
        "spark.driver.bindAddress": address,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.warehouse.dir": f"{folder}/warehouse",
        "spark.local.dir": f"{folder}/scratch",
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={log4j.as_uri()} -Djava.io.tmpdir={folder}",
    }


@contextlib.contextmanager
def session(name: str) -> Iterator[SparkSession]:
    """Opens a Spark session for the duration of the block.

    With SPARK_REMOTE set it is a session on that Spark Connect server; otherwise one of this process, on all cores of
    this machine or on the cluster that AIRTIGHT_SPARK_MASTER names. A session that this process has open already is
    lent and left open. Use the DataFrame API only: Connect has no RDDs.

    Args:
      name: The application's name, shown in Spark's logs.

    Raises:
      TerminalError: SPARK_REMOTE is no address of a Spark Connect server, or its token cannot be read.
      TransientError: Nothing answers at that address.
    """
    # It prints every analysis error with its whole JVM stack, which the exception carries anyway.
    logging.getLogger("SQLQueryContextLogger").disabled = True
    logging.getLogger("py4j").setLevel(logging.WARNING)
    remote = os.environ.get(REMOTE, "")
    if not remote:
        with _local(name) as spark:
            yield spark
        return
    _probe(remote)
    from pyspark.sql import SparkSession

    # create, not getOrCreate: a session of its own, so that settings and temporary views are nobody else's.
    before = _CONNECT_MODE in os.environ
    try:
        spark = SparkSession.builder.remote(_with_token(remote)).appName(name).create()
        try:
            for key, value in SESSION_SETTINGS.items():
                spark.conf.set(key, value)
            _LOG.info("Spark %s at %s, one session of the warm server.", spark.version, remote)
            yield spark
        finally:
            spark.stop()
    finally:
        # Spark leaves it behind, and a local session afterwards would take its columns for remote ones.
        if not before:
            os.environ.pop(_CONNECT_MODE, None)


@contextlib.contextmanager
def _local(name: str) -> Iterator[SparkSession]:
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    # Without it Spark resolves the host's name, and may listen on another interface than loopback.
    os.environ.setdefault(LOCAL_IP, "127.0.0.1")
    # Workers of Python functions run in the first python3 of PATH otherwise, which has none of our packages.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    with tempfile.TemporaryDirectory(prefix="airtight-spark-", ignore_cleanup_errors=True) as folder:
        master = os.environ.get(MASTER) or LOCAL
        builder = SparkSession.builder.master(master).appName(name)
        spark = builder.config(map=local_settings(Path(folder))).getOrCreate()
        try:
            _LOG.info("Spark %s of this process, on %s.", spark.version, master)
            yield spark
        finally:
            spark.stop()


def _with_token(remote: str) -> str:
    """The address with the server's token, if there is one; it is for Spark's client alone and never logged."""
    file = os.environ.get(TOKEN_FILE, "")
    if not file:
        return remote
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise TerminalError(
            "The token of the Spark Connect server cannot be read.",
            expected=f"the file that {TOKEN_FILE} names",
            received=str(error),
            remedy=f"Start the services again (make stop start), or unset {TOKEN_FILE} for a server without a token.",
        ) from error
    # As a header: Spark's own parameter `token` wants TLS to every host that is not called localhost.
    return f"{remote.rstrip('/')}{';' if ';' in remote else '/;'}authorization=Bearer%20{quote(token, safe='')}"


def _probe(remote: str) -> None:
    try:
        address = urlsplit(remote)
        scheme, host, port = address.scheme, address.hostname, address.port or DEFAULT_PORT
    except ValueError:  # A port that is no number.
        scheme, host, port = "", None, 0
    if scheme != "sc" or not host:
        raise TerminalError(
            f"{REMOTE} is no address of a Spark Connect server.",
            expected="sc://host:port",
            received=repr(remote),
            remedy=f"Correct {REMOTE}, or unset it to use a local session.",
        )
    try:
        socket.create_connection((host, port), PROBE_S).close()
    except OSError as error:
        raise TransientError(
            "The Spark Connect server does not answer.",
            expected=f"a server that listens at {remote}",
            received=str(error),
            remedy=f"Start it (make demo does), or unset {REMOTE} to use a local session; the task is tried again.",
        ) from error
