"""The house rule: a room imports only rooms above it, and what must be light loads no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import opendetr

PACKAGE = Path(opendetr.__file__).parent

# From top to bottom, as docs/architecture.md lists them. `__init__` is exempt: it only names where things live.
ROOMS = [
    "errors", "files", "control_groups", "memory", "progress", "threads", "devices", "config", "labels",
    "_supervision", "_matplotlib", "structures", "boxes", "scoring", "data", "model", "loss", "checkpoints",
    "engines", "evaluation", "training", "exporting", "inference", "benchmarking", "explanation", "studies",
    "ablation", "demonstration", "api", "cli", "__main__",
]  # fmt: skip


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("opendetr"):
            found |= {node.module} if "." in node.module else {f"opendetr.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("opendetr.")}
    return found


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def test_every_file_lives_in_a_listed_room():
    assert {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in modules()} <= set(ROOMS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_above_it(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for module in imports_of(path):
        if room_of(module) in ROOMS and room_of(module) != own:
            assert ROOMS.index(room_of(module)) < ROOMS.index(own), f"{own} imports {module}, which is below it"


def test_no_file_has_a_name_that_says_nothing():
    assert not {path.stem for path in modules()} & {"utils", "util", "misc", "common", "helpers"}


@pytest.mark.parametrize("statement", ["import opendetr; dir(opendetr)", "import opendetr.cli"])
def test_torch_is_not_imported_for_names_and_help(statement):
    heavy = "{'torch', 'numpy', 'torchvision', 'timm', 'scipy'} & set(sys.modules)"
    code = f"import sys; {statement}; print({heavy})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_detector_starts_without_scipy():
    """Half a second and 35 MB that only matching, tiles and certificates need."""
    code = "import sys; from opendetr import Detector; print({'scipy.optimize'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
