"""How numbers and names of things are written in sentences, pages and names of files.

Names of classes and files are others' texts: they may hold escape sequences, which a terminal obeys, and signs that
turn the direction of a text, by which it reads as another.
"""

import re
from collections.abc import Iterable

HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NOT_IN_LINES = re.compile(f"(?![\n\t]){HIDDEN.pattern}")

_FOLDERS = re.compile(r"(?<![\w./:~-])(?:[A-Za-z]:)?[/\\](?:[^\s/\\]+[/\\])+")  # of an absolute path


def one_line(text: str) -> str:
    """A text in which nothing is hidden: what steers a terminal or a line is written as Python writes it."""
    return HIDDEN.sub(_as_python, text)


def visible(text: str) -> str:
    """The same for a text of several lines, which keeps its breaks and tabs."""
    return _NOT_IN_LINES.sub(_as_python, text)


def without_hidden(name: str) -> str:
    """A name for a file, with a dash for every hidden character."""
    return HIDDEN.sub("-", name)


def without_folders(sentence: str) -> str:
    """A sentence for another machine: of every absolute path only the last name; the rest tells users and disks."""
    return _FOLDERS.sub("", sentence)


def _as_python(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 picture`, `2,000 pictures`; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(choices: Iterable[str]) -> str:
    """`a, b or c`."""
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
