"""The page is plain JavaScript; TypeScript checks the types that its comments state."""

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = HERE / "node_modules" / ".bin" / "tsc"


def test_the_types_of_the_page_hold():
    if not COMPILER.exists():
        pytest.skip(f"run `npm ci` in {HERE} to check the types of the page")
    checked = subprocess.run([COMPILER, "--project", HERE], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
