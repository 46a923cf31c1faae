"""The page of differences keeps its word: every row names a test that exists, or says that there is none."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "differences.md"


def rows() -> list[list[str]]:
    """The cells of every row of the tables, heads and rules aside."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[-1] not in ("test", "---")]


def test_every_row_names_its_test_or_says_that_there_is_none():
    assert len(rows()) > 60
    for row in rows():
        assert "::" in row[-1] or "no test" in row[-1], row


def test_every_test_that_is_named_exists():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert named
    for file, name in named:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"
