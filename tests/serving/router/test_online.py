"""The online routes: code of a pipeline fills in what the model is asked with."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import orjson
import pytest

import pipelines
from airtight import declared_pipelines
from airtight.errors import TerminalError
from airtight.rollout.state import Release
from serving.router.config import Online, settings_from_flags
from serving.router.online import Filling, _predictions
from tests.serving.router import routers

HERE = "tests.serving.router.lookups"


FLAGS = (f"--online=doubled=affine={HERE}:Doubling", f"--online=mixed=mixed={HERE}:Mixed")


@pytest.fixture(scope="module")
def online(models_root, addresses, tmp_path_factory):
    root = tmp_path_factory.mktemp("online")
    (root / "models").mkdir()
    with routers.routing(root, root / "models", addresses, *FLAGS) as running:
        yield running


def _ask(router, body: object, path: str = "/v1/doubled:predict", headers: dict | None = None):
    status, response_headers, content = router.full("POST", path, body, headers)
    assert response_headers["content-type"].startswith("application/json")
    assert int(response_headers["content-length"]) == len(content)
    return status, json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")), response_headers


@pytest.mark.slow
def test_the_model_is_asked_with_what_was_filled_in(online):
    fresh = {"as_of": "2013-06-01T12:00:00Z", "behind_minutes": 3}
    status, answer, headers = _ask(online, {"instances": [1.0, 2.5]}, headers={"x-request-id": "mine"})
    assert (status, headers["x-request-id"]) == (200, "mine")
    assert answer == {"predictions": [4.0, 10.0], "freshness": [fresh, fresh]}
    _, answer, _ = _ask(online, {"instances": [1.0, 2.5], "features": True})
    assert answer["features"] == [{"x": 2.0}, {"x": 5.0}]


@pytest.mark.slow
def test_a_missing_number_reaches_the_model_as_nan_and_the_client_as_null(online):
    status, answer, _ = _ask(online, {"instances": [-1.0], "features": True})
    assert (status, answer["predictions"], answer["features"]) == (200, [None], [{"x": None}])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("{", 400, "JSON"),
        ("", 400, "JSON"),
        (b"\xff", 400, "JSON"),
        ([1.0], 400, "object"),
        ({}, 400, "instances"),
        ({"instances": 1.0}, 400, "instances"),
        ({"instances": []}, 400, "instances"),
        ({"instances": [1.0], "features": 1}, 400, "features"),
        ({"instances": [1.0], "inputs": 1}, 400, "inputs"),
        ({"instances": [1.0, "x"]}, 400, "instances[1]"),
        ({"instances": ["away"]}, 503, "store is away"),
        ({"instances": ["broken"]}, 500, "RuntimeError"),
    ],
)
def test_what_cannot_be_filled_in_is_refused(online, body, status, message):
    got, answer, _ = _ask(online, body)
    assert got == status and list(answer) == ["error"]
    assert message in answer["error"] and "secret" not in answer["error"]


@pytest.mark.slow
def test_a_refusal_of_the_model_is_passed_on(online):
    status, body, _ = _ask(online, {"instances": [1.0]}, "/v1/mixed:predict")
    assert status == 400 and "Missing named input: count" in body["error"]


@pytest.mark.parametrize(
    ("answer", "predictions"),
    [
        (b'{"outputs": [0.5, NaN]}', [0.5, None]),
        (b'{"outputs": {"a": [1, 2], "b": [[0.5], [NaN]]}}', [{"a": 1, "b": [0.5]}, {"a": 2, "b": [None]}]),
        (b'{"outputs": {"a": [1], "b": ["NaN"]}}', [{"a": 1, "b": "NaN"}]),
    ],
)
def test_answers_by_column_become_one_for_each_instance(answer, predictions):
    assert orjson.loads(orjson.dumps(_predictions(answer))) == predictions


@pytest.mark.slow
def test_other_routes_and_methods_are_the_servers(online, servers):
    for method, path in (
        ("GET", "/v1/doubled:predict"),
        ("POST", "/v1/other:predict"),
        ("POST", "/v1/doubled:classify"),
    ):
        assert online.raw(method, path, b"{}") == servers[0].raw(method, path, b"{}")


@pytest.mark.slow
def test_releases_hold(models_root, addresses, tmp_path):
    root = tmp_path / "models"
    root.mkdir()
    with routers.routing(tmp_path, root, addresses, *FLAGS) as router:
        router.release(affine=Release("affine", id="r", mode="canary", share=1.0, stable=1, candidate=2))
        status, answer, headers = _ask(router, {"instances": [1.0]})
        assert (status, answer["predictions"]) == (200, [4.0])
        assert (headers["x-airtight-side"], headers["x-airtight-version"]) == ("candidate", "2")
        assert router.status()["releases"]["affine"]["sides"]["candidate"]["requests"] == 1
        router.release(affine=Release("affine", id="s", mode="canary", share=0.0, stable=1, candidate=2))
        _, answer, headers = _ask(router, {"instances": [1.0]})
        assert answer["predictions"] == [2.0] and headers["x-airtight-version"] == "1"


SERVER = ("--models_root=m", "--server=http://127.0.0.1:1=127.0.0.1:2")


def test_the_flag_names_route_model_and_code():
    routes = settings_from_flags([*SERVER, *FLAGS]).online
    assert routes == (Online("doubled", "affine", f"{HERE}:Doubling"), Online("mixed", "mixed", f"{HERE}:Mixed"))
    assert settings_from_flags(SERVER).online == ()


def _settings(name: str, online: str) -> str:
    return (
        "from dataclasses import replace\nfrom airtight.supervised import Supervised\n"
        f'S = Supervised(name="{name}", package=__package__, tables="a:b", schema="a:b", transform="a:b", '
        f"online={{{online}}})\n"
    )


PIPELINES = {
    "broken_pipeline": "1 / 0",
    "odd_pipeline": _settings("odd", '"a/b": ".online:Lookup"'),
    "rides_pipeline": _settings("rides", '"rides": ".online:Lookup"')
    + 'SAME = S\nWARM = replace(S, name="rides_warm")\n',
    "trips_pipeline": "from pipelines.rides_pipeline.settings import S as OTHERS\n"
    + _settings("trips", f'"trips": "{HERE}:Doubling", "rides": ".online:Lookup"'),
}


@pytest.fixture
def declared(tmp_path, monkeypatch):
    """Folders of pipelines in the place of the real ones."""
    for name, text in PIPELINES.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.py").write_text(text)
    monkeypatch.setattr(pipelines, "__path__", [str(tmp_path)])
    known = declared_pipelines.declared_settings
    monkeypatch.setattr(declared_pipelines, "declared_settings", lambda: known(tmp_path))
    yield
    for name in PIPELINES:
        for module in (f"pipelines.{name}", f"pipelines.{name}.settings"):
            sys.modules.pop(module, None)


RIDES = Online("rides", "rides", "pipelines.rides_pipeline.online:Lookup", is_declared=True)
TRIPS = Online("trips", "trips", f"{HERE}:Doubling", is_declared=True)


def test_pipelines_declare_their_routes_and_one_that_is_broken_takes_no_other_away(declared, caplog):
    routes = settings_from_flags([*SERVER, *FLAGS, "--pipelines"]).online
    assert [route.name for route in routes] == ["doubled", "mixed", "rides", "trips"]
    assert routes[2:] == (RIDES, TRIPS)
    assert "pipelines.broken_pipeline.settings cannot be imported" in caplog.text
    assert "pipelines.odd_pipeline.settings cannot be imported" in caplog.text and "letters, digits" in caplog.text
    for model in ("rides_warm", "trips"):
        assert caplog.text.count(f"The route rides of {model} is left out: rides has it already") == 1
    assert caplog.text.count("has it already") == 2


def test_a_flag_takes_the_place_of_what_a_pipeline_declares(declared, caplog):
    routes = settings_from_flags([*SERVER, "--online=rides=m=a:b", "--pipelines"]).online
    assert routes == (Online("rides", "m", "a:b"), TRIPS)
    assert "The route rides of rides is left out: m has it already" in caplog.text


def test_a_declared_route_whose_code_cannot_be_loaded_is_left_out_and_one_of_a_flag_is_refused(declared, caplog):
    filling = Filling([RIDES, TRIPS], timeout_s=1.0)
    assert filling.name("POST", "/v1/trips:predict") == "trips" and filling.name("POST", "/v1/rides:predict") is None
    assert "The route rides of rides is left out: " in caplog.text
    with pytest.raises(TerminalError, match="cannot be found"):
        Filling([replace(RIDES, is_declared=False)], timeout_s=1.0)


def test_a_real_pipeline_declares_its_route():
    assert ("flights", "flight_delays", "pipelines.flight_delays.online:Lookup") in declared_pipelines.online_routes()


@pytest.mark.parametrize("flags", [["a=b"], ["a=b="], ["=b=c:d"], ["a/b=c=d:e"], ["a=b=c:d", "a=b=c:d"], ["a=b=c:d=e"]])
def test_other_flags_are_refused(flags):
    with pytest.raises(TerminalError, match="--online"):
        settings_from_flags([*SERVER, *(f"--online={flag}" for flag in flags)])
