"""Whose success answers an attempt, whose outputs count, and what becomes of attempts that did not end."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ml_metadata.proto.metadata_store_pb2 import Execution

from airtight.home import ROOT
from runtime import attempts, cache, cross_run, metadata_store, process_identity
from runtime import launch as launching
from runtime.launch import launch
from runtime.protocol import NodeRequest, run_key
from tests.tiny_pipeline.running import Run, fault, states, uri
from tests.waiting import until

ON_EACH = pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)


def words(folder: Path) -> str:
    return (folder / "words.txt").read_text(encoding="utf-8")


@ON_EACH
def test_only_a_success_that_was_not_reported_answers_an_attempt(home):
    run = Run(home, text="old")
    first = run.request("write")
    labels = {"clear_number": 0, "run_id": "run"}
    done = launch(replace(first, earlier=(), labels=labels))

    def tried(**fields) -> NodeRequest:
        return launch(replace(run.request("write", text="new"), labels=labels, **fields))

    again = tried(earlier=(first.attempt,), unreported=(first.attempt,))
    assert (again.state, again.execution, again.outputs) == ("complete", done.execution, done.outputs)
    # After a Clear; and as a run that was deleted and created again, or another Airflow's of the same id.
    for fields in ({"earlier": (first.attempt,)}, {"earlier": ()}, {}):
        outcome = tried(**fields)
        assert outcome.execution != done.execution
        assert words(uri(outcome, "words")) == "new new new"
    assert states(run) == ["COMPLETE"] * 4


@pytest.mark.parametrize("at", ["_outcome", "_success"])
def test_a_success_that_was_not_reported_is_noted_as_any_other(home, monkeypatch, at):
    """What an attempt holds is known though its process died between its success and its report."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    run = Run(home)
    request = run.request("write")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(launching, at, die)
        launch(request)
    outcome = launch(replace(run.request("write"), earlier=(request.attempt,), unreported=(request.attempt,)))
    with metadata_store.project_connection(home) as handle:
        (artifact,) = handle.store.get_artifacts_by_uri(str(uri(outcome, "words")))
    assert artifact.custom_properties["content_digest"].string_value
    assert states(run) == ["COMPLETE"]


@ON_EACH
def test_an_attempt_that_died_is_ended_by_the_next(home):
    run = Run(home)
    request = run.request("write")
    launch(request)
    with metadata_store.project_connection(home) as handle:
        (done,) = handle.store.get_executions()
        done.last_known_state = Execution.RUNNING
        handle.store.put_executions([done])
        half = home.pipeline_root("tiny") / "write" / "words" / str(done.id)
        assert half.is_dir()
        attempts.reap_orphans(handle.store)
    assert states(run) == ["RUNNING"], "its process lives: it is this one"
    stranger = replace(run.request("write"), earlier=())
    assert launch(stranger).state == "complete"
    assert states(run) == ["RUNNING", "COMPLETE"], "another Airflow's run of the same id is left alone"
    assert launch(replace(run.request("write"), earlier=(request.attempt,))).state == "complete"
    assert states(run) == ["FAILED", "COMPLETE", "COMPLETE"]
    assert not half.exists()


def test_inputs_are_the_outputs_of_the_executions_that_are_named(home):
    run = Run(home, text="first")
    first = run.node("write").execution
    second = run.node("write", text="second").execution

    def copied(**fields) -> str:
        return words(uri(launch(replace(run.request("copy"), **fields)), "copied"))

    assert copied(inputs={"write": first}) == "first first first"
    assert copied(inputs={"write": second}) == "second second second"
    assert copied() == "second second second", "of a local run the latest counts"


