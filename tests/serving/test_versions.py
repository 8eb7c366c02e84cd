"""Versions come and go under load: no request fails, and the version answered goes back by rollback alone."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from airtight.errors import EXIT_TERMINAL, TransientError
from serving import manager as manager_module
from serving import server as server_module
from serving.config import ModelSettings, Settings, models_from_file
from serving.errors import Code, ServingError
from serving.inference import Runner
from serving.listening import start_grpc
from serving.manager import Manager, versions_on_disk
from serving.prediction_log.log import PredictionLog
from serving.versions import Registry, State
from tests.serving import models

POLL = "--file_system_poll_wait_seconds=0.05"


class Load:
    """Closed-loop clients over REST and gRPC that keep every answer."""

    def __init__(self, server: models.Server, model: str, path: str = "") -> None:
        self.server, self.model, self.path = server, model, path or f"/v1/models/{model}:predict"
        self.rest: list[float] = []
        self.grpc: list[tuple[int, float]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._rest), threading.Thread(target=self._grpc)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.settle()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def settle(self) -> None:
        """Waits until each client has had some more answers."""
        rest, grpc_ = len(self.rest), len(self.grpc)
        deadline = time.monotonic() + 60
        while (len(self.rest) < rest + 20 or len(self.grpc) < grpc_ + 20) and not self.failures:
            assert time.monotonic() < deadline, "no answers"
            time.sleep(0.01)

    def _rest(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.rest, timeout=60)
        while not self._stop.is_set():
            try:
                connection.request("POST", self.path, '{"instances": [1.0]}')
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != 200:
                    self.failures.append(f"REST {response.status}: {answer}")
                else:
                    self.rest.append(answer["predictions"][0])
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"REST: {error!r}")

    def _grpc(self) -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.model
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
        with grpc.insecure_channel(f"127.0.0.1:{self.server.grpc}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not self._stop.is_set():
                try:
                    answer = stub.Predict(request, timeout=60)
                    self.grpc.append((answer.model_spec.version.value, answer.outputs["y"].float_val[0]))
                except grpc.RpcError as error:
                    self.failures.append(f"gRPC: {error!r}")


@pytest.fixture
def base(tmp_path) -> Path:
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def serving(base: Path, *flags: str):
    with models.running(
        base.parent.parent, f"--model_name={base.name}", f"--model_base_path={base}", POLL, *flags
    ) as s:
        yield s


@pytest.mark.slow
def test_swaps_a_broken_version_and_rollback_under_load_lose_no_request(base):
    models.save_affine(base / "1", 1.0)
    with serving(base) as server, Load(server, "m") as load:
        for number in range(2, 5):
            models.save_affine(base / f"{number}", float(number))
            server.await_states("m", **{f"v{number}": "AVAILABLE"})
            load.settle()
        assert [number for number, state in server.states("m").items() if state == "AVAILABLE"] == [4]

        broken = base / "5.tmp"
        shutil.copytree(base / "4", broken)
        (broken / "variables" / "variables.index").write_bytes(b"nonsense")
        broken.rename(base / "5")
        server.await_states("m", v5="END", v4="AVAILABLE")
        _, told = server.ask("GET", "/v1/models/m/versions/5")
        assert told["model_version_status"][0]["status"]["error_code"] != "OK"
        assert told["model_version_status"][0]["status"]["error_message"]
        load.settle()

        models.save_affine(base / "6", 6.0)
        server.await_states("m", v6="AVAILABLE")
        load.settle()
        forward = len(load.rest), len(load.grpc)
        shutil.rmtree(base / "6")
        server.await_states("m", v4="AVAILABLE")
        deadline = time.monotonic() + 60
        while 6 in server.states("m") and time.monotonic() < deadline:
            time.sleep(0.02)
        load.settle()
    assert load.failures == []
    assert load.rest[: forward[0]] == sorted(load.rest[: forward[0]])
    assert {1.0, 2.0, 3.0, 4.0, 6.0} <= set(load.rest[: forward[0]])
    assert load.rest[-1] == 4.0
    assert load.grpc[: forward[1]] == sorted(load.grpc[: forward[1]])
    assert load.grpc[-1] == (4, 4.0)
    assert all(version == answer for version, answer in load.grpc)


@pytest.mark.slow
def test_a_server_starts_empty_and_finds_models_later(tmp_path):
    root = tmp_path / "models"
    (root / "none yet").mkdir(parents=True)
    with models.running(tmp_path, f"--models_root={root}", POLL) as server:
        assert server.ask("POST", "/v1/models/m:predict", {"instances": [1]})[0] == 404
        (root / "m").mkdir()
        models.save_affine(root / "m" / "7", 3.0)
        server.await_states("m", v7="AVAILABLE")
        assert server.ask("POST", "/v1/models/m:predict", {"instances": [1]}) == (200, {"predictions": [3.0]})
        shutil.rmtree(root / "m")
        deadline = time.monotonic() + 60
        while server.states("m"):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.slow
def test_a_version_that_is_repaired_or_replaced_under_its_number_is_served(base):
    models.save_affine(base / "1", 1.0)
    shutil.copytree(base / "1", base / "2")
    graph = (base / "2" / "saved_model.pb").read_bytes()
    (base / "2" / "saved_model.pb").write_bytes(graph[: len(graph) // 2])
    with serving(base) as server:
        server.await_states("m", v1="AVAILABLE", v2="END")  # The newest that loads, also at start.
        (base / "2" / "saved_model.pb").write_bytes(graph)
        server.await_states("m", v2="AVAILABLE")
        models.save_affine(base / "replacement", 5.0)
        with Load(server, "m") as load:
            (base / "2").rename(base / "old")
            (base / "replacement").rename(base / "2")
            deadline = time.monotonic() + 60
            while load.rest[-1] != 5.0:
                assert time.monotonic() < deadline, server.states("m")
                time.sleep(0.02)
            load.settle()
        assert load.failures == []


@pytest.mark.slow
def test_a_link_out_of_the_base_path_is_refused_and_the_old_version_serves(base, tmp_path):
    models.save_affine(base / "1", 1.0)
    outside = tmp_path / "outside"
    models.save_affine(outside, 9.0)
    with serving(base) as server:
        (base / "2").symlink_to(outside)
        server.await_states("m", v2="END", v1="AVAILABLE")
        _, told = server.ask("GET", "/v1/models/m/versions/2")
        assert told["model_version_status"][0]["status"]["error_code"] == "PERMISSION_DENIED"
        shutil.copytree(base / "1", base / "3.tmp")
        (base / "3.tmp" / "saved_model.pb").unlink()
        (base / "3.tmp" / "saved_model.pb").symlink_to(outside / "saved_model.pb")
        (base / "3.tmp").rename(base / "3")
        server.await_states("m", v3="END", v1="AVAILABLE")
        assert server.ask("POST", "/v1/models/m:predict", {"instances": [1]}) == (200, {"predictions": [1.0]})


def warmup_record(number: float) -> bytes:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.name = "m"
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto(number))
    return log.SerializeToString()


@pytest.mark.slow
def test_warm_up_requests_are_replayed_before_a_version_is_available(base):
    models.save_affine(base / "1", 1.0)
    for number, record in ((2, warmup_record([1.0])), (3, warmup_record("no number"))):
        models.save_affine(base / f"{number}.copy", float(number))
        (base / f"{number}.copy" / "assets.extra").mkdir()
        with tf.io.TFRecordWriter(str(base / f"{number}.copy/assets.extra/tf_serving_warmup_requests")) as writer:
            writer.write(record)
    with serving(base) as server:
        (base / "2.copy").rename(base / "2")
        server.await_states("m", v2="AVAILABLE")
        assert "Replayed 1 warm-up requests" in (base.parent.parent / "serving.log").read_text()
        (base / "3.copy").rename(base / "3")
        server.await_states("m", v3="END", v2="AVAILABLE")


def reload(server: models.Server, text: str) -> str:
    """Sends HandleReloadConfig; the status' name, "OK" when it was applied."""
    from google.protobuf import text_format

    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        try:
            model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=60)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


