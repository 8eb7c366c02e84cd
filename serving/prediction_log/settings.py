"""What is logged where: TensorFlow Serving's logging_config of each model, and flags for models that have none."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tensorflow_serving.config import logging_config_pb2

from airtight.errors import TerminalError
from airtight.home import Home
from serving.listening import boolean

KAFKA = "kafka://"
KINDS = ("parquet", "kafka")


@dataclass(frozen=True)
class Destination:
    """Where rows go.

    Args:
      kind: "parquet" or "kafka".
      target: A folder, or a topic.
      servers: Of Kafka, host:port,host:port; empty means those that the flag names.
    """

    kind: Literal["parquet", "kafka"]
    target: str
    servers: str = ""

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Reads `kafka://host:port,host:port/topic`, or a folder.

        Raises:
          ValueError: It is neither.
        """
        if not text.startswith(KAFKA):
            if not text or "://" in text:
                raise ValueError(f"a folder or {KAFKA}host:port/topic, not {text!r}")
            return cls("parquet", text)
        servers, _, topic = text.removeprefix(KAFKA).rpartition("/")
        if not servers or not topic:
            raise ValueError(f"{KAFKA}host:port/topic, not {text!r}")
        return cls("kafka", topic, servers)


@dataclass(frozen=True)
class Logging:
    """What is logged of one model.

    Args:
      destination: Where; None is what the flags say.
      sampling_rate: Which share of the requests, 0 to 1.
    """

    destination: Destination | None
    sampling_rate: float


@dataclass(frozen=True)
class LogSettings:
    """What holds for all models of a server.

    Args:
      destination: Where models go that have no logging_config; None logs none of them.
      sampling_rate: Which share of their requests.
      hash_columns: Features, answers, `caller` and `request_id` of which a keyed hash is kept in place of the value.
      omit_columns: Features, answers and `caller` of which nothing is kept.
      key_file: The key of these hashes; it is made when there is none.
      kafka_servers: Of destinations that name a topic alone.
      fallback: Folder that gets what Kafka does not take; None lets it wait in the spool.
      roll_s: A file of the Parquet log is closed after so many seconds.
      spool: Folder where rows wait for Kafka; None is `.spool` in the fallback, or in the state folder.
      spool_bytes: What may wait there; beyond it, rows are dropped.
      durable: An answer is sent when its rows are on the disk, and refused where they cannot be written.
    """

    destination: Destination | None = None
    sampling_rate: float = 1.0
    hash_columns: frozenset[str] = frozenset()
    omit_columns: frozenset[str] = frozenset()
    key_file: Path | None = None
    kafka_servers: str = "127.0.0.1:9092"
    fallback: Path | None = None
    roll_s: float = 3600.0
    spool: Path | None = None
    spool_bytes: int = 1 << 30
    durable: bool = False


def logging_of(model: str, config: logging_config_pb2.LoggingConfig) -> Logging:
    """Reads a model's logging_config; as in TensorFlow Serving, no sampling_rate samples nothing.

    Raises:
      TerminalError: Another type of log than there is, one without a place, or a rate that is none.
    """
    kind, target = config.log_collector_config.type, config.log_collector_config.filename_prefix
    rate = config.sampling_config.sampling_rate
    if not 0 <= rate <= 1:
        raise _refusal(model, "a sampling_rate from 0 to 1", str(rate))
    if not kind and not target:
        return Logging(None, rate)
    if kind not in KINDS or not target:
        expected = f"the type {' or '.join(KINDS)}, and a folder or a topic as filename_prefix"
        raise _refusal(model, expected, f"type {kind!r}, filename_prefix {target!r}")
    if kind == "parquet":
        return Logging(Destination("parquet", target), rate)
    servers, _, topic = target.removeprefix(KAFKA).rpartition("/")
    return Logging(Destination("kafka", topic, servers), rate)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the prediction log."""
    add = parser.add_argument
    add("--prediction_log", type=_destination, help="folder, or kafka://host:port/topic, of models without a config")
    add("--prediction_log_sampling_rate", type=_share, default=1.0, help="share of their requests that is logged")
    add("--prediction_log_hash_columns", type=names, default=frozenset(), help="keep a keyed hash of these columns")
    add("--prediction_log_omit_columns", type=names, default=frozenset(), help="keep nothing of these columns")
    add("--prediction_log_key_file", type=Path, help="key of the hashes, made once; default: run/ of the state folder")
    add("--prediction_log_kafka_servers", default="127.0.0.1:9092", help="of logging_configs that name a topic alone")
    add("--prediction_log_fallback", type=Path, help="folder for what Kafka does not take")
    add("--prediction_log_spool", type=Path, help="folder where rows wait for Kafka; default: .spool in the fallback")
    add("--prediction_log_spool_bytes", type=int, default=1 << 30, help="what may wait there; the rest is dropped")
    add("--prediction_log_roll_seconds", type=float, default=3600.0, help="close a Parquet file after so long")
    add("--prediction_log_durable", **boolean("answer only when the rows are on the disk (fsync), or refuse"))


def from_flags(flags: argparse.Namespace) -> LogSettings:
    """What the flags say.

    Raises:
      TerminalError: A column is both hashed and left out, or the request's id is left out.
    """
    hashed, omitted = flags.prediction_log_hash_columns, flags.prediction_log_omit_columns
    wrong = sorted((hashed & omitted) | (omitted & {"request_id"}))
    if wrong:
        raise TerminalError(
            "The prediction log's personal columns contradict each other.",
            expected="each column hashed or left out, not both; the request's id at most hashed, because it tells a "
            "row that was written twice",
            received=wrong,
            remedy="Correct --prediction_log_hash_columns and --prediction_log_omit_columns.",
        )
    key_file = flags.prediction_log_key_file
    if hashed and key_file is None:
        key_file = Home.current().run / "prediction-log.key"
    return LogSettings(
        flags.prediction_log,
        flags.prediction_log_sampling_rate,
        hashed,
        omitted,
        key_file,
        flags.prediction_log_kafka_servers,
        flags.prediction_log_fallback,
        flags.prediction_log_roll_seconds,
        flags.prediction_log_spool,
        flags.prediction_log_spool_bytes,
        flags.prediction_log_durable,
    )


def _destination(text: str) -> Destination:
    try:
        return Destination.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _share(text: str) -> float:
    rate = float(text)
    if not 0 <= rate <= 1:
        raise argparse.ArgumentTypeError(f"a share from 0 to 1, not {text!r}")
    return rate


def names(text: str) -> frozenset[str]:
    """What a flag lists, separated by commas."""
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _refusal(model: str, expected: str, received: str) -> TerminalError:
    return TerminalError(
        f"The logging_config of {model} is not usable.",
        expected=expected,
        received=received,
        remedy="Correct the model config.",
    )