def test_an_input_that_the_scheduler_does_not_name_is_missing(home):
    run = Run(home)
    labels = {"dag_id": "words", "run_id": "one"}
    written = launch(replace(run.request("write"), labels=labels)).execution
    missing = fault(launch(replace(run.request("copy"), inputs={})))
    assert "write has no output in this run" in missing["message"]
    assert not missing["transient"]
    pending = fault(launch(replace(run.request("copy"), inputs={}, pending=("write",))))
    assert "write has not ended yet" in pending["message"]
    assert pending["transient"]
    # Ids begin anew in a new metadata store: what Airflow kept of the old one names something else there.
    assert launch(replace(run.request("copy"), inputs={"write": written}, labels=labels)).state == "complete"
    for inputs, others in [
        ({"write": written + 1}, {}),
        ({"write": 1000}, {}),
        ({"write": written}, {"dag_id": "other"}),
        ({"write": written}, {"run_id": "other"}),
    ]:
        outcome = launch(replace(run.request("copy"), inputs=inputs, labels=labels | others))
        assert "write has no output in this run" in fault(outcome)["message"]


@pytest.mark.parametrize(("node", "pending"), [("evaluate", "champion"), ("champion", "ingest")])
def test_a_node_does_not_decide_without_an_optional_output_that_is_to_come(home, node, pending):
    """A gate that does not wait for its champion is open; a resolver's inputs are all optional."""
    run = Run(home, "tests.tiny_pipeline.champion:create_pipeline", push_it=1)
    inputs = {name: run.node(name).execution for name in ("ingest", "train", "champion")}
    del inputs[pending]
    failure = fault(launch(replace(run.request(node), inputs=inputs, pending=(pending,))))
    assert f"{pending} has not ended yet" in failure["message"]
    assert failure["transient"]


def test_an_input_is_looked_up_in_its_producers_attempt_alone(home, monkeypatch):
    """The context of the pipeline holds every execution that there ever was."""
    run = Run(home)
    run.node("write")
    queried = []
    pin = attempts.pin_inputs

    def noted(node, *arguments):
        pinned = pin(node, *arguments)
        channels = [channel for spec in node.inputs.inputs.values() for channel in spec.channels]
        queried.extend(query.type.name for channel in channels for query in channel.context_queries)
        return pinned

    monkeypatch.setattr(attempts, "pin_inputs", noted)
    assert run.node("copy").state == "complete"
    assert queried == ["node_attempt"]


@ON_EACH
def test_long_ids_fit_the_metadata_store(home):
    run = Run(home, "tests.tiny_pipeline.pipeline:create_long_pipeline", text="long")
    run.run = run_key(*(letter * 250 for letter in "dgr"))
    for by_execution in (False, True):
        inputs: dict[str, int] = {}
        for letter in "wc":
            outcome = launch(replace(run.request(letter * 250), inputs=inputs if by_execution else None))
            assert outcome.state == "complete", outcome.summary
            inputs["w" * 250] = outcome.execution
    assert words(uri(outcome, "copied")) == "long long long"
    assert states(run) == ["COMPLETE"] * 4
    with metadata_store.project_connection(home) as handle:
        assert len(cross_run.newest_outputs(handle.store, "longest", "w" * 250, "words")) == 2
        assert len(cache._earlier(handle.store, "longest", "w" * 250)) == 2


def as_if_elsewhere(home, owner: str) -> Path:
    """Has the only execution be open, and that of a process elsewhere; gives its folder."""
    with metadata_store.project_connection(home) as handle:
        (execution,) = handle.store.get_executions()
        execution.last_known_state = Execution.RUNNING
        handle.store.put_executions([execution])
        set_owner(handle.store, owner)
    return home.pipeline_root("tiny") / "write" / "words" / str(execution.id)


def set_owner(store, owner: str) -> None:
    context = min(store.get_contexts_by_type(attempts.CONTEXT_TYPE), key=lambda context: context.id)
    context.custom_properties["owner"].string_value = owner
    store.put_contexts([context])


def name_of_a_dead_process() -> str:
    with subprocess.Popen(["sleep", "60"]) as process:
        name = process_identity.name_of(process.pid)
        process.kill()
    assert process_identity.is_dead(name)
    return name


