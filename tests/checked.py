"""The type checker of the test run: every annotated shape of opendetr is checked at every call."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as type checkers see it
