"""The type checker of the test run: annotated shapes of opendetr are checked, in the tests that conftest.py names.

Functions within functions are left out: they are made anew at every call of the outer one, and to make a check takes
milliseconds. What they are given and what they give passes through functions that are checked.
"""

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as type checkers see it


def check(checked):
    return checked if "<locals>" in checked.__qualname__ else _check(checked)
