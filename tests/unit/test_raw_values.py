import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendetr.raw_values import raw_flag, raw_id, raw_number, whole_number


@given(st.integers(-(10**50), 10**50))
def test_a_whole_number_is_the_same_however_it_is_written(number):
    for written in (number, str(number), f" {number} ", f"{number}.0", f"{number}."):
        assert raw_id(written) == number
        assert type(raw_id(written)) is int
    if abs(number) <= 2**53:
        assert raw_id(float(number)) == number


@pytest.mark.parametrize("text", ["a", "1_000", "0x7", "1e5", "2.5", "images/1.jpg", "1 2", "٣a", "9" * 5000])
def test_other_texts_are_ids_as_they_are(text):
    assert raw_id(text) == text
    with pytest.raises(ValueError, match="is not a whole number"):
        whole_number(text)


@pytest.mark.parametrize("value", [None, True, False, 2.5, float("nan"), float("inf"), "", "  ", [1], {}])
def test_what_is_no_id(value):
    with pytest.raises(ValueError, match="is no id"):
        raw_id(value)


@pytest.mark.parametrize(("value", "expected"), [(3, 3.0), (2.5, 2.5), ("3", 3.0), (" 2.5 ", 2.5), ("1e3", 1000.0)])
def test_numbers(value, expected):
    assert raw_number(value) == expected


@pytest.mark.parametrize("value", [None, True, [1], {}, "", "x", "1_000", "nan", float("inf"), 10**400, "9" * 400])
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match=r"is no (finite )?number"):
        raw_number(value)


@pytest.mark.parametrize("value", [1, 1.0, "1", "true", "True", True, "yes"])
def test_yes(value):
    assert raw_flag(value) is True


@pytest.mark.parametrize("value", [0, 0.0, "0", "false", False, None, "", "no"])
def test_no(value):
    assert raw_flag(value) is False


@pytest.mark.parametrize("value", [2, -1, "maybe", [0], {}, float("nan")])
def test_neither(value):
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        raw_flag(value)
