"""A release before real servers and the real router, under a load that never pauses: what callers get meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import itertools
import json
import math
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tensorflow as tf

from airtight.verdict import Verdict
from components.modelling.model_server import SERVER_VARIABLE
from components.modelling.served import RELEASE, Choice, Served
from tests.components.release.site import Site
from tests.components.standins import Artifacts
from tests.serving import models
from tests.serving.router import routers
from tests.waiting import until

pytestmark = pytest.mark.slow

STABLE, GOOD, SILENT, FAILING, OTHER = range(201306010400001, 201306010400006)
POLLING = ("--model_config_file_poll_wait_seconds=0.2", "--file_system_poll_wait_seconds=0.2")


class Refusing(tf.Module):
    """Answers nothing but the row with which a server tries it."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        sound = tf.reduce_all(tf.math.is_nan(x) | (x <= 0.0))
        with tf.control_dependencies([tf.debugging.Assert(sound, ["out of order"])]):
            return {"y": tf.identity(x)}


def save(folder: Path) -> None:
    """The served version, one as good, one that answers NaN, one that refuses, and one that answers something else."""
    folder.mkdir(parents=True)
    models.save_affine(folder / str(STABLE), 0.5)
    models.save_affine(folder / str(GOOD), 0.5, 0.001)
    models.save_affine(folder / str(SILENT), 0.5, math.nan)
    tf.saved_model.save(Refusing(), str(folder / str(FAILING)))
    models.save_affine(folder / str(OTHER), 0.1, 0.85)


class Load:
    """Callers who ask for the model, and name no version, until the block ends.

    Args:
      port: The router's.
      callers: How many.
    """

    def __init__(self, port: int, callers: int = 2) -> None:
        self.port, self.callers = port, callers
        self.statuses: Counter[int] = Counter()
        self.versions: list[str] = []
        self.ended = threading.Event()

    def __enter__(self) -> Load:
        self.pool = ThreadPoolExecutor(self.callers)
        self.asking = [self.pool.submit(self.ask) for _ in range(self.callers)]
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.pool.shutdown()
        for asking in self.asking:
            asking.result()

    def ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            for number in itertools.count():
                if self.ended.is_set():
                    return
                body = json.dumps({"instances": [(number * 0.6180339887) % 1]})
                connection.request("POST", "/v1/models/toy:predict", body)
                answer = connection.getresponse()
                answer.read()
                self.statuses[answer.status] += 1
                self.versions.append(answer.headers.get("x-airtight-version", ""))


@pytest.fixture
def live(tmp_path, monkeypatch):
    """A site whose server and router are the real ones, and the router's port."""
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    root = tmp_path / "models"
    save(root / "toy")
    served = Served(root)
    served.enter("toy")
    served.choose("toy", Choice.only(STABLE, at="2013-06-02", by=RELEASE))
    with models.running(tmp_path, f"--model_config_file={served.file}", *POLLING) as server:
        until(lambda: server.states("toy").get(STABLE) == "AVAILABLE", "the first version is served")
        with routers.routing(tmp_path / "router", root, [(server.rest, server.grpc)]) as router:
            site = object.__new__(Site)
            site.folder, site.artifacts, site.served = tmp_path, Artifacts(tmp_path), served
            site.there = dataclasses.make_dataclass("There", ["url"])(f"http://127.0.0.1:{router.admin_port}")
            url = f"http://127.0.0.1:{server.rest}"
            site.named = {"serving_root": str(root), "server_url": url, "timeout_s": 120.0}
            yield site, router.rest


JUDGED = {"watched": ""}
TRIED = {
    **{"share": 0.5, "min_requests": 100, "minutes": 0.0, "longest_minutes": 5.0},
    # How long a busy machine takes says nothing of a candidate; and 5 % need fewer requests than 1 %.
    **{"slow_floor_ms": 6e4, "max_more_failed": 0.05, "max_more_refused": 0.05},
}


def test_under_load_a_good_one_takes_over_a_bad_one_is_taken_back_and_a_rollback_ends_a_release(live):
    site, port = live
    with Load(port) as load:
        release = site.start(GOOD, **TRIED)
        decision = site.judge(release, **JUDGED)
        assert decision.promoted == 1, decision.reason
        made = site.finish(release, decision)
        assert (made.from_version, made.to_version) == (STABLE, GOOD)
        until(lambda: load.versions[-1] == "", "no release chooses any more")

        other = site.start(OTHER, **TRIED)
        decision = site.judge(other, **JUDGED)
        assert "mean answer is " in decision.reason, decision.reason
        assert site.finish(other, decision).to_version == GOOD

        silent = site.start(SILENT, **TRIED)
        decision = site.judge(silent, **JUDGED)
        assert "not finite share is 1" in decision.reason, decision.reason
        assert site.finish(silent, decision).to_version == GOOD
        assert "not finite share is 1" in site.choice.reason
        assert (site.choice.versions, site.choice.by) == ((GOOD,), RELEASE)

        site.start(STABLE, **TRIED)
        until(lambda: load.versions[-1] == str(STABLE), "the candidate answers")
        assert site.promote(site.propose("previous")).to_version == GOOD
    assert set(load.statuses) == {200}, load.statuses
    assert {str(GOOD), str(STABLE), str(OTHER), str(SILENT)} < set(load.versions)
    assert site.choice.versions == (GOOD,)

    with Load(port) as load:
        failing = site.start(FAILING, **TRIED | {"minutes": 4.0})
        decision = site.judge(failing, **JUDGED)
        assert "refused share is 1" in decision.reason, decision.reason
        assert site.finish(failing, decision).to_version == GOOD
        # Nobody waited until its four minutes were over.
        checks = {check.name: check for check in Verdict.read(Path(decision.uri)).checks}
        assert checks["refused share"].value == pytest.approx(1.0)
        answered = load.statuses.total()
        until(lambda: load.statuses.total() > answered + 50, "further requests")
    refused = load.statuses[400]
    assert set(load.statuses) == {200, 400}
    assert refused < load.statuses[200]
