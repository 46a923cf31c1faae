"""A Chinese page shows what the English page beside it shows: code, commands, figures, equations and options."""

import ast
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [pytest.param(path, id=path.relative_to(DOCS).as_posix()) for path in sorted(DOCS.rglob("*.zh.md"))]

BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"\s+# .*$", re.MULTILINE)  # not #SBATCH, which a scheduler reads
EQUATION = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
FIGURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
PAGE_LINK = re.compile(r"\]\(([^()#\s:]*)(?:#([^)\s]+))?\)")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def english(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh.md", ".md"))


def shown(block: tuple[str, str]) -> tuple[str, str]:
    """A block of code without its comments, which are translated."""
    language, code = block
    return language, ast.dump(ast.parse(code)) if language == "python" else COMMENT.sub("", code)


def anchors(page: Path) -> set[str]:
    prose = BLOCK.sub("", text(page))
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return {*slugs, *re.findall(r'<a id="([^"]+)">', prose)}


def test_at_least_twenty_pages_are_chinese():
    assert len(PAGES) >= 20


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_show_the_same_code_figures_and_equations(page):
    for found in (
        lambda path: [shown(block) for block in BLOCK.findall(text(path))],
        lambda path: [Path(figure).name for figure in FIGURE.findall(text(path))],
        lambda path: EQUATION.findall(text(path)),
    ):
        assert found(page) == found(english(page))


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_name_the_same_options(page):
    assert set(OPTION.findall(text(page))) == set(OPTION.findall(text(english(page))))


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_to_pages_and_headings_and_to_the_chinese_page_where_there_is_one(page):
    for target, anchor in PAGE_LINK.findall(BLOCK.sub("", text(page))):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), f"{target}#{anchor}"
        if target.endswith(".md") and not target.endswith(".zh.md") and linked != english(page):
            assert not linked.with_name(f"{linked.stem}.zh.md").exists(), f"{target} exists in Chinese"
