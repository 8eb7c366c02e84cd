"""OpenLineage events of nodes that run: what they say, that a replay says the same, and that no fault fails a node."""

import json
import os
import types
import typing
from dataclasses import replace
from pathlib import Path

import attr
import pytest
from openlineage.client import event_v2
from openlineage.client.generated import base

from airtight.home import Home
from airtight.verdict import Check, Verdict
from commands import lineage
from runtime.faults import Cancelled
from runtime.launch import launch
from runtime.openlineage.emit import Emitter, is_configured
from runtime.protocol import REPLAY
from tests.tiny_pipeline.running import JUNE, Run, fault

NODES = ("ingest", "validate", "train", "evaluate", "try_serving", "monitor", "push")


def configure(patch, folder: Path) -> Path:
    """Has events go to a file; gives it."""
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE")]:
        patch.delenv(name)
    patch.setenv("HOME", str(folder))
    patch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    patch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(folder / "events.jsonl"))
    patch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    return folder / "events.jsonl"


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def events(tmp_path, monkeypatch):
    """What a file has of the events so far."""
    file = configure(monkeypatch, tmp_path)
    return lambda: lines(file)


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> tuple[Home, list[dict]]:
    """A state folder with a run of all gates, and the events that it sent."""
    folder = tmp_path_factory.mktemp("audited")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRTIGHT_HOME", str(folder / "home"))
        patch.delenv("AIRTIGHT_METADATA", raising=False)
        patch.delenv("AIRTIGHT_MODEL_SERVER", raising=False)
        file = configure(patch, folder)
        run = Run(Home.current(), "tests.tiny_pipeline.audited:create_pipeline")
        for node in NODES:
            assert run.node(node).state == "complete"
        return run.home, lines(file)


