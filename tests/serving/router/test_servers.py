"""Several servers: one that dies or hangs up is left out, and no request fails by it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

import grpc
import pytest
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc, predict_pb2

from benchmarks.ports import free_ports
from tests.serving import models
from tests.serving.router import routers, stubs
from tests.waiting import until

pytestmark = pytest.mark.slow

PATH = "/v1/models/affine:predict"
BODY = {"instances": [4.0]}


def grpc_client(port: int):
    request = predict_pb2.PredictRequest(model_spec={"name": "affine"})
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add(size=1)
    request.inputs["x"].float_val.append(4.0)

    def make():
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        call = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=predict_pb2.PredictRequest.SerializeToString,
            response_deserializer=predict_pb2.PredictResponse.FromString,
        )
        return lambda: call(request, timeout=60).outputs["y"].float_val[0]

    return make


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_under_load_fails_no_request(models_root, servers, tmp_path, number):
    folder, ports = tmp_path / "server", free_ports(2)
    folder.mkdir()
    flags = (f"--model_config_file={models_root}/models.config", f"--rest_api_port={ports[0]}", f"--port={ports[1]}")
    first = (servers[0].rest, servers[0].grpc)
    with models.running(folder, *flags) as second:
        with routers.routing(tmp_path / "r", models_root, [first, tuple(ports)]) as router:
            with (
                routers.Load(routers.rest_client(router.rest, PATH, BODY), 2) as rest,
                routers.Load(grpc_client(router.grpc), 2) as calls,
            ):
                rest.more(50)
                calls.more(50)
                assert all(server["requests"] > 10 for server in router.status()["servers"])
                os.kill(second.process.pid, number)
                second.process.wait(60)
                rest.more(50)
                calls.more(50)
                until(lambda: not router.status()["servers"][1]["healthy"], "the server is left out")
                requests = router.status()["servers"][1]["requests"]
                rest.more(50)
                calls.more(50)
                assert router.status()["servers"][1]["requests"] == requests
                if number == signal.SIGKILL:
                    with models.running(folder, *flags):
                        until(lambda: router.status()["servers"][1]["healthy"], "the server is back")
                        rest.more(50)
                        until(lambda: router.status()["servers"][1]["requests"] > requests, "it is asked again")
                        rest.more(20)
                        calls.more(20)
                    rest.more(50)
                    calls.more(50)
            assert not rest.errors and not calls.errors
            assert {status for status, _ in rest.answers} == {200}
            assert set(calls.answers) == {8.0}


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_a_call_that_a_server_turns_away_is_asked_of_another(servers, models_root, tmp_path, code):
    with stubs.standing(refuse=code) as stub:
        addresses = [(stub.rest, stub.grpc), (servers[0].rest, servers[0].grpc)]
        with routers.routing(tmp_path / "r", models_root, addresses) as router:
            ask = grpc_client(router.grpc)()
            assert [ask() for _ in range(10)] == [8.0] * 10
            assert stub.metadata
        with routers.routing(tmp_path / "alone", models_root, addresses[:1]) as router:
            with pytest.raises(grpc.RpcError) as caught:
                grpc_client(router.grpc)()()
            assert (caught.value.code(), caught.value.details()) == (code, "turned away")


@pytest.mark.parametrize("status", [500, 503])
def test_beside_a_server_that_refuses_at_once_under_one_percent_fail(servers, models_root, tmp_path, status):
    with stubs.standing(lambda handler, body: handler.reply({"error": "broken"}, status)) as stub:
        addresses = [(stub.rest, stub.grpc), (servers[0].rest, servers[0].grpc)]
        with routers.routing(tmp_path / "r", models_root, addresses) as router:
            with routers.Load(routers.rest_client(router.rest, PATH, BODY), 8) as load:
                load.more(400)
            assert not load.errors
            failed = sum(code != 200 for code, _ in load.answers)
            assert failed < len(load.answers) / 100 and len(stub.requests) < len(load.answers) / 10


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE])
def test_beside_a_server_that_refuses_calls_at_once_none_fails(servers, models_root, tmp_path, code):
    with stubs.standing(refuse=code) as stub:
        addresses = [(stub.rest, stub.grpc), (servers[0].rest, servers[0].grpc)]
        with routers.routing(tmp_path / "r", models_root, addresses) as router:
            with routers.Load(grpc_client(router.grpc), 8) as load:
                load.more(400)
            assert not load.errors and set(load.answers) == {8.0}
            assert len(stub.metadata) < len(load.answers) / 10


def test_a_server_that_does_not_have_the_model_yet_is_passed_over_and_that_none_has_it_is_said(
    servers, models_root, tmp_path
):
    with stubs.standing(
        lambda handler, body: handler.reply({"error": "not loaded"}, 404), grpc.StatusCode.NOT_FOUND
    ) as stub:
        addresses = [(stub.rest, stub.grpc), (servers[0].rest, servers[0].grpc)]
        with routers.routing(tmp_path / "r", models_root, addresses) as router:
            call = grpc_client(router.grpc)()
            assert [router.ask("POST", PATH, BODY) for _ in range(10)] == [(200, {"predictions": [8.0]})] * 10
            assert [call() for _ in range(10)] == [8.0] * 10
            assert stub.requests and stub.metadata
        with routers.routing(tmp_path / "alone", models_root, addresses[:1]) as router:
            assert router.ask("POST", PATH, BODY) == (404, {"error": "not loaded"})
            with pytest.raises(grpc.RpcError) as caught:
                grpc_client(router.grpc)()()
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_request_that_cuts_connections_is_sent_twice_and_then_held_back(models_root, tmp_path):
    def answer(handler, body):
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    with contextlib.ExitStack() as stack:
        three = [stack.enter_context(stubs.standing(answer)) for _ in range(3)]
        addresses = [(stub.rest, stub.grpc) for stub in three]
        with routers.routing(tmp_path / "r", models_root, addresses) as router:
            for _ in range(3):
                status, refusal = router.ask("POST", PATH, BODY)
                assert status == 503 and "No model server answers" in refusal["error"]
            assert sum(len(stub.requests) for stub in three) == 2
            assert "not passed on for a while" in refusal["error"]


def test_a_server_that_hangs_up_before_it_answers(servers, models_root, tmp_path):
    def answer(handler, body):
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    with stubs.standing(answer) as stub:
        addresses = [(stub.rest, stub.grpc), (servers[0].rest, servers[0].grpc)]
        with routers.routing(tmp_path / "r", models_root, addresses) as router:
            for _ in range(10):
                assert router.ask("POST", PATH, BODY) == (200, {"predictions": [8.0]})
            assert stub.requests
            assert 'resent_total{why="server"}' in router.admin.raw("GET", "/router/metrics")[1].decode()


def test_a_request_that_is_sent_again_and_again_has_no_more_time_than_one(models_root, tmp_path):
    def answer(handler, body):
        time.sleep(0.6)
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    with contextlib.ExitStack() as stack:
        three = [stack.enter_context(stubs.standing(answer)) for _ in range(3)]
        addresses = [(stub.rest, stub.grpc) for stub in three]
        with routers.routing(tmp_path / "r", models_root, addresses, "--rest_api_timeout_in_ms=1000") as router:
            requests = 0
            for number in range(10):
                assert router.ask("POST", PATH, {"instances": [number]}) == (504, {"error": "No answer in 1 s"})
                requests, before = sum(len(stub.requests) for stub in three), requests
                if requests == before + 2:
                    break
                assert requests == before + 1, "this machine stood still for longer than the second had"
            else:
                pytest.fail("it was never sent again")


def test_the_least_busy_server_is_asked(servers, models_root, tmp_path):
    inside, go = threading.Event(), threading.Event()

    def answer(handler, body):
        inside.set()
        go.wait(60)
        handler.reply({"predictions": [0.0]})

    with stubs.standing(answer) as stub:
        addresses = [(stub.rest, stub.grpc), (servers[0].rest, servers[0].grpc)]
        with routers.routing(tmp_path / "r", models_root, addresses) as router:
            ask = routers.rest_client(router.rest, PATH, BODY)()
            answers: list[object] = []
            threads = [
                threading.Thread(target=lambda: answers.append(router.ask("POST", PATH, BODY))) for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            assert inside.wait(30)  # One of the two hangs there, so that all others go to the other server,
            until(lambda: len(answers) == 1, "its answer")  # which is free once the other of the two has its answer.
            assert [ask() for _ in range(20)] == [(200, {"predictions": [8.0]})] * 20
            assert router.status()["servers"][0]["in_flight"] == 1
            go.set()
            for thread in threads:
                thread.join()
            assert {status for status, _ in answers} == {200}


def test_a_new_config_goes_to_all_servers(models_root, tmp_path):
    config = tmp_path / "models.config"
    config.write_text(f'model_config_list {{ config {{ name: "affine" base_path: "{models_root}/affine" }} }}')
    with contextlib.ExitStack() as stack:
        both = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            both.append(stack.enter_context(models.running(tmp_path / name, f"--model_config_file={config}")))
        addresses = [(server.rest, server.grpc) for server in both]
        router = stack.enter_context(routers.routing(tmp_path / "r", models_root, addresses))
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{router.admin_grpc}"))
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_management_pb2.ReloadConfigRequest()
        entry = request.config.model_config_list.config.add(name="half", base_path=str(models_root / "half"))
        assert entry.name == "half"
        assert stub.HandleReloadConfigRequest(request, timeout=60).status.error_code == 0
        for server in both:
            server.await_states("half", v4="AVAILABLE")
            assert set(server.states("affine").values()) <= {"UNLOADING", "END"}
            assert server.ask("POST", PATH, BODY)[0] == 404
        # Where one of them cannot be told, the caller hears it.
        both[1].process.kill()
        both[1].process.wait()
        with pytest.raises(grpc.RpcError) as caught:
            stub.HandleReloadConfigRequest(request, timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
