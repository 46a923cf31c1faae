"""The exception for users: a sentence, no traceback, exit code 2."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input or a missing prerequisite.

    The message is one sentence that names the file or option, what was expected, what came, and what to do.
    The command line prints it and exits with code 2.
    """

    is_said_elsewhere = False  # by another process of the same training, which raises it too

    def __init__(self, message: str) -> None:
        # A DataLoader worker re-raises with its whole traceback as the message; the sentence follows our name.
        super().__init__(message.rsplit("UserError: ", 1)[-1].strip())


class DivergedError(UserError):
    """A training whose numbers stopped being finite. The command line prints the sentence and exits with code 1."""


@contextmanager
def said_of(source: object) -> Iterator[None]:
    """Put the file or option that it is about before the sentence of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that names the known word nearest to `name`, or all known words where none is near."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"known are: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """The first line of another library's error, for use in our sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
