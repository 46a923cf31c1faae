"""The site is whole: what mkdocs does not check, and what can be checked without it. `.ci/run` builds it."""

import importlib.util
import re
from pathlib import Path

import pytest
import typer.main
import yaml

import opendetr
import opendetr.cli
from opendetr.cli.application import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
ENGLISH = [page for page in PAGES if not page.endswith(".zh.md")]
CHINESE = [page for page in PAGES if page.endswith(".zh.md")]


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name functions of packages that need not be installed here."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def in_navigation(entry) -> tuple[list[str], list[str]]:
    """The titles and pages of a part of the navigation."""
    if isinstance(entry, str):
        return [], [entry]
    titles, pages = [], []
    for part in entry if isinstance(entry, list) else entry.values():
        inner_titles, inner_pages = in_navigation(part)
        titles += inner_titles
        pages += inner_pages
    return titles + (list(entry) if isinstance(entry, dict) else []), pages


TITLES, LISTED = in_navigation(SITE["nav"])


def plugin(name: str) -> dict:
    return next(entry[name] for entry in SITE["plugins"] if isinstance(entry, dict) and name in entry)


def hook(name: str):
    spec = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation_once():
    assert sorted(LISTED) == ENGLISH


def test_every_chinese_page_has_an_english_one():
    assert {page.replace(".zh.md", ".md") for page in CHINESE} <= set(ENGLISH)


def test_the_navigation_is_in_chinese_too():
    chinese = next(language for language in plugin("i18n")["languages"] if language["locale"] == "zh")
    assert set(TITLES) - {"Python", "Docker"} <= set(chinese["nav_translations"])


@pytest.mark.parametrize("page", PAGES)
def test_a_page_begins_with_its_title(page):
    first = (DOCS / page).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(("# ", "{% include-markdown "))


def test_pages_in_both_languages_link_to_each_other():
    for page in CHINESE:
        chinese = DOCS / page
        english = DOCS / page.replace(".zh.md", ".md")
        assert re.search(rf"\[English\]\({english.name}\)", text_of(chinese), re.IGNORECASE), page
        assert re.search(rf"\[中文\]\({chinese.name}\)", text_of(english), re.IGNORECASE), page


def text_of(page: Path) -> str:
    """What a page says, also where it is a file at the root, as CONTRIBUTING.md for contributing.md."""
    text = page.read_text(encoding="utf-8")
    included = re.fullmatch(r'\{% include-markdown "(.+)" %\}\s*', text)
    return (page.parent / included[1]).read_text(encoding="utf-8") if included else text


def test_code_in_tables_breaks_at_its_joints_only():
    page = (
        "<p><code>a.b</code></p><td>in a.b <code>--set model.num_queries=5</code></td><td><code>a/b::c=0.5</code></td>"
    )
    assert hook("code_joints").on_page_content(page) == (
        "<p><code>a.b</code></p><td>in a.b <code>--set model.<wbr>num_<wbr>queries=<wbr>5</code></td>"
        "<td><code>a/<wbr>b::<wbr>c=<wbr>0.5</code></td>"
    )


def test_an_equation_that_would_show_a_command_ends_a_strict_build(caplog):
    pytest.importorskip(
        "latex2mathml", reason="the site's packages are not installed; `pip install -e '.[dev]'` brings them"
    )
    equations = hook("equations")
    for tex, warnings in ((r"\text{arg}\min_x x", 0), (r"\arg\min_x x", 1)):
        caplog.clear()
        html = equations.on_page_content(rf'<span class="arithmatex">\({tex}\)</span>')
        assert "<math" in html
        assert len(caplog.records) == warnings, tex


def test_every_public_name_has_its_place_in_the_reference():
    named = re.findall(
        r"^::: opendetr\.(\w+)$", (DOCS / "reference/python.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert sorted([*named, "__version__"]) == opendetr.__all__


def test_the_reference_has_every_command_with_every_option():
    module = hook("command_reference")
    assert module.MARKER in (DOCS / "reference/cli.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^### (opendetr [^\n]+)\n(.*?)(?=^##|\Z)", module.all_commands(), re.DOTALL | re.MULTILINE)
    )
    commands = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        commands |= {f"{name} {sub}": each for sub, each in inner.items()} if inner else {name: command}
    assert set(sections) == {f"opendetr {name}" for name in commands}
    for name, command in commands.items():
        section = sections[f"opendetr {name}"]
        assert "```bash\nopendetr " in section, f"{name} has no example"
        for parameter in command.params:
            if parameter.param_type_name == "option":
                for option in (*parameter.opts, *parameter.secondary_opts):
                    assert f"`{option}" in section or f", {option}" in section, (name, option)
                assert parameter.help
        assert "[dim]" not in section
        assert "\\[" not in section


def test_the_readme_is_one_screen_and_a_half():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


def test_the_search_from_disk_has_both_languages():
    """The plugin `offline` copies the index when `i18n` has completed it."""
    names = [entry if isinstance(entry, str) else next(iter(entry)) for entry in SITE["plugins"]]
    assert names.index("i18n") < names.index("offline")
