"""Every module can be imported with the core dependencies alone, or says in a sentence which extra it needs."""

import json
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import opendetr

PACKAGE = Path(opendetr.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Hides top-level modules from every finder, as if they were not installed, then imports the given modules.
IMPORT_ALL = """
import importlib, json, sys

class Hiding:
    def __init__(self, finder, hidden):
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

hidden, modules = json.loads(sys.stdin.read())
sys.meta_path[:] = [Hiding(finder, set(hidden)) for finder in sys.meta_path]
failed = {}
for module in modules:
    try:
        importlib.import_module(module)
    except Exception as error:
        failed[module] = [type(error).__name__, str(error)]
print(json.dumps([failed, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def brought_by(requirements: list[str]) -> set[str]:
    """The distributions that requirements bring, as far as they are installed here."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                needed = [Requirement(text) for text in requires(name) or []]
            except PackageNotFoundError:
                continue
            waiting += [r for r in needed if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


@cache
def hidden_modules() -> set[str]:
    """The top-level modules that only extras bring."""
    extras = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
    others = [text for text in extras if Requirement(text).name != PROJECT["name"]]
    only_extras = brought_by(others) - brought_by(PROJECT["dependencies"])
    return {
        module
        for module, distributions in packages_distributions().items()
        if {canonicalize_name(name) for name in distributions} <= only_extras
    }


@pytest.fixture(scope="module")
def imported() -> tuple[dict[str, list[str]], set[str]]:
    """What could not be imported and why, and the top-level modules that were loaded."""
    files = sorted(PACKAGE.rglob("*.py"))
    modules = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]
    modules = [module.removesuffix(".__init__") for module in modules]
    ended = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], input=json.dumps([sorted(hidden_modules()), modules]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    failed, loaded = json.loads(ended.stdout.splitlines()[-1])
    return failed, set(loaded)


def test_what_only_extras_bring_is_hidden(imported):
    """Else the other test would find everything there."""
    assert hidden_modules() >= {"sklearn", "onnxruntime", "openvino", "ray", "pyarrow", "pytest", "transformers"}
    assert not hidden_modules() & {"torch", "numpy", "timm", "scipy", "psutil", "PIL"}
    assert not hidden_modules() & imported[1]


def test_a_module_that_cannot_be_imported_names_the_extra(imported):
    failed, loaded = imported
    assert {kind for kind, _ in failed.values()} <= {"UserError"}, failed
    for module, (_, sentence) in failed.items():
        assert any(f"opendetr[{extra}]" in sentence for extra in PROJECT["optional-dependencies"]), (module, sentence)
    assert {"torch", "torchvision", "accelerate", "opendetr"} <= loaded