@ON_EACH
@pytest.mark.parametrize("part", [0, 1])
def test_what_runs_elsewhere_is_left_alone_until_it_is_known_to_be_dead(home, part):
    run = Run(home)
    assert run.node("write").state == "complete"
    names = name_of_a_dead_process().split()
    names[part] = "elsewhere"
    half = as_if_elsewhere(home, " ".join(names))
    with metadata_store.project_connection(home) as handle:
        attempts.reap_orphans(handle.store)
    assert (states(run), half.exists()) == (["RUNNING"], True)
    assert run.node("write").state == "complete"
    assert (states(run), half.exists()) == (["FAILED", "COMPLETE"], True)
    with metadata_store.project_connection(home) as handle:
        attempts.reap_orphans(handle.store)
        assert half.exists()
        # The launcher beside it sees that it is dead.
        set_owner(handle.store, name_of_a_dead_process())
        attempts.reap_orphans(handle.store)
        assert not half.exists()
        half.mkdir()
        attempts.reap_orphans(handle.store)
    assert half.exists(), "it is looked at once"


def test_what_an_attempt_elsewhere_publishes_while_it_is_replaced_stays(home, monkeypatch):
    run = Run(home)
    assert run.node("write").state == "complete"
    made = as_if_elsewhere(home, f"elsewhere {name_of_a_dead_process().partition(' ')[2]}")
    with metadata_store.project_connection(home) as handle:
        store = handle.store
        put_contexts = store.put_contexts

        def publish_meanwhile(contexts):
            (execution,) = store.get_executions()
            execution.last_known_state = Execution.COMPLETE
            store.put_executions([execution])
            return put_contexts(contexts)

        monkeypatch.setattr(store, "put_contexts", publish_meanwhile)
        earlier = attempts.earlier(store, "run", "write")
        attempts.fail_stale_attempts(store, earlier)
        monkeypatch.undo()
        assert attempts.latest_success(attempts.earlier(store, "run", "write")) is None, "it no longer counts"
        set_owner(store, name_of_a_dead_process())
        attempts.reap_orphans(store)
    assert (states(run), made.exists()) == (["COMPLETE"], True)


@pytest.mark.parametrize("namespace", [True, False])
def test_a_process_is_dead_only_where_its_number_means_something(namespace):
    with subprocess.Popen(["sleep", "60"]) as process:
        name = process_identity.name_of(process.pid)
        assert not process_identity.is_dead(name)
        process.kill()
    host, space, rest = name.split(maxsplit=2)
    assert process_identity.is_dead(name)
    assert not process_identity.is_dead(f"{host} pid:[1] {rest}" if namespace else f"other {space} {rest}")
    assert not process_identity.is_dead("")


IN_A_NAMESPACE = """
from airtight.home import Home
from tests.tiny_pipeline.running import Run
print(Run(Home.current(), trouble="wait:{note}").node("copy").summary)
"""


@pytest.mark.slow
def test_a_node_in_another_pid_namespace_is_neither_reaped_nor_anybody_s_input(home, tmp_path):
    """As a container has it that shares the machine's network, and so its name."""
    command = ["unshare", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare cannot make a PID namespace here.")
    run = Run(home)
    run.node("write")
    note = tmp_path / "note"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    code = IN_A_NAMESPACE.format(note=note)
    with subprocess.Popen([*command, sys.executable, "-c", code], cwd=ROOT, env=environment) as node:
        try:
            until(note.exists, "the node in the namespace waits")
            (half,) = home.pipeline_root("tiny").glob("copy/copied/*/half.txt")
            with metadata_store.project_connection(home) as handle:
                attempts.reap_orphans(handle.store)
            assert (states(run), half.exists()) == (["COMPLETE", "RUNNING"], True)
            assert run.node("copy", trouble="terminal").state == "failed"
            assert (states(run), half.exists()) == (["COMPLETE", "FAILED", "FAILED"], True)
            note.with_suffix(".go").touch()
            until(lambda: node.poll() is not None, "the node in the namespace ends")
        finally:
            node.kill()
    assert states(run) == ["COMPLETE", "COMPLETE", "FAILED"], "it ended well, too late"
    assert "copy has no output in this run" in fault(run.node("count"))["message"]
    run.node("copy", text="new")
    assert run.node("count").state == "complete"
