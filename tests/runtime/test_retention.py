"""The clean-up: old artifacts go, and nothing goes that a pushed or blessed model rests on."""

import threading

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.portable import execution_publish_utils

from runtime import attempts, metadata_store, retention
from runtime.__main__ import main
from runtime.lineage import artifacts
from tests.tiny_pipeline.running import Run, fault, uri

CHAMPIONS = "tests.tiny_pipeline.champion:create_pipeline"
CACHED = "tests.tiny_pipeline.across:create_pipeline"
NODES = ("ingest", "train", "champion", "evaluate", "push")


def whole(home, run: str, push_it: int) -> dict:
    started = Run(home, CHAMPIONS, run, push_it=push_it)
    return {node: started.node(node) for node in NODES}


def clean(home, **options):
    with metadata_store.project_connection(home) as handle:
        return retention.clean(handle.store, home, **({"grace_s": 0} | options))


@pytest.fixture
def later(monkeypatch):
    """Forty days later."""
    now = retention._now_ms()
    monkeypatch.setattr(retention, "_now_ms", lambda: now + 40 * 86_400_000)


@pytest.fixture
def runs(home):
    return whole(home, "pushed", 1), whole(home, "not_pushed", 0)


def test_what_a_pushed_model_rests_on_stays_and_the_rest_goes(home, runs, later):
    pushed, other = runs
    cleaned = clean(home, days=30, dry_run=True)
    assert uri(other["train"], "model").exists(), "a dry run removes nothing"
    done = clean(home, days=30)
    assert done.removed == cleaned.removed
    assert done.bytes > 0
    for node, key in (("ingest", "dataset"), ("train", "model"), ("push", "pushed")):
        assert uri(pushed[node], key).exists()
    for node, key in (("train", "model"), ("evaluate", "evaluation"), ("push", "pushed")):
        assert not uri(other[node], key).exists()
    assert clean(home, days=30).removed == []


def test_what_is_recent_stays(home, runs):
    assert clean(home, days=30).removed == []


def test_what_says_which_version_served_stays(home, runs, later):
    run = Run(home, "tests.tiny_pipeline.promoting:create_pipeline", "promotion", to_version=2013070101)
    promotion = uri(run.node("promote"), "promotion")
    clean(home, days=30)
    assert promotion.exists()


def test_a_node_whose_input_was_removed_says_so(home, runs, later):
    clean(home, days=30)
    error = fault(Run(home, CHAMPIONS, "not_pushed", push_it=1).node("push"))
    assert "train is gone" in error["message"] or "ingest is gone" in error["message"]
    assert "runtime clean" in error["received"]


