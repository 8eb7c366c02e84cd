"""try_serving: the real server on a candidate, its answers, and what a gate says of a bad one."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from airtight.errors import TerminalError, TransientError
from airtight.verdict import Verdict
from components import try_serving as module
from components.modelling import candidate_server, judged
from components.schema import ExampleSchema, Feature
from tests.serving import models

SCHEMA = ExampleSchema(
    features=(Feature("colour", "category", "a colour"), Feature("size", "number", "a size", "m")),
    label="broken",
    time="at",
    keys=(),
    slices=(),
)
INTERVAL = ("2020-03-01T00:00:00+00:00", "2020-04-01T00:00:00+00:00")


class Candidate(tf.Module):
    """A probability of a colour and a size; `missing` stands for a size that is not known."""

    def __init__(self, missing: float) -> None:
        super().__init__()
        table = tf.lookup.KeyValueTensorInitializer(["red", "green"], [1.0, -1.0])
        self.colours = tf.lookup.StaticHashTable(table, 0.0)
        self.missing = tf.constant(missing)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="colour"),
            tf.TensorSpec([None], tf.float32, name="size"),
        ]
    )
    def serve(self, colour, size):
        filled = tf.where(tf.math.is_nan(size), self.missing, size)
        return {"probability": tf.sigmoid(self.colours.lookup(colour) + filled)}


@pytest.fixture(scope="module")
def candidate(tmp_path_factory) -> Path:
    """A Model artifact's folder with a good candidate."""
    folder = tmp_path_factory.mktemp("candidate")
    module_ = Candidate(0.25)
    tf.saved_model.save(module_, str(folder / "Format-Serving"), signatures=module_.serve)
    return folder


def rows(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    size = rng.normal(size=count).astype(np.float32)
    size[::3] = np.nan
    return {"colour": rng.choice(["red", "green", "", "Zürich"], count).astype(object), "size": size}


def examples(folder: Path, count: int) -> standard_artifacts.Examples:
    (folder / "Split-test").mkdir(parents=True)
    columns = rows(count)
    table = pa.table({"colour": pa.array(columns["colour"], pa.string()), "size": columns["size"]})
    pq.write_table(table, folder / "Split-test" / "examples-00000-of-00001.parquet")
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder)
    for name, value in zip(("interval_start", "interval_end"), INTERVAL, strict=True):
        artifact.set_string_custom_property(name, value)
    return artifact


def run(folder: Path, model: Path, count: int, blessed: int | None = 1, of: Path | None = None, **settings):
    artifacts = {}
    for name, kind in (("model", "Model"), ("infra_blessing", "InfraBlessing"), ("blessing", "ModelBlessing")):
        artifacts[name] = getattr(standard_artifacts, kind)()
        artifacts[name].uri = str(model if name == "model" else folder / name)
        Path(artifacts[name].uri).mkdir(exist_ok=True)
    if blessed is None:
        artifacts["blessing"] = None
    else:
        artifacts["blessing"].set_int_custom_property("blessed", blessed)
        other = standard_artifacts.Model()
        other.uri = str(of or model)
        judged.write(artifacts["blessing"], other)
    module.try_serving.EXECUTOR_SPEC.executor_class._FUNCTION(
        examples=examples(folder / "examples", count),
        schema="toy:SCHEMA",
        **artifacts,
        **{"requests": 20, "p99_limit_ms": 10_000.0, "start_timeout_s": 120.0} | settings,
    )
    return artifacts["infra_blessing"], Verdict.read(folder / "infra_blessing")


@pytest.fixture(autouse=True)
def named(monkeypatch):
    monkeypatch.setattr(module, "load", {"toy:SCHEMA": SCHEMA}.__getitem__)


@pytest.mark.slow
def test_a_good_candidate_is_blessed_on_answers_that_agree(tmp_path, candidate):
    blessing, verdict = run(tmp_path, candidate, 50)
    assert verdict.passed, verdict
    assert blessing.get_int_custom_property("blessed") == 1
    assert (tmp_path / "infra_blessing" / "INFRA_BLESSED").exists()
    checks = {check.name: check for check in verdict.checks}
    assert checks["REST answers"].value == checks["gRPC answers"].value == 20
    for name in ("REST equals gRPC", "served equals called in process"):
        assert checks[name].value <= 1e-6
    assert 0 < checks["REST p50 in ms"].value <= checks["REST p99 in ms"].value
    # A process that has imported TensorFlow is resident in more than this, and the small candidate in less than that.
    assert 100 < checks["memory in MiB"].value <= 2048 and checks["memory in MiB"].threshold == "<= 2048"
    assert blessing.get_string_custom_property("interval_end") == INTERVAL[1]


