"""Links to files outside docs lead to pages of the site that show the file, with an anchor for every line."""

import logging
import posixpath
import re
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

log = logging.getLogger("mkdocs.hooks.source_pages")  # its warnings end a strict build

FOLDERS = ("src", "examples", "benchmarks", "tests")
FILES = ("README.md", "LICENSE", "pyproject.toml")
SCHEME = "source:"  # a link of this kind is left alone by mkdocs, until `on_page_content`
LINK = re.compile(r"\]\((?P<up>(?:\.\./)+)(?P<path>[^)#\s]+)(?:#L(?P<line>\d+))?\)")
STYLE = """body { margin: 0; font: 14px/1.5 ui-monospace, monospace; } h1 { font: 16px sans-serif; padding: 0 1em; }
:root { color-scheme: light dark; } .highlight pre { margin: 0; padding: 0 1em 1em; overflow-x: auto; }
a { color: inherit; } span:target { background: #ffd54f66; } .linenos { opacity: .5; padding-right: 1em; }
"""

root = Path(__file__).resolve().parents[2]
_shown: set[str] = set()


def on_pre_build(**_: Any) -> None:
    """Forget the links of the build before: `mkdocs serve` builds again and again."""
    _shown.clear()


def on_page_markdown(markdown: str, /, *, page: Page, **_: Any) -> str:
    """Mark the links to source, and say which lead nowhere."""

    def mark(link: re.Match[str]) -> str:
        path = posixpath.normpath(
            posixpath.join("docs", posixpath.dirname(page.file.src_uri), link["up"] + link["path"])
        )
        if path.startswith("docs/") or not (path in FILES or path.split("/")[0] in FOLDERS):
            return link[0]  # a page, which mkdocs checks
        line = int(link["line"] or 0)
        if not (root / path).is_file():
            log.warning(f"{page.file.src_uri}: links to {path}, which is no file of the repository")
        elif line > len((root / path).read_text(encoding="utf-8").splitlines()):
            log.warning(f"{page.file.src_uri}: links to line {line} of {path}, which is shorter")
        _shown.add(path)
        return f"]({SCHEME}{path}{f'#L{line}' if line else ''})"

    return LINK.sub(mark, markdown)


def on_page_content(html: str, /, *, page: Page, **_: Any) -> str:
    """Give the marked links their relative addresses."""
    return re.sub(
        f'href="{SCHEME}([^"#]+)',
        lambda link: f'href="{get_relative_url(f"source/{link[1]}.html", page.url)}',
        html,
    )


def on_post_build(*, config: MkDocsConfig) -> None:
    """Write a page for each file that is linked to."""
    light, dark = (
        HtmlFormatter(style=style, linenos="inline", linespans="L", anchorlinenos=False)
        for style in ("default", "github-dark")
    )
    for path in sorted(_shown):
        if not (root / path).is_file():
            continue
        code = (root / path).read_text(encoding="utf-8")
        try:
            lexer = get_lexer_for_filename(path, stripnl=False)
        except ClassNotFound:
            lexer = TextLexer(stripnl=False)
        body = highlight(code, lexer, light).replace('id="L-', 'id="L')
        home = "../" * (path.count("/") + 1) + "index.html"
        style = (
            f"{STYLE}{light.get_style_defs('.highlight')}\n"
            f"@media (prefers-color-scheme: dark) {{ {dark.get_style_defs('.highlight')} }}"
        )
        page = Path(config.site_dir, "source", f"{path}.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(path)} - opendetr</title>'
            f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>'
            f'<body><h1><a href="{home}">opendetr</a> / {escape(path)}</h1>{body}</body></html>\n',
            encoding="utf-8",
        )
