"""The router's parts without processes: messages, numbers, counts, addresses, the file of releases."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import math
import random
import threading
from dataclasses import asdict

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, inference_pb2, predict_pb2, regression_pb2

from airtight.errors import TerminalError
from airtight.rollout import state
from airtight.rollout.state import Release
from components.schema import ExampleSchema
from components.tasks import task_of
from serving.router import answers, messages
from serving.router import trials as module
from serving.router.arm_metrics import CELLS, Counts, Latency, Numbers, Outcome, Pairs
from serving.router.config import address, settings_from_flags
from serving.router.follower import Follower
from serving.router.trials import Answer, RoutedRequest, Trials, cell, place


def predict(**chosen) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(output_filter=["y"])
    request.model_spec.name = "m"
    request.model_spec.signature_name = "s"
    if "version" in chosen:
        request.model_spec.version.value = chosen["version"]
    if "label" in chosen:
        request.model_spec.version_label = chosen["label"]
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.arange(5, dtype=np.float32)))
    return request


@pytest.mark.parametrize(
    ("chosen", "free"), [({}, True), ({"version": 3}, False), ({"version": 0}, False), ({"label": "stable"}, False)]
)
def test_a_request_tells_its_model_and_whether_it_chose_a_version(chosen, free):
    assert messages.requested_model("Predict", predict(**chosen).SerializeToString()) == ("m", free)


def test_asking_for_a_version_changes_nothing_else_of_a_request():
    request = predict()
    changed = predict_pb2.PredictRequest.FromString(messages.with_version("Predict", request.SerializeToString(), 7))
    assert changed == predict(version=7)
    for kind, name in (
        (classification_pb2.ClassificationRequest, "Classify"),
        (regression_pb2.RegressionRequest, "Regress"),
    ):
        request = kind()
        request.model_spec.name = "m"
        request.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.5)
        changed = kind.FromString(messages.with_version(name, request.SerializeToString(), 2**62))
        assert changed.model_spec.version.value == 2**62
        changed.model_spec.ClearField("version")
        assert changed == request


def test_all_tasks_of_a_request_get_the_version():
    request = inference_pb2.MultiInferenceRequest()
    for method in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "m", method
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.5)
    content = request.SerializeToString()
    assert messages.requested_model("MultiInference", content) == ("m", True)
    changed = inference_pb2.MultiInferenceRequest.FromString(messages.with_version("MultiInference", content, 5))
    assert [task.model_spec.version.value for task in changed.tasks] == [5, 5]
    for task in changed.tasks:
        task.model_spec.ClearField("version")
    assert changed == request
    request.tasks[1].model_spec.name = "other"
    assert messages.requested_model("MultiInference", request.SerializeToString()) == ("", False)


def test_bytes_that_are_no_message_ask_for_nothing():
    randomly = random.Random(1)
    for method in messages.RELEASED:
        assert messages.requested_model(method, b"\xff\xff\xff") == ("", False)
        for _ in range(300):
            name, _ = messages.requested_model(method, randomly.randbytes(randomly.randrange(40)))
            assert isinstance(name, str)


@pytest.mark.parametrize(
    ("verb", "answer", "numbers"),
    [
        ("predict", {"predictions": [0.25, 0.5]}, [0.25, 0.5]),
        ("predict", {"predictions": [[0.25], [0.5]]}, [0.25, 0.5]),
        ("predict", {"predictions": [{"z": 0.5, "p": 0.25}, {"z": 1.0, "p": 0.75}]}, [0.25, 0.75]),
        ("predict", {"predictions": [{"a": "text", "p": 0.25}]}, [0.25]),
        ("predict", {"outputs": [0.25]}, [0.25]),
        ("predict", {"outputs": {"a": [[0.1, 0.2]], "p": [[0.5]]}}, [0.5]),
        ("predict", {"outputs": 0.5}, None),
        ("predict", {"predictions": [[0.1, 0.2]]}, None),
        ("predict", {"predictions": [1, 2]}, None),
        ("predict", {"predictions": ["a"]}, None),
        ("predict", {"predictions": []}, None),
        ("predict", {"predictions": [{"p": 0.5}, 3]}, None),
        ("predict", {"other": 1}, None),
        ("predict", [1.5], None),
        ("regress", {"results": [0.5, 1.5]}, [0.5, 1.5]),
        ("classify", {"results": [[["low", 0.5]]]}, None),
        ("classify", {"results": [["low", 0.5]]}, None),
        ("classify", {"results": [[["low", 0.25], ["high", 0.75]]]}, [0.875]),
        # Probabilities of classes: which class, and how surely.
        ("predict", {"predictions": [[0.75, 0.25, 0.0], [0.25, 0.5, 0.25]]}, [0.25, 0.5]),
        ("predict", {"predictions": [{"class": "mid", "probabilities": [0.25, 0.5, 0.25]}]}, [0.5]),
        ("predict", {"outputs": {"class": ["mid"], "probabilities": [[0.25, 0.5, 0.25]]}}, [0.5]),
        ("predict", {"predictions": [[0.5, 0.6]]}, None),
        ("predict", {"predictions": [[1.5, -0.5]]}, None),
        # A value beside its quantiles, whichever comes first by name.
        ("predict", {"predictions": [{"prediction": 7.5, "quantiles": [5.0, 7.5, 9.0]}]}, [7.5]),
        ("predict", {"predictions": [{"a": [0.25, 0.75], "p": 7.5}]}, [7.5]),
    ],
)
def test_numbers_of_a_rest_answer(verb, answer, numbers):
    assert answers.from_rest(verb, json.dumps(answer).encode()) == numbers


def test_an_answer_that_is_no_json_has_no_numbers():
    assert answers.from_rest("predict", b"<html>") is None


@pytest.mark.parametrize("text", [b'{"predictions": [NaN]}', b'{"outputs": [0.5, -Infinity]}'])
def test_an_answer_with_a_number_that_is_not_finite_is_known_for_it(text):
    (number,) = answers.from_rest("predict", text)
    assert math.isnan(number)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("content", [True, False])
def test_numbers_of_a_grpc_answer(dtype, content):
    def response(**outputs) -> bytes:
        message = predict_pb2.PredictResponse()
        for name, array in outputs.items():
            message.outputs[name].CopyFrom(tf.make_tensor_proto(array))
            if not content:
                proto = message.outputs[name]
                proto.tensor_content = b""
                field = {1: "float_val", 2: "double_val", 9: "int64_val"}[proto.dtype]
                del getattr(proto, field)[:]
                getattr(proto, field).extend(np.asarray(array).ravel().tolist())
        return message.SerializeToString()

    column = np.array([0.25, 0.5], dtype)
    assert answers.from_grpc("Predict", response(p=column)) == [0.25, 0.5]
    assert answers.from_grpc("Predict", response(p=column[:, None], z=column + 1)) == [0.25, 0.5]
    assert answers.from_grpc("Predict", response(a=np.array([1, 2]), p=column)) == [0.25, 0.5]
    assert answers.from_grpc("Predict", response(p=np.ones((2, 2), dtype))) is None
    assert answers.from_grpc("Predict", response(p=dtype(1.5))) is None
    classes = np.array([[0.75, 0.25, 0], [0.25, 0.5, 0.25]], dtype)
    assert answers.from_grpc("Predict", response(probabilities=classes)) == [0.25, 0.5]
    assert answers.from_grpc("Predict", response(p=column, probabilities=classes)) == [0.25, 0.5]
    classes[1, 0] = np.nan
    assert math.isnan(answers.from_grpc("Predict", response(probabilities=classes))[1])
    assert answers.from_grpc("Predict", b"\xff") is None


def test_numbers_of_a_regression():
    response = regression_pb2.RegressionResponse()
    response.result.regressions.add(value=0.5)
    response.result.regressions.add(value=2.0)
    assert answers.from_grpc("Regress", response.SerializeToString()) == [0.5, 2.0]
    assert answers.from_grpc("Classify", response.SerializeToString()) is None


def test_numbers_of_a_classification():
    response = classification_pb2.ClassificationResponse()
    for scores in ((0.25, 0.75), (1.0, 0.0)):
        row = response.result.classifications.add()
        for label, score in zip(("low", "high"), scores, strict=True):
            row.classes.add(label=label, score=score)
    numbers = answers.from_grpc("Classify", response.SerializeToString())
    assert numbers == pytest.approx([0.875, 0.5], abs=1e-5)


@pytest.mark.parametrize("rows", [[[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]], [[0.2, 0.5, 0.3]]])
def test_classes_are_counted_as_their_task_scores_them(rows):
    task = task_of(ExampleSchema((), "y", "at", (), (), task="multiclass", classes=("a", "b", "c")))
    numbers = answers.from_rest("predict", json.dumps({"predictions": rows}).encode())
    assert numbers == pytest.approx(task.score(np.array(rows)).tolist())


def test_percentiles_are_within_five_percent():
    randomly = random.Random(3)
    drawn = sorted(math.exp(randomly.gauss(0.5, 1.5)) for _ in range(20_000))
    latency = Latency()
    for latency_ms in drawn:
        latency.add(latency_ms)
    for share in (0.5, 0.9, 0.99, 0.999):
        assert latency.quantile(share) == pytest.approx(drawn[math.ceil(share * len(drawn)) - 1], rel=0.05)
    assert latency.as_dict()["max"] == drawn[-1]
    assert latency.as_dict()["mean"] == pytest.approx(sum(drawn) / len(drawn))
    assert Latency().as_dict() == {"mean": None, "p50": None, "p95": None, "p99": None, "max": None}


def test_numbers_are_counted_by_twentieths():
    numbers = Numbers()
    numbers.add([0.0, 0.049, 0.05, 1.0, 0.999, 1.5, -0.5, math.nan, math.inf])
    summary = numbers.as_dict()
    assert (summary["count"], summary["histogram"][0], summary["histogram"][1], summary["histogram"][19]) == (
        7,
        2,
        1,
        2,
    )
    assert sum(summary["histogram"]) == 5
    assert summary["mean"] == pytest.approx((0.049 + 0.05 + 1.0 + 0.999 + 1.5 - 0.5) / 7)


def test_a_batch_is_one_answer():
    numbers = Numbers()
    numbers.add([0.12] * 600 + [0.62] * 400)
    numbers.add([0.12])
    numbers.add(None)
    numbers.add([0.5, math.nan])
    assert numbers.kinds[0] == 1 and numbers.kinds[2 + 2] == pytest.approx(1.6)
    assert sum(numbers.kinds) == pytest.approx(4), "each answer counts 1"
    assert (numbers.means.count, numbers.not_finite) == (3, 1)
    assert numbers.means.total == pytest.approx(0.32 + 0.12 + 0.5)
    assert numbers.means.squares == pytest.approx(0.32**2 + 0.12**2 + 0.25)


def test_pairs_tell_what_became_of_a_request_with_one_version_alone():
    pairs = Pairs()
    pairs.add_outcomes(Outcome(200, [0.5], 1.0), Outcome(503, None, 1.0))
    pairs.add_outcomes(Outcome(400, None, 1.0), Outcome(400, None, 1.0))
    pairs.add_outcomes(Outcome(501, None, 1.0), Outcome(200, [math.nan], 1.0))
    assert pairs.only_candidate == {"failed": 1, "not_finite": 1}
    assert pairs.only_stable == {"refused": 1}
    assert (pairs.count, pairs.stable_latency.count) == (0, 3)


def test_pairs_tell_how_far_answers_are_apart():
    pairs = Pairs()
    assert pairs.as_dict()["largest_difference"] is None
    pairs.add([0.5, 0.25], [0.5, 0.25])
    pairs.add([0.5, math.nan], [0.5 + 1e-8, math.nan])
    assert pairs.as_dict()["differing"] == 0
    pairs.add([0.5, 0.25], [0.75, 0.25])
    pairs.add([0.5], [0.5, 0.5])
    pairs.add([math.nan], [0.5])
    summary = pairs.as_dict()
    assert (summary["count"], summary["differing"], summary["largest_difference"]) == (5, 3, 0.25)
    assert summary["mean_difference"] == pytest.approx(0.25 / 7, rel=1e-6)


def test_codes_make_failed_and_refused():
    counts = Counts()
    for code in (200, 200, 400, 404, 499, 500, 501, 503, 504):
        counts.stable.traffic.add(code, 1.0)
    summary = counts.stable.as_dict(3)
    assert (summary["version"], summary["requests"], summary["failed"], summary["refused"]) == (3, 9, 3, 4)
    assert summary["codes"]["200"] == 2


def test_counts_outlive_being_saved():
    counts = Counts()
    counts.candidate.traffic.add(503, 12.0)
    counts.candidate.numbers.add([0.5])
    counts.candidate.unserved = 2
    counts.pairs.add_outcomes(Outcome(200, [0.1], 3.0), Outcome(200, [0.3], 4.0))
    for arm in counts.stable.counted(7):
        arm.traffic.add(400, 2.0)
    assert Counts.from_saved(json.loads(json.dumps(asdict(counts)))) == counts


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"a": 1}', '{"a": {"stable": {}}}', '{"a": null}'])
def test_a_broken_state_file_lets_counting_begin_anew(tmp_path, text):
    file = tmp_path / "state.json"
    file.write_text(text)
    trials = Trials(file)
    trials.follow({"m": Release("m", "a", 1, 2)})
    assert trials.as_dict()["m"]["sides"]["stable"]["requests"] == 0


def test_what_an_older_router_counted_begins_anew_and_the_log_says_why(tmp_path, caplog):
    """It has no sums by request, and those of later requests alone would not fit its other figures."""
    file = tmp_path / "state.json"
    numbers = {"count": 1, "total": 0.5, "histogram": [0] * 20, "skipped": 0}
    latency = {"buckets": {"3": 1}, "count": 1, "total": 1.0, "largest": 1.0}
    arm = {"traffic": {"codes": {"200": 1}, "latency": latency}, "numbers": numbers, "unserved": 0}
    pairs = {"count": 0, "differing": 0, "largest": 0.0, "total": 0.0, "numbers": 0, "dropped": 0}
    file.write_text(json.dumps({"a": {"stable": arm, "candidate": arm, "pairs": pairs}}))
    trials = Trials(file)
    trials.follow({"m": Release("m", "a", 1, 2)})
    assert trials.as_dict()["m"]["sides"]["stable"]["requests"] == 0
    assert "counted in format 1" in caplog.text


def test_counts_wait_for_their_release(tmp_path):
    """Where the file of releases is broken as the router starts, what was counted is not lost."""
    file, release = tmp_path / "state.json", Release("m", "a", 1, 2)
    first = Trials(file)
    first.follow({"m": release})
    first.of["m"].counts.stable.traffic.add(200, 1.0)
    asyncio.run(first.save())
    second = Trials(file)
    asyncio.run(second.save())
    third = Trials(file)
    third.follow({"m": release})
    assert third.as_dict()["m"]["sides"]["stable"]["requests"] == 1
    third.follow({})
    asyncio.run(third.save())
    assert json.loads(file.read_text()) == {}


def test_a_release_counts_on_under_its_id_and_anew_under_another():
    trials = Trials()
    trials.follow({"m": Release("m", "a", 1, 2, share=0.1)})
    trials.of["m"].counts.stable.traffic.add(200, 1.0)
    trials.follow({"m": Release("m", "a", 1, 2, share=0.5)})
    status = trials.as_dict()["m"]
    assert (status["share"], status["sides"]["stable"]["requests"]) == (0.5, 1)
    trials.follow({"m": Release("m", "b", 1, 2, share=0.5)})
    assert trials.as_dict()["m"]["sides"]["stable"]["requests"] == 0
    trials.follow({})
    assert trials.as_dict() == {}


def answered(trials: Trials, requests: int, reads: list[bytes]) -> dict:
    """What is counted of so many requests, each of which is answered with the version."""

    async def ask(version: int | None, side: str) -> Answer:
        return Answer(200, f"{version}".encode())

    def read(content: bytes) -> list[float]:
        reads.append(content)
        return [float(content)]

    async def all_of_them() -> None:
        for _ in range(requests):
            await trials.answer(trials.of["m"], RoutedRequest(key=None, ask=ask, read=read, size=1))
            for _ in range(10):  # What follows an answer takes its turns.
                await asyncio.sleep(0)

    asyncio.run(all_of_them())
    return trials.as_dict()["m"]


def test_a_request_is_counted_at_once_with_its_numbers():
    trials = Trials()
    trials.follow({"m": Release("m", "a", 1, 2, share=1.0)})

    async def ask(version: int | None, side: str) -> Answer:
        return Answer(200, b"nan")

    async def seen() -> list[tuple[int, int]]:
        """Requests and answers that are not finite, as whoever reads the status at each turn of the loop has them."""
        arm = trials.of["m"].counts.candidate
        await trials.answer(trials.of["m"], RoutedRequest(key=None, ask=ask, read=lambda _: [math.nan], size=1))
        turns = []
        for _ in range(3):
            turns.append((sum(arm.traffic.codes.values()), arm.numbers.not_finite))
            await asyncio.sleep(0)
        return turns

    turns = asyncio.run(seen())
    assert all(requests == not_finite for requests, not_finite in turns), turns
    assert turns[-1] == (1, 1)


def test_numbers_are_compared_in_units_of_the_releases_range():
    trials = Trials()
    trials.follow({"m": Release("m", "a", 100, 300, share=0.5, low=-100.0, high=300.0)})
    counted = answered(trials, 40, [])
    assert (counted["low"], counted["high"]) == (-100, 300)
    assert [counted["sides"][side]["answers"]["mean"] for side in ("stable", "candidate")] == [0.5, 1.0]
    assert sum(counted["sides"]["stable"]["answers"]["histogram"]) > 0
    comparisons = {rule["name"]: rule for rule in counted["standing"]["rules"]}
    assert "mean answer" in comparisons


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_a_range_that_is_none_is_refused(low, high):
    with pytest.raises(TerminalError, match="range"):
        Release("m", "a", 1, 2, low=low, high=high)


def test_nothing_is_counted_while_the_candidate_has_no_share_to_compare_with():
    trials = Trials()
    trials.follow({"m": Release("m", "a", 1, 2, share=0.0)})
    status = answered(trials, 5, [])
    assert [status["sides"][side]["requests"] for side in ("stable", "candidate")] == [0, 0]
    assert status["sides"]["stable"]["answers"]["count"] == 0
    trials.follow({"m": Release("m", "a", 1, 2, share=1e-12)})
    assert answered(trials, 5, [])["sides"]["stable"]["requests"] == 5


def test_a_shadow_request_keeps_the_stable_answers_numbers_and_not_the_answer():
    trials = Trials()
    trials.follow({"m": Release("m", "a", 1, 2, mode="shadow", share=1.0)})
    reads: list[bytes] = []
    status = answered(trials, 3, reads)
    assert sorted(reads) == [b"1"] * 3 + [b"2"] * 3, "each answer is read once"
    assert (status["pairs"]["count"], status["pairs"]["largest_difference"]) == (3, 1.0)


def test_a_split_counts_by_groups_of_callers():
    trials = Trials()
    trials.follow({"m": Release("m", "a", 1, 2, mode="split", share=0.5)})

    async def ask(version: int | None, side: str) -> Answer:
        return Answer(200, b"0.5")

    async def all_of_them() -> None:
        for number in range(300):
            key = str(number % 3) if number < 200 else None
            await trials.answer(trials.of["m"], RoutedRequest(key=key, ask=ask, read=lambda content: [0.5], size=1))
        await asyncio.sleep(0)

    asyncio.run(all_of_them())
    counts = trials.of["m"].counts
    for arm in (counts.stable, counts.candidate):
        cells = arm.cells.values()
        assert sum(sum(cell.traffic.codes.values()) for cell in cells) == sum(arm.traffic.codes.values())
        assert sum(cell.numbers.means.count for cell in cells) == arm.numbers.means.count
    # Three callers have 200 requests, each in one group of one version; requests without a caller are spread.
    for key in "012":
        groups = [arm.cells.get(cell("a", key)) for arm in (counts.stable, counts.candidate)]
        assert max(sum(group.traffic.codes.values()) for group in groups if group) >= 66
    assert len(counts.stable.cells) + len(counts.candidate.cells) > CELLS // 2


def test_the_status_tells_how_a_release_stands_by_its_margins():
    trials = Trials()
    trials._random.seed(1)  # One draw in sixteen would send all five to one side.
    trials.follow({"m": Release("m", "a", 1, 2, share=0.5, margins={"requests": 7})})
    standing = answered(trials, 5, [])["standing"]
    assert standing["decision"] == "undecided"
    assert "at least 7 requests to each" in standing["reason"]
    assert standing["more_requests"] > 100
    json.dumps(standing, allow_nan=False)


def test_keys_are_spread_evenly_and_otherwise_in_each_release():
    places = [place("a", str(key)) for key in range(4000)]
    assert all(0 <= position < 1 for position in places)
    assert sum(position < 0.25 for position in places) == pytest.approx(1000, abs=150)
    assert place("a", "1") == places[1] != place("b", "1")


BROKEN = [
    "{",
    "[]",
    "null",
    '{"m": 1}',
    '{"m": {"id": "b"}}',
    '{"m": {"id": "b", "stable": "1", "candidate": 2}}',
    '{"m": {"id": "b", "stable": 1, "candidate": true}}',
    '{"m": {"id": "", "stable": 1, "candidate": 2}}',
    '{"m": {"id": "b", "stable": 1, "candidate": 2, "share": 2}}',
    '{"m": {"id": "b", "stable": 1, "candidate": 2, "share": "all"}}',
    '{"m": {"id": "b", "stable": 1, "candidate": 2, "mode": "other"}}',
    '{"a/b": {"id": "b", "stable": 1, "candidate": 2}}',
    '{"m": {"id": "b", "stable": 1, "candidate": 2, "margins": {"failed": "much"}}}',
    '{"m": {"id": "b", "stable": 1, "candidate": 2, "margins": [1]}}',
    b"\xff\xfe",
    "[" * 100_000,
]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_leaves_the_releases_as_they_were(tmp_path, content):
    seen = []
    follower = Follower(tmp_path, seen.append)
    follower.look()
    assert seen == [{}]
    release = Release("m", "a", 1, 2)
    state.write(tmp_path, {"m": release})
    follower.look()
    follower.look()
    assert seen == [{}, {"m": release}]
    (tmp_path / state.FILE).write_bytes(content.encode() if isinstance(content, str) else content)
    follower.look()
    assert len(seen) == 2 and follower.error
    state.write(tmp_path, {})
    follower.look()
    assert seen[2:] == [{}] and not follower.error


def test_a_file_that_cannot_be_read_for_a_moment_is_read_at_the_next_look(tmp_path, monkeypatch, caplog):
    seen = []
    follower = Follower(tmp_path, seen.append)
    follower.look()
    release = Release("m", "a", 1, 2)
    state.write(tmp_path, {"m": release})

    def fails(root):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(state, "read", fails)
        for _ in range(3):
            follower.look()
        assert "Too many open files" in follower.error and seen == [{}]
    assert caplog.text.count("The releases stay as they were") == 1, "it is looked at ten times a second"
    follower.look()
    assert seen == [{}, {"m": release}] and not follower.error


def test_the_last_counts_are_those_that_are_kept(tmp_path, monkeypatch):
    """The write that is under way when the router stops ends after the last one has begun, or not at all."""
    file, release = tmp_path / "state.json", Release("m", "a", 1, 2)
    first_begins, last_begins = threading.Event(), threading.Event()
    write, writes = module.write_text, itertools.count()

    def slow(path, text):
        if not next(writes):
            first_begins.set()
            last_begins.wait(1)  # It does not, where the last write waits for this one.
        else:
            last_begins.set()
        write(path, text)

    monkeypatch.setattr(module, "write_text", slow)

    async def stop() -> None:
        trials = Trials(file)
        trials.follow({"m": release})
        trials.of["m"].counts.stable.traffic.add(200, 1.0)
        saving = asyncio.create_task(trials.save())
        await asyncio.to_thread(first_begins.wait, 60)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
        trials.of["m"].counts.stable.traffic.add(200, 1.0)
        await trials.close()

    asyncio.run(stop())
    again = Trials(file)
    again.follow({"m": release})
    assert again.as_dict()["m"]["sides"]["stable"]["requests"] == 2


def test_a_write_that_fails_after_it_was_cancelled_is_made_again(tmp_path, monkeypatch):
    file, release = tmp_path / "state.json", Release("m", "a", 1, 2)
    begins, go_on = threading.Event(), threading.Event()
    write, writes = module.write_text, itertools.count()

    def fails(path, text):
        if not next(writes):
            begins.set()
            go_on.wait(60)
            raise OSError("no room")
        write(path, text)

    monkeypatch.setattr(module, "write_text", fails)

    async def stop() -> None:
        trials = Trials(file)
        trials.follow({"m": release})
        saving = asyncio.create_task(trials.save())
        await asyncio.to_thread(begins.wait, 60)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
        closing = asyncio.create_task(trials.close())
        go_on.set()
        await closing

    asyncio.run(stop())
    assert release.id in json.loads(file.read_text())


@pytest.mark.parametrize("text", ["http://127.0.0.1:8511=127.0.0.1:8510", "http://127.0.0.1:8511/,127.0.0.1:8510"])
def test_an_address(text):
    parsed = address(text)
    assert (parsed.rest, parsed.grpc) == ("http://127.0.0.1:8511", "127.0.0.1:8510")


@pytest.mark.parametrize(
    "text",
    ["", "http://127.0.0.1:8511", "127.0.0.1:8511=127.0.0.1:8510", "http://h:1=2", "http://h:x=h:1", "http://h=h:1"],
)
def test_what_is_no_address(text):
    with pytest.raises(TerminalError, match="does not know its servers"):
        address(text)


def test_a_server_is_named_once(tmp_path):
    server = "--server=http://127.0.0.1:1=127.0.0.1:2"
    with pytest.raises(TerminalError, match="twice"):
        settings_from_flags([f"--models_root={tmp_path}", server, server])
    assert len(settings_from_flags([f"--models_root={tmp_path}", server]).servers) == 1
