"""Parameters refuse what they cannot take, and cross JSON unchanged."""

import json

import pytest

from airtight.errors import TerminalError
from airtight.parameters import Parameter

EPOCHS = Parameter("epochs", "int", 10, "Passes over the data.", minimum=1, maximum=100)
LIMIT = Parameter("p99_limit_ms", "float", 50.0, minimum=0)
STRATEGY = Parameter("strategy", "str", "mirrored", choices=("mirrored", "tpu"))


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        (EPOCHS, "10", "a value of type int"),
        (EPOCHS, 1.0, "a value of type int"),
        (EPOCHS, True, "a value of type int"),
        (EPOCHS, 0, "at least 1"),
        (EPOCHS, 101, "at most 100"),
        (STRATEGY, "gpu", "one of mirrored, tpu"),
        (LIMIT, None, "a value of type float"),
    ],
)
def test_a_wrong_value_is_refused(parameter, value, message):
    with pytest.raises(TerminalError, match=message):
        parameter.check(value)


def test_a_whole_number_is_a_float_where_one_is_wanted():
    value = LIMIT.check(5)
    assert (value, type(value)) == (5.0, float)


def test_a_default_outside_its_own_range_is_refused_where_it_is_written():
    with pytest.raises(TerminalError, match="at least 1"):
        Parameter("epochs", "int", 0, minimum=1)


@pytest.mark.parametrize("parameter", [EPOCHS, LIMIT, STRATEGY])
def test_json_keeps_a_parameter(parameter):
    assert Parameter.from_dict(json.loads(json.dumps(parameter.to_dict()))) == parameter
