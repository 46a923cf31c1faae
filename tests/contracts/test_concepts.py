"""The concept pages keep their word: their code runs, and their links lead where they say, in both languages.

test_chinese.py compares the two languages.
"""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CONCEPTS = DOCS / "concepts"
PAGES = sorted(path.stem for path in CONCEPTS.glob("*.md") if not path.name.endswith(".zh.md"))
BOTH = [pytest.param(path, id=path.name) for path in sorted(CONCEPTS.glob("*.md"))]

SOURCE_LINK = re.compile(r"\[`([^`]+)`\]\(([^)#]+\.py)#L(\d+)\)")
FIGURE = re.compile(r"!\[[^\]]+\]\(([^)]+)\)")
PAGE_LINK = re.compile(r"\]\(([^)#:]+\.md)\)")


def english(page: str) -> Path:
    return CONCEPTS / f"{page}.md"


def chinese(page: str) -> Path:
    return CONCEPTS / f"{page}.zh.md"


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_the_index_and_eight_pages_exist_in_both_languages():
    steps = ["backbone", "positions", "encoder", "decoder", "matching", "losses", "auxiliary-losses", "postprocessing"]
    assert sorted(["index", *steps]) == PAGES
    assert sorted(path.name.removesuffix(".zh.md") for path in CONCEPTS.glob("*.zh.md")) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_and_its_claims_hold(page):
    blocks, namespace = python_blocks(english(page)), {"__name__": "concepts"}
    assert any("assert " in block for block in blocks)
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", BOTH)
def test_links_to_source_lead_to_the_line_that_defines_the_name(page):
    links = SOURCE_LINK.findall(page.read_text(encoding="utf-8"))
    assert links
    for name, path, number in links:
        line = (page.parent / path).resolve().read_text(encoding="utf-8").splitlines()[int(number) - 1]
        defined = re.match(r"\s*(?:def|class) (\w+)", line)
        assert defined is not None, f"`{name}`: {path}#L{number} is no definition but {line!r}"
        assert defined[1] == name.rsplit(".", 1)[-1], f"`{name}`: {path}#L{number} is {line!r}"


@pytest.mark.parametrize("page", BOTH)
def test_every_figure_and_every_page_that_is_linked_to_exists(page):
    text = page.read_text(encoding="utf-8")
    for link in [*FIGURE.findall(text), *PAGE_LINK.findall(text)]:
        assert (page.parent / link).is_file(), link


@pytest.mark.parametrize("page", PAGES)
def test_each_language_links_to_the_other(page):
    assert f"[中文]({page}.zh.md)" in english(page).read_text(encoding="utf-8")
    assert f"[English]({page}.md)" in chinese(page).read_text(encoding="utf-8")
