"""Links from a page to its other language, which readers of the repository need: the site has a switch instead."""

import re
from pathlib import PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

LANGUAGES = {"en": "English", "zh": "中文"}
LINK_TO_OTHER_LANGUAGE = re.compile(rf"\[(?:{'|'.join(LANGUAGES.values())})\]\([^)\s]+\.md\)(?:\s*·\s*)?")


def on_page_markdown(markdown: str, /, *, page: Page, **_: Any) -> str:
    """Leave the links out; and an English page that stands in for a Chinese one is found by the search only once."""
    if page.file.dest_uri.startswith("zh/") and not page.file.src_uri.endswith(".zh.md"):
        page.meta["search"] = {"exclude": True}
    return LINK_TO_OTHER_LANGUAGE.sub("", markdown)


@event_priority(-100)  # after the plugin, whose links begin with / and lead nowhere in a file
def on_page_context(context: dict[str, Any], /, *, page: Page, config: MkDocsConfig, nav: Navigation) -> dict[str, Any]:
    """Let the switch lead to the same page of the other language, by a relative address."""
    path = PurePosixPath(page.file.dest_uri)
    if path.parts[0] in LANGUAGES:
        path = path.relative_to(path.parts[0])
    config.extra["alternate"] = [
        {
            "name": name,
            "lang": language,
            "link": get_relative_url(str(path if language == "en" else language / path), page.url),
        }
        for language, name in LANGUAGES.items()
    ]
    return context
