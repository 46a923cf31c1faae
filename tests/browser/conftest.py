"""A real Chromium, steered by Playwright; tests of the page are skipped with a sentence where it is not installed."""

import shutil
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """The browser; a test opens pages of its own in it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium found; `apt-get install chromium` installs what the tests of the page need")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; `pip install -e '.[test]'` brings it"
    )
    with playwright.sync_playwright() as steering:
        # Chromium's sandbox refuses to start for root, as which containers run tests.
        browser = steering.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
