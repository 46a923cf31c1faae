"""XML as nodes that know their lines. Files that define entities, which can fill the memory, are refused."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from opendetr.data.formats.split_files import read_bytes
from opendetr.errors import UserError, first_line
from opendetr.locations import FilePath

_DECLARATION = re.compile(rb"""<\?xml[^>]*encoding=["']([A-Za-z0-9._-]+)["']""")


@dataclass(slots=True)
class Node:
    """An element: its name, its line from 1, the text directly in it, and the elements in it."""

    tag: str
    line: int
    text: str = ""
    children: "list[Node]" = field(default_factory=list)

    def all(self, tag: str) -> "Iterator[Node]":
        """The elements directly in this one that have a name."""
        return (child for child in self.children if child.tag == tag)

    def first(self, tag: str) -> "Node | None":
        """The first of them."""
        return next(self.all(tag), None)

    def text_of(self, tag: str) -> str:
        """The text of the first of them, without space around it; empty where there is none."""
        node = self.first(tag)
        return "" if node is None else node.text.strip()


def read_xml(source: FilePath, repairs: Counter[str], expected: str) -> Node:
    """The root of an XML file.

    Raises:
        UserError: it is missing, unreadable, no XML, or it defines entities; `expected` describes it.
    """
    content = read_bytes(source, expected)
    try:
        return _parse(content, None)
    except (expat.ExpatError, LookupError, ValueError) as error:
        again = _decoded(content)
        if again is not None:
            encoding, text = again
            try:
                node = _parse(text.encode("utf-8", "replace"), "utf-8")
                repairs[f"file that is not in the encoding it states: read as {encoding}"] += 1
                return node
            except (expat.ExpatError, LookupError, ValueError):
                pass
        line = f":{error.lineno}" if isinstance(error, expat.ExpatError) else ""
        problem = first_line(error).split(": line ")[0]
        raise UserError(f"{source}{line} cannot be read as XML ({problem}); expected {expected}") from None


def _decoded(content: bytes) -> tuple[str, str] | None:
    """The encoding and the text of a file that the parser does not read for its encoding."""
    stated = _DECLARATION.match(content)
    for encoding in ([stated[1].decode("ascii")] if stated else []) + ["cp1252"]:
        try:
            text = content.decode(encoding)
        except (LookupError, UnicodeError):
            continue
        return encoding, text
    return None


def _parse(content: bytes, encoding: str | None) -> Node:
    parser = expat.ParserCreate(encoding)
    parser.buffer_text = True
    root = Node("", 0)
    open_nodes = [root]

    def start(tag: str, _: dict[str, str]) -> None:
        node = Node(tag, parser.CurrentLineNumber)
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def end(_: str) -> None:
        open_nodes.pop()

    def characters(text: str) -> None:
        open_nodes[-1].text += text

    def refuse(*_: object) -> None:
        raise ValueError("it defines entities, which annotation files do not need")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = characters
    parser.EntityDeclHandler = refuse
    parser.Parse(content, True)
    return root.children[0]
