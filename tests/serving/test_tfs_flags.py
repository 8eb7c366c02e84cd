"""TensorFlow Serving's flags start this server, with their meaning or with a word in the log."""

from __future__ import annotations

import http.client
import logging
import ssl
import subprocess

import grpc
import pytest

from airtight.errors import TerminalError
from serving import tfs_flags
from serving.config import settings_from_flags
from serving.config_messages import read
from tests.serving import models

SERVER = ["--models_root=/m"]


def test_flags_without_effect_are_taken_and_logged(caplog):
    caplog.set_level(logging.WARNING, "serving.tfs_flags")
    settings_from_flags(SERVER)
    assert not caplog.records
    given = [f"--{name}=4" for name in tfs_flags.WITHOUT_EFFECT]
    settings_from_flags([*SERVER, *given, "--use_alts_credentials=false"])
    assert [record.getMessage().partition("=")[0] for record in caplog.records] == [
        f"--{name}" for name in tfs_flags.WITHOUT_EFFECT
    ]
    settings_from_flags([*SERVER, "--enable_profiler", "--mixed_precision", "bfloat16"])
    with pytest.raises(SystemExit):
        settings_from_flags([*SERVER, "--use_alts_credentials"])


def test_flags_with_a_meaning(tmp_path):
    settings = settings_from_flags([*SERVER, "--tensorflow_intra_op_parallelism=3", "--enable_model_warmup=false"])
    assert (settings.workers, settings.enable_model_warmup, settings.enable_reload_config) == (3, False, True)
    settings = settings_from_flags([*SERVER, "--tensorflow_inter_op_parallelism=4", "--enable_reload_config=false"])
    assert (settings.workers, settings.enable_model_warmup, settings.enable_reload_config) == (4, True, False)
    both = ["--tensorflow_session_parallelism=2", "--tensorflow_inter_op_parallelism=4"]
    assert settings_from_flags([*SERVER, *both]).workers == 2


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (None, "/monitoring/prometheus/metrics"),
        ("", None),
        ("prometheus_config { enable: false path: '/m' }", None),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ("prometheus_config { enable: true path: '/m' }", "/m"),
    ],
)
def test_the_monitoring_file_says_where_metrics_are(tmp_path, text, path):
    file = tmp_path / "monitoring.config"
    file.write_text(text or "")
    flags = [] if text is None else [f"--monitoring_config_file={file}"]
    assert settings_from_flags([*SERVER, *flags]).metrics_path == path


def test_files_that_cannot_be_read_are_refused_and_keys_not_repeated(tmp_path):
    with pytest.raises(TerminalError, match="--monitoring_config_file"):
        settings_from_flags([*SERVER, "--monitoring_config_file=/nowhere"])
    file = tmp_path / "ssl.config"
    file.write_text('server_key "secret key"')
    with pytest.raises(TerminalError, match="--ssl_config_file") as caught:
        read(file, "SSLConfig", "ssl_config_file")
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_both_ports_over_tls(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = ["openssl", *made.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)

    def quoted(text: str) -> str:
        return '"' + text.replace("\n", "\\n") + '"'

    file = tmp_path / "ssl.config"
    file.write_text(f"server_key: {quoted(key.read_text())} server_cert: {quoted(certificate.read_text())}")
    (tmp_path / "models").mkdir()
    method = "/grpc.health.v1.Health/Check"
    flags = (f"--ssl_config_file={file}", "--rest_ssl_files", str(key), str(certificate))
    with models.running(tmp_path / "server", f"--models_root={tmp_path}/models", *flags) as server:
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(f"localhost:{server.grpc}", trusted) as channel:
            assert channel.unary_unary(method)(b"", timeout=30) == b"\x08\x01"
        with grpc.insecure_channel(f"localhost:{server.grpc}") as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(method)(b"", timeout=5)
        context = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection("localhost", server.rest, timeout=30, context=context)
        connection.request("GET", "/v1/models/none")
        assert connection.getresponse().status == 404
        connection.close()
    with pytest.raises(AssertionError, match="--rest_ssl_files are not usable"):
        with models.running(
            tmp_path / "broken", f"--models_root={tmp_path}/models", "--rest_ssl_files", str(certificate), str(key)
        ):
            pass
