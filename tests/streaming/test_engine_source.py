from __future__ import annotations

from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.external import NamedTupleBasedPayloadBuilder

from airtight.errors import TerminalError
from streaming.engine.addresses import WORKERS
from streaming.engine.kafka_source import EventsOf, ReadEvents
from streaming.engine.options import flink_arguments
from streaming.run import in_process
from tests.streaming.engine_counts import KEYS, START_S, STEP_S, counts_to, expected, read_counts


def test_the_same_steps_run_over_a_list(tmp_path: Path) -> None:
    events = [(f"K{n % KEYS:02d}".encode(), str(n % 97).encode(), START_S + n * STEP_S) for n in range(1500)]
    in_process(counts_to(tmp_path / "counts", lambda: EventsOf(events)))
    assert read_counts(tmp_path / "counts") == expected(range(1500))


@pytest.mark.parametrize(
    "wrong",
    [
        {"topics": []},
        {"topics": "flights.events"},
        {"servers": ""},
        {"out_of_order_s": -1.0},
        {"idle_s": -1.0},
    ],
)
def test_a_source_that_is_not_described_whole_is_refused(wrong: dict[str, object]) -> None:
    arguments = {"servers": "127.0.0.1:9092", "topics": ["t"], "out_of_order_s": 1.0, **wrong}
    with pytest.raises(TerminalError, match="not described whole"):
        ReadEvents(**arguments)  # type: ignore[arg-type]


def test_the_callers_settings_of_the_consumer_are_kept_beside_ours() -> None:
    consumer = {"sasl.mechanism": "X", "isolation.level": "read_uncommitted"}
    payload = ReadEvents("b:1", ["t"], out_of_order_s=1.5, consumer=consumer)._payload
    ours = {"bootstrap.servers": "b:1", "isolation.level": "read_committed"}
    assert payload.consumer == {"sasl.mechanism": "X", **ours}
    assert (payload.out_of_order_ms, payload.idle_ms) == (1500, 0)
    schema = str(NamedTupleBasedPayloadBuilder(payload).build().schema)
    assert "pythonsdk_any" not in schema, "types that Java knows"
    assert [schema.count(f"atomic_type: {kind}") for kind in ("STRING", "INT64")] == [3, 2]


def test_options_of_the_command_line_become_flinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKERS, "pool:1")
    line = ["--slots=2", "--checkpoint_s=0.5", "--flink_job_server=there:8099"]
    flags = flink_arguments(PipelineOptions(line), "counts", "file:/s/1")
    options = PipelineOptions([*flags, "--max_bundle_size=7"]).get_all_options()
    wanted = {
        "parallelism": 2,
        "checkpointing_interval": 500,
        "finish_bundle_before_checkpointing": True,
        "savepoint_path": "file:/s/1",
        "job_endpoint": "there:8099",
        "environment_type": "EXTERNAL",
        "environment_config": "pool:1",
        "max_bundle_size": 7,
        "allow_non_restored_state": None,
    }
    assert {name: options[name] for name in wanted} == wanted
    loopback = flink_arguments(PipelineOptions(["--python_workers=loopback"]), "counts")
    assert "--environment_type=LOOPBACK" in loopback
    assert not [flag for flag in loopback if flag.startswith("--savepoint_path")]
