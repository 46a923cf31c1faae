"""axe-core, which finds what people with a screen reader or low vision could not use."""

from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


def require_axe() -> None:
    if not AXE.exists():
        pytest.skip(f"run `npm ci` in {AXE.parents[2]} to check the page's accessibility")


def violations(page: Any) -> list[str]:
    """What it finds against the view that is shown."""
    if page.evaluate("typeof axe === 'undefined'"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [f"{one['id']}: {node['html']} {node['failureSummary']}" for one in found for node in one["nodes"]]