def follows(kind, value) -> None:
    """Holds a JSON value against an OpenLineage class, or another type: names, what is required, types of the parts."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kinds = [part for part in parts if part is not type(None)]
        if len(kinds) > 1:
            assert isinstance(value, tuple(kinds))
        elif value is not None:
            follows(kinds[0], value)
    elif origin is list:
        for one in value:
            follows(parts[0], one)
    elif origin is dict:
        for one in value.values():
            follows(facet_class(one) if parts[1] in FACETS else parts[1], one)
    elif attr.has(kind):
        has_its_fields(kind, value)
    elif isinstance(kind, type) and not issubclass(kind, event_v2.RunState):
        assert isinstance(value, (int, float) if kind is float else kind), (kind, value)


def has_its_fields(kind, value) -> None:
    """Holds a JSON object against an OpenLineage class."""
    attr.resolve_types(kind)
    fields = {field.name: field for field in attr.fields(kind)}
    assert set(value) <= set(fields), kind
    for name, field in fields.items():
        if name in value:
            follows(field.type, value[name])
        else:
            assert field.default is not attr.NOTHING, f"{kind.__name__}.{name} is required"


FACETS = (base.RunFacet, base.JobFacet, base.DatasetFacet, base.InputDatasetFacet, base.OutputDatasetFacet)


def facet_class(facet) -> type:
    """The class of a facet by the address of its schema."""
    waiting, known = list(FACETS), {}
    while waiting:
        kind = waiting.pop()
        known[kind._get_schema()] = kind
        waiting += kind.__subclasses__()
    return known[facet["_schemaURL"]]


def of(events, node, kind="COMPLETE"):
    (event,) = [e for e in events if e["eventType"] == kind and e["job"]["name"].rpartition(".")[2] == node]
    return event


def test_every_node_sends_start_and_complete_as_openlineage_has_them(audited):
    _, sent = audited
    assert [(e["eventType"], e["job"]["name"]) for e in sent] == [
        (kind, f"flight_delays.{node}") for node in NODES for kind in ("START", "COMPLETE")
    ]
    for event in sent:
        follows(event_v2.RunEvent, event)
    runs = {event["run"]["runId"] for event in sent}
    assert len(runs) == len(NODES), "START and COMPLETE are of one run"
    parents = {json.dumps(event["run"]["facets"]["parent"], sort_keys=True) for event in sent}
    assert len(parents) == 1 and json.loads(parents.pop())["job"] == {
        **{"namespace": "airtight", "name": "flight_delays", "facets": {}}
    }
    assert of(sent, "ingest")["run"]["facets"]["nominalTime"]["nominalStartTime"] == JUNE["interval_start"]


def test_datasets_have_the_same_name_in_every_run_and_versions_rows_and_metrics(audited):
    _, sent = audited
    (dataset,) = of(sent, "ingest")["outputs"]
    assert dataset["name"] == "flight_delays.ingest.dataset"
    assert dataset["facets"]["version"]["datasetVersion"] == "d" * 64, "the lake's digest"
    assert dataset["facets"]["dataQualityMetrics"]["rowCount"] == 7
    (given,) = of(sent, "validate", "START")["inputs"]
    assert (given["name"], given["facets"]["version"]) == (dataset["name"], dataset["facets"]["version"])
    assert Path(given["facets"]["symlinks"]["identifiers"][0]["name"]).is_dir()
    model = next(made for made in of(sent, "train")["outputs"] if made["name"].endswith(".model"))
    assert len(model["facets"]["version"]["datasetVersion"]) == 64
    assert model["facets"]["datasetType"] == model["facets"]["datasetType"] | {
        **{"datasetType": "MODEL", "subType": "Model"}
    }
    evaluation = next(made for made in of(sent, "evaluate")["outputs"] if made["name"].endswith(".evaluation"))
    assert evaluation["facets"]["airtight_metrics"]["metrics"] == {"km": pytest.approx(0.3)}


def test_verdicts_are_tests_of_the_run_and_assertions_about_what_was_judged(audited):
    _, sent = audited
    evaluate = of(sent, "evaluate")
    tests = evaluate["run"]["facets"]["test"]["tests"]
    assert [(t["name"], t["status"], t["severity"]) for t in tests] == [
        ("km against the baseline", "pass", "error"),
        ("<slices>", "fail", "warn"),
    ]
    judged = {given["name"]: given["inputFacets"].get("dataQualityAssertions") for given in evaluate["inputs"]}
    assert judged["flight_delays.ingest.dataset"] is None
    first = judged["flight_delays.train.model"]["assertions"][0]
    assert (first["success"], first["expected"], first["actual"]) == (True, ">= 0.1", "0.2")
    (validated,) = of(sent, "validate")["inputs"]
    assert validated["inputFacets"]["dataQualityAssertions"]["assertions"][0]["assertion"] == "trips.km >= 0"


def test_a_replay_sends_the_same_events(audited, events, monkeypatch, capsys):
    home, sent = audited
    monkeypatch.setenv("AIRTIGHT_HOME", str(home.path))
    monkeypatch.delenv("AIRTIGHT_METADATA", raising=False)
    assert lineage.main(["--pipeline", "flight_delays"]) == 0
    assert f"{len(sent)} events were sent" in capsys.readouterr().out
    assert events() == sent
    assert lineage.main(["--pipeline", "flight_delays", "--run", "another", "--print"]) == 0
    assert capsys.readouterr().out == ""


def test_a_node_that_fails_sends_fail_with_the_fault(home, events):
    run = Run(home, trouble="terminal")
    run.node("write")
    assert run.node("copy").state == "failed"
    failed = of(events(), "copy", "FAIL")
    follows(event_v2.RunEvent, failed)
    assert "The words are wrong." in failed["run"]["facets"]["errorMessage"]["message"]
    assert failed["outputs"] == []
    assert of(events(), "copy", "START")["run"]["runId"] == failed["run"]["runId"]


def test_a_node_that_fails_before_it_is_registered_sends_both(home, events):
    assert Run(home).node("copy").state == "failed"
    start, failed = events()
    assert (start["eventType"], failed["eventType"]) == ("START", "FAIL")
    assert start["job"]["name"] == "tiny.copy" and start["run"]["runId"] == failed["run"]["runId"]


def test_a_gate_that_fails_keeps_its_tests(home, events, monkeypatch):
    """A failed node has no artifact, so validate leaves its verdict in the home."""
    from airtight.interval import Interval
    from runtime import metadata_store
    from runtime.openlineage import record

    run = Run(home, trouble="terminal")
    run.node("write")
    folder = home.failed_report("tiny", Interval.of(*JUNE.values()), "copy")
    real = record.read

    def leave_verdict(*args):
        Verdict("copy", "june", (Check("words are good", False, 2.0, "<= 0"),)).write(folder)
        return real(*args)

    monkeypatch.setattr(record, "read", leave_verdict)
    run.node("copy")
    failed = of(events(), "copy", "FAIL")
    assert failed["run"]["facets"]["test"]["tests"][0]["status"] == "fail"
    assert failed["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"][0]["success"] is False
    os.utime(folder / "verdict.json", (1, 1))
    with metadata_store.project_connection(home) as handle:
        attempts = list(record.attempts_of(handle.store, "tiny"))
        assert real(handle.store, attempts[-1], home).verdict is None, "that of an earlier attempt is not its own"


def test_what_the_cache_answers_is_the_dataset_of_who_made_it(home, events):
    for run in ("first", "second"):
        Run(home, "tests.tiny_pipeline.pushing:create_pipeline", run=run).node("make_model")
    first, second = (event for event in events() if event["eventType"] == "COMPLETE")
    assert second["run"]["facets"]["airtight_execution"]["state"] == "cached"
    assert first["outputs"] == second["outputs"]
    assert first["run"]["runId"] != second["run"]["runId"]


def test_what_a_resolver_hands_on_is_what_it_reads(home, events):
    june, july = ({}, {"interval_start": JUNE["interval_end"], "interval_end": "2013-08-01T00:00:00-04:00"})
    for name, interval in (("june", june), ("july", july)):
        run = Run(home, "tests.tiny_pipeline.champion:create_pipeline", run=name, push_it=1, **interval)
        for node in ("ingest", "train", "champion", "evaluate", "push"):
            assert run.node(node).state in ("complete", "cached"), node
    resolved = [e for e in events() if e["job"]["name"] == "champions.champion" and e["eventType"] == "COMPLETE"][-1]
    assert "champions.train.model" in {given["name"] for given in resolved["inputs"]}
    assert resolved["outputs"] == []
    for event in events():
        follows(event_v2.RunEvent, event)


def test_what_a_replay_of_a_past_run_executes_is_nobodys_lineage(home, events):
    run = Run(home)
    assert launch(replace(run.request("write"), labels={REPLAY: "key"})).state == "complete"
    assert events() == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_signal_to_stop_while_an_event_is_sent_stops_the_node(home, events, monkeypatch, wrapped):
    def stop(_, to_send):
        if not wrapped:
            raise Cancelled("a signal to stop")
        raise RuntimeError("not written") from Cancelled("a signal to stop")

    monkeypatch.setattr(Emitter, "emit", stop)
    outcome = Run(home).node("write")
    assert "The node was stopped before it ended." in fault(outcome)["message"]


def test_a_transport_that_is_away_fails_no_node_and_is_named_once(home, events, monkeypatch, caplog):
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__URL", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__RETRY", json.dumps({"total": 0}))
    assert Run(home).node("write").state == "complete"
    warnings = [r.getMessage() for r in caplog.records if r.name == "runtime.openlineage.emit"]
    assert len(warnings) == 1
    assert "events of write were not sent by the transport http." in warnings[0]


def test_settings_that_cannot_be_used_fail_no_node(home, events, monkeypatch, caplog, capsys):
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "pigeon")
    assert Run(home).node("write").state == "complete"
    assert "OpenLineage events of write were not sent" in caplog.text
    assert lineage.main(["--pipeline", "flight_delays"]) == 64
    assert "OpenLineage's settings cannot be used" in capsys.readouterr().err


def test_nothing_is_sent_unless_it_is_configured(home, events, monkeypatch, tmp_path, capsys):
    for name in ("TYPE", "LOG_FILE_PATH", "APPEND"):
        monkeypatch.delenv(f"OPENLINEAGE__TRANSPORT__{name}")
    monkeypatch.chdir(tmp_path)
    assert not is_configured()
    assert Run(home).node("write").state == "complete"
    assert lineage.main(["--pipeline", "flight_delays"]) == 64
    assert "No OpenLineage event can be sent" in capsys.readouterr().err
    for name in ("HOME", "OPENLINEAGE_CONFIG"):
        monkeypatch.setenv(name, "~nobody-of-this-name")
    assert not is_configured(), "a user without a home has no settings"
    monkeypatch.delenv("OPENLINEAGE_CONFIG")
    Path("openlineage.yml").write_text("transport: {type: file, log_file_path: here.jsonl, append: true}\n")
    assert is_configured()
    assert Run(home, run="again").node("write").state == "complete"
    kinds = [json.loads(line)["eventType"] for line in Path("here.jsonl").read_text().splitlines()]
    assert kinds == ["START", "COMPLETE"], "a relative path begins where the settings lie"
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    assert not is_configured()