@pytest.mark.slow
def test_reload_moves_labels_under_load_and_replaces_the_list(base):
    for number in (1, 2):
        models.save_affine(base / f"{number}", float(number))

    def config(label: int, others: str = "") -> str:
        return f"""model_config_list {{ {others} config {{ name: "m" base_path: "{base}"
          model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: {label} }} }} }}"""

    with serving(base) as server:
        assert reload(server, config(2)) == "OK"
        server.await_states("m", v1="AVAILABLE", v2="AVAILABLE")
        with Load(server, "m", "/v1/models/m/labels/stable:predict") as load:
            for label in (1, 2, 1):
                assert reload(server, config(label)) == "OK"
                load.settle()
            assert reload(server, config(9)) == "FAILED_PRECONDITION"
            load.settle()
        assert load.failures == []
        changes = [after for before, after in zip([None, *load.rest], load.rest, strict=False) if before != after]
        assert changes == [2.0, 1.0, 2.0, 1.0]
        bad = f'config {{ name: "bad" base_path: "{base.parent}/nothing" }}'
        assert reload(server, config(2, bad)) == "OK"
        assert server.ask("POST", "/v1/models/m:predict", {"instances": [1]})[0] == 200
        assert reload(server, f'model_config_list {{ config {{ name: "n" base_path: "{base}" }} }}') == "OK"
        assert server.ask("POST", "/v1/models/m:predict", {"instances": [1]})[0] == 404
        assert server.ask("POST", "/v1/models/n:predict", {"instances": [1]}) == (200, {"predictions": [2.0]})


