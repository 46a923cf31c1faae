"""Values of annotation files as their writers meant them: JSON numbers, the same as text, and flags."""

import math
from typing import Any

FLAGS = {"0": False, "1": True, "false": False, "true": True}


def raw_number(value: Any) -> float:
    """A JSON number, or the text of one.

    Raises:
        ValueError: it is anything else, not finite, or too large for a float (about 1.8e308).
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r:.40} is not a number")
    try:
        number = math.nan if isinstance(value, str) and "_" in value else float(value)  # only Python knows 1_000
    except (OverflowError, ValueError):  # whole numbers have no largest one in Python
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r:.40} is not a finite number")
    return number


def raw_flag(value: Any) -> bool:
    """What `iscrowd` and its like say: 0, 1, true or false, which some files write as text; null is false.

    Raises:
        ValueError: it is anything else.
    """
    if value is None:
        return False
    if isinstance(value, str):
        text = value.strip().lower()
        if text in FLAGS:
            return FLAGS[text]
    elif isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{value!r:.40} is neither 0 nor 1")


def object_area(area: Any, width: float, height: float) -> float:
    """The area of an object in square pixels: as its file says, or of its box where that is no positive number."""
    try:
        number = raw_number(area)
    except ValueError:
        return width * height
    return number if number > 0 else width * height
