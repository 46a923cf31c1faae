"""The house rule: a room imports only rooms above it, and what must be light loads no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import opendetr

PACKAGE = Path(opendetr.__file__).parent

# From top to bottom, as docs/reference/architecture.md lists them.
ROOMS = [
    "version", "errors", "options", "raw_values", "files", "locations", "openmp", "control_groups", "cores", "memory",
    "wording", "progress", "threads", "devices", "config", "recipes", "labels", "pixels", "decoding", "images", "boxes",
    "drawing", "_supervision", "_matplotlib", "detections", "structures", "pages", "scoring", "data", "model", "loss",
    "checkpoints", "engines", "evaluation", "training", "exporting", "inference", "benchmarking", "explanation",
    "studies", "ablation", "demonstration", "serving", "api", "cli", "__main__",
]  # fmt: skip
# The package's face names where things live, and the command line imports what a command needs when it runs.
FACES = ("opendetr", "opendetr.cli", "opendetr.__main__")


def is_face(name: str) -> bool:
    return name == "opendetr" or name.startswith(FACES[1:])


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(source: str) -> set[str]:
    """The files of the package that a source imports, inside functions too; or its face."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in inside}
    return found & set(FILES)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The chains of imports that come back to where they began."""
    found, done = [], set()

    def follow(name: str, chain: list[str]) -> None:
        if name in chain:
            found.append([*chain[chain.index(name) :], name])
        elif name not in done:
            for imported in sorted(imports[name]):
                follow(imported, [*chain, name])
            done.add(name)

    for name in imports:
        follow(name, [])
    return found


IMPORTS = {name: imports_of(path.read_text()) for name, path in FILES.items()}


def test_every_file_lives_in_a_listed_room():
    assert {name.split(".")[1] for name in FILES if name != "opendetr"} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(set(FILES) - {"opendetr"}))
def test_a_room_imports_only_rooms_above_it(name):
    own = name.split(".")[1]
    for imported in IMPORTS[name]:
        assert imported != "opendetr" or is_face(name), f"{name} imports the package's face"
        room = imported.partition(".")[2].partition(".")[0]
        if room and room != own:
            assert ROOMS.index(room) < ROOMS.index(own), f"{name} imports {imported}, which is below it"


def test_no_imports_go_in_a_circle():
    faces = set(FACES)
    assert circles({name: imports - faces for name, imports in IMPORTS.items() if name not in faces}) == []


def test_the_rule_sees_every_way_to_import():
    source = (
        "import opendetr\nfrom opendetr import files\n"
        "def later():\n    from opendetr.model.detr import DETR\n    from opendetr import Detector\n"
    )
    assert imports_of(source) == {"opendetr", "opendetr.files", "opendetr.model.detr"}
    assert imports_of("from opendetr import __version__") == {"opendetr"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]


def test_no_file_has_a_name_that_says_nothing():
    assert not {path.stem for path in FILES.values()} & {"utils", "util", "misc", "common", "helpers"}


def named_twice(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names that several files give, with the files."""
    places: dict[str, list[str]] = {}
    for name, place in names:
        places.setdefault(name, []).append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def types_of(source: str) -> set[str]:
    """The classes of a file and its aliases, which are assigned once and written like classes."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            found |= {name} if name[0].isupper() and not name.isupper() else set()
    return found


def functions_of(source: str) -> set[str]:
    """The functions of a file that others may call."""
    body = ast.parse(source).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}


def test_no_two_files_have_one_name():
    assert named_twice((path.stem, name) for name, path in FILES.items() if path.stem != "__init__") == {}


def test_no_two_types_have_one_name():
    assert named_twice((kind, name) for name, path in FILES.items() for kind in types_of(path.read_text())) == {}


def test_no_two_functions_have_one_name():
    """A command has the name of the function that it calls."""
    found = named_twice((name, at) for at, path in FILES.items() for name in functions_of(path.read_text()))
    rooms = {name: [place.split(".")[1] for place in places] for name, places in found.items()}
    assert {name: found[name] for name, both in rooms.items() if both != ["api", "cli"]} == {}


def test_the_rules_of_names_see_types_and_functions():
    source = "class Box: ...\nPair = tuple[int, Box]\nLIMIT = 3\nvalue = 4\ndef run(): ...\ndef _own(): ...\n"
    assert types_of(source) == {"Box", "Pair"}
    assert functions_of(source) == {"run"}
    assert named_twice([("a", "x"), ("b", "x"), ("a", "y")]) == {"a": ["x", "y"]}


@pytest.mark.parametrize("statement", ["import opendetr; dir(opendetr)", "import opendetr.cli"])
def test_torch_is_not_imported_for_names_and_help(statement):
    heavy = "{'torch', 'numpy', 'torchvision', 'timm', 'scipy'} & set(sys.modules)"
    code = f"import sys; {statement}; print({heavy})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_detector_starts_without_scipy_and_the_evaluation():
    """Half a second and 35 MB that only matching, tiles and certificates need; OpenCV comes with COCO's metrics."""
    heavy = "{'scipy.optimize', 'cv2', 'opendetr.evaluation.runner'} & set(sys.modules)"
    code = f"import sys; from opendetr import Detector; print({heavy})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
