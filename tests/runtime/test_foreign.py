"""Pipelines as strangers write them run as in TFX's LocalDagRunner, which runs beside them as the reference."""

import logging

import pytest

from runtime import cache, local, metadata_store
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from tests.tiny_pipeline import foreign, reference
from tests.tiny_pipeline.running import Run, fault, uri

MODULE = "tests.tiny_pipeline.foreign"
SUCCEEDED = ("complete", "cached")


def ran(home, function: str, run: str = "run", **values):
    return local.run(compile_pipeline(f"{MODULE}:{function}", home), home, run, values)


def text(outcome, key: str) -> str:
    """The value of the only text of an output key."""
    return (uri(outcome, key)).read_text(encoding="utf-8")


def succeeded(outcomes) -> set[str]:
    return {node for node, outcome in outcomes.items() if outcome.state in SUCCEEDED}


def in_reference(pipeline, folder) -> set[str]:
    return {node for node, did in reference.run(pipeline, folder).items() if did["state"] in ("COMPLETE", "CACHED")}


@pytest.mark.parametrize("function", ["create_nothing_yet", "create_nothing_yet_by_own_strategy"])
def test_a_resolver_that_finds_nothing_yet_lets_the_run_go_on(home, tmp_path, caplog, function):
    caplog.set_level(logging.INFO)
    first = ran(home, function, "first")
    assert {node: outcome.state for node, outcome in first.items()} == dict.fromkeys(
        ("latest", "use", "make"), "complete"
    )
    assert first["latest"].outputs == {}
    assert first["latest"].execution, "the scheduler pins what comes after to it"
    assert "latest found nothing yet" in first["latest"].summary
    assert "Strategy found nothing yet" in caplog.text or "Patient found nothing yet" in caplog.text
    assert text(first["use"], "used") == "nothing"
    second = ran(home, function, "second")
    assert second["latest"].outputs["made"][0]["id"] == first["make"].outputs["made"][0]["id"]
    assert text(second["use"], "used") == "made"
    for run in ("first", "second"):
        met = in_reference(getattr(foreign, function)(), tmp_path / "reference")
        assert met | ({"latest"} if run == "first" else set()) == succeeded(second)


def test_a_resolver_that_raises_fails(home):
    outcomes = ran(home, "create_broken_strategy")
    assert list(outcomes) == ["latest"]
    assert "no strategy" in fault(outcomes["latest"])["received"]


def test_who_cannot_do_without_what_a_resolver_did_not_find_fails_in_words(home, tmp_path):
    outcomes = ran(home, "create_needs_what_is_not_there")
    assert succeeded(outcomes) == {"latest", "decide", "make"}
    for node in ("need", "guarded"):
        missing = fault(outcomes[node])
        assert missing["message"] == f"latest found nothing yet, and {node} cannot do without it."
        assert "output made of latest" in missing["expected"]
        assert "then start a new run" in missing["remedy"], "a cleared one sees what was there at first"
        assert not missing["transient"]
    met = in_reference(foreign.create_needs_what_is_not_there(), tmp_path / "reference")
    assert met | {"latest"} == succeeded(outcomes)
    assert succeeded(ran(home, "create_needs_what_is_not_there", "second")) == {*succeeded(outcomes), "need", "guarded"}


@pytest.mark.parametrize("answer", [0, 1])
def test_what_comes_after_a_skipped_node_runs_if_it_can_do_without(home, tmp_path, monkeypatch, answer):
    outcomes = ran(home, "create_skips", answer=answer)
    everywhere = {"decide", "after", "optional", "late", "both", "joined", "last"}
    of_this_answer = {"yes", "nested", "required", "second", "mixed"} if answer else {"no"}
    assert succeeded(outcomes) == everywhere | of_this_answer
    assert {outcome.state for outcome in outcomes.values()} == {"complete", "skipped"}
    assert text(outcomes["optional"], "used") == ("yes" if answer else "nothing")
    assert text(outcomes["joined"], "needed") == ("yes" if answer else "no")
    monkeypatch.setattr(foreign, "RuntimeParameter", lambda *_, **__: answer)
    assert in_reference(foreign.create_skips(), tmp_path / "reference") == succeeded(outcomes)


