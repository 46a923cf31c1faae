"""The Python code of the pages: it compiles, and what it takes from opendetr is there."""

import ast
import importlib

import pytest

from documented import PAGES, blocks_of

CODE = [
    pytest.param(block, id=block.place)
    for page in PAGES
    for block in blocks_of(page)
    if block.language in ("python", "py")
]


def missing_names(tree: ast.Module) -> list[str]:
    """Modules and names of opendetr that code imports and that do not exist."""
    wanted: list[tuple[str, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted += [(node.module, alias.name) for alias in node.names]
    found = []
    for module, name in wanted:
        if module.split(".")[0] == "opendetr":
            try:
                there = importlib.import_module(module)
            except ModuleNotFoundError:
                found.append(module)
            else:
                found += [f"{module}.{name}"] if name and not hasattr(there, name) else []
    return found


@pytest.mark.parametrize("block", CODE)
def test_the_code_of_a_page_compiles_and_its_imports_exist(block):
    assert missing_names(ast.parse(block.code, block.place)) == []


def test_names_that_do_not_exist_would_be_seen():
    code = "import opendetr.nowhere\nfrom opendetr import Detector, Nothing\nfrom elsewhere import anything\n"
    assert missing_names(ast.parse(code)) == ["opendetr.nowhere", "opendetr.Nothing"]
