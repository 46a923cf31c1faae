"""What annotation files write where a number, an id or a flag belongs, read by one rule for all of them."""

import math
import re
from collections.abc import Iterable
from typing import Any

RawId = int | str  # of a picture, a category or an annotation, as a data set has it
LONGEST_NUMBER = 4000  # digits: Python refuses to read longer ones
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")


def raw_id(value: Any) -> RawId:
    """An id: 7, 7.0, "7" and "7.0" are 7, whatever their size; other texts are ids as they are.

    Raises:
        ValueError: it is anything else, such as true, null, 2.5 or an empty text.
    """
    if isinstance(value, str):
        text = value.strip()
        if _WHOLE.fullmatch(text) and len(text) < LONGEST_NUMBER:
            return int(text.partition(".")[0])
        if text:
            return text
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    elif isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValueError(f"{value!r} is no id")


def next_free(taken: Iterable[RawId]) -> int:
    """The number after the largest id; 1 where there is none."""
    return max((one for one in taken if isinstance(one, int)), default=0) + 1


def whole_number(value: Any) -> int:
    """An id that is a whole number.

    Raises:
        ValueError: it is anything else.
    """
    number = raw_id(value)
    if not isinstance(number, int):
        raise ValueError(f"{value!r} is not a whole number")
    return number


def raw_number(value: Any) -> float:
    """A finite number, also as a text.

    Raises:
        ValueError: it is anything else, such as true, null, a list, nan, or a number of 400 digits.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{str(value)[:20]!r} is no number")
    if isinstance(value, str) and "_" in value:  # which Python alone reads as a number
        raise ValueError(f"{value[:20]!r} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except ValueError:
        raise ValueError(f"{str(value)[:20]!r} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{str(value)[:20]} is no finite number")
    return number


def raw_flag(value: Any) -> bool:
    """Yes or no: true, 1, 1.0, "1", "true" and "yes" are yes; false, 0, null, "" and the like are no.

    Raises:
        ValueError: it is anything else, such as 2 or a list.
    """
    if value is None:
        return False
    word = str(value).strip().lower() if isinstance(value, str | int | float) else "?"
    if word in ("1", "1.0", "true", "yes"):
        return True
    if word in ("0", "0.0", "false", "no", "", "none"):
        return False
    raise ValueError(f"{value!r} is neither 0 nor 1")