def test_what_comes_after_a_failed_node_does_not_run(home):
    path = compile_pipeline(f"{MODULE}:create_skips", home)
    run = Run(home, f"{MODULE}:create_skips")

    def failing(request):
        from runtime.launch import launch
        from runtime.protocol import Outcome

        return Outcome("failed", "no", error="") if request.node == "after" else launch(request)

    outcomes = local.run(path, run.home, "run", {"answer": 1}, by=failing)
    assert outcomes["after"].state == "failed"
    assert "both" not in outcomes
    assert outcomes["optional"].state == "complete"


def test_what_a_node_needs_is_compiled(home):
    compiled = CompiledPipeline.read(compile_pipeline(f"{MODULE}:create_skips", home))
    assert compiled.node("yes").may_skip
    assert not compiled.node("after").may_skip
    assert compiled.node("after").needs == ()
    assert compiled.node("after").upstream == ("yes",)
    assert compiled.node("optional").needs == ()
    assert compiled.node("required").needs == (("yes",),)
    assert compiled.node("both").needs == (("after",),)
    assert compiled.node("joined").needs == (("no", "yes"),)
    assert set(compiled.node("nested").needs) == {("decide",), ("yes",)}
    assert compiled.before("second") == {"required", "yes", "decide"}


def test_a_loop_over_one_artifact_runs_and_over_several_is_refused_by_reason(home, tmp_path):
    outcomes = ran(home, "create_for_each")
    assert succeeded(outcomes) == in_reference(foreign.create_for_each(), tmp_path / "one") == {"make", "need", "use"}
    first = ran(home, "create_for_each_of_all_runs", "first")
    assert succeeded(first) == in_reference(foreign.create_for_each_of_all_runs(), tmp_path / "all")
    second = ran(home, "create_for_each_of_all_runs", "second")
    assert succeeded(second) == in_reference(foreign.create_for_each_of_all_runs(), tmp_path / "all") == {"make"}
    several = fault(second["need"])
    assert "need would run once for each element of a list (ForEach), and the list has several" in several["message"]
    assert not several["transient"]


def test_a_loop_over_nothing_is_a_skip(home, tmp_path):
    outcomes = ran(home, "create_for_each_of_nothing", "first")
    assert outcomes["need"].state == "skipped"
    met = in_reference(foreign.create_for_each_of_nothing(), tmp_path / "reference")
    assert met | {"latest"} == succeeded(outcomes) == {"latest", "use", "make"}
    assert succeeded(ran(home, "create_for_each_of_nothing", "second")) == {"latest", "need", "use", "make"}


def test_a_pusher_is_not_answered_from_the_cache_unless_asked_for(home, monkeypatch):
    source = "tests.tiny_pipeline.pushing:create_pipeline"
    compiled = CompiledPipeline.read(compile_pipeline(source, home))
    assert compiled.node("make_model").cache.enabled
    assert not compiled.node("push").cache.enabled
    local.run(compile_pipeline(source, home), home, "first", {})
    second = local.run(compile_pipeline(source, home), home, "second", {})
    assert {node: outcome.state for node, outcome in second.items()} == {"make_model": "cached", "push": "complete"}
    with metadata_store.project_connection(home) as handle:
        (execution,) = handle.store.get_executions_by_id([second["push"].execution])
    assert "what this node pushes lies outside" in execution.custom_properties[cache.MESSAGE].string_value
    monkeypatch.setenv("PUSH_FROM_CACHE", "1")
    third = local.run(compile_pipeline(source, home), home, "third", {})
    assert third["push"].state == "cached"
