"""axe-core, which finds what a screen reader or weak eyes could not use."""

from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
RULES: dict[str, dict[str, Any]] = {
    "all": {},
    "colours": {"runOnly": ["color-contrast"]},
    "all but colours": {"rules": {"color-contrast": {"enabled": False}}},
}


def require_axe() -> None:
    if not AXE.exists():
        pytest.skip(f"run `npm ci` in {AXE.parents[2]} to check the page's accessibility")


def violations(page: Any, rules: str = "all") -> list[str]:
    """What it finds against the view that is shown."""
    if page.evaluate("typeof axe === 'undefined'"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("rules => axe.run({ resultTypes: ['violations'], ...rules })", RULES[rules])["violations"]
    return [f"{one['id']}: {node['html']} {node['failureSummary']}" for one in found for node in one["nodes"]]