@pytest.mark.slow
def test_a_candidate_beyond_the_latency_limit_is_not_blessed(tmp_path, candidate):
    blessing, verdict = run(tmp_path, candidate, 5, p99_limit_ms=1e-6, blessed=None)
    assert blessing.get_int_custom_property("blessed") == 0
    assert {check.name for check in verdict.checks if not check.passed} == {"REST p99 in ms", "gRPC p99 in ms"}
    assert (tmp_path / "infra_blessing" / "INFRA_NOT_BLESSED").exists()


@pytest.mark.slow
def test_a_candidate_beyond_the_memory_limit_is_not_blessed_and_that_is_no_fault(tmp_path, candidate):
    blessing, verdict = run(tmp_path, candidate, 5, memory_limit_mb=64)
    assert blessing.get_int_custom_property("blessed") == 0
    (failed,) = (check for check in verdict.checks if not check.passed)
    assert failed.name == "memory in MiB" and failed.value > 64 and failed.threshold == "<= 64"
    assert "memory in MiB" in blessing.get_string_custom_property("reason")


def test_the_memory_of_a_process_is_what_the_kernel_says_it_was_at_its_largest():
    largest_mb = candidate_server.largest_resident_mb(os.getpid())
    assert largest_mb == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, rel=0.05)
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert candidate_server.largest_resident_mb(ended.pid) == 0


@pytest.mark.slow
def test_an_answer_that_is_no_number_and_a_model_that_does_not_load_are_told(tmp_path, candidate):
    module_ = Candidate(float("nan"))
    folder = tmp_path / "nan"
    tf.saved_model.save(module_, str(folder / "Format-Serving"), signatures=module_.serve)
    (tmp_path / "first").mkdir()
    blessing, verdict = run(tmp_path / "first", folder, 6)
    assert blessing.get_int_custom_property("blessed") == 0
    assert verdict.checks[1].name == "REST answers"
    assert "no finite number" in verdict.checks[1].note

    (folder / "Format-Serving" / "saved_model.pb").write_bytes(b"\x0a\x05nonsense")
    (tmp_path / "second").mkdir()
    blessing, verdict = run(tmp_path / "second", folder, 6)
    assert [(check.name, check.passed) for check in verdict.checks] == [("loads", False)]
    assert verdict.checks[0].note


def test_what_evaluate_did_not_bless_is_not_tried(tmp_path, candidate, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)  # A server that was started would fail the test.
    blessing, verdict = run(tmp_path, candidate, 5, blessed=0)
    assert blessing.get_int_custom_property("blessed") == 0
    assert "Not tried" in verdict.checks[0].note


def test_a_blessing_of_another_model_is_refused(tmp_path, candidate, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    (tmp_path / "other" / "Format-Serving").mkdir(parents=True)
    with pytest.raises(TerminalError, match="evaluate judged another model"):
        run(tmp_path, candidate, 5, of=tmp_path / "other")


def test_an_empty_split_is_not_blessed_in_words(tmp_path, candidate):
    blessing, verdict = run(tmp_path, candidate, 0)
    assert blessing.get_int_custom_property("blessed") == 0
    assert "no rows" in verdict.checks[0].note
    assert blessing.get_string_custom_property(judged.URI) == str(candidate)  # push compares it with its model.
    assert blessing.get_string_custom_property(judged.DIGEST)


def test_answers_that_differ_fail_the_comparison():
    check = module._equal("REST equals gRPC", np.array([0.1, 0.2]), np.array([0.1, 0.2 + 2e-6]))
    assert not check.passed
    assert check.value == pytest.approx(2e-6)


@pytest.mark.slow
def test_a_server_that_cannot_start_is_a_fault_with_its_log(candidate, monkeypatch):
    monkeypatch.setattr(candidate_server, "ROOT", candidate)  # No package `serving` there.
    with pytest.raises(TransientError, match="No module named serving"):
        module.trial(candidate / "Format-Serving", SCHEMA, rows(3), 100.0, 60.0)


@pytest.mark.slow
def test_the_server_dies_with_the_process_that_started_it(tmp_path, candidate):
    program = f"""
        import time
        from pathlib import Path
        from components.modelling import candidate_server
        with candidate_server.serve(Path({str(candidate / "Format-Serving")!r}), 120) as server:
            print(server.process.pid, flush=True)
            time.sleep(600)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=models.ROOT,
        env={**os.environ, "PYTHONPATH": str(models.ROOT)},
        stdout=subprocess.PIPE,
    )
    server = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{server}/stat").exists() and Path(f"/proc/{server}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "the server outlived the process that started it"
        time.sleep(0.05)
