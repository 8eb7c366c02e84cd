"""The settings of a supervised pipeline: what they derive, what they refuse, and how they are found again."""

from dataclasses import replace

import pytest

from airtight.errors import TerminalError
from airtight.supervised import BATCH_PREDICT, PROMOTE, RELEASE, TRAIN, Supervised, find
from airtight.watch.settings import Labels
from pipelines.flight_delays import settings as flights
from tests.tiny_supervised.settings import REPLACED, SETTINGS

CODE = {"tables": ".lake:TABLES", "schema": ".schema:SCHEMA", "transform": ".transform:transform"}


def test_code_is_named_within_the_package():
    bike = Supervised(name="bike_demand", **CODE, model="components.modelling.some:build")
    assert bike.tables == "pipelines.bike_demand.lake:TABLES" and bike.model == "components.modelling.some:build"
    assert bike.title == "Bike demand" and bike.expectations == ""
    assert replace(bike, name="bike_warm").transform == "pipelines.bike_demand.transform:transform"


def test_labels_come_from_a_function_of_the_package_or_else_from_the_transform():
    bike = Supervised(name="bike", **CODE, labels=Labels(function=".labels:known"))
    assert bike.labels.function == "pipelines.bike.labels:known" and "labels" in bike.parts
    assert replace(bike, labels=Labels()).labels.function == "pipelines.bike.transform:transform"


def test_each_part_has_an_id_and_what_is_left_out_has_none():
    assert [SETTINGS.id_of(part) for part in SETTINGS.parts] == [
        "toy",
        "toy_promote",
        "toy_release",
        "toy_alarms",
        "toy_batch_predict",
    ]
    assert REPLACED.parts == (TRAIN,)
    assert "release" not in {parameter.name for parameter in REPLACED.run_parameters()}


def test_defaults_are_the_pipelines_and_everything_else_stays():
    parameters = {parameter.name: parameter for parameter in SETTINGS.run_parameters()}
    assert parameters["epochs"].default == 2 and parameters["epochs"].maximum == 200
    assert SETTINGS.default("window_days") == 0 and SETTINGS.default("release") == "at_once"
    assert "toy_release tries the newer one" in parameters["release"].description
    assert replace(SETTINGS, release="canary").default("release") == "canary"
    assert SETTINGS.default("lake_version", BATCH_PREDICT) == "now"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "bike demand"}, "a letter, then letters, digits and _"),
        ({"name": "7up"}, "'7up'"),
        ({"name": "bike_promote"}, "none of _promote, _release, _alarms, _batch_predict, _watch, _labels at the end"),
        ({"zone": "Mars/Base"}, "Unknown time zone"),
        ({"tables": "lake.TABLES"}, "an import string"),
        ({"transform": ""}, "transform"),
        ({"components": {"train": "nothing"}}, r"components\['train'\]"),
        ({"defaults": {"epoch": 3}}, "did you mean epochs"),
        ({"components": {"trian": ".mine:train"}}, "did you mean train"),
        ({"node_parameters": {"evaluat": {"margin_rows": 3}}}, "did you mean evaluate"),
        ({"defaults": {"epochs": 0}}, "at least 1"),
        ({"defaults": {"epochs": "many"}}, "a value of type int"),
        ({"release": "maybe"}, "at_once, canary or nothing"),
        ({"interval": "June"}, "2013-06 .a month."),
        ({"labels": Labels(), "release": ""}, "only then can a version be taken back"),
        ({"labels": Labels(function="labels")}, "labels.function"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(wrong, message):
    with pytest.raises(TerminalError, match=message):
        Supervised(**{"name": "bike", **CODE, **wrong})


@pytest.mark.parametrize("settings", [flights.SETTINGS, flights.WARM])
def test_a_pipeline_of_the_folder_is_found_by_the_id_of_each_part(settings):
    for part in settings.parts:
        assert find(settings.id_of(part)) == (settings, part)
        assert settings.source(part) == (settings.id_of(part), {})


def test_one_that_lies_elsewhere_is_found_by_its_place():
    assert SETTINGS.source() == ("tests.tiny_supervised.settings:SETTINGS", {})
    assert SETTINGS.source(PROMOTE) == ("tests.tiny_supervised.settings:SETTINGS", {"part": PROMOTE})
    assert REPLACED.source() == ("tests.tiny_supervised.settings:REPLACED", {})
    assert find("tests.tiny_supervised.settings:REPLACED") == (REPLACED, TRAIN)
    with pytest.raises(TerminalError, match="a package whose module"):
        replace(SETTINGS, name="lost").source(RELEASE)


@pytest.mark.parametrize(
    ("name", "received"),
    [
        ("flight_delay", "no such folder"),
        ("flight_delays_close", "pipelines.flight_delays_close.settings with no settings"),
        ("flight_delays_warm_promote", "pipelines.flight_delays.settings with flight_delays, flight_delays_promote"),
        ("tests.tiny_supervised.settings:date", "a type"),
        ("tests.tiny_supervised.settings:NONE", "has no 'NONE'"),
        ("tests.no_such.settings:SETTINGS", "cannot be found"),
    ],
)
def test_an_unknown_pipeline_is_told(name, received):
    with pytest.raises(TerminalError, match=received):
        find(name)


def test_a_log_is_joined_by_one_column_which_is_said_where_it_is_declared():
    assert Labels(log_root="log", join=" order_id, ").join == " order_id, "
    assert Labels(join="id,at").join == "id,at"
    with pytest.raises(TerminalError, match=r"Labels cannot be used: join.*one column"):
        Labels(log_root="log", join="id,at")
