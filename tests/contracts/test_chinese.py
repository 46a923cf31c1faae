"""A Chinese page shows what the English page beside it shows: code, commands, figures, equations and options."""

import ast
import re
from pathlib import Path

import pytest

from documented import ROOT, blocks_of, without_blocks

DOCS = ROOT / "docs"
PAGES = [
    pytest.param(path, id=path.relative_to(ROOT).as_posix())
    for path in sorted([*ROOT.glob("*.zh.md"), *DOCS.rglob("*.zh.md")])
]

COMMENT = re.compile(r"\s+# .*$", re.MULTILINE)  # not #SBATCH, which a scheduler reads
EQUATION = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
FIGURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
PAGE_LINK = re.compile(r"\]\(([^()#\s:]+)(?:#[^)\s]+)?\)")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def english(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh.md", ".md"))


def code_of(page: Path) -> list[tuple[str, str]]:
    """The blocks of code without their comments, which are translated."""
    return [
        (block.language, ast.dump(ast.parse(block.code)) if block.language == "python" else COMMENT.sub("", block.code))
        for block in blocks_of(page)
    ]


def test_at_least_twenty_pages_are_chinese():
    assert len(PAGES) >= 20


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_show_the_same_code_figures_and_equations(page):
    for found in (
        code_of,
        lambda path: [Path(figure).name for figure in FIGURE.findall(text(path))],
        lambda path: EQUATION.findall(text(path)),
    ):
        assert found(page) == found(english(page))


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_name_the_same_options(page):
    assert set(OPTION.findall(text(page))) == set(OPTION.findall(text(english(page))))


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_to_the_chinese_page_where_there_is_one(page):  # test_links.py: that they lead somewhere
    for target in PAGE_LINK.findall(without_blocks(text(page))):
        linked = (page.parent / target).resolve()
        if target.endswith(".md") and not target.endswith(".zh.md") and linked != english(page):
            assert not linked.with_name(f"{linked.stem}.zh.md").exists(), f"{target} exists in Chinese"
