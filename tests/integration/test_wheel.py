"""The wheel works away from the repository: command line, recipes, the page and the embedded data set."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import opendetr

REPOSITORY = Path(__file__).parents[2]
MOST_BYTES = 1_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with the wheel and the source distribution, as `python -m build` makes them."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    (wheel,) = built.glob("*.whl")
    site = tmp_path_factory.mktemp("wheel") / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True, timeout=120)
    return site


def run(installed: Path, cwd: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_help_a_recipe_and_the_digits(installed, tmp_path):
    program = (sys.executable, "-m", "opendetr")
    assert "train" in run(installed, tmp_path, *program, "--help")
    assert "--compare" in run(installed, tmp_path, *program, "demo", "--help")
    assert json.loads(run(installed, tmp_path, *program, "info", "fast", "--json"))
    code = "import opendetr; print(opendetr.__file__); print(opendetr.load_recipe('paper').train.epochs)"
    where, epochs = run(installed, tmp_path, sys.executable, "-c", code).splitlines()
    assert Path(where).is_relative_to(installed)
    assert epochs == "300"
    run(installed, tmp_path, *program, "data", "digits", "scenes", "--scenes", "4")
    assert (tmp_path / "scenes/annotations/train.json").exists()
    assert (installed / "opendetr/py.typed").exists()
    assert (installed / "opendetr/checkpoints/modeling_opendetr.py.txt").exists()


def test_the_wheel_is_small_and_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"opendetr-{opendetr.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names} == {"opendetr", f"opendetr-{opendetr.__version__}.dist-info"}
    source = REPOSITORY / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path)
    }
    assert {name for name in names if name.startswith("opendetr/")} == files  # the page, recipes and studies too
    assert {"opendetr/serving/web/index.html", "opendetr/serving/web/main.js"} <= files


def test_the_source_distribution_builds_the_same_and_has_no_site_and_no_tests(built):
    (source,) = built.glob("*.tar.gz")
    assert source.stat().st_size < MOST_BYTES
    with tarfile.open(source) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert tops == {
        "src",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "CITATION.cff",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "CONTRIBUTING.zh.md",
        "pyproject.toml",
        "PKG-INFO",
        ".gitignore",
    }


def test_the_version_is_the_same_wherever_it_stands():
    version = opendetr.__version__
    assert f"\nversion: {version}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{version}] - " in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "version" in tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dynamic"]