@pytest.mark.slow
def test_sigterm_lets_running_requests_finish(base):
    models.save_affine(base / "1", 1.0)
    with serving(base) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.rest, timeout=60)
        body = b'{"instances": [1.0]}'
        connection.putrequest("POST", "/v1/models/m:predict")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        connection.send(body[:5])
        time.sleep(0.2)
        os.kill(server.process.pid, signal.SIGTERM)
        time.sleep(0.5)
        connection.send(body[5:])
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())) == (200, {"predictions": [1.0]})
        assert server.process.wait(60) == 0
        log = (base.parent.parent / "serving.log").read_text()
        assert "Version 1 of m is unloaded" in log


@pytest.mark.slow
def test_a_server_that_cannot_serve_says_why_and_ends(tmp_path):
    command = [sys.executable, "-m", "serving", f"--model_config_file={tmp_path}/nothing"]
    done = subprocess.run(command, cwd=models.ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == EXIT_TERMINAL
    assert "config file cannot be read" in done.stderr


@pytest.mark.parametrize("wait", [0.0, -1.0])
def test_a_server_that_is_to_look_once_goes_on_serving(wait):
    async def run() -> None:
        manager = Manager(Settings(file_system_poll_wait_seconds=wait), Registry())
        await asyncio.wait_for(manager.run(), 0.2)

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_a_label_of_a_config_file_waits_for_its_version_alone(tmp_path, monkeypatch):
    broken: set[str] = set()

    def load(path: Path, *unused: object) -> object:
        if path.name in broken:
            raise ServingError(Code.INVALID_ARGUMENT, "broken")
        return object()

    monkeypatch.setattr(manager_module, "_load_warm", load)
    file = tmp_path / "models.config"

    def config(label: int) -> None:
        entries = [
            f"""config {{ name: "{name}" base_path: "{tmp_path}/{name}" model_version_policy {{ all {{}} }}
            version_labels {{ key: "stable" value: {label} }} }}"""
            for name in "ab"
        ]
        file.write_text("model_config_list {" + " ".join(entries) + "}")

    def version(name: str, number: int) -> None:
        (tmp_path / name / str(number)).mkdir(parents=True)
        (tmp_path / name / str(number) / "saved_model.pb").touch()

    async def run() -> None:
        config(1)
        settings = Settings(models=models_from_file(file), model_config_file=file, config_poll_wait_seconds=1e-9)
        registry = Registry()
        manager = Manager(settings, registry)

        async def look() -> dict[str, int]:
            await manager._reread_config()
            await manager.poll()
            return {name: model.labels["stable"] for name, model in registry.models.items()}

        for name in "ab":
            version(name, 1)
        await manager.poll()
        manager.apply_labels()
        broken.add("2")
        for name in "ab":
            version(name, 2)
        config(2)
        assert await look() == {"a": 1, "b": 1}  # Neither version 2 loads.
        broken.clear()
        (tmp_path / "a" / "2" / "repaired").touch()
        await look()
        assert await look() == {"a": 2, "b": 1}
        (tmp_path / "b" / "2" / "repaired").touch()
        await look()
        assert await look() == {"a": 2, "b": 2}

    asyncio.run(run())


def test_a_port_that_is_taken_is_a_fault_that_may_heal():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = Settings(port=0, rest_api_port=listener.getsockname()[1])
        with pytest.raises(TransientError, match="cannot listen for REST"):
            asyncio.run(server_module.serve(taken))
        taken = Settings(port=listener.getsockname()[1], rest_api_port=0)
        with pytest.raises(TransientError, match="cannot listen for gRPC"):
            asyncio.run(server_module.serve(taken))


@pytest.mark.parametrize(("host", "address"), [("::1", "[::1]:8500"), ("127.0.0.1", "127.0.0.1:8500")])
def test_an_address_of_ipv6_stands_in_brackets_before_its_port(host, address):
    asked = []

    class Rpc:
        def add_insecure_port(self, address: str) -> int:
            asked.append(address)
            return 8500

        async def start(self) -> None:
            pass

    assert asyncio.run(start_grpc(Rpc(), Settings(host=host, port=8500))) == 8500
    assert asked == [address]


def test_a_server_that_stops_closes_its_log_before_it_waits_for_models_and_calls(monkeypatch):
    closed = []

    def closing(owner: type) -> None:
        close = owner.close

        def noted(self):
            closed.append(owner)
            return close(self)

        monkeypatch.setattr(owner, "close", noted)

    for owner in (PredictionLog, Manager, Runner):
        closing(owner)

    async def run() -> None:
        stopping = asyncio.Event()
        stopping.set()
        monkeypatch.setattr(server_module, "told_to_stop", lambda settings: stopping)
        await server_module.serve(Settings(port=0, rest_api_port=0))

    asyncio.run(run())
    assert closed == [PredictionLog, Manager, Runner]


def test_a_call_that_nobody_waits_for_any_more_holds_up_no_end():
    async def run() -> None:
        runner, going_on = Runner(1), threading.Event()
        abandoned = asyncio.ensure_future(runner.offload(going_on.wait, 20))
        await asyncio.sleep(0.05)
        abandoned.cancel()
        started = time.monotonic()
        runner.close()
        assert time.monotonic() - started < 10
        going_on.set()

    asyncio.run(run())


def test_only_plain_numbers_are_versions(tmp_path):
    for name in ("1", "20", "007", "1.tmp", ".3.tmp", "x", "²", "-1", "1_000", str(2**63)):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file")
    assert sorted(versions_on_disk(tmp_path)) == [1, 20]
    with pytest.raises(FileNotFoundError):
        versions_on_disk(tmp_path / "nothing")


class Loaded:
    """Stands for a SavedModel in memory."""

    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def broken(monkeypatch) -> set[Path]:
    """Folders of versions that do not load; all others do, without TensorFlow."""
    folders: set[Path] = set()

    def load(path: Path, *unused: object) -> Loaded:
        if path in folders:
            raise ServingError(Code.INVALID_ARGUMENT, "broken")
        return Loaded()

    monkeypatch.setattr(manager_module, "_load_warm", load)
    return folders


def managed(*models_: ModelSettings) -> Manager:
    return Manager(Settings(models=models_), Registry())


def test_a_base_path_that_goes_away_takes_nothing_with_it_and_an_empty_one_does(base, broken, caplog):
    async def run() -> None:
        manager = managed(ModelSettings("m", base))
        base.rename(base.with_name("away"))
        await manager.poll()  # It is not there yet.
        base.with_name("away").rename(base)
        (base / "1").mkdir()
        await manager.poll()
        base.rename(base.with_name("away"))
        await manager.poll()
        assert manager.registry.resolve("m").number == 1 and "left as they are" in caplog.text
        base.mkdir()
        await manager.poll()
        with pytest.raises(ServingError, match="Servable not found"):
            manager.registry.resolve("m")
        await manager.close()

    asyncio.run(run())


def test_a_model_that_cannot_be_looked_at_leaves_the_others_alone(base, broken, caplog):
    async def run() -> None:
        (base / "1").mkdir()
        manager = managed(ModelSettings("bad", Path("a\0b")), ModelSettings("m", base))
        await manager.poll()
        assert manager.registry.resolve("m").number == 1 and "null byte" in caplog.text
        await manager.close()

    asyncio.run(run())


def test_a_replacement_that_does_not_load_is_tried_again_only_when_its_files_change(base, broken, caplog):
    async def run() -> None:
        manager = managed(ModelSettings("m", base))
        (base / "1").mkdir()
        await manager.poll()
        served = manager.registry.resolve("m").loaded
        (base / "1").rename(base / "old")
        (base / "1").mkdir()
        broken.add(base / "1")
        for _ in range(3):
            await manager.poll()
        assert caplog.text.count("does not load") == 1 and manager.registry.resolve("m").loaded is served
        (base / "1" / "repaired").touch()
        broken.clear()
        await manager.poll()
        assert manager.registry.resolve("m").loaded is not served
        await manager.close()

    asyncio.run(run())


def test_a_request_that_is_slow_holds_up_its_own_version_alone(base, broken):
    async def run() -> None:
        other = base.with_name("n")
        for folder in (base / "1", other / "1"):
            folder.mkdir(parents=True)
        manager = managed(ModelSettings("m", base), ModelSettings("n", other))
        await manager.poll()
        slow = manager.registry.resolve("m")
        with slow as loaded:
            for folder in (base, other):
                (folder / "2").mkdir()
            await asyncio.wait_for(manager.poll(), 10)
            assert [manager.registry.resolve(name).number for name in "mn"] == [2, 2]
            shutil.rmtree(base / "1")
            await asyncio.wait_for(manager.poll(), 10)
            assert (slow.state, loaded.closed) == (State.UNLOADING, False) and 1 in manager.registry.models[
                "m"
            ].versions
            closing = asyncio.ensure_future(manager.close())
            await asyncio.sleep(0.05)
            assert not closing.done() and not loaded.closed
        await asyncio.wait_for(closing, 10)
        assert (slow.state, loaded.closed) == (State.END, True)

    asyncio.run(run())


def test_a_model_that_is_taken_away_is_forgotten_when_its_requests_have_ended(base, broken):
    async def run() -> None:
        (base / "1").mkdir()
        manager = managed(ModelSettings("m", base))
        await manager.poll()
        with manager.registry.resolve("m"):
            await manager.reload(())
            with pytest.raises(ServingError, match="Servable not found"):
                manager.registry.resolve("m")
            assert [version.state for version in manager.registry.states("m")] == [State.UNLOADING]
        await asyncio.gather(*manager._going)
        await manager.poll()
        assert not manager.registry.models
        await manager.close()

    asyncio.run(run())


def test_base_paths_and_config_file_are_looked_at_each_in_its_own_time(tmp_path, monkeypatch):
    async def run() -> list[str]:
        looks = []

        async def look(what: str) -> None:
            looks.append(what)

        manager = Manager(Settings(file_system_poll_wait_seconds=60, config_poll_wait_seconds=0.01), Registry())
        monkeypatch.setattr(manager, "poll", lambda: look("paths"))
        monkeypatch.setattr(manager, "_reread_config", lambda: look("config"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(manager.run(), 0.2)
        return looks

    assert set(asyncio.run(run())) == {"config"}