def test_the_command_tells_what_it_did(home, runs, capsys):
    assert main(["clean", "--days", "0", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "Would remove" in output
    assert "are what pushed or blessed models rest on" in output


def test_what_a_pass_kept_for_a_pushed_model_no_later_pass_looks_at(home, runs, later, monkeypatch):
    assert clean(home, days=30).needed > 0
    monkeypatch.setattr(retention, "_OVERLAP_MS", 0)
    assert clean(home, days=30).needed == 0
    assert clean(home, days=30, everything=True).needed > 0


def test_ids_are_asked_for_in_lists_that_a_database_takes(home, runs, later, monkeypatch):
    whole_lists = clean(home, days=30, dry_run=True)
    monkeypatch.setattr(artifacts, "CHUNK", 2)
    assert clean(home, days=30, dry_run=True) == whole_lists


def test_a_place_that_a_kept_artifact_shares_stays(home, runs, later):
    pushed, other = runs
    shared = uri(other["train"], "model")
    with metadata_store.project_connection(home) as handle:
        (kept,) = handle.store.get_artifacts_by_uri(str(uri(pushed["train"], "model")))
        copy = metadata_store_pb2.Artifact(type_id=kept.type_id, uri=str(shared), state=kept.state)
        handle.store.put_artifacts([copy])
    assert str(shared) not in clean(home, days=30).removed
    assert shared.exists()


def test_while_a_clean_up_waits_the_cache_takes_nothing_that_it_marked(home, later, monkeypatch):
    old = Run(home, CACHED, "old").node("ingest")
    assert Run(home, CACHED, "before").node("ingest").state == "cached"
    outcomes = []
    monkeypatch.setattr(retention, "sleep", lambda _: outcomes.append(Run(home, CACHED, "meanwhile").node("ingest")))
    assert clean(home, days=30).removed == [str(uri(old, "dataset"))]
    assert outcomes[0].state == "complete" and uri(outcomes[0], "dataset").exists()


def test_what_the_cache_chose_before_it_was_marked_stays(home, monkeypatch):
    old = Run(home, CACHED, "old").node("ingest")
    chosen, published, done = threading.Event(), threading.Event(), []
    monkeypatch.setattr(retention, "sleep", lambda _: (chosen.set(), published.wait(30)))
    cleaner = threading.Thread(target=lambda: done.append(clean(home, days=0)))
    publish = execution_publish_utils.publish_cached_executions

    def publish_late(**arguments: object) -> None:
        cleaner.start()
        assert chosen.wait(30)
        publish(**arguments)
        published.set()

    monkeypatch.setattr(execution_publish_utils, "publish_cached_executions", publish_late)
    hit = Run(home, CACHED, "new").node("ingest")
    cleaner.join()
    assert hit.state == "cached" and uri(hit, "dataset") == uri(old, "dataset")
    assert done[0].removed == [] and uri(hit, "dataset").exists()
    with metadata_store.project_connection(home) as handle:
        (artifact,) = handle.store.get_artifacts_by_uri(str(uri(hit, "dataset")))
    assert artifact.state == artifact.LIVE


def test_an_execution_that_is_open_for_too_long_is_given_up_and_protects_nothing(home, runs, later, caplog):
    _, other = runs
    with metadata_store.project_connection(home) as handle:
        (execution,) = handle.store.get_executions_by_id([other["evaluate"].execution])
        execution.last_known_state = execution.RUNNING
        handle.store.put_executions([execution])
    model = uri(other["train"], "model")
    assert clean(home, days=30, give_up_days=50).given_up == []
    assert model.exists(), "it may be at work"
    assert clean(home, days=30, everything=True, dry_run=True).given_up == [execution.id]
    assert clean(home, days=30, everything=True).given_up == [execution.id]
    assert f"Execution {execution.id} has been open since" in caplog.text
    assert not model.exists()


def test_an_execution_of_another_program_or_state_folder_is_left_alone(home, runs, later, tmp_path):
    _, other = runs
    with metadata_store.project_connection(home) as handle:
        store = handle.store
        kind = store.put_execution_type(metadata_store_pb2.ExecutionType(name="of another program"))
        running = metadata_store_pb2.Execution.RUNNING
        (foreign,) = store.put_executions([metadata_store_pb2.Execution(type_id=kind, last_known_state=running)])
        (execution,) = store.get_executions_by_id([other["evaluate"].execution])
        execution.last_known_state = running
        store.put_executions([execution])
        assert clean(home, days=30, dry_run=True).given_up == [execution.id]
        (attempt,) = (c for c in store.get_contexts_by_execution(execution.id) if c.type == attempts.CONTEXT_TYPE)
        attempt.custom_properties["folder"].string_value = str(tmp_path / "other" / "artifacts" / "evaluate")
        store.put_contexts([attempt])
        assert clean(home, days=30).given_up == []
        assert {e.last_known_state for e in store.get_executions_by_id([foreign, execution.id])} == {running}


def test_what_is_noted_of_an_artifact_while_a_clean_up_waits_stays(home, runs, later, monkeypatch):
    _, other = runs
    model = str(uri(other["train"], "model"))

    def note(_: float) -> None:
        with metadata_store.project_connection(home) as handle:
            (artifact,) = handle.store.get_artifacts_by_uri(model)
            artifact.custom_properties["noted"].string_value = "meanwhile"
            handle.store.put_artifacts([artifact], field_mask_paths=["custom_properties.noted"])

    monkeypatch.setattr(retention, "sleep", note)
    assert model in clean(home, days=30).removed
    with metadata_store.project_connection(home) as handle:
        (artifact,) = handle.store.get_artifacts_by_uri(model)
    assert artifact.state == artifact.DELETED
    assert artifact.custom_properties["noted"].string_value == "meanwhile"
    assert artifact.custom_properties["content_digest"].string_value


def test_a_clean_up_that_was_broken_off_is_taken_up(home, runs, later, monkeypatch):
    _, other = runs

    def broken_off(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(retention, "sleep", broken_off)
        clean(home, days=30)
    assert uri(other["train"], "model").exists()
    assert str(uri(other["train"], "model")) in clean(home, days=30).removed
    assert not uri(other["train"], "model").exists()


def test_what_cannot_be_removed_the_next_pass_removes(home, runs, later, monkeypatch, caplog):
    place = uri(runs[1]["train"], "model")
    remove = retention.shutil.rmtree

    def refused(path, **options):
        if path == place:
            raise PermissionError(13, "Permission denied", str(path))
        remove(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(retention.shutil, "rmtree", refused)
        cleaned = clean(home, days=30)
    assert cleaned.kept == [str(place)] and str(place) not in cleaned.removed
    assert "tries again" in caplog.text
    assert clean(home, days=30).removed == [str(place)]
    assert not place.exists()
    assert clean(home, days=30).removed == []
