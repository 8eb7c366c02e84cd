"""The Spark session: local settings, lending, and a server that is away."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pyspark.sql.connect.client import DefaultChannelBuilder

from airtight.errors import TerminalError, TransientError
from components.data.spark import _with_token, session


@pytest.mark.slow
def test_local_session_is_strict_quiet_and_on_loopback(spark, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"
    assert spark.conf.get("spark.driver.bindAddress") == "127.0.0.1"
    assert spark.conf.get("spark.ui.enabled") == "false"
    assert spark.conf.get("spark.sql.parquet.columnarReaderBatchSize") == "512", "images are read few at a time"
    assert spark.range(10).selectExpr("sum(id)").collect()[0][0] == 45
    with pytest.raises(Exception, match="CAST_INVALID_INPUT"):
        spark.sql("select cast('x' as int)").collect()
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.slow
def test_an_open_session_is_lent_and_left_open(spark):
    with session("inner") as inner:
        assert inner is spark
    assert spark.range(1).count() == 1


def test_a_server_that_is_away_is_a_transient_fault_in_words(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("SPARK_REMOTE", f"sc://127.0.0.1:{port}")
    with pytest.raises(TransientError, match=rf"does not answer.*sc://127.0.0.1:{port}"), session("away"):
        pass


def test_the_token_joins_the_address_for_the_client_alone(monkeypatch, tmp_path):
    monkeypatch.delenv("SPARK_TOKEN_FILE", raising=False)
    assert _with_token("sc://host:1") == "sc://host:1"
    monkeypatch.setenv("SPARK_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(TerminalError, match="token of the Spark Connect server cannot be read"):
        _with_token("sc://host:1")
    (tmp_path / "token").write_text("a_-=\n")
    for address in ("sc://host:1", "sc://host:1/", "sc://host:1/;use_ssl=true"):
        joined = DefaultChannelBuilder(_with_token(address))
        assert ("authorization", "Bearer a_-=") in joined.metadata()
        assert (joined.endpoint, joined.use_ssl) == ("host:1", "ssl" in address)


@pytest.mark.parametrize("address", ["127.0.0.1:15002", "http://127.0.0.1:15002", "sc://", "sc://host:port"])
def test_an_address_of_another_form_is_a_terminal_fault(monkeypatch, address):
    monkeypatch.setenv("SPARK_REMOTE", address)
    with pytest.raises(TerminalError, match="no address of a Spark Connect server"), session("wrong"):
        pass
