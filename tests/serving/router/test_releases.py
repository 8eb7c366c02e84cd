"""Releases over real servers: who is answered by which side, what is counted, and that no request fails by it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from datetime import UTC, datetime, timedelta

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from airtight.rollout import state
from airtight.rollout.arm_metrics import Counts
from airtight.rollout.state import Release
from serving.router.trials import place
from tests.serving import models
from tests.serving.router import routers, stubs
from tests.waiting import until

pytestmark = pytest.mark.slow

PATH = "/v1/models/affine:predict"
BODY = {"instances": [0.25]}
STABLE, CANDIDATE = {"predictions": [0.25]}, {"predictions": [0.5]}
KEYS = [f"caller-{number}" for number in range(60)]


def answered(router, key: str | None = None, path: str = PATH, body: object = BODY):
    """Status, parsed body, and the side and the version that the answer tells."""
    status, headers, content = router.full("POST", path, body, {"x-request-key": key} if key else {})
    return status, json.loads(content), headers.get("x-airtight-side"), headers.get("x-airtight-version")


def predicted(router, *metadata: tuple[str, str], spec: dict | None = None):
    """The version that answered over gRPC, and what the trailing metadata tell."""
    request = predict_pb2.PredictRequest(model_spec=spec or {"name": "affine"})
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([0.25])))
    with grpc.insecure_channel(f"127.0.0.1:{router.grpc}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer, call = stub.Predict.with_call(request, timeout=30, metadata=metadata)
    trailing = dict(call.trailing_metadata())
    return answer.model_spec.version.value, trailing.get("x-airtight-side"), trailing.get("x-airtight-version")


def sides(router, model: str = "affine") -> tuple[dict, dict]:
    arms = router.status()["releases"][model]["sides"]
    return arms["stable"], arms["candidate"]


def test_a_split_goes_by_the_key_and_each_caller_keeps_its_side(router):
    release = Release("affine", "split-1", 1, 2, "split", 0.4)
    router.release(affine=release)
    chosen = {key for key in KEYS if place(release.id, key) < release.share}
    assert 10 < len(chosen) < 40
    for key in KEYS:
        expected = (200, CANDIDATE, "candidate", "2") if key in chosen else (200, STABLE, "stable", "1")
        assert answered(router, key) == expected
    for key in KEYS[:10]:
        expected = (2, "candidate", "2") if key in chosen else (1, "stable", "1")
        assert predicted(router, ("x-request-key", key)) == expected
    stable, candidate = sides(router)
    among = sum(key in chosen for key in KEYS[:10])
    assert candidate["requests"] == candidate["codes"]["200"] == len(chosen) + among
    assert stable["requests"] == len(KEYS) - len(chosen) + 10 - among
    # A larger share only moves callers to the candidate, none back.
    router.release(affine=Release("affine", "split-1", 1, 2, "split", 0.7))
    assert all(answered(router, key)[2] == "candidate" for key in chosen)
    assert sides(router)[1]["requests"] == 2 * len(chosen) + among


def test_a_canary_gets_its_share(router):
    for share, bounds in ((0.0, (0, 0)), (1.0, (100, 100)), (0.5, (15, 85))):
        router.release(affine=Release("affine", f"canary-{share}", 1, 2, "canary", share))
        ask = routers.rest_client(router.rest, PATH, BODY)()
        answers = [ask()[1] for _ in range(100)]
        assert answers.count(STABLE) + answers.count(CANDIDATE) == 100
        assert bounds[0] <= answers.count(CANDIDATE) <= bounds[1]
        assert sides(router)[1]["requests"] == answers.count(CANDIDATE)
        # In a canary a caller has no side of its own.
        if share == 0.5:
            assert {answered(router, "one")[2] for _ in range(60)} == {"stable", "candidate"}


def test_who_names_a_version_or_a_label_is_left_alone(router):
    router.release(affine=Release("affine", "all", 1, 2, "canary", 1.0))
    assert answered(router)[1:] == (CANDIDATE, "candidate", "2")
    assert answered(router, path="/v1/models/affine/versions/1:predict") == (200, STABLE, None, None)
    assert answered(router, path="/v1/models/affine/labels/stable:predict") == (200, STABLE, None, None)
    assert predicted(router, spec={"name": "affine", "version": {"value": 1}}) == (1, None, None)
    assert predicted(router, spec={"name": "affine", "version_label": "stable"}) == (1, None, None)
    assert answered(router, path="/v1/models/half:predict", body={"instances": [[1.0]]})[2:] == (None, None)
    assert router.ask("GET", "/v1/models/affine")[0] == 200
    stable, candidate = sides(router)
    assert (stable["requests"], candidate["requests"]) == (0, 1)


def test_all_methods_are_released(router):
    router.release(half=Release("half", "older", 4, 3, "canary", 1.0))
    with grpc.insecure_channel(f"127.0.0.1:{router.grpc}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        example = {"example_list": {"examples": [tf.train.Example()]}}
        example["example_list"]["examples"][0].features.feature["x"].float_list.value.append(-3.0)
        classify = {"name": "half", "signature_name": "classify_x"}
        regress = {"name": "half", "signature_name": "regress_x_to_y"}
        answer = stub.Classify(classification_pb2.ClassificationRequest(model_spec=classify, input=example), timeout=30)
        assert answer.model_spec.version.value == 3
        answer = stub.Regress(regression_pb2.RegressionRequest(model_spec=regress, input=example), timeout=30)
        assert answer.model_spec.version.value == 3
        tasks = [
            {"model_spec": classify, "method_name": "tensorflow/serving/classify"},
            {"model_spec": regress, "method_name": "tensorflow/serving/regress"},
        ]
        answer = stub.MultiInference(inference_pb2.MultiInferenceRequest(tasks=tasks, input=example), timeout=30)
        assert [result.model_spec.version.value for result in answer.results] == [3, 3]
    rows = [{"x": -3.0}]
    for verb, signature in (("classify", "classify_x"), ("regress", "regress_x_to_y")):
        body = {"signature_name": signature, "examples": rows}
        assert answered(router, path=f"/v1/models/half:{verb}", body=body)[2:] == ("candidate", "3")
    _, candidate = sides(router, "half")
    assert candidate["requests"] == 5
    # The two regressions have answered numbers: -3 / 2 + 2.
    assert (candidate["answers"]["count"], candidate["answers"]["mean"]) == (2, 0.5)


def test_codes_and_numbers_are_counted(router):
    router.release(affine=Release("affine", "counted", 1, 2, "canary", 1.0))
    for value in (0.1, 0.2, 0.45, 3.0):
        assert answered(router, body={"instances": [value, value]})[0] == 200
    for body in ({"instances": []}, "{", {"signature_name": "none", "instances": [1.0]}):
        assert answered(router, body=body)[0] == 400
    assert predicted(router)[0] == 2
    stable, candidate = sides(router)
    assert (stable["requests"], stable["latency_ms"]["p99"], stable["answers"]["mean"]) == (0, None, None)
    assert (candidate["requests"], candidate["failed"], candidate["refused"]) == (8, 0, 3)
    assert candidate["codes"] == {"200": 5, "400": 3}
    answers = candidate["answers"]
    assert (answers["count"], sum(answers["histogram"]), answers["histogram"][4]) == (9, 7, 2)
    assert answers["mean"] == pytest.approx((2 * (0.2 + 0.4 + 0.9 + 6.0) + 0.5) / 9, rel=1e-5)
    latency = candidate["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    # What the release's steps read of it.
    counts = Counts.of(router.status(), "affine")
    assert (counts.candidate.requests, counts.candidate.refused, counts.candidate.numbers) == (8, 3, 9)
    assert counts.candidate.answer_means.count == 5, "a batch is one answer"
    assert counts.candidate.kinds[6] == pytest.approx(1.0), "and counts 1 in all"
    assert sum(counts.candidate.latency_buckets.values()) == 8
    # How it stands is worked out every two seconds; with numbers there are two rules more.
    until(lambda: len(router.status()["releases"]["affine"]["standing"]["rules"]) == 8, "the rules are up to date")
    assert router.status()["releases"]["affine"]["standing"]["decision"] == "undecided"


def test_a_shadow_is_asked_and_never_heard(router):
    router.release(affine=Release("affine", "shadow", 1, 2, "shadow", 1.0))
    for _ in range(20):
        assert answered(router) == (200, STABLE, "stable", "1")
    assert predicted(router) == (1, "stable", "1")
    assert answered(router, body="{")[0] == 400
    until(lambda: sides(router)[1]["requests"] == 22, "all shadows are counted")
    counts = router.status()["releases"]["affine"]
    pairs = counts["pairs"]
    assert (pairs["count"], pairs["differing"], pairs["dropped"]) == (21, 21, 0)
    assert (pairs["largest_difference"], pairs["mean_difference"]) == (0.25, 0.25)
    assert pairs["differences"] == {"count": 21, "total": 21 * 0.25, "squares": 21 * 0.0625}
    assert (pairs["only_candidate"], pairs["only_stable"]) == ({}, {}), "both refused the same request"
    assert sum(pairs["stable_latency_buckets"].values()) == 22
    stable, candidate = sides(router)
    assert (stable["requests"], stable["answers"]["mean"]) == (22, 0.25)
    assert (candidate["codes"], candidate["answers"]["mean"]) == ({"200": 21, "400": 1}, 0.5)
    router.release(affine=Release("affine", "same", 2, 2, "shadow", 1.0))
    for _ in range(5):
        assert answered(router)[:2] == (200, CANDIDATE)
    until(lambda: router.status()["releases"]["affine"]["pairs"]["count"] == 5, "all pairs are counted")
    assert router.status()["releases"]["affine"]["pairs"]["differing"] == 0


def test_a_shadow_that_hangs_or_fails_slows_nobody(models_root, tmp_path):
    """Shadow requests that never end are bounded in number, and the rest is dropped and counted."""

    def answer(handler, body):
        if "/versions/2:" in handler.path:
            assert handler.headers["x-airtight-side"] == "shadow"
            handler.connection.settimeout(60)
            handler.connection.recv(1)  # Until the router closes the connection.
        else:
            handler.reply({"predictions": [0.25]})

    root = tmp_path / "root"
    root.mkdir()
    with stubs.standing(answer) as stub, routers.routing(tmp_path / "r", root, [(stub.rest, stub.grpc)]) as router:
        router.release(affine=Release("affine", "hanging", 1, 2, "shadow", 1.0))
        for _ in range(50):
            assert answered(router) == (200, STABLE, "stable", "1")
        progress = router.status()["releases"]["affine"]
        assert progress["sides"]["stable"]["requests"] == 50
        assert (progress["pairs"]["dropped"], progress["pairs"]["count"]) == (50 - 32, 0)


def test_a_candidate_that_is_not_served_fails_no_request(router):
    router.release(affine=Release("affine", "missing", 1, 9, "canary", 1.0))
    for _ in range(5):
        assert answered(router) == (200, STABLE, None, None), "by the stable version, and not by the highest"
    assert predicted(router) == (1, None, None)
    _, candidate = sides(router)
    assert (candidate["requests"], candidate["unserved"]) == (0, 6)
    metrics = router.admin.raw("GET", "/router/metrics")[1].decode()
    assert 'airtight_router_resent_total{why="version"} 6' in metrics
    router.release(none=Release("none", "unknown", 1, 2, "canary", 1.0))
    assert answered(router, path="/v1/models/none:predict")[:2] == (
        404,
        {"error": "Servable not found for request: Latest(none)"},
    )


@pytest.mark.parametrize("share", [1e-12, 1.0])
def test_a_server_that_lacks_a_version_is_passed_over(servers, models_root, tmp_path, share):
    root = tmp_path / "models"
    (root / "affine").mkdir(parents=True)
    shutil.copytree(models_root / "affine" / "2", root / "affine" / "2")
    stable, candidate = (1, 2) if share < 1 else (2, 1)
    with (
        models.running(tmp_path, "--model_name=affine", f"--model_base_path={root}/affine") as lacking,
        routers.routing(tmp_path / "r", root, [(each.rest, each.grpc) for each in (lacking, servers[0])]) as router,
    ):
        router.release(affine=Release("affine", "elsewhere", stable, candidate, "canary", share))
        assert [answered(router)[1] for _ in range(10)] == [STABLE] * 10
        assert [predicted(router)[0] for _ in range(10)] == [1] * 10
        assert [side["unserved"] for side in sides(router)] == [0, 0]


def test_a_candidate_that_goes_away_under_load_fails_no_request(tmp_path):
    root = tmp_path / "models"
    (root / "affine").mkdir(parents=True)
    for version in (1, 2):
        models.save_affine(root / "affine" / str(version), float(version))
    (root / "models.config").write_text(
        f'model_config_list {{ config {{ name: "affine" base_path: "{root}/affine" '
        "model_version_policy { all {} } } }"
    )
    served = f"--model_config_file={root}/models.config"
    with (
        models.running(tmp_path, served, "--file_system_poll_wait_seconds=0.1") as server,
        routers.routing(tmp_path / "r", root, [(server.rest, server.grpc)]) as router,
    ):
        router.release(affine=Release("affine", "leaving", 1, 2, "canary", 0.5))
        with routers.Load(routers.rest_client(router.rest, PATH, BODY)) as load:
            load.more(100)
            shutil.rmtree(root / "affine" / "2")
            until(lambda: server.states("affine").get(2) != "AVAILABLE", "the candidate is let go")
            load.more(100)
        assert not load.errors
        assert {(status, json.dumps(answer)) for status, answer in load.answers} == {
            (200, json.dumps(STABLE)),
            (200, json.dumps(CANDIDATE)),
        }
        assert [answer for _, answer in load.answers[-50:]] == [STABLE] * 50
        assert sides(router)[1]["unserved"] > 0


def test_a_release_that_nobody_ended_in_time_gives_the_candidate_no_more_requests(router):
    moment = datetime.now(UTC) + timedelta(days=1)
    router.release(affine=Release("affine", "short", 1, 2, "canary", 1.0, until=moment.isoformat()))
    assert answered(router)[2] == "candidate"
    moment = datetime.now(UTC) - timedelta(seconds=1)
    state.write(router.root, {"affine": Release("affine", "short", 1, 2, "canary", 1.0, until=moment.isoformat())})
    until(lambda: router.status()["releases"]["affine"]["until"] == moment.isoformat(), "the time is followed")
    assert answered(router) == (200, STABLE, "stable", "1")
    assert sides(router)[1]["requests"] == 1, "what was counted before is kept"
    (router.root / state.FILE).write_text('{"affine": {"id": "b", "stable": 1, "candidate": 2, "until": "noon"}}')
    until(lambda: "until" in router.status()["error"], "the error is told")


def test_a_broken_file_changes_nothing_and_is_told(router):
    router.release(affine=Release("affine", "kept", 1, 2, "canary", 1.0))
    for text in ("{", '{"affine": {"id": "b", "stable": "x"}}'):
        (router.root / state.FILE).write_text(text)
        until(lambda: router.status()["error"] != "", "the error is told")
        assert router.status()["releases"]["affine"]["id"] == "kept"
        assert answered(router)[2] == "candidate"
        router.release(affine=Release("affine", "kept", 1, 2, "canary", 1.0))
        until(lambda: router.status()["error"] == "", "the error is over")
    (router.root / state.FILE).unlink()
    until(lambda: router.status()["releases"] == {}, "the release is over")
    assert answered(router)[2] is None


def test_counts_outlive_the_router(router, addresses, tmp_path):
    state = f"--state_file={tmp_path / 'state.json'}"
    release = Release("affine", "long", 1, 2, "canary", 1.0)
    with routers.routing(tmp_path / "r", router.root, addresses, state) as first:
        first.release(affine=release)
        for _ in range(7):
            answered(first)
        before = sides(first)
        os.kill(first.process.pid, signal.SIGTERM)
        assert first.process.wait(30) == 0
    with routers.routing(tmp_path / "r", router.root, addresses, state) as second:
        assert sides(second) == before and before[1]["requests"] == 7
        answered(second)
        assert sides(second)[1]["requests"] == 8
        until(lambda: '"200": 8' in (tmp_path / "state.json").read_text(), "counts are saved now and then")
        second.process.kill()
    with routers.routing(tmp_path / "r", router.root, addresses, state) as third:
        assert sides(third)[1]["requests"] == 8
        third.release(affine=Release("affine", "next", 1, 2, "canary", 1.0))
        assert sides(third)[1]["requests"] == 0


def test_a_share_that_moves_under_load_fails_no_request(router):
    with routers.Load(routers.rest_client(router.rest, PATH, BODY)) as load:
        for share in (0.0, 0.1, 0.5, 1.0, 0.0):
            router.release(affine=Release("affine", "moving", 1, 2, "canary", share))
            mark = len(load.answers)
            load.more(30)
        until(lambda: len(load.answers) >= mark + 10 or bool(load.errors), "answers come")
    assert not load.errors and {status for status, _ in load.answers} == {200}
