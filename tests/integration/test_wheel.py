"""The wheel works away from the repository: command line, recipes and the embedded data set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(wheel)], check=True, timeout=120)
    return folder / "site"


def run(installed: Path, cwd: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_help_a_recipe_and_the_digits(installed, tmp_path):
    script = str(installed / "bin" / "opendetr")
    assert "train" in run(installed, tmp_path, sys.executable, script, "--help")
    code = "import opendetr; print(opendetr.__file__); print(opendetr.load_recipe('paper').train.epochs)"
    where, epochs = run(installed, tmp_path, sys.executable, "-c", code).splitlines()
    assert Path(where).is_relative_to(installed)
    assert epochs == "300"
    run(installed, tmp_path, sys.executable, script, "data", "digits", "scenes", "--scenes", "4")
    assert (tmp_path / "scenes/annotations/train.json").exists()
    assert (installed / "opendetr/py.typed").exists()
    assert (installed / "opendetr/checkpoints/modeling_opendetr.py.txt").exists()
