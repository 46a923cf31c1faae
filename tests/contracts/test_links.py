"""Every relative link of the pages leads to a file, and to a heading or a line that is there. No network is used."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from documented import PAGES, ROOT, without_blocks

_LINK = re.compile(
    r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|(?:src|href)=\"([^\"]+)\"|^\[(?!\^)[^\]]+\]: (\S+)", re.MULTILINE
)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_NAMED = re.compile(r"\{ *#([\w-]+) *\}|\b(?:id|name)=\"([\w-]+)\"")


def anchors(page: Path) -> set[str]:
    """What links may name in a page: its headings, as GitHub and Markdown's own table of contents write them."""
    text = without_blocks(page.read_text(encoding="utf-8"))
    found, counted = {one or other for one, other in _NAMED.findall(text)}, {}
    for heading in _HEADING.findall(text):
        words = re.sub(r"\{ *#[\w-]+ *\}|!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        words = unicodedata.normalize("NFC", re.sub(r"[`*]", "", words)).lower().strip()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        for one in {name, re.sub("-+", "-", name)}:
            found.add(f"{one}-{counted[one]}" if one in counted else one)
            found.add(f"{one}_{counted[one]}" if one in counted else one)
            counted[one] = counted.get(one, 0) + 1
    return found


def links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """The links of a page that stay in the repository: as written, the file, the anchor."""
    text = re.sub(r"`[^`\n]*`", "", without_blocks(page.read_text(encoding="utf-8")))
    for link in ("".join(found) for found in _LINK.findall(text)):
        path, _, anchor = unquote(link).partition("#")
        if not re.match(r"[a-z][a-z0-9+.-]*:|//", link):
            yield link, (page.parent / path).resolve() if path else page, anchor


def broken_links(page: Path) -> list[str]:
    """The links of a page that lead nowhere in the repository; those to other sites are not followed."""
    broken = []
    for link, target, anchor in links(page):
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
        elif lines := re.fullmatch(r"L(\d+)(?:-L(\d+))?", anchor):
            last = int(lines[2] or lines[1])
            broken += [link] if last > len(target.read_text(encoding="utf-8").splitlines()) else []
    return broken


# What newcomers look for, and where it is.
TEN_THINGS = {
    "install it": "start#install",
    "train on my own pictures": "start#your-own-pictures-in-ten-minutes",
    "which forms of data are read": "tasks/data",
    "continue from DETR-R50": "tasks/fine-tuning",
    "why an object was missed": "tasks/explaining",
    "export to ONNX": "tasks/exporting",
    "ask it over HTTP": "tasks/serving",
    "which AP it reaches": "results/index",
    "the options of train": "reference/cli",
    "why AP stays at 0": "tasks/not-learning",
}


def clicks_from_home(language: str) -> dict[str, int]:
    """Pages, and headings of pages, by the number of links that lead to them; a page lists its own headings."""
    docs, reached = ROOT / "docs", {"index": 0}
    for clicks in (0, 1):
        for name in [name for name, steps in reached.items() if steps == clicks and "#" not in name]:
            page = docs / f"{name}{language}.md"
            if not page.is_file():  # shown in English
                page = docs / f"{name}.md"
            found = [f"{name}#{anchor}" for anchor in anchors(page)]
            for _, target, anchor in links(page):
                if target.suffix == ".md" and target.is_relative_to(docs):
                    other = target.relative_to(docs).as_posix().removesuffix(".md").removesuffix(".zh")
                    found += [other, f"{other}#{anchor}"]
            for one in found:
                reached.setdefault(one, clicks + 1)
    return reached


@pytest.mark.parametrize("language", ["", ".zh"])
def test_ten_things_are_within_two_clicks_from_home(language):
    reached = clicks_from_home(language)
    assert {thing for thing, place in TEN_THINGS.items() if place not in reached} == set()


@pytest.mark.parametrize("page", [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in PAGES])
def test_every_relative_link_leads_somewhere(page):
    assert broken_links(page) == []


def test_broken_links_would_be_seen(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# Files of `weights`, and more\n\n## 图\n\n## Twice\n\n## Twice\n")
    (tmp_path / "code.py").write_text("one\ntwo\n")
    page.write_text(
        "# Here\n[a](other.md#files-of-weights-and-more) [b](#here) [c](other.md#图) [d](code.py#L2) ![e](other.md)\n"
        '[f](other.md#twice-1) [g](https://example.org/gone) <img src="other.md">\n'
        "`[x](gone.md)`\n```\n[in code](gone.md)\n```\n"
        "[1](gone.md) [2](#nowhere) [3](other.md#here) [4](code.py#L3) ![5](gone.png)\n"
    )
    assert broken_links(page) == ["gone.md", "#nowhere", "other.md#here", "code.py#L3", "gone.png"]
