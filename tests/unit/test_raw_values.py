import math

import pytest

from opendetr.raw_values import object_area, raw_flag, raw_number


@pytest.mark.parametrize(
    ("value", "expected"), [(3, 3.0), (-2.5, -2.5), ("7", 7.0), (" 1e3 ", 1000.0), (2**60, 2.0**60), ("-0.5", -0.5)]
)
def test_numbers(value, expected):
    number = raw_number(value)
    assert number == expected
    assert isinstance(number, float)


@pytest.mark.parametrize(
    "value",
    [None, True, [1], {}, "", "x", "1_000", "nan", math.nan, math.inf, "1e999", 10**400, "9" * 5000],
)
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match=r"number"):
        raw_number(value)


@pytest.mark.parametrize("value", [0, 0.0, False, None, "0", "false", " False "])
def test_flags_that_are_off(value):
    assert raw_flag(value) is False


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "true", "TRUE"])
def test_flags_that_are_on(value):
    assert raw_flag(value) is True


@pytest.mark.parametrize("value", [2, -1, 0.5, math.nan, "", "yes", "2", [], [0], {}])
def test_what_is_no_flag(value):
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        raw_flag(value)


@pytest.mark.parametrize(
    ("area", "expected"),
    [(7, 7), ("7.5", 7.5), (0, 20), (-3, 20), (None, 20), ([7], 20), (math.nan, 20), (10**400, 20)],
)
def test_the_area_of_an_object_is_its_boxs_where_it_is_no_positive_number(area, expected):
    assert object_area(area, 4.0, 5.0) == expected
